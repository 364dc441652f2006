"""Where a session's notebook is, and whether it is one that the ledger knows under another path.

What counts as the same notebook is told in docs/budgets.md, and why in decision 20: a file is known by what is in it,
the runs that its outputs name and the ids of its cells. Nothing is written into it for that.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tokmagic.errors import UsageError

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger

_EXECUTORS = frozenset({"papermill", "jupyter-nbconvert", "nbconvert", "jupyter-execute"})
_SHORTEST_ID = 8
"""Ids that a program drew at random are not shorter; those that nbstripout counts from 0 are in every notebook."""


@dataclass(frozen=True, slots=True)
class Traces:
    """By what a notebook's file can be known."""

    run_ids: frozenset[str] = frozenset()
    """Of the runs whose answers its outputs are."""
    cell_ids: frozenset[str] = frozenset()

    def shares(self, other: Traces) -> bool:
        """Whether the two have a run or a cell in common."""
        return not (self.run_ids.isdisjoint(other.run_ids) and self.cell_ids.isdisjoint(other.cell_ids))


class Whereabouts:
    """The path of a session's notebook; once settled, what the ledger keeps of the notebook is under this path."""

    def __init__(self, session_id: str, user: str | None) -> None:
        self._session_key = f"session:{session_id}"
        self._user = user
        self._path: str | None = None
        self._renamed_from: list[str] = []
        self._settled = False
        self.notice: str | None = None
        """What a person has to know about the notebook's budget, in one line; None where there is nothing."""

    @property
    def path(self) -> str | None:
        """The notebook's path; None where it is not known."""
        return self._path

    @path.setter
    def path(self, path: str | None) -> None:
        self._path, self._settled = None if path is None else _straight(path), False

    @property
    def key(self) -> str:
        """What stands for the notebook in a budget: its path, or the session where the path is unknown."""
        return self._path or self._session_key

    def told(self, server_path: str) -> None:
        """Take in where a front end sees the notebook: renamed, saved under another name, or where it was."""
        path = resolve_notebook(self._path, server_path)
        if path == self._path or (self._path is not None and is_same_file(path, self._path)):
            return
        if self._path is None or not is_file(self._path):
            self._renamed_from.append(self.key)
        elif not is_file(path):
            return  # a page that does not know of a rename yet
        self.path = path

    def was(self, ledger: Ledger, earlier: str) -> None:
        """Take a person's word for what the notebook was called before. Raises UsageError, LedgerError."""
        if self._path is None:
            raise UsageError("--was needs to know what this notebook is called now, which the kernel was not told")
        names = (earlier, os.path.normpath(Path(self._path).parent / earlier))
        old = next((name for name in names if ledger.notebooks.is_known(name, self._user)), None)
        if old is None or old == self._path:
            raise UsageError(f"--was {earlier}: no other notebook's runs or budget are kept under this path")
        if is_file(old):
            raise UsageError(f"--was {earlier}: that notebook is still there, so it keeps its runs and its budget")
        ledger.notebooks.rename(old, self._path, self._user, datetime.now(UTC), joins=True)
        self.notice = None

    def settle(self, ledger: Ledger, last_run: str | None = None) -> None:
        """Let what the ledger keeps of the notebook follow it to its path. Raises LedgerError.

        ``last_run`` is one that this session recorded: it tells where the notebook went where another kernel found it
        under another path.
        """
        if self._path is None:
            return
        if self._settled:
            if last_run is not None and not is_file(self._path):
                self._path = ledger.notebooks.of_run(last_run) or self._path
            return
        while self._renamed_from:
            old = self._renamed_from[0]
            joins = old == self._session_key
            ledger.notebooks.rename(old, self._path, self._user, datetime.now(UTC), joins=joins)
            del self._renamed_from[0]
        self.notice = self._find(ledger, self._path)
        self._settled = True

    def _find(self, ledger: Ledger, path: str) -> str | None:
        """Find out whether the notebook was somewhere else before; return what there is to tell of its budget."""
        known, user = ledger.notebooks, self._user
        here, is_known = traces(path) or Traces(), known.is_known(path, user)
        of_runs = known.of_runs(here.run_ids, user)
        if path in of_runs or (is_known and known.of_cells(here.cell_ids, user, path)):
            return None
        capped = known.capped(user)
        others = of_runs or known.of_cells(here.cell_ids, user)
        by_link = None if is_known else next((it for it in (*others, *capped) if is_same_file(it, path)), None)
        if by_link is not None:
            self._path = by_link  # it is no copy, and a kernel may go on under that path
            return None
        for other in others:
            if not self._is_there(ledger, other, here):
                known.rename(other, path, user, datetime.now(UTC))
                return _replaced(path) if path in capped and other not in capped else None
        if is_known:
            return None
        if others:
            return _copy(others[0]) if others[0] in capped else None
        return _lost(path, capped)

    def _is_there(self, ledger: Ledger, path: str, seen: Traces) -> bool:
        """Whether a notebook is where the ledger knows it still, so that the one with the traces ``seen`` is a copy."""
        there, known = traces(path), ledger.notebooks
        if there is None:
            return False
        if there.shares(seen) or known.of_cells(there.cell_ids, self._user, path):
            return True
        of_runs = known.of_runs(there.run_ids, self._user)
        # What was stripped of outputs and ids tells nothing, so it stays what it was.
        return path in of_runs or not (of_runs or there.cell_ids)


