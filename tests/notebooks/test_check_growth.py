"""``tokmagic check --against``: cells beside those of an earlier version, in a file or in git."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.notebooks.commands import Command, Desk, Done
from tests.notebooks.saved_notebooks import TEXT, cell, one, row, write
from tokmagic.notebooks.check.verdict import Growth

Cells = list[dict[str, Any]]
Compare = Callable[..., Done]


@pytest.fixture
def compare(check: Command) -> Compare:
    """Check cells against those of before, which may grow by ``limit``."""

    def run(before: Cells, now: Cells, limit: str, *words: str) -> Done:
        write("old.ipynb", *before)
        write("nb.ipynb", *now)
        return check("nb.ipynb", "--against", "old.ipynb", "--max-increase", limit, *words)

    return run


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
def test_growth_is_exact(compare: Compare, before: str, after: str, increase: str, status: int) -> None:
    assert compare([one(before)], [one(after)], increase).status == status


amounts = st.integers(0, 10**15).map(lambda picodollars: Decimal(picodollars).scaleb(-12))


@given(amounts, amounts, st.decimals(0, 1000, places=6))
def test_beyond_is_what_the_definition_says(before: Decimal, after: Decimal, increase: Decimal) -> None:
    grown = Growth("cost", before, after)
    assert grown.beyond(increase) == (Fraction(after) > Fraction(before) * (1 + Fraction(increase) / 100))
    if grown.percent is not None:
        assert grown.beyond(increase) == (grown.percent > Fraction(increase))


UNFINISHED = "cell 2 (b) has an incomplete run (failed); run it again"
WHOLE = "the whole notebook cannot be compared: neither all its prices nor all its tokens are known"
HIT = one("0", status="cached", saved_usd="0.002")


@pytest.mark.parametrize(
    ("before", "now", "increase", "problems"),
    [
        # A small growth never looks like none.
        (
            [one("100")],
            [one("110.000000000001")],
            "10%",
            [
                f"{it} grew by 10.1 % (at most 10 %): $100 → $110.000000000001, 12 → 12 tokens"
                for it in ("cell 1 (a)", "the whole notebook")
            ],
        ),
        # Where a price is not known tokens are compared.
        *(
            (
                [one(old, (80, 20))],
                [one(new, (80, 31))],
                "10%",
                [
                    f"{it} grew by 11.0 % in tokens (at most 10 %): {costs}, 100 → 111 tokens"
                    for it in ("cell 1 (a)", "the whole notebook")
                ],
            )
            for old, new, costs in ((None, None, "— → —"), ("0.1", None, "$0.1 → —"), (None, "0.1", "— → $0.1"))
        ),
        ([one(None, (80, 20))], [one(None, (80, 31))], "11%", []),
        (
            [one(None, (80, None))],
            [one("0.1", (80, 31))],
            "10%",
            ["cell 1 (a) cannot be compared: one version has neither price nor tokens", WHOLE],
        ),
        ([one("0.001")], [one("1", (None, None), id="b"), one(None)], "10%", [WHOLE]),
        # A new cell has no growth, and counts in the whole.
        ([one("1"), one("1", id="gone")], [one("0.1", id="new"), one("1")], "0%", []),
        (
            [one("1"), one("1", id="gone")],
            [one("1.1", id="new"), one("1")],
            "0%",
            ["the whole notebook grew by 5.0 % (at most 0 %): $2 → $2.1, 24 → 24 tokens"],
        ),
        # Cells that moved are known by their ids.
        ([one("1"), one("5", id="b")], [one("5", id="b"), TEXT, one("1")], "0%", []),
        # Where the earlier version tells nothing there is nothing to compare with.
        (
            [cell(id="a"), cell(id="b")],
            [one("1"), one("2", id="b")],
            "10%",
            ["there is nothing to compare with: no cell of old.ipynb holds the numbers of a run"],
        ),
        (
            [one("1"), one("1", id="b", status="failed")],
            [one("1"), one("2", id="b")],
            "10%",
            [
                f"cell 2 (b) cannot be compared: in old.ipynb {UNFINISHED}",
            ],
        ),
        # A hit in the cache hides no growth, and is none.
        (
            [one("0.001")],
            [HIT],
            "10%",
            [
                f"{it} grew by 100.0 % (at most 10 %): $0.001 → $0.002, 12 → 12 tokens"
                for it in ("cell 1 (a)", "the whole notebook")
            ],
        ),
        ([HIT], [HIT], "0%", []),
        # Where only a lower bound is known now, nobody knows how much it grew.
        (
            [one("1"), one("1", id="b")],
            [one("1", cost_bound="at_least"), one("1", id="b")],
            "10%",
            [
                f"{it} may have grown by more: it may have cost more than the {cost} that is known; run it again"
                for it, cost in (("cell 1 (a)", "$1"), ("the whole notebook", "$2"))
            ],
        ),
        ([one("1", cost_bound="at_least")], [one("1", cost_bound="at_least")], "10%", []),
        ([one("1", cost_bound="at_least")], [one("1")], "10%", []),
        ([one("1")], [one("1", cost_bound="at_most")], "10%", []),
    ],
)
def test_what_grew_is_told(compare: Compare, before: Cells, now: Cells, increase: str, problems: list[str]) -> None:
    done = compare(before, now, increase)
    assert (done.problems(), done.status) == (problems, int(bool(problems)))


@pytest.mark.parametrize(
    ("old_ids", "new_ids"), [("  ", "  "), ("ab", "  "), ("  ", "ab"), ("ab", "xy"), ("a ", "ab"), ("ab", "a ")]
)
def test_without_common_ids_cells_are_matched_by_their_order(compare: Compare, old_ids: str, new_ids: str) -> None:
    old = [one(cost, id=id.strip()) for id, cost in zip(old_ids, "12", strict=True)]
    new = [one(cost, id=id.strip()) for id, cost in zip(new_ids, "13", strict=True)]
    (line,) = compare(old, [TEXT, *new], "49.9%").problems()
    assert line.startswith("cell 3")
    assert "grew by 50.0 % (at most 49.9 %): $2 → $3" in line


@pytest.mark.parametrize("runs", [("1", "12"), ("12", "1")])
def test_the_order_counts_however_many_runs_a_cell_has(compare: Compare, runs: tuple[str, str]) -> None:
    now = [cell(*(row(f"{place}{it}", "1") for it in its)) for place, its in enumerate(runs)]
    shown = compare([one("2", id=None), one("2", id=None)], now, "0%", "--json").json[0]["cells"]
    assert [(it["before"]["cell"], it["after"]["cell"]) for it in shown] == [(1, 1), (2, 2)]


def test_the_two_are_shown_side_by_side(compare: Compare) -> None:
    before = [one("0.001"), one("0.001", id="b"), one("0", (0, 0), id="c"), one("1", id="gone")]
    now = [TEXT, one("0.00125", (12, 3)), one("0.0011", id="b"), one("0.0001", (1, 0), id="c"), one("1", id="new")]
    done = compare(before, now, "10.0%")
    assert done.problems() == [
        "cell 2 (a) grew by 25.0 % (at most 10 %): $0.001 → $0.00125, 12 → 15 tokens",
        "cell 4 (c) grew from 0 (at most 10 %): $0 → $0.0001, 0 → 1 tokens",
    ]
    assert [line.split() for line in done.out.splitlines()[:7]] == [
        ["cell", "tokens", "before", "tokens", "cost", "before", "cost", "change"],
        ["2", "(a)", "12", "15", "$0.0010", "$0.00125", "+25.0", "%"],
        ["3", "(b)", "12", "12", "$0.0010", "$0.0011", "+10.0", "%"],
        ["4", "(c)", "0", "1", "$0", "$0.0001", "from", "0"],
        ["5", "(new)", "—", "12", "—", "$1.00", "new"],
        ["4", "(gone)", "12", "—", "$1.00", "—", "gone"],
        ["total", "36", "40", "$1.00", "$1.00", "+0.1", "%"],
    ]


def test_answers_from_the_cache_count_as_what_they_would_have_cost(compare: Compare) -> None:
    done = compare([one("0.001")], [HIT], "10%", "--max-cost", "0.001")
    assert "it costs $0.002, more than $0.001" in done.problems()[0]
    assert "answers from the cache are counted at what they would have cost" in done.out


def test_without_limits_the_two_are_shown(check: Command) -> None:
    write("old.ipynb", one("0.001"), cell(id="b"))
    write("nb.ipynb", one("0.1"), cell(id="b"), one("1", id="c"))
    done = check("nb.ipynb", "--against", "old.ipynb")
    assert (done.status, done.problems()) == (0, [])
    assert [line.split()[0] for line in done.out.splitlines()[:5]] == ["cell", "1", "2", "3", "total"]
    write("nb.ipynb", cell(id="a"))
    assert check("nb.ipynb", "--against", "old.ipynb").status == 0
    assert check("nb.ipynb", "--against", "nb.ipynb").problems() == [
        "there is nothing to check: no cell holds the numbers of a run"
    ]


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


def test_against_a_revision_of_the_same_path(check: Command, git: Callable[..., None]) -> None:
    Path("deep").mkdir()
    write("deep/[a] b.ipynb", one("0.001"))
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    path = write("deep/[a] b.ipynb", one("0.002"))
    git("commit", "-qam", "two")
    assert check(path, "--against", "git:HEAD", "--max-increase", "0%").status == 0
    for revision in ("HEAD~1", "v1"):
        line, _ = check(path, "--against", f"git:{revision}", "--max-increase", "10%").problems(path)
        assert line == "cell 1 (a) grew by 100.0 % (at most 10 %): $0.001 → $0.002, 12 → 12 tokens"
    found = check(str(Path(path).absolute()), "--against", "git:v1", "--json").json
    assert found[0]["against"].endswith("deep/[a] b.ipynb in v1")


def test_inside_a_hook_the_notebooks_own_repository_counts(
    check: Command, git: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("nb.ipynb", one("0.001"))
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    assert check("nb.ipynb", "--against", "git:HEAD", "--max-increase", "0%").status == 0


def test_a_notebook_that_the_revision_lacks_is_new(check: Command, git: Callable[..., None]) -> None:
    git("commit", "-q", "--allow-empty", "-m", "none")
    write("nb.ipynb", one("0.001"))
    done = check("nb.ipynb", "--against", "git:HEAD", "--max-increase", "0%")
    assert (done.status, done.problems()) == (0, [])
    assert "it is new: there is nothing to compare it with" in done.out
    assert check("nb.ipynb", "--against", "git:HEAD", "--max-cost", "0").status == 1


def test_what_git_cannot_answer(check: Command, git: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    write("nb.ipynb", one("0.001"))

    def error(against: str) -> str:
        return check("nb.ipynb", "--against", against, "--max-increase", "10%").error(2)

    assert "git knows no revision 'HEAD' here" in error("git:HEAD")
    git("commit", "-q", "--allow-empty", "-m", "none")
    assert "git knows no revision 'nope' here" in error("git:nope")
    for against in ("git:", "git:--output=x"):
        assert "names no revision" in error(against)
    assert not Path("x").exists()
    shutil.rmtree(".git")
    assert "git cannot read nb.ipynb: fatal: not a git repository" in error("git:HEAD")
    monkeypatch.setenv("PATH", "")
    assert "needs git, which is not installed" in error("git:HEAD")


# What a kernel writes


def test_what_the_magics_write_passes_the_gate(check: Command, empty: Desk) -> None:
    setup = "%load_ext tokmagic\n%model add s scripted\n%model use s\n%price s --input 1 --output 2"

    def executed(path: str, tokens: int) -> str:
        call = "import tokmagic\ntokmagic.generate('Hi')"
        empty.write(setup, f"%%generate --max-tokens {tokens}\nHi", "%%generate --dry-run\nHi", call)
        return write(path, *empty.execute().cells)

    path = executed("nb.ipynb", 5)
    # The scripted engine reads 12 tokens; it answers with 19 unless it is stopped.
    assert check(path, "--max-cost", "0.000072", "--max-tokens", "48").status == 0
    assert check(path, "--max-cost", "0.000071999999").status == 1
    assert check(path, "--max-tokens", "47").status == 1
    longer = executed("longer.ipynb", 6)
    first, *_ = check(longer, "--against", path, "--max-increase", "9%").problems(longer)
    assert first == "cell 2 (c1) grew by 9.1 % (at most 9 %): $0.000022 → $0.000024, 17 → 18 tokens"
    assert check(longer, "--against", path, "--max-increase", "9.1%").status == 0
