"""``tokmagic check``: which notebooks pass, and why the others do not. Notebooks are made here, and one by a kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient

from tests.conftest import ROOT
from tokmagic.cli import main
from tokmagic.errors import NotebookError
from tokmagic.notebooks.check import Figures, Growth, read

Row = dict[str, Any]


class Done(NamedTuple):
    status: int
    out: str
    err: str


Check = Callable[..., Done]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run ``tokmagic check`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        status = main(["check", *words])
        shown = capsys.readouterr()
        return Done(status, shown.out, shown.err)

    return run


def row(run_id: Any = "r1", cost: Any = "0.001", tokens: tuple[Any, Any] = (10, 2), **more: Any) -> Row:
    """What a cell's output keeps of a run."""
    return {
        "run_id": run_id,
        "cell_id": None,
        "status": "ok",
        "model": "m",
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "cost_usd": cost,
        "cost_bound": "exact",
        "saved_usd": None,
        **more,
    }


def cell(*rows: Any, id: str | None = None, source: Any = "%%generate\nHi", **more: Any) -> dict[str, Any]:
    outputs = [{"output_type": "display_data", "data": {}, "metadata": {"tokmagic": it}} if it else {} for it in rows]
    return {
        "cell_type": "code",
        "source": source,
        "outputs": outputs,
        "metadata": {},
        "execution_count": 1,
        **({"id": id} if id else {}),
        **more,
    }


TEXT = {"cell_type": "markdown", "source": "%%generate", "metadata": {}, "id": "text"}
SETUP = cell(source="%load_ext tokmagic", id="setup")


def write(path: str, *cells: dict[str, Any], **more: Any) -> str:
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells), **more}
    Path(path).write_text(json.dumps(notebook), encoding="utf-8")
    return path


def problems(done: Done, path: str = "nb.ipynb") -> list[str]:
    """The reasons that a check printed."""
    assert done.err == ""
    return [line.removeprefix(f"{path}: ") for line in done.out.splitlines() if line.startswith(f"{path}: ")]


def error(done: Done, status: int = 1) -> str:
    """The one line on stderr."""
    assert (done.status, done.out) == (status, "")
    (line,) = done.err.splitlines()
    assert line.startswith("tokmagic: ")
    return line.removeprefix("tokmagic: ")


# Limits on the sum


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
        (("--max-cost", "1", "--max-tokens", "35"), 1),
        (("--max-cost", "0.001", "--max-tokens", "36"), 1),
    ],
)
def test_a_limit_holds_for_the_sum_of_all_cells(check: Check, words: tuple[str, ...], status: int) -> None:
    write("nb.ipynb", TEXT, SETUP, cell(row("1"), row("2"), id="a"), cell(row("3"), id="b", source="generate('x')"))
    assert check("nb.ipynb", *words).status == status


def test_what_is_beyond_is_told_in_full(check: Check) -> None:
    write("nb.ipynb", TEXT, cell(row("1", "0.1", (900, 100)), id="a"), cell(row("2", "0.000000000001"), id="b"))
    assert problems(check("nb.ipynb", "--max-cost", "0.1", "--max-tokens", "1000")) == [
        "it costs $0.100000000001, more than $0.1; the most expensive is cell 2 (a) with $0.1",
        "it takes 1,012 tokens, more than 1,000; the longest is cell 2 (a) with 1,000",
    ]


def test_the_cells_are_listed(check: Check) -> None:
    write("nb.ipynb", TEXT, cell(row("1"), id="a"), cell(row("2", "0.25", (1000, 5), model="big"), id="b"))
    lines = [line.split() for line in check("nb.ipynb", "--max-cost", "1").out.splitlines()]
    assert lines == [
        ["cell", "model", "in", "out", "cost"],
        ["2", "(a)", "m", "10", "2", "$0.0010"],
        ["3", "(b)", "big", "1,000", "5", "$0.2500"],
        ["total", "1,010", "7", "$0.2510"],
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**21 - 1), min_size=1, max_size=50), st.integers(0, 10**9))
def test_sums_are_exact(picodollars: list[int], tokens: int) -> None:
    rows = [row(str(index), f"{amount // 10**12}.{amount % 10**12:012}") for index, amount in enumerate(picodollars)]
    made = {"nbformat": 4, "cells": [cell(it, row(f"t{it['run_id']}", "0", (tokens, 0))) for it in rows]}
    total = read(json.dumps(made).encode(), "nb").total
    assert total.cost_usd == Decimal(sum(picodollars)).scaleb(-12)
    assert total.tokens == len(rows) * (12 + tokens)


