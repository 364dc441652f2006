"""``%cost``: its words, what it selects, and the notebook beside an earlier version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.notebooks.saved_notebooks import cell, row, write
from tests.reports.test_tables import run
from tokmagic.errors import NotebookError, UsageError
from tokmagic.magics.magics import TokMagics
from tokmagic.runs.session import Session

Make = Callable[..., Session]


@pytest.fixture
def session(make_session: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(tmp_path)
    made = make_session(model="scripted")
    made.notebook = str(tmp_path / "nb.ipynb")
    return made


@pytest.fixture
def cost(session: Session) -> Iterator[Callable[[str], Any]]:
    """``%cost`` with its words."""
    shell = InteractiveShell()
    yield TokMagics(shell, session).cost
    shell.history_manager.end_session()


@pytest.fixture
def recorded(session: Session) -> None:
    """Six runs of this notebook, and one of another."""
    greedy = {"temperature": 0.0}
    place = {"notebook": session.notebook, "cell_id": "c"}
    for record in (
        run("1", cost="0.1", tags=("a",), **place),
        run("2", cost="0.2", tags=("a", "b"), **place),
        run("3", cost="0.4", status="interrupted", tags=("ab",), **place),
        run("4", status="failed", **place),
        *(replace(run(f"g{n}", cost="0.8", **place), params=greedy) for n in range(2)),
        run("elsewhere", cost="9", notebook="/other", tags=("a",)),
    ):
        session.ledger().settle(record)


def test_the_table_has_a_line_of_what_was_wasted(cost: Callable[[str], Any], recorded: None) -> None:
    made = cost("")
    assert made.rows[-1][:5] == ("total", "6", "60", "24", "≥$2.30")
    assert made.note.splitlines() == [
        "1 of 6 runs without a price, not in the cost; set one with %price",
        "wasted ≥$1.20: 1 interrupted ($0.4000), 1 failed (—), 1 run again unchanged ($0.8000)",
    ]
    assert "wasted" not in cost("by model").note
    assert cost("waste").rows[-1] == ("total", "3", "42", "≥$1.20")


@pytest.mark.parametrize(
    ("words", "runs"), [("--tag a", "2"), ("--tag a --tag b", "1"), ("by model --tag ab", "1"), ("--tag c", "0")]
)
def test_a_tag_selects_this_notebooks_runs(cost: Callable[[str], Any], recorded: None, words: str, runs: str) -> None:
    assert cost(words).rows[-1][:2] == ("total", runs)


def test_a_tag_selects_what_is_projected_and_taken_out(
    cost: Callable[[str], Any], recorded: None, tmp_path: Path
) -> None:
    assert cost("project --calls 10/day --tag b").rows[3][2] == "$2.00"
    assert list(cost("df --tag a")["run_id"]) == ["1", "2"]
    cost("export out.csv --tag b")
    assert len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_the_notebook_stands_beside_an_earlier_version(cost: Callable[[str], Any]) -> None:
    write("old.ipynb", cell(row("1"), id="a"), cell(row("2"), id="b"))
    write("nb.ipynb", cell(row("3", "0.0015"), id="a"), cell(row("4"), id="c"))
    made = cost("compare old.ipynb")
    assert made.columns == ("cell", "tokens before", "tokens", "cost before", "cost", "change")
    assert [line[-1] for line in made.rows] == ["+50.0 %", "new", "gone", "+25.0 %"]
    assert made.note == "nb.ipynb as it was last saved"
    write("old.ipynb", cell(id="a"))
    write("nb.ipynb", cell(id="a"))
    assert cost("compare old.ipynb").note.startswith("there is nothing to check: no cell holds the numbers of a run\n")


def test_a_version_that_cannot_be_read_is_told(cost: Callable[[str], Any], session: Session) -> None:
    with pytest.raises(
        UsageError, match=r"file cannot be found from here; use: tokmagic check NOTEBOOK.ipynb --against"
    ):
        cost("compare old.ipynb")
    write("nb.ipynb", cell(row("3"), id="a"))
    with pytest.raises(UsageError, match=r"old.ipynb cannot be read: No such file"):
        cost("compare old.ipynb")
    Path("old.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(NotebookError, match=r"old.ipynb is damaged"):
        cost("compare old.ipynb")
    session.notebook = None
    with pytest.raises(UsageError, match="cannot be found from here"):
        cost("compare old.ipynb")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("projekt", r"did you mean project\?"),
        ("compare", "needs the earlier version: a file, or git:HEAD"),
        ("compare old.ipynb --tag a", "--tag cannot be used with %cost compare"),
        ("plot out.png", "takes no argument 'out.png'"),
        ("waste --calls 1/day", "belong to %cost project"),
        ("project", "--calls 1e6/day"),
        ("project --calls often", "--calls is 'often'"),
        ("export", "needs a file"),
        ("--tgs a", "did you mean --tag"),
    ],
)
def test_words_that_mean_nothing_are_refused(cost: Callable[[str], Any], words: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cost(words)