def _copy(of: str) -> str:
    return f"this notebook is a copy of {of}, whose budget does not hold for the copy; set one with %budget notebook"


def _replaced(path: str) -> str:
    return (
        f"the notebook that was {path} before had a budget, which does not hold for this one; set one with "
        "%budget notebook"
    )


def _lost(path: str, capped: Sequence[str]) -> str | None:
    """What to say of a notebook that nothing is known of, while one with a budget is not there any more."""
    gone = [name for name in capped if _is_gone(name)]
    if not gone:
        return None
    name = min(gone, key=lambda it: (Path(it).parent != Path(path).parent, gone.index(it)))
    return (
        f"{name} has a budget and is not there any more; if this notebook was renamed from it, "
        f"%budget notebook --was {shlex.quote(name)} brings its budget and its runs along"
    )


def _is_gone(path: str) -> bool:
    """Whether there surely is no file; one in a folder that may not be entered may well be there."""
    with suppress(PermissionError):
        return Path(path).is_absolute() and not Path(path).is_file()
    return False


def traces(path: str) -> Traces | None:
    """What a notebook's file holds to know it by; None where there is no file."""
    if not is_file(path):
        return None
    run_ids: set[str] = set()
    cell_ids: set[str] = set()
    with suppress(OSError, ValueError, RecursionError):
        for cell in _parts(json.loads(Path(path).read_bytes()), "cells"):
            cell_id = cell.get("id")
            if isinstance(cell_id, str) and len(cell_id) >= _SHORTEST_ID:
                cell_ids.add(cell_id)
            for output in _parts(cell, "outputs"):
                row = _object(_object(output.get("metadata")).get("tokmagic"))
                if isinstance(run_id := row.get("run_id"), str):
                    run_ids.add(run_id)
    return Traces(frozenset(run_ids), frozenset(cell_ids))


def is_file(path: str) -> bool:
    """Whether there is a file, as far as this process can see."""
    with suppress(OSError):  # a folder that may not be entered
        return Path(path).is_absolute() and Path(path).is_file()
    return False


def _straight(path: str) -> str:
    """A path without steps up: ``../nb.ipynb`` below a folder is the same notebook as the one beside that folder.

    A relative one is that of a file in the folder in which this process runs, or below it, where that is there. A front
    end may name it from a root above.
    """
    its = Path(path)
    if not its.is_absolute():
        with suppress(OSError):  # the folder is gone
            here = Path.cwd()
            above = [here / its.name] if here.parts[-len(its.parts) + 1 :] == its.parts[:-1] else []
            its = next((it for it in (here / its, *above) if is_file(str(it))), its)
    if not its.is_absolute() or ".." not in its.parts:
        return path if Path(path) == its else str(its)
    return str(its.parent.resolve() / its.name)


def is_same_file(path: str, other: str) -> bool:
    """Whether two paths lead to one file that is there: one may go by a link."""
    with suppress(OSError):
        return is_file(path) and is_file(other) and Path(path).samefile(other)
    return False


def resolve_notebook(known: str | None, server_path: str) -> str:
    """Join what the kernel knew of its notebook's path with the path the sidebar sees.

    The kernel's name is fixed at its start and absolute; the sidebar's follows renames and is
    relative to the server's root. Where the folders agree, or the file is there, the absolute form is kept.
    """
    if known is None:
        return server_path
    if known.endswith(f"/{server_path}") or known == server_path:
        return known
    folder, _, name = server_path.rpartition("/")
    known_folder = known.rpartition("/")[0]
    found = server_path
    if not folder or known_folder == folder or known_folder.endswith(f"/{folder}"):
        found = f"{known_folder}/{name}" if known_folder else name
    # The server's root is one of the folders above the notebook.
    below = [str(root / server_path) for root in PurePosixPath(known).parents]
    return next((path for path in (found, *below) if is_file(path)), found)


def executed_notebook() -> str | None:
    """The notebook that papermill, nbconvert or ``jupyter execute`` runs in this kernel; None where none of them does.

    They tell their kernels nothing, so it is read from the command that started this process.
    """
    with suppress(ImportError):
        import psutil

        with suppress(psutil.Error, OSError):
            parent = psutil.Process().parent()
            return None if parent is None else notebook_of(parent.cmdline(), parent.cwd())
    return None


def notebook_of(command: Sequence[str], folder: str) -> str | None:
    """The one notebook that a command line, given in ``folder``, has executed; None where it does not say."""
    names = [Path(word).name.removesuffix(".exe") for word in command[:3]]
    start = next((at for at, name in enumerate(names) if name in _EXECUTORS), None)
    if start is None:
        return None
    pairs = zip(command[start:], command[start + 1 :], strict=False)
    inputs = [word for before, word in pairs if not word.startswith("-") and before != "--output"]
    found = [word for word in inputs if word.endswith(".ipynb")]
    if names[start] == "papermill":  # what it writes comes second
        del found[1:]
    if len(found) != 1:
        return None
    return found[0] if "://" in found[0] else str(Path(folder) / found[0])


def _parts(thing: Any, name: str) -> Iterator[dict[str, Any]]:
    found = _object(thing).get(name)
    return map(_object, found if isinstance(found, list) else ())


def _object(thing: Any) -> dict[str, Any]:
    return thing if isinstance(thing, dict) else {}