# What cannot be checked


def test_an_unknown_price_is_not_nothing(check: Check) -> None:
    write("nb.ipynb", cell(row("1", None), id="a"), cell(row("2"), id="b"), cell(row("3", "0"), id="c"))
    assert problems(check("nb.ipynb", "--max-cost", "100")) == [
        "cell 1 (a) has no price; set one with %price and run it again, or check --max-tokens"
    ]
    assert check("nb.ipynb", "--max-tokens", "36").status == 0, "tokens suffice"
    assert "—" in check("nb.ipynb", "--max-tokens", "36").out.splitlines()[-1]


def test_an_unknown_count_is_not_nothing(check: Check) -> None:
    write("nb.ipynb", cell(row("1", tokens=(5, None)), id="a"))
    assert problems(check("nb.ipynb", "--max-tokens", "100")) == ["cell 1 (a) has no token count; run it again"]
    assert check("nb.ipynb", "--max-cost", "1").status == 0


def test_a_lower_bound_is_no_price_to_check(check: Check) -> None:
    write("nb.ipynb", cell(row(cost_bound="at_least"), id="a"))
    (line,) = problems(check("nb.ipynb", "--max-cost", "1"))
    assert line.startswith("cell 1 (a) may have cost more than the $0.001 that is known")
    write("nb.ipynb", cell(row(cost_bound="at_most"), id="a"))
    assert check("nb.ipynb", "--max-cost", "1").status == 0


def test_costs_that_are_not_exact_are_marked(check: Check) -> None:
    write("old.ipynb", cell(row("1", cost_bound="at_most"), id="a"), cell(row("2"), id="b"))
    write("nb.ipynb", cell(row("3", cost_source="estimated"), id="a"), cell(row("4", cost_bound="at_least"), id="b"))
    alone = check("nb.ipynb", "--max-tokens", "100").out.splitlines()
    assert [line.split()[-1] for line in alone[1:4]] == ["~$0.0010", "≥$0.0010", "~≥$0.0020"]
    beside = check("nb.ipynb", "--against", "old.ipynb").out.splitlines()
    assert [line.split()[3 if line.startswith("total") else 4 :][:2] for line in beside[1:4]] == [
        ["≤$0.0010", "~$0.0010"],
        ["$0.0010", "≥$0.0010"],
        ["≤$0.0020", "~≥$0.0020"],
    ]


NOTHING = "there is nothing to check: no cell holds the numbers of a run"


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [TEXT, SETUP],
        [cell(source="# %%generate\n1")],
        [cell(source="%%generated\nHi")],
        [cell(source="%%tokens\n")],
    ],
)
def test_without_prompts_there_is_nothing_to_check(check: Check, cells: list[dict[str, Any]]) -> None:
    done = check(write("nb.ipynb", *cells), "--max-cost", "1")
    assert (done.status, problems(done)) == (1, [NOTHING])


@pytest.mark.parametrize("source", ["%%generate\nHi", "\n\n%%generate -m x\nHi", ["%%generate\n", "Hi"], "%%generate"])
def test_cleared_outputs_are_named_cell_by_cell(check: Check, source: Any) -> None:
    write("nb.ipynb", TEXT, SETUP, cell(id="a", source=source), cell(source=source))
    done = check("nb.ipynb", "--max-cost", "1")
    first, *cells = problems(done)
    assert (done.status, first) == (1, NOTHING)
    assert [line.split(" has no numbers: ")[0] for line in cells] == ["cell 3 (a)", "cell 4"]
    (total,) = (line.split() for line in done.out.splitlines() if line.startswith("total"))
    assert total == ["total", "—", "—", "—"], "nothing is known, which is not 0"


def test_one_cell_without_numbers_fails_the_others(check: Check) -> None:
    write("nb.ipynb", cell(row(), id="a"), cell(id="b"))
    done = check("nb.ipynb", "--max-cost", "1")
    (line,) = problems(done)
    assert line.startswith("cell 2 (b) has no numbers")
    assert "1 of its 2 prompt cells without numbers, in no sum" in done.out


