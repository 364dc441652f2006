"""A notebook's runs and budget follow it: renamed, moved, copied, saved as, swapped; where they cannot, it is told."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tokmagic.core.budget import Budget
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.errors import BudgetError, UsageError
from tokmagic.runs.budget_guard import BudgetWarning
from tokmagic.runs.live import row_wire
from tokmagic.runs.session import Session
from tokmagic.runs.whereabouts import resolve_notebook

NOTEBOOK = "/home/ada/nb/one.ipynb"
ASK = Prompt((Message("user", "Hi"),), Sampling(max_tokens=3))
CAP = 40
"""Tokens that a notebook may use here: two runs of ASK, and not a third."""
Stands = tuple[int, int | None]
"""How many runs a notebook has, and the tokens that count in its budget; None where no budget holds."""


class Desk:
    """A folder of notebooks, each opened with a kernel of its own, and one ledger."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._url = url
        self.sessions: list[Session] = []

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def kernel(self, name: str | None) -> Session:
        """A new kernel for a notebook, which an extension-less front end starts."""
        session = Session(TokMagic(ledger=self._url, model="scripted", cache=False))
        session.notebook = None if name is None else self.path(name)
        self.sessions.append(session)
        return session

    def write(self, name: str, cells: dict[str, str | None]) -> None:
        """Save a notebook: ids of cells, and the run in the output of each; an id of digits stands for none."""
        written = []
        for cell_id, run_id in cells.items():
            meta = {"tokmagic": row_wire(self.run(run_id))} if run_id else {}
            outputs = [{"output_type": "display_data", "data": {}, "metadata": meta}] if run_id else []
            written.append({"cell_type": "code", "id": cell_id, "source": "%%generate", "outputs": outputs})
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(json.dumps({"cells": written, "nbformat": 4}), encoding="utf-8")

    def run(self, run_id: str) -> Any:
        found = self.sessions[0].ledger().run(run_id)
        assert found is not None
        return found

    def used(self, name: str, cell: str, *, saved: bool = True, capped: bool = True) -> Session:
        """A notebook with one run in one cell and, if so, a budget; its file keeps the output where it was saved."""
        self.write(name, {cell: None})
        session = self.kernel(name)
        if capped:
            cap(session)
        run_id = session.generate(ASK, cell_id=cell).run_id
        self.write(name, {cell: run_id if saved else None})
        return session


@pytest.fixture
def desk(tmp_path: Path, ledger_url: str) -> Iterator[Desk]:
    made = Desk(tmp_path / "books", ledger_url)
    made.folder.mkdir()
    yield made
    for session in made.sessions:
        session.close()


def cap(session: Session) -> None:
    budget = Budget("notebook", None, CAP, notebook=session.budget_notebook, user=session.user)
    session.ledger().set_budget(budget)


def stands(session: Session) -> Stands:
    """How the session's notebook stands, as the sidebar is told."""
    runs = session.ledger().totals(session.selection).runs
    spent = [it.spent_tokens for it in session.standings() if it.budget.scope == "notebook"]
    return runs, spent[0] if spent else None


def notice(session: Session) -> str:
    """What the next run warns of; it is let in where no budget stops it."""
    with warnings.catch_warnings(record=True) as caught, suppress(BudgetError):
        warnings.simplefilter("always")
        session.generate(ASK)
    return "\n".join(str(it.message) for it in caught if issubclass(it.category, BudgetWarning))


def renamed(desk: Desk) -> None:
    (desk.folder / "a.ipynb").rename(desk.folder / "b.ipynb")


def moved(desk: Desk) -> None:
    (desk.folder / "sub").mkdir()
    (desk.folder / "a.ipynb").rename(desk.folder / "sub" / "b.ipynb")


def replaced_by_git(desk: Desk) -> None:
    """A checkout writes the file anew and removes the old one."""
    text = (desk.folder / "a.ipynb").read_text(encoding="utf-8")
    (desk.folder / "a.ipynb").unlink()
    (desk.folder / "b.ipynb").write_text(text, encoding="utf-8")


def succeeded(desk: Desk) -> None:
    """Renamed, and a new notebook was made under the old name."""
    renamed(desk)
    desk.write("a.ipynb", {"0f0f0f0f": None})


def copied(desk: Desk) -> None:
    shutil.copy(desk.path("a.ipynb"), desk.path("b.ipynb"))


def copied_and_cleared(desk: Desk) -> None:
    copied(desk)
    desk.write("a.ipynb", {"aaaaaaaa": None})


def copied_and_stripped(desk: Desk) -> None:
    copied(desk)
    desk.write("a.ipynb", {"0": None})


