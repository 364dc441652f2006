"""``tokmagic check``: limits on what a notebook's runs cost and took, and what cannot be checked."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.notebooks.commands import Command
from tests.notebooks.saved_notebooks import SETUP, TEXT, cell, one, row, write
from tokmagic.core.record import COMPARISON_IN_OUTPUTS, source_sha256
from tokmagic.notebooks.check.figures import Figures, read

NOTHING = "there is nothing to check: no cell holds the numbers of a run"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--max-cost", "0.0030"), 0),
        (("--max-cost", "$0.003"), 0),
        (("--max-cost", "0.003 USD"), 0),
        (("--max-cost=0.002999999999",), 1),
        (("--max-cost", "0"), 1),
        (("--max-tokens", "36"), 0),
        (("--max-tokens", "35"), 1),
        (("--max-tokens", "1_000"), 0),
        (("--max-tokens", "1e3"), 0),
        (("--max-cost", "3e-3"), 0),
        (("--max-cost", "1", "--max-tokens", "35"), 1),
        (("--max-cost", "0.001", "--max-tokens", "36"), 1),
    ],
)
def test_a_limit_holds_for_the_sum_of_all_cells(check: Command, words: tuple[str, ...], status: int) -> None:
    write("nb.ipynb", TEXT, SETUP, cell(row("1"), row("2"), id="a"), cell(row("3"), id="b", source="generate('x')"))
    assert check("nb.ipynb", *words).status == status


FAILED, SHOWN = {"output_type": "error", "ename": "E"}, {"output_type": "stream", "text": "x"}
CLEARED = "has no numbers: it was not run, or its output was cleared or quiet; run it without --quiet"
NO_NUMBERS = "has outputs but no numbers; run it again without --quiet and with TOKMAGIC_NOTEBOOK_METADATA on"
UNFINISHED = "cell 1 (a) has an incomplete run ({}); run it again"
CAPTURED = "%%capture kept\nask()"
ELSEWHERE = "shows the run of cell 2, which does not; run that one so that it shows its numbers"
EDITED = "was edited after it was run: its numbers are of an earlier text; run it again"
COPIED = "carries the run of cell {}, from which it was copied; run it"


@pytest.mark.parametrize(
    ("cells", "words", "problems"),
    [
        # What is beyond is told in full.
        (
            [TEXT, one("0.1", (900, 100)), one("0.000000000001", id="b")],
            ("--max-cost", "0.1", "--max-tokens", "1000"),
            [
                "it costs $0.100000000001, more than $0.1; the most expensive is cell 2 (a) with $0.1",
                "it takes 1,012 tokens, more than 1,000; the longest is cell 2 (a) with 1,000",
            ],
        ),
        # Unknown is not nothing, and a lower bound is no price.
        (
            [one(None), one("0.001", id="b"), one("0", id="c")],
            ("--max-cost", "100"),
            ["cell 1 (a) has no price; set one with %price and run it again, or check --max-tokens"],
        ),
        ([one(None), one("0.001", id="b")], ("--max-tokens", "24"), []),
        ([one("1", (5, None))], ("--max-tokens", "100"), ["cell 1 (a) has no token count; run it again"]),
        ([one("1", (5, None))], ("--max-cost", "1"), []),
        (
            [one("0.001", cost_bound="at_least")],
            ("--max-cost", "1"),
            ["cell 1 (a) may have cost more than the $0.001 that is known; run it again"],
        ),
        ([one("0.001", cost_bound="at_most")], ("--max-cost", "1"), []),
        ([one("0", status="cached")], ("--max-cost", "1"), None),
        # Where there are no prompts there is nothing to check.
        *(
            (cells, ("--max-cost", "1"), [NOTHING])
            for cells in (
                [],
                [TEXT, SETUP],
                [cell(source="# %%generate\n1")],
                [cell(source="%%generated\nHi")],
                [cell(source="%%tokens\n")],
            )
        ),
        # A cell without numbers fails the others, and says why it has none.
        *(
            (
                [TEXT, SETUP, cell(id="a", source=source), cell(source=source)],
                ("--max-cost", "1"),
                [NOTHING, f"cell 3 (a) {CLEARED}", f"cell 4 {CLEARED}"],
            )
            for source in ("%%generate\nHi", "\n\n%%generate -m x\nHi", ["%%generate\n", "Hi"], "%%generate")
        ),
        ([one("1"), cell(id="b")], ("--max-cost", "1"), [f"cell 2 (b) {CLEARED}"]),
        (
            [one("1"), cell(outputs=[FAILED]), cell(outputs=[SHOWN]), cell(outputs=None)],
            ("--max-cost", "1"),
            [
                "cell 2 ended in an error and has no numbers; fix and run it",
                f"cell 3 {NO_NUMBERS}",
                f"cell 4 {CLEARED}",
            ],
        ),
        *(
            (
                [cell(row("1"), row("2", status=status), id="a"), cell(row("3"))],
                ("--max-cost", "1"),
                [UNFINISHED.format(status)],
            )
            for status in ("running", "interrupted", "failed", "refused")
        ),
        # A cell that runs nothing needs none.
        *(
            ([one("1"), cell(id="b", source=f"%%generate {options}\nHi")], ("--max-cost", "1"), [])
            for options in ("--dry-run", "-h", "--system 'a b' --help", "--dry-run --system 'open")
        ),
        (
            [one("1"), cell(id="b", source="%%generate --system 'use --dry-run'\n--dry-run")],
            ("--max-cost", "1"),
            [f"cell 2 (b) {CLEARED}"],
        ),
        # A run that is shown twice counts once, and not for a copy of its cell.
        ([cell(row("1"), row("1"), None, id="a")], ("--max-cost", "0.001"), []),
        *(
            ([cell(row(cell_id=its), id="a"), cell(row(cell_id=its), id="b")], ("--max-cost", "0.001"), [line])
            for its, line in (
                ("a", f"cell 2 (b) {COPIED.format(1)}"),
                ("b", f"cell 1 (a) {COPIED.format(2)}"),
                ("x", f"cell 2 (b) {COPIED.format(1)}"),
            )
        ),
        ([cell(row()), cell(row("own"), row())], ("--max-cost", "0.001"), [f"cell 2 {COPIED.format(1)}"]),
        # What %%capture kept is shown in another cell, whose text nobody edited; nbclient names no cell.
        *(
            (
                [
                    one("0.1"),
                    cell(id="b", source=CAPTURED),
                    cell(row("2", cell_id=its, source_sha256=source_sha256(CAPTURED)), id="c", source="kept.show()"),
                ],
                ("--max-cost", "0.1"),
                [f"cell 3 (c) {line}"],
            )
            for its, line in (("b", ELSEWHERE), ("request_1", ELSEWHERE), ("c", EDITED))
        ),
    ],
)
def test_what_fails_is_told_cell_by_cell(
    check: Command, cells: list[dict[str, Any]], words: tuple[str, ...], problems: list[str] | None
) -> None:
    done = check(write("nb.ipynb", *cells), *words)
    if problems is None:
        assert "has no price" in done.problems()[0]
    else:
        assert (done.problems(), done.status) == (problems, int(bool(problems)))


def test_a_comparison_is_told_to_be_in_no_sum(check: Command) -> None:
    kept = {"output_type": "display_data", "data": {}, "metadata": {COMPARISON_IN_OUTPUTS: {"spent_usd": "40"}}}
    write("nb.ipynb", one("0.1"), cell(id="b", source="%%compare -v v", outputs=[kept]))
    done = check("nb.ipynb", "--max-cost", "0.1")
    assert (done.status, done.out.splitlines()[-1]) == (0, "the comparison of cell 2 (b) is in no sum")


def test_the_cells_are_listed(check: Command) -> None:
    write("nb.ipynb", TEXT, cell(row("1"), id="a"), cell(row("2", "0.25", (1000, 5), model="big"), id="b"))
    lines = [line.split() for line in check("nb.ipynb", "--max-cost", "1").out.splitlines()]
    assert lines == [
        ["cell", "model", "in", "out", "cost"],
        ["2", "(a)", "m", "10", "2", "$0.0010"],
        ["3", "(b)", "big", "1,000", "5", "$0.2500"],
        ["total", "1,010", "7", "$0.2510"],
    ]


def test_what_is_unknown_is_shown_as_that(check: Command) -> None:
    write("nb.ipynb", one(None), one("0.001", id="b"))
    assert "—" in check("nb.ipynb", "--max-tokens", "24").out.splitlines()[-1]
    write("nb.ipynb", one("1"), cell(id="b"))
    assert "1 of its 2 prompt cells without numbers, in no sum" in check("nb.ipynb", "--max-cost", "1").out
    write("nb.ipynb", cell(id="b"))
    (total,) = [line for line in check("nb.ipynb", "--max-cost", "1").out.splitlines() if line.startswith("total")]
    assert total.split() == ["total", "—", "—", "—"], "nothing is known, which is not 0"


def test_costs_that_are_not_exact_are_marked(check: Command) -> None:
    write("old.ipynb", one("0.001", cost_bound="at_most"), one("0.001", id="b"))
    write("nb.ipynb", one("0.001", cost_source="estimated"), one("0.001", id="b", cost_bound="at_least"))
    alone = check("nb.ipynb", "--max-tokens", "100").out.splitlines()
    assert [line.split()[-1] for line in alone[1:4]] == ["~$0.0010", "≥$0.0010", "~≥$0.0020"]
    beside = check("nb.ipynb", "--against", "old.ipynb").out.splitlines()
    assert [line.split()[3 if line.startswith("total") else 4 :][:2] for line in beside[1:4]] == [
        ["≤$0.0010", "~$0.0010"],
        ["$0.0010", "≥$0.0010"],
        ["≤$0.0020", "~≥$0.0020"],
    ]


@given(st.lists(st.integers(0, 10**21 - 1), min_size=1, max_size=50), st.integers(0, 10**9))
def test_sums_are_exact(picodollars: list[int], tokens: int) -> None:
    rows = [row(str(index), f"{amount // 10**12}.{amount % 10**12:012}") for index, amount in enumerate(picodollars)]
    made = {"nbformat": 4, "cells": [cell(it, row(f"t{it['run_id']}", "0", (tokens, 0))) for it in rows]}
    total = read(json.dumps(made).encode(), "nb").total
    assert total.cost_usd == Decimal(sum(picodollars)).scaleb(-12)
    assert total.tokens == len(rows) * (12 + tokens)


def test_figures_add_up_and_unknown_stays_unknown() -> None:
    assert Figures(Decimal(1), 2, 3) + Figures(Decimal("0.5"), 1, 1) == Figures(Decimal("1.5"), 3, 4)
    assert Figures(None, 2, 3) + Figures(Decimal(1), None, 1) == Figures(None, None, 4)


# The command


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nb.ipynb",), "check needs a limit: --max-cost, --max-tokens, --compare, or --max-increase with --against"),
        (("nb.ipynb", "--max-increase", "10%"), "--max-increase needs the earlier version"),
        (("nb.ipynb", "nb.ipynb", "--against", "nb.ipynb"), "for several use --against git:REV"),
        (("gone.ipynb", "--max-cost", "1"), "gone.ipynb cannot be read: No such file or directory"),
        ((".", "--max-cost", "1"), ". cannot be read: Is a directory"),
        (("nb.ipynb", "--against", "gone.ipynb"), "gone.ipynb cannot be read"),
        (("--max-cost", "1"), "NOTEBOOK"),
        (("nb.ipynb", "--max-costs", "1"), "did you mean --max-cost?"),
        *(
            (("nb.ipynb", f"--max-cost={text}"), "--max-cost is ")
            for text in ("-1", "x", "", "nan", "inf", "1e9", "€1")
        ),
        (("nb.ipynb", "--max-tokens=-1"), "--max-tokens is -1"),
        *((("nb.ipynb", f"--max-tokens={text}"), "--max-tokens: invalid") for text in ("1.5", "x", "", "9" * 5000)),
        *(
            (("nb.ipynb", "--against", "nb.ipynb", f"--max-increase={text}"), "--max-increase is ")
            for text in ("-1%", "x", "", "%", "nan", "1e999999999", "10%%")
        ),
    ],
)
def test_wrong_usage(check: Command, words: tuple[str, ...], says: str) -> None:
    write("nb.ipynb", one("0.001"))
    assert says in check(*words).error(2)


def test_several_notebooks_are_told_apart_and_one_fails_all(check: Command) -> None:
    write("one.ipynb", one("0.5"))
    write("two.ipynb", one("2"))
    Path("three.ipynb").write_text("{}", encoding="utf-8")
    done = check("one.ipynb", "three.ipynb", "two.ipynb", "--max-cost", "1")
    assert done.status == 1
    assert done.err == "tokmagic: three.ipynb is not a notebook: it has no nbformat; give an .ipynb file\n"
    headings = [line for line in done.out.splitlines() if line.endswith(".ipynb:")]
    assert headings == ["one.ipynb:", "two.ipynb:"]
    assert [len(done._replace(err="").problems(path)) for path in ("one.ipynb", "two.ipynb")] == [0, 1]
    assert check("one.ipynb", "two.ipynb", "--max-cost", "2").status == 0, "each by itself"


def test_json(check: Command) -> None:
    write("old.ipynb", one("0.3"), one(None, id="gone"))
    write("nb.ipynb", one("0.4"), cell(id="b"))
    done = check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%", "--json")
    assert (done.status, done.err) == (1, "")
    (found,) = done.json
    assert list(found) == ["notebook", "against", "ok", "problems", "notes", "cells", "total"]
    assert (found["notebook"], found["against"], found["ok"]) == ("nb.ipynb", "old.ipynb", False)
    assert found["problems"][0].startswith("cell 2 (b) has no numbers")
    grown, new, gone = found["cells"]
    sure = {"cost_estimated": False, "cost_bound": "exact"}
    assert grown["growth"] == {"of": "cost", "percent": "33.333333333333"}
    assert grown["after"] == {
        "cell": 1,
        "id": "a",
        "models": ["m"],
        "cached": False,
        "missing": None,
        "cost_usd": "0.4",
        **sure,
        "input_tokens": 10,
        "output_tokens": 2,
    }
    assert (new["before"], new["growth"], new["after"]["cost_usd"]) == (None, None, None)
    assert (gone["after"], gone["before"]["cost_usd"]) == (None, None)
    assert found["total"] == {
        "before": {"cost_usd": None, **sure, "input_tokens": 20, "output_tokens": 4},
        "after": {"cost_usd": "0.4", **sure, "input_tokens": 10, "output_tokens": 2},
        "growth": {"of": "tokens", "percent": "-50"},
    }
    Path("nb.ipynb").write_text("", encoding="utf-8")
    (broken,) = check("nb.ipynb", "--max-cost", "1", "--json").json
    assert (broken["ok"], broken["notebook"]) == (False, "nb.ipynb")
    assert "is damaged" in broken["error"]


def test_neither_kernel_nor_ledger_is_touched(check: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKMAGIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOKMAGIC_LEDGER", "nonsense")
    path = write("nb.ipynb", one("0.001"))
    before = Path(path).read_bytes()
    assert check(path, "--max-cost", "1").status == 0
    assert [it.name for it in tmp_path.iterdir()] == ["nb.ipynb"]
    assert Path(path).read_bytes() == before


def test_the_hook_names_the_command() -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    fields = dict(line.removeprefix("- ").strip().split(": ", 1) for line in text.splitlines())
    assert (fields["id"], fields["entry"], fields["types"]) == ("tokmagic-check", "tokmagic check", "[jupyter]")
    assert fields["language"] == "python"