@pytest.mark.parametrize("options", ["--dry-run", "-h", "--system 'a b' --help", "--dry-run --system 'open"])
def test_a_cell_that_runs_nothing_needs_no_numbers(check: Check, options: str) -> None:
    write("nb.ipynb", cell(row(), id="a"), cell(id="b", source=f"%%generate {options}\nHi"))
    assert check("nb.ipynb", "--max-cost", "1").status == 0
    write("nb.ipynb", cell(row(), id="a"), cell(id="b", source="%%generate --system 'use --dry-run'\n--dry-run"))
    assert check("nb.ipynb", "--max-cost", "1").status == 1


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "refused"])
def test_a_run_that_did_not_end_well_is_no_measure(check: Check, status: str) -> None:
    write("nb.ipynb", cell(row("1"), row("2", status=status), id="a"), cell(row("3")))
    assert problems(check("nb.ipynb", "--max-cost", "1")) == [
        f"cell 1 (a) has an incomplete run ({status}); run it again"
    ]


def test_why_there_are_no_numbers(check: Check) -> None:
    failed, shown = {"output_type": "error", "ename": "E"}, {"output_type": "stream", "text": "x"}
    write("nb.ipynb", cell(row()), cell(outputs=[failed]), cell(outputs=[shown]), cell(outputs=None))
    lines = problems(check("nb.ipynb", "--max-cost", "1"))
    assert [line.split(" ", 2)[2] for line in lines] == [
        "ended in an error and has no numbers; fix and run it",
        "has outputs but no numbers; run it again without --quiet and with TOKMAGIC_NOTEBOOK_METADATA on",
        "has no numbers: it was not run, or its output was cleared or quiet; run it without --quiet",
    ]


def test_a_run_shown_twice_counts_once(check: Check) -> None:
    write("nb.ipynb", cell(row("1"), row("1"), None, id="a"))
    assert check("nb.ipynb", "--max-cost", "0.001").status == 0


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ([cell(row(cell_id="a"), id="a"), cell(row(cell_id="a"), id="b")], "cell 2 (b) carries the run of cell 1"),
        ([cell(row(cell_id="b"), id="a"), cell(row(cell_id="b"), id="b")], "cell 1 (a) carries the run of cell 2"),
        ([cell(row(cell_id="x"), id="a"), cell(row(cell_id="x"), id="b")], "cell 2 (b) carries the run of cell 1"),
        ([cell(row()), cell(row("own"), row())], "cell 2 carries the run of cell 1"),
    ],
)
def test_a_copied_cell_has_no_numbers_of_its_own(check: Check, cells: list[dict[str, Any]], line: str) -> None:
    write("nb.ipynb", *cells)
    assert problems(check("nb.ipynb", "--max-cost", "0.001")) == [f"{line}, from which it was copied; run it"]


# Growth


@pytest.mark.parametrize(
    ("before", "after", "increase", "status"),
    [
        ("0.001", "0.0011", "10%", 0),
        ("0.001", "0.001100000001", "10%", 1),
        ("0.001", "0.001100000001", "10.0000001%", 0),
        ("0.000000000003", "0.000000000004", "33.33333333333%", 1),
        ("0.000000000003", "0.000000000004", "33.3333333334", 0),
        ("0.001", "0.001", "0%", 0),
        ("0.001", "0.001000000001", "0", 1),
        ("0.002", "0.001", "0%", 0),
        ("0", "0", "0%", 0),
        ("0", "0.000000000001", "999999999%", 1),
        ("0.001", "0", ".5 %", 0),
        ("0.001", "1", "99900%", 0),
        ("0.001", "1.000000000001", "99900%", 1),
    ],
)
def test_growth_is_exact(check: Check, before: str, after: str, increase: str, status: int) -> None:
    write("old.ipynb", cell(row("1", before), id="a"))
    write("nb.ipynb", cell(row("2", after), id="a"))
    assert check("nb.ipynb", "--against", "old.ipynb", "--max-increase", increase).status == status