MOVES = {
    "renamed": (renamed, "b.ipynb"),
    "moved": (moved, "sub/b.ipynb"),
    "git checkout": (replaced_by_git, "b.ipynb"),
    "renamed, and another took its place": (succeeded, "b.ipynb"),
}
COPIES = {"copied": copied, "copied and cleared": copied_and_cleared, "copied and stripped": copied_and_stripped}


@pytest.mark.parametrize("saved", [True, False], ids=["with its outputs", "cleared"])
@pytest.mark.parametrize(("move", "name"), MOVES.values(), ids=MOVES)
def test_what_was_moved_while_no_kernel_ran_keeps_its_budget_and_sum(
    desk: Desk, move: Callable[[Desk], None], name: str, saved: bool
) -> None:
    before = desk.used("a.ipynb", "aaaaaaaa", saved=saved)
    one = stands(before)
    move(desk)
    session = desk.kernel(name)
    assert stands(session) == one
    assert session.generate(ASK, cell_id="aaaaaaaa").record.status == "ok"
    refused = session.generate(ASK, cell_id="aaaaaaaa").error
    assert isinstance(refused, BudgetError), "the cap holds over both names"
    assert {run.notebook for run in session.ledger().runs()} == {desk.path(name)}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_a_new_notebook_and_is_told_that_it_has_no_budget(desk: Desk, copy: Callable[[Desk], None]) -> None:
    one = stands(desk.used("a.ipynb", "aaaaaaaa"))
    copy(desk)
    session = desk.kernel("b.ipynb")
    assert stands(session) == (0, None)
    assert notice(session) == (
        f"this notebook is a copy of {desk.path('a.ipynb')}, whose budget does not hold for the copy; "
        "set one with %budget notebook"
    )
    assert notice(session) == "", "once"
    assert stands(desk.kernel("a.ipynb")) == one, "what was copied keeps its own"
    assert notice(desk.kernel("b.ipynb")) == "", "a copy that ran is a notebook of its own"


@pytest.mark.parametrize("saved", [True, False], ids=["with their outputs", "cleared"])
def test_two_that_were_swapped_are_told_apart_by_what_is_in_them(desk: Desk, saved: bool) -> None:
    first, second = desk.used("a.ipynb", "aaaaaaaa", saved=saved), desk.used("b.ipynb", "bbbbbbbb", saved=saved)
    second.generate(ASK, cell_id="bbbbbbbb")
    was = stands(first), stands(second)
    assert was[0] != was[1]
    one, two = (desk.folder / name for name in ("a.ipynb", "b.ipynb"))
    text = one.read_text(encoding="utf-8")
    one.write_text(two.read_text(encoding="utf-8"), encoding="utf-8")
    two.write_text(text, encoding="utf-8")
    assert (stands(desk.kernel("b.ipynb")), stands(desk.kernel("a.ipynb"))) == was


def test_a_notebook_renamed_over_another_has_its_own_sum_and_budget(desk: Desk) -> None:
    one = stands(desk.used("a.ipynb", "aaaaaaaa"))
    desk.used("b.ipynb", "bbbbbbbb").generate(ASK, cell_id="bbbbbbbb")
    (desk.folder / "a.ipynb").replace(desk.folder / "b.ipynb")
    assert stands(desk.kernel("b.ipynb")) == one
    named = {run.notebook for run in desk.sessions[0].ledger().runs()}
    assert named > {desk.path("b.ipynb")}, "the runs of the other one are kept under a name of their own"


def test_a_cell_pasted_from_another_notebook_moves_nothing(desk: Desk) -> None:
    one = desk.used("a.ipynb", "aaaaaaaa")
    old = one.ledger().runs()[0].run_id
    again = one.generate(ASK, cell_id="aaaaaaaa").run_id
    desk.write("a.ipynb", {"aaaaaaaa": again})
    desk.write("b.ipynb", {"bbbbbbbb": old})
    was = stands(one)
    assert stands(desk.kernel("b.ipynb")) == (0, None)
    assert stands(desk.kernel("a.ipynb")) == was


def test_a_path_that_is_used_again_is_the_same_notebook(desk: Desk) -> None:
    one = stands(desk.used("a.ipynb", "aaaaaaaa"))
    desk.write("a.ipynb", {"0f0f0f0f": None})
    assert stands(desk.kernel("a.ipynb")) == one


# While a kernel runs


