"""``%tokmagic freeze``: each cell's latest runs, from the ledger, into a file beside the notebook (docs/reproduce.md).

It runs nothing, never changes the notebook or the ledger, and writes over nothing but a frozen file.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokmagic.core.files import expanded, read_file
from tokmagic.core.record import RunRecord
from tokmagic.core.version import __version__
from tokmagic.errors import LedgerError, NotebookError, UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.notebooks import frozen_file, saved
from tokmagic.notebooks.snapshots import CellSnapshot, NotebookSnapshot, RunSnapshot
from tokmagic.runs.session import Session

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


def freeze(session: Session, name: str | None = None, *, texts: bool = False) -> Table:
    """Write what this notebook ran with, and return a table of it.

    ``name`` is the file to write, or the notebook's own file where it is not known from here; with ``texts`` the
    answers' texts are written too. Raises UsageError and LedgerError.
    """
    try:
        file, notebook = _place(_found(session.notebook), name)
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error.strerror or error}; name another file") from error
    numbers_by_id, notes = _numbers_by_id(notebook)
    cells, left = _cells(session, numbers_by_id, texts=texts)
    if not cells:
        raise UsageError("no run of this notebook is recorded, so there is nothing to freeze; run its cells first")
    title = notebook.name if notebook is not None else frozen_file.notebook_of(file)
    frozen_file.write(NotebookSnapshot(title, __version__, tuple(cells)), file)
    if left:
        notes.append(f"left out: {numbers.counted(left, 'cell')} that the notebook no longer has")
    words = ["tokmagic", "reproduce", title or "NOTEBOOK.ipynb"]
    if file != frozen_file.beside(notebook or file.with_name(words[-1])):  # where it is looked for by itself
        words += ["--frozen", str(file)]
    return _table(cells, "\n".join([f"{file} was written; compare with: {shlex.join(words)}", *notes]))


def _place(found: Path | None, name: str | None) -> tuple[Path, Path | None]:
    """Where to write, and the notebook's own file where it is known. Raises UsageError, OSError."""
    if name is None:
        if found is None:
            raise UsageError(
                "this notebook's file is not known from here; name it: %tokmagic freeze NOTEBOOK.ipynb, "
                "or the file to write"
            )
        return frozen_file.beside(found), found
    given = expanded(name)
    if given.suffix == ".ipynb":
        if not given.is_file():
            raise UsageError(f"there is no notebook {name} here; name one that is there, or the file to write")
        if found is not None and not found.samefile(given):
            # Else that notebook's frozen file would get this one's runs.
            raise UsageError(f"this notebook is {found.name}, and {name} is another one; leave its name out")
        return frozen_file.beside(given), given
    if given.is_dir():
        raise UsageError(f"{given} is a folder; name the file to write, such as {given / 'nb.tokmagic.json'}")
    if given.exists():
        # A slip of the pen must not cost a file that somebody needs.
        try:
            if not given.is_file():  # reading a pipe would wait for ever
                raise NotebookError(f"{given} is not a file")
            frozen_file.read(given)
        except NotebookError:
            raise UsageError(f"{given} already exists and is not a frozen notebook; name another file") from None
    return given, found


def _found(path: str | None) -> Path | None:
    """The notebook's file. What a front end tells may be relative to a root of its own; kernels start beside it."""
    if path is None:
        return None
    return next((it for it in (Path(path), Path.cwd() / Path(path).name) if it.is_file()), None)


def _numbers_by_id(path: Path | None) -> tuple[dict[str, int] | None, list[str]]:
    """The places of the file's cells by id; None where the file does not tell."""
    if path is None:
        return None, []
    try:
        cells = saved.read(read_file(str(path)), str(path)).cells
    except (UsageError, NotebookError) as error:
        return None, [f"the cells' places are not known: {error}"]
    return {cell.id: cell.number for cell in cells if cell.id is not None and cell.number is not None}, []


def _cells(session: Session, places: dict[str, int] | None, *, texts: bool) -> tuple[list[CellSnapshot], int]:
    """Each cell's latest runs in the order of the notebook, and how many cells are gone from it."""
    ledger, found, left = session.ledger(), [], 0
    for latest in ledger.latest_by_cell(session.selection):
        number = (places or {}).get(latest.cell_id or "")
        # A cell of this kernel that the file lacks may only not be saved yet.
        if places is not None and number is None and latest.session != session.session_id:
            left += 1
            continue
        runs = [it for it in _execution(session, ledger, latest) if it.status != "running"]
        if runs:
            # Where a front end names no cells a request stands for one, which says nothing to anybody later.
            its_id = None if latest.cell_id == latest.env.get("execution") else latest.cell_id
            found.append(CellSnapshot(its_id, number, tuple(_snapshot(ledger, it, texts=texts) for it in runs)))
    # Sorting is stable: cells whose place is not known stay in the order in which they ran.
    return sorted(found, key=lambda cell: (cell.number is None, cell.number or 0)), left


def _execution(session: Session, ledger: Ledger, latest: RunRecord) -> Iterable[RunRecord]:
    """All runs of the execution that a cell's latest run belongs to: a loop has many."""
    execution = latest.env.get("execution")
    if latest.cell_id is None or execution is None:
        return [latest]
    same = replace(session.selection, cell_id=latest.cell_id, session=latest.session)
    return [it for it in ledger.stream(same) if it.env.get("execution") == execution]


def _snapshot(ledger: Ledger, record: RunRecord, *, texts: bool) -> RunSnapshot:
    if record.replay_of is not None and (original := ledger.run(record.replay_of)) is not None:
        # The versions that explain an answer are those it was generated with, not those it was replayed with.
        record = replace(record, env={**original.env, "answer_sha256": record.env.get("answer_sha256")})
    return RunSnapshot.of(record, text_of(ledger, record.run_id) if texts else None)


def text_of(ledger: Ledger, run_id: str) -> str | None:
    """A run's answer, where the ledger has it."""
    try:
        found = ledger.texts(run_id)
    except LedgerError:
        return None
    return None if found is None else found[1]


def _table(cells: Iterable[CellSnapshot], note: str) -> Table:
    rows = tuple(
        (
            numbers.UNKNOWN if cell.number is None and cell.id is None else cell.name.removeprefix("cell "),
            run.info.name,
            run.decoding or numbers.UNKNOWN,
            run.status,
            numbers.tokens(run.usage.input_tokens, run.usage.input_source),
            numbers.tokens(run.usage.output_tokens, run.usage.output_source),
            numbers.cost(run.cost),
        )
        for cell in cells
        for run in cell.runs
    )
    columns = ("cell", "model", "drawn", "status", "in", "out", "cost")
    return Table(columns, rows, note, words=("model", "drawn", "status"))