def test_each_cell_that_grew_is_named(check: Check) -> None:
    write("old.ipynb", cell(row("1"), id="a"), cell(row("2"), id="b"), cell(row("3", "0", (0, 0)), id="c"))
    write(
        "nb.ipynb",
        TEXT,
        cell(row("4", "0.00125", (12, 3)), id="a"),
        cell(row("5", "0.0011"), id="b"),
        cell(row("6", "0.0001", (1, 0)), id="c"),
    )
    done = check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10.0%")
    assert problems(done) == [
        "cell 2 (a) grew by 25.0 % (at most 10 %): $0.001 → $0.00125, 12 → 15 tokens",
        "cell 4 (c) grew from 0 (at most 10 %): $0 → $0.0001, 0 → 1 tokens",
        "the whole notebook grew by 22.5 % (at most 10 %): $0.002 → $0.00245, 24 → 28 tokens",
    ]
    assert [line.split() for line in done.out.splitlines()[:5]] == [
        ["cell", "tokens", "before", "tokens", "cost", "before", "cost", "change"],
        ["2", "(a)", "12", "15", "$0.0010", "$0.00125", "+25.0", "%"],
        ["3", "(b)", "12", "12", "$0.0010", "$0.0011", "+10.0", "%"],
        ["4", "(c)", "0", "1", "$0", "$0.0001", "from", "0"],
        ["total", "24", "28", "$0.0020", "$0.00245", "+22.5", "%"],
    ]


def test_a_small_growth_never_looks_like_none(check: Check) -> None:
    write("old.ipynb", cell(row("1", "100"), id="a"))
    write("nb.ipynb", cell(row("2", "110.000000000001"), id="a"))
    (one, _) = problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%"))
    assert "by 10.1 % (at most 10 %): $100 → $110.000000000001" in one


def test_where_no_price_is_known_tokens_are_compared(check: Check) -> None:
    for old, new in ((None, None), ("0.1", None), (None, "0.1")):
        write("old.ipynb", cell(row("1", old, (80, 20)), id="a"))
        write("nb.ipynb", cell(row("2", new, (80, 31)), id="a"))
        (one, _) = problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%"))
        assert one.startswith("cell 1 (a) grew by 11.0 % in tokens (at most 10 %): ")
        assert check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "11%").status == 0
    write("old.ipynb", cell(row("1", None, (80, None)), id="a"))
    one, whole = problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%"))
    assert one == "cell 1 (a) cannot be compared: one version has neither price nor tokens"
    assert whole == "the whole notebook cannot be compared: neither all its prices nor all its tokens are known"
    write("nb.ipynb", cell(row("2", "1", (None, None)), id="b"), cell(row("3", None), id="a"))
    write("old.ipynb", cell(row("1"), id="a"))
    assert problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%")) == [whole]


def test_new_cells_count_in_the_whole(check: Check) -> None:
    write("old.ipynb", cell(row("1", "1"), id="a"), cell(row("2", "1"), id="gone"))
    write("nb.ipynb", cell(row("3", "0.1"), id="new"), cell(row("4", "1"), id="a"))
    done = check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "0%")
    assert done.status == 0
    assert [line.split()[-1] for line in done.out.splitlines()] == ["change", "new", "%", "gone", "%"]
    write("nb.ipynb", cell(row("3", "1.1"), id="new"), cell(row("4", "1"), id="a"))
    assert problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "0%")) == [
        "the whole notebook grew by 5.0 % (at most 0 %): $2 → $2.1, 24 → 24 tokens"
    ]


@pytest.mark.parametrize(("old_ids", "new_ids"), [("  ", "  "), ("ab", "  "), ("  ", "ab"), ("ab", "xy"), ("a ", "ab")])
def test_without_common_ids_cells_are_matched_by_their_order(check: Check, old_ids: str, new_ids: str) -> None:
    old = [cell(row(f"o{n}", cost), id=id.strip()) for n, (id, cost) in enumerate(zip(old_ids, "12", strict=True))]
    new = [cell(row(f"n{n}", cost), id=id.strip()) for n, (id, cost) in enumerate(zip(new_ids, "13", strict=True))]
    write("old.ipynb", *old)
    write("nb.ipynb", TEXT, *new)
    (one,) = problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "49.9%"))
    assert one.startswith("cell 3")
    assert "grew by 50.0 % (at most 49.9 %): $2 → $3" in one


def test_moved_cells_are_matched_by_id(check: Check) -> None:
    write("old.ipynb", cell(row("1", "1"), id="a"), cell(row("2", "5"), id="b"))
    write("nb.ipynb", cell(row("3", "5"), id="b"), TEXT, cell(row("4", "1"), id="a"))
    assert check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "0%").status == 0