def test_a_rename_and_a_move_while_the_kernel_runs_keep_all(desk: Desk) -> None:
    session = desk.used("a.ipynb", "aaaaaaaa")
    session.everything("books/a.ipynb", False)
    one = stands(session)
    renamed(desk)
    assert session.everything("books/b.ipynb", False).notebook == desk.path("b.ipynb")
    assert stands(session) == one
    (desk.folder / "sub").mkdir()
    (desk.folder / "b.ipynb").rename(desk.folder / "sub" / "c.ipynb")
    assert session.everything("books/sub/c.ipynb", False).notebook == desk.path("sub/c.ipynb")
    assert stands(session) == one
    assert len(session.everything("books/sub/c.ipynb", False).rows) == 1


def test_save_as_goes_on_in_a_new_notebook(desk: Desk) -> None:
    session = desk.used("a.ipynb", "aaaaaaaa")
    one = stands(session)
    copied(desk)
    session.everything("books/b.ipynb", False)
    assert stands(session) == (0, None)
    assert "is a copy of" in notice(session)
    assert stands(desk.kernel("a.ipynb")) == one


def test_a_page_that_missed_a_rename_changes_nothing(desk: Desk) -> None:
    session = desk.used("a.ipynb", "aaaaaaaa")
    renamed(desk)
    session.everything("books/b.ipynb", False)
    one = stands(session)
    session.everything("books/a.ipynb", False)
    assert (session.notebook, stands(session)) == (desk.path("b.ipynb"), one)


def test_a_rename_in_mid_run_leaves_the_run_with_its_notebook_and_its_cap(desk: Desk) -> None:
    session = desk.used("a.ipynb", "aaaaaaaa")

    class Renaming:
        def token(self, _text: str) -> None:
            if (desk.folder / "a.ipynb").exists():
                renamed(desk)
                session.everything("books/b.ipynb", False)

    session.generate(ASK, cell_id="aaaaaaaa", watcher=Renaming())
    assert {run.notebook for run in session.ledger().runs()} == {desk.path("b.ipynb")}
    assert isinstance(session.generate(ASK).error, BudgetError)


def test_a_kernel_that_was_not_told_follows_where_another_found_the_notebook(desk: Desk) -> None:
    session = desk.used("a.ipynb", "aaaaaaaa")
    renamed(desk)
    assert stands(session)[0] == 1, "nobody told it, and all goes on under the name that it knows"
    one = stands(desk.kernel("b.ipynb"))
    assert stands(session) == one
    assert session.generate(ASK).record.notebook == desk.path("b.ipynb")


def test_a_budget_set_before_the_path_was_known_holds_after_it(desk: Desk) -> None:
    session = desk.kernel(None)
    cap(session)
    session.generate(ASK)
    one = stands(session)
    session.everything("a.ipynb", False)
    assert (session.notebook, stands(session)) == ("a.ipynb", one)


def test_files_that_cannot_be_seen_from_here_were_renamed(desk: Desk) -> None:
    """A kernel on another machine than its files: its cap is kept rather than lost."""
    session = desk.kernel(None)
    session.notebook = NOTEBOOK
    cap(session)
    session.generate(ASK)
    one = stands(session)
    session.everything("nb/two.ipynb", False)
    assert (session.notebook, stands(session)) == ("/home/ada/nb/two.ipynb", one)


# Where nothing tells which it was


def test_a_budget_whose_notebook_is_gone_is_told_and_brought_along_by_its_name(desk: Desk) -> None:
    desk.write("a.ipynb", {"0": None})
    cap(desk.kernel("a.ipynb"))
    desk.sessions[0].generate(ASK)
    one = stands(desk.sessions[0])
    renamed(desk)
    session = desk.kernel("b.ipynb")
    assert notice(session) == (
        f"{desk.path('a.ipynb')} has a budget and is not there any more; if this notebook was renamed from it, "
        f"%budget notebook --was {desk.path('a.ipynb')} brings its budget and its runs along"
    )
    for wrong in ("c.ipynb", "b.ipynb"):
        with pytest.raises(UsageError, match="no other notebook's"):
            session.notebook_was(wrong)
    session.notebook_was("a.ipynb")
    runs, spent = stands(session)
    assert (runs, spent) == (one[0] + 1, 2 * (one[1] or 0)), "with what was spent before it was told"


def test_a_notebook_that_is_still_there_lends_its_name_to_nobody(desk: Desk) -> None:
    desk.used("a.ipynb", "aaaaaaaa")
    desk.write("b.ipynb", {"bbbbbbbb": None})
    with pytest.raises(UsageError, match="still there"):
        desk.kernel("b.ipynb").notebook_was("a.ipynb")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"cells": 5}', b'{"cells": [5, {"outputs": [null, {"metadata": []}]}]}', b"\xff"],
)
def test_a_file_that_is_no_notebook_is_no_fault(desk: Desk, text: bytes) -> None:
    (desk.folder / "a.ipynb").write_bytes(text)
    session = desk.kernel("a.ipynb")
    cap(session)
    session.generate(ASK)
    assert stands(session)[0] == 1