def test_an_earlier_version_without_numbers_is_nothing_to_compare_with(check: Check) -> None:
    write("old.ipynb", cell(id="a"), cell(id="b"))
    write("nb.ipynb", cell(row("1"), id="a"), cell(row("2"), id="b"))
    assert problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%")) == [
        "there is nothing to compare with: no cell of old.ipynb holds the numbers of a run"
    ]
    write("old.ipynb", cell(row("1"), id="a"), cell(row("2", status="failed"), id="b"))
    assert problems(check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%")) == [
        "cell 2 (b) cannot be compared: in old.ipynb cell 2 (b) has an incomplete run (failed); run it again"
    ]
    assert check("nb.ipynb", "--against", "old.ipynb", "--max-cost", "1").status == 0


def test_a_hit_in_the_cache_hides_no_growth(check: Check) -> None:
    write("old.ipynb", cell(row("1", "0.001"), id="a"))
    write("nb.ipynb", cell(row("2", "0", status="cached", saved_usd="0.002"), id="a"))
    done = check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%", "--max-cost", "0.001")
    assert "it costs $0.002, more than $0.001" in problems(done)[0]
    assert "cell 1 (a) grew by 100.0 %" in problems(done)[1]
    assert "answers from the cache are counted at what they would have cost" in done.out
    write("old.ipynb", cell(row("1", "0", status="cached", saved_usd="0.002"), id="a"))
    assert check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "0%").status == 0
    write("nb.ipynb", cell(row("2", "0", status="cached"), id="a"))
    assert "has no price" in problems(check("nb.ipynb", "--max-cost", "1"))[0]


def test_without_limits_the_two_are_shown(check: Check) -> None:
    write("old.ipynb", cell(row("1"), id="a"), cell(id="b"))
    write("nb.ipynb", cell(row("2", "0.1"), id="a"), cell(id="b"), cell(row("3"), id="c"))
    done = check("nb.ipynb", "--against", "old.ipynb")
    assert (done.status, problems(done)) == (0, [])
    assert [line.split()[0] for line in done.out.splitlines()[:5]] == ["cell", "1", "2", "3", "total"]
    write("nb.ipynb", cell(id="a"))
    assert check("nb.ipynb", "--against", "old.ipynb").status == 0
    write("old.ipynb", cell(id="a"))
    assert problems(check("nb.ipynb", "--against", "old.ipynb")) == [NOTHING]


amounts = st.integers(0, 10**15).map(lambda picodollars: Decimal(picodollars).scaleb(-12))


@settings(deadline=None)
@given(amounts, amounts, st.decimals(0, 1000, places=6))
def test_beyond_is_what_the_definition_says(before: Decimal, after: Decimal, increase: Decimal) -> None:
    grown = Growth("cost", before, after)
    assert grown.beyond(increase) == (Fraction(after) > Fraction(before) * (1 + Fraction(increase) / 100))
    if grown.percent is not None:
        assert grown.beyond(increase) == (grown.percent > Fraction(increase))


def test_figures_add_up_and_unknown_stays_unknown() -> None:
    assert Figures(Decimal(1), 2, 3) + Figures(Decimal("0.5"), 1, 1) == Figures(Decimal("1.5"), 3, 4)
    assert Figures(None, 2, 3) + Figures(Decimal(1), None, 1) == Figures(None, None, 4)


# git


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A repository in the test's folder, whatever the settings of the person who runs it."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def run(*words: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    run("init", "-q")
    return run


def test_against_a_revision_of_the_same_path(check: Check, git: Callable[..., None]) -> None:
    Path("deep").mkdir()
    write("deep/[a] b.ipynb", cell(row("1"), id="a"))
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    path = write("deep/[a] b.ipynb", cell(row("2", "0.002"), id="a"))
    git("commit", "-qam", "two")
    assert check(path, "--against", "git:HEAD", "--max-increase", "0%").status == 0
    for revision in ("HEAD~1", "v1"):
        line, _ = problems(check(path, "--against", f"git:{revision}", "--max-increase", "10%"), path)
        assert line == "cell 1 (a) grew by 100.0 % (at most 10 %): $0.001 → $0.002, 12 → 12 tokens"
    found = json.loads(check(str(Path(path).absolute()), "--against", "git:v1", "--json").out)
    assert found[0]["against"].endswith("deep/[a] b.ipynb in v1")


def test_inside_a_hook_the_notebooks_own_repository_counts(
    check: Check, git: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("nb.ipynb", cell(row("1"), id="a"))
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    assert check("nb.ipynb", "--against", "git:HEAD", "--max-increase", "0%").status == 0


def test_a_notebook_that_the_revision_lacks_is_new(check: Check, git: Callable[..., None]) -> None:
    git("commit", "-q", "--allow-empty", "-m", "none")
    write("nb.ipynb", cell(row(), id="a"))
    done = check("nb.ipynb", "--against", "git:HEAD", "--max-increase", "0%")
    assert (done.status, problems(done)) == (0, [])
    assert "it is new: there is nothing to compare it with" in done.out
    assert check("nb.ipynb", "--against", "git:HEAD", "--max-cost", "0").status == 1


def test_what_git_cannot_answer(check: Check, git: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    write("nb.ipynb", cell(row(), id="a"))
    limit = ("--max-increase", "10%")
    assert "git knows no revision 'HEAD' here" in error(check("nb.ipynb", "--against", "git:HEAD", *limit), 2)
    git("commit", "-q", "--allow-empty", "-m", "none")
    assert "git knows no revision 'nope' here" in error(check("nb.ipynb", "--against", "git:nope", *limit), 2)
    for against in ("git:", "git:--output=x"):
        assert "names no revision" in error(check("nb.ipynb", "--against", against, *limit), 2)
    assert not Path("x").exists()
    shutil.rmtree(".git")
    line = error(check("nb.ipynb", "--against", "git:HEAD", *limit), 2)
    assert "git cannot read nb.ipynb: fatal: not a git repository" in line
    monkeypatch.setenv("PATH", "")
    assert "needs git, which is not installed" in error(check("nb.ipynb", "--against", "git:HEAD", *limit), 2)


# Files that are no good


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is damaged: it is not JSON"),
        ('{"nbformat": 4, "cells": [', "is damaged: it is not JSON"),
        ("<<<<<<< HEAD\n{}", "is damaged: it is not JSON: Expecting value: line 1"),
        ("[" * 100_000, "is damaged: it is not JSON"),
        (b"\xff\xfe\x00", "is damaged: it is not JSON"),
        ('{"nbformat": 4, "cells": [], "x": ' + "9" * 5000 + "}", "is damaged: it is not JSON"),
        ("[]", "is not a notebook: it has no nbformat"),
        ('"text"', "is not a notebook"),
        ("{}", "is not a notebook: it has no nbformat"),
        ('{"nbformat": "4"}', "is not a notebook"),
        ('{"nbformat": true, "cells": []}', "is not a notebook"),
        ('{"nbformat": 3, "worksheets": []}', "is in notebook format 3, and 4 is needed; save it once"),
        ('{"nbformat": 5, "cells": []}', "is in notebook format 5, and 4 is needed; upgrade tokmagic"),
        ('{"nbformat": 4}', "is not a notebook: it has no list of cells"),
        ('{"nbformat": 4, "cells": {}}', "is not a notebook: it has no list of cells"),
        ('{"nbformat": 4, "cells": [1]}', "is not a notebook: it has no list of cells"),
    ],
    ids=range(16),
)
def test_what_is_no_notebook_gets_one_line(check: Check, text: str | bytes, says: str) -> None:
    Path("nb.ipynb").write_bytes(text if isinstance(text, bytes) else text.encode())
    line = error(check("nb.ipynb", "--max-cost", "1"))
    assert line.startswith(f"nb.ipynb {says}")
    assert len(line) < 200
    write("good.ipynb", cell(row(), id="a"))
    assert error(check("good.ipynb", "--against", "nb.ipynb", "--max-increase", "1%")) == line