@pytest.mark.parametrize(
    "path",
    ["a.ipynb", "sub/../a.ipynb", "../books/a.ipynb", "link/a.ipynb", "link/../books/a.ipynb", "b.ipynb"],
    ids=["as before", "up and back", "from a folder beside", "by a link", "by a link and back", "a linked file"],
)
@pytest.mark.parametrize("saved", [True, False], ids=["with its outputs", "before it was saved"])
def test_one_file_is_one_notebook_whichever_way_leads_to_it(desk: Desk, path: str, saved: bool) -> None:
    """As papermill and nbconvert name it on a command line, or a front end whose root is behind a link."""
    desk.used("a.ipynb", "aaaaaaaa", saved=saved)
    (desk.folder / "sub").mkdir()
    (desk.folder / "link").symlink_to(desk.folder, target_is_directory=True)
    (desk.folder / "b.ipynb").symlink_to(desk.folder / "a.ipynb")
    session = desk.kernel(path)
    assert stands(session) == (1, 15)
    assert notice(session) == ""
    assert stands(desk.kernel("a.ipynb")) == (2, 30)
    with pytest.raises(BudgetError):
        session.generate(ASK).raise_for_status()


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        (".", "sub/a.ipynb"),
        ("sub", "a.ipynb"),
        ("sub", "./a.ipynb"),
        ("sub", "sub/a.ipynb"),
        ("other", "../sub/a.ipynb"),
    ],
    ids=["below", "beside", "beside, with a dot", "from a root above", "up and down"],
)
def test_a_relative_path_is_that_of_the_file_that_it_leads_to(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, folder: str, path: str
) -> None:
    (desk.folder / "sub").mkdir()
    (desk.folder / "other").mkdir()
    desk.used("sub/a.ipynb", "aaaaaaaa")
    monkeypatch.chdir(desk.folder / folder)
    session = desk.kernel("sub/a.ipynb")
    session.notebook = path
    assert session.notebook == str(desk.folder / "sub" / "a.ipynb")
    assert stands(session) == (1, 15)
    monkeypatch.chdir(desk.folder / "other")
    session.notebook = "a.ipynb"
    assert session.notebook == "a.ipynb", "no such file is known from there"


def test_a_budget_of_a_notebook_in_a_locked_folder_is_no_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another person's, with a budget for everyone: others run, and nobody is told that it is gone."""
    desk.used("locked/a.ipynb", "aaaaaaaa")
    stat = os.stat

    def locked(path: Any, *more: Any, **options: Any) -> os.stat_result:
        if f"{os.sep}locked{os.sep}" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *more, **options)

    desk.write("b.ipynb", {"bbbbbbbb": None})
    monkeypatch.setattr(os, "stat", locked)
    session = desk.kernel("b.ipynb")
    assert notice(session) == ""
    assert stands(session) == (1, None)


def test_a_notebook_of_many_runs_is_known_by_them(desk: Desk) -> None:
    session = desk.used("a.ipynb", "aaaaaaaa")
    run_id = session.ledger().runs()[0].run_id
    desk.write("b.ipynb", {f"{number:08x}": None for number in range(1200)} | {"aaaaaaaa": run_id})
    (desk.folder / "a.ipynb").unlink()
    assert stands(desk.kernel("b.ipynb"))[0] == 1


@pytest.mark.parametrize(
    ("known", "seen", "expected"),
    [
        (None, "nb/one.ipynb", "nb/one.ipynb"),
        (NOTEBOOK, "nb/one.ipynb", NOTEBOOK),
        (NOTEBOOK, "one.ipynb", NOTEBOOK),
        (NOTEBOOK, "nb/two.ipynb", "/home/ada/nb/two.ipynb"),
        (NOTEBOOK, "two.ipynb", "/home/ada/nb/two.ipynb"),
        (NOTEBOOK, "b/one.ipynb", "b/one.ipynb"),
        ("one.ipynb", "one.ipynb", "one.ipynb"),
        ("one.ipynb", "two.ipynb", "two.ipynb"),
    ],
)
def test_the_notebook_is_named_by_what_kernel_and_sidebar_know(known: str | None, seen: str, expected: str) -> None:
    assert resolve_notebook(known, seen) == expected