BAD_ROWS: list[tuple[Any, str]] = [
    ("text", "they are not a JSON object"),
    ([row()], "they are not a JSON object"),
    (row(run_id=""), 'run_id is ""'),
    (row(run_id=5), "run_id is 5"),
    ({}, "status is null"),
    (row(status="done"), "status is 'done'"),
    (row(model=None), "model is null"),
    (row(tokens=(-1, 2)), "input_tokens is -1, which is not a token count"),
    (row(tokens=(1, 2.5)), "output_tokens is 2.5"),
    (row(tokens=(1, "2")), 'output_tokens is "2"'),
    (row(tokens=(True, 2)), "input_tokens is true"),
    (row(tokens=(10**13, 2)), "input_tokens is 10000000000000"),
    (row(tokens=(float("nan"), 2)), "input_tokens is NaN"),
    (row(cost="-0.1"), 'cost_usd is "-0.1", which is not an amount in USD'),
    (row(cost="NaN"), 'cost_usd is "NaN"'),
    (row(cost="1e-3"), 'cost_usd is "1e-3"'),
    (row(cost="1e999999999"), 'cost_usd is "1e999999999"'),
    (row(cost="0.0000000000001"), "cost_usd is "),
    (row(cost="1" * 5000), "cost_usd is "),
    (row(cost="١"), "cost_usd is "),
    (row(cost=""), "cost_usd is "),
    (row(cost=0.1), "cost_usd is 0.1"),
    (row(status="cached", saved_usd="-1"), 'saved_usd is "-1"'),
]


@pytest.mark.parametrize(("bad", "says"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_numbers_that_cannot_be_read_get_one_line(check: Check, bad: Any, says: str) -> None:
    output = {"output_type": "display_data", "metadata": {"tokmagic": bad}}
    write("nb.ipynb", TEXT, cell(row("ok"), id="a"), cell(id="b", outputs=[output]))
    line = error(check("nb.ipynb", "--max-cost", "1"))
    assert line.startswith(f"nb.ipynb: cell 3 (b) has numbers that cannot be read: {says}")
    assert line.endswith("; run the cell again")
    assert len(line) < 200


def test_two_cells_with_one_id(check: Check) -> None:
    write("nb.ipynb", TEXT, cell(row("1"), id="a"), TEXT, cell(row("2"), id="a"))
    assert error(check("nb.ipynb", "--max-cost", "1")) == (
        "nb.ipynb: cells 2 and 4 have the same id a; save the notebook once in Jupyter, which fixes it"
    )


def test_odd_but_harmless_notebooks(check: Check) -> None:
    odd = {"cell_type": "code", "source": 5, "outputs": [1, {"metadata": 7}], "id": 7}
    hostile = cell(row("1", model="\x1b[31mm"), id="\x1b]0;x\x07" + "i" * 500)
    done = check(write("nb.ipynb", odd, {"cell_type": 3}, {}, hostile), "--max-cost", "0")
    assert done.status == 1
    assert "\x1b" not in done.out
    assert max(len(line) for line in done.out.splitlines()) < 200
    data = b"\xef\xbb\xbf" + Path("nb.ipynb").read_bytes()
    Path("nb.ipynb").write_bytes(data)
    assert check("nb.ipynb", "--max-cost", "1").status == 0


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(list(row())), inner),
    )
)
def test_no_metadata_brings_it_down(value: Any) -> None:
    made = {"nbformat": 4, "cells": [cell(outputs=[{"output_type": "display_data", "metadata": {"tokmagic": value}}])]}
    for data in (made, value, {"nbformat": 4, "cells": [value]}, {"nbformat": 4, "cells": [cell(outputs=value)]}):
        with suppress(NotebookError):
            assert read(json.dumps(data).encode(), "nb").measured == ()


# The command


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nb.ipynb",), "check needs a limit: --max-cost, --max-tokens, or --max-increase with --against"),
        (("nb.ipynb", "--max-increase", "10%"), "--max-increase needs the earlier version"),
        (("nb.ipynb", "nb.ipynb", "--against", "nb.ipynb"), "for several use --against git:REV"),
        (("gone.ipynb", "--max-cost", "1"), "gone.ipynb cannot be read: No such file or directory"),
        ((".", "--max-cost", "1"), ". cannot be read: Is a directory"),
        (("nb.ipynb", "--against", "gone.ipynb"), "gone.ipynb cannot be read"),
        (("--max-cost", "1"), "NOTEBOOK"),
        (("nb.ipynb", "--max-costs", "1"), "did you mean --max-cost?"),
        *(
            (("nb.ipynb", f"--max-cost={text}"), "--max-cost is ")
            for text in ("-1", "x", "", "nan", "inf", "1e3", "€1")
        ),
        *((("nb.ipynb", f"--max-tokens={text}"), "--max-tokens is ") for text in ("-1", "1.5", "x", "", "9" * 5000)),
        *(
            (("nb.ipynb", "--against", "nb.ipynb", f"--max-increase={text}"), "--max-increase is ")
            for text in ("-1%", "x", "", "%", "nan", "1e999999999", "10%%")
        ),
    ],
)
def test_wrong_usage(check: Check, words: tuple[str, ...], says: str) -> None:
    write("nb.ipynb", cell(row(), id="a"))
    assert says in error(check(*words), 2)


def test_several_notebooks_are_told_apart_and_one_fails_all(check: Check) -> None:
    write("one.ipynb", cell(row("1", "0.5"), id="a"))
    write("two.ipynb", cell(row("2", "2"), id="a"))
    Path("three.ipynb").write_text("{}", encoding="utf-8")
    done = check("one.ipynb", "three.ipynb", "two.ipynb", "--max-cost", "1")
    assert done.status == 1
    assert done.err == "tokmagic: three.ipynb is not a notebook: it has no nbformat; give an .ipynb file\n"
    headings = [line for line in done.out.splitlines() if line.endswith(".ipynb:")]
    assert headings == ["one.ipynb:", "two.ipynb:"]
    assert len(problems(done._replace(err=""), "two.ipynb")) == 1
    assert problems(done._replace(err=""), "one.ipynb") == []
    assert check("one.ipynb", "two.ipynb", "--max-cost", "2").status == 0, "each by itself"


def test_json(check: Check) -> None:
    write("old.ipynb", cell(row("1", "0.3"), id="a"), cell(row("2", None), id="gone"))
    write("nb.ipynb", cell(row("3", "0.4"), id="a"), cell(id="b"))
    done = check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "10%", "--json")
    assert (done.status, done.err) == (1, "")
    (found,) = json.loads(done.out)
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
    (broken,) = json.loads(check("nb.ipynb", "--max-cost", "1", "--json").out)
    assert (broken["ok"], broken["notebook"]) == (False, "nb.ipynb")
    assert "is damaged" in broken["error"]


def test_neither_kernel_nor_ledger_is_touched(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKMAGIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOKMAGIC_LEDGER", "nonsense")
    path = write("nb.ipynb", cell(row(), id="a"))
    before = Path(path).read_bytes()
    assert check(path, "--max-cost", "1").status == 0
    assert [it.name for it in tmp_path.iterdir()] == ["nb.ipynb"]
    assert Path(path).read_bytes() == before


def test_the_hook_names_the_command() -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    fields = dict(line.removeprefix("- ").strip().split(": ", 1) for line in text.splitlines())
    assert (fields["id"], fields["entry"], fields["types"]) == ("tokmagic-check", "tokmagic check", "[jupyter]")
    assert fields["language"] == "python"


# What a kernel writes


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run cells in a kernel with the scripted engine, and save the notebook."""
    monkeypatch.setenv("TOKMAGIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOKMAGIC_LEDGER", f"sqlite:///{tmp_path}/ledger.sqlite")
    setup = "%load_ext tokmagic\n%model add s scripted\n%model use s\n%price s --input 1 --output 2"

    def run(name: str, *sources: str) -> str:
        v4: Any = nbformat.v4
        cells = [v4.new_code_cell(source, id=f"c{index}") for index, source in enumerate([setup, *sources])]
        notebook = v4.new_notebook(cells=cells)
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
        nbformat.write(notebook, name)
        return name

    return run


def test_what_a_kernel_writes_passes_the_gate(check: Check, executed: Callable[..., str]) -> None:
    sources = ("%%generate --max-tokens 5\nHi", "%%generate --dry-run\nHi", "import tokmagic\ntokmagic.generate('Hi')")
    path = executed("nb.ipynb", *sources)
    # The scripted engine reads 12 tokens; it answers with 19 unless it is stopped.
    assert check(path, "--max-cost", "0.000072", "--max-tokens", "48").status == 0
    assert check(path, "--max-cost", "0.000071999999").status == 1
    assert check(path, "--max-tokens", "47").status == 1
    longer = executed("longer.ipynb", sources[0].replace("5", "6"), *sources[1:])
    first, *_ = problems(check(longer, "--against", path, "--max-increase", "9%"), "longer.ipynb")
    assert first == "cell 2 (c1) grew by 9.1 % (at most 9 %): $0.000022 → $0.000024, 17 → 18 tokens"
    assert check(longer, "--against", path, "--max-increase", "9.1%").status == 0
