"""``%tokmagic freeze``: each cell's latest runs, from the ledger, into a file beside the notebook (docs/reproduce.md).

It runs nothing, never changes the notebook or the ledger, and writes over nothing but a frozen file.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokmagic.core.files import expanded, read_file
from tokmagic.core.record import RUN_IN_ENV, RunRecord, is_place
from tokmagic.core.version import __version__
from tokmagic.errors import LedgerError, NotebookError, UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.notebooks import frozen_file, saved
from tokmagic.notebooks.saved import SavedCell
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
    file_cells, notes = _file_cells(notebook)
    cells, left = _cells(session, file_cells, texts=texts)
    if not cells:
        raise UsageError("no run of this notebook is recorded, so there is nothing to freeze; run its cells first")
    title = notebook.name if notebook is not None else frozen_file.notebook_of(file)
    frozen_file.write(NotebookSnapshot(title, __version__, tuple(cells)), file)
    standing = {cell.number: cell.source_sha256 for cell in file_cells or ()}
    edited = [it.name for it in cells if it.number and replace(it, source_sha256=standing[it.number]).outdated]
    if edited:
        notes.append(
            f"of an earlier text than the file's: {', '.join(edited)}; save the notebook, or run what was edited"
        )
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


def _file_cells(path: Path | None) -> tuple[Sequence[SavedCell] | None, list[str]]:
    """The file's cells; None where the file does not tell."""
    if path is None:
        return None, []
    try:
        return saved.read(read_file(str(path)), str(path)).cells, []
    except (UsageError, NotebookError) as error:
        return None, [f"the cells' places are not known: {error}"]


def _cells(session: Session, file: Sequence[SavedCell] | None, *, texts: bool) -> tuple[list[CellSnapshot], int]:
    """Each cell's latest runs in the order of the notebook, and how many cells are gone from it."""
    ledger, found, left = session.ledger(), [], 0
    latest_runs = ledger.latest_by_cell(session.selection)
    places, outlived = _places(latest_runs, file or ())
    markdown = {cell.id for cell in file or () if not cell.is_code}
    for latest in latest_runs:
        place = places.get(latest.run_id)
        if latest.run_id in outlived:
            continue
        # A cell of this kernel that the file lacks may only not be saved yet.
        unsaved = latest.session == session.session_id and latest.cell_id not in markdown
        if file is not None and place is None and not unsaved:
            left += 1
            continue
        runs = [it for it in _execution(session, ledger, latest) if it.status != "running"]
        if runs:
            # Where a front end names no cells a request stands for one, which says nothing to anybody later.
            its_id = place.id if place else None if _is_nameless(latest) else latest.cell_id
            snapshots = tuple(_snapshot(ledger, it, texts=texts) for it in runs)
            source = latest.env.get("source_sha256")
            found.append(CellSnapshot(its_id, place.number if place else None, snapshots, source_sha256=source))
    # Sorting is stable: cells whose place is not known stay in the order in which they ran.
    return sorted(found, key=lambda cell: (cell.number is None, cell.number or 0)), left


def _is_nameless(run: RunRecord) -> bool:
    return run.cell_id == run.env.get("execution")


def _places(latest: Sequence[RunRecord], cells: Sequence[SavedCell]) -> tuple[dict[str, SavedCell], set[str]]:
    """By run, the file's cell that ran it; and the runs of which the cell has a later one.

    The id tells, or, where it tells nothing, the text; of equal texts the last runs belong to the cells in their order.
    """
    found: dict[str, SavedCell] = {}
    by_id, by_text = dict[str, SavedCell](), defaultdict[str, list[SavedCell]](list)
    for cell in cells:
        if cell.is_code:
            by_text[cell.source_sha256 or ""].append(cell)
            by_id |= {cell.id: cell} if cell.id else {}
    waiting = defaultdict[str, list[str]](list)
    for run in latest:
        source, cell_id = run.env.get("source_sha256") or "", run.cell_id or ""
        if source in by_text and (_is_nameless(run) or is_place(cell_id)):
            waiting[source].append(run.run_id)
        elif cell_id in by_id and not (source and is_place(cell_id)):
            found[run.run_id] = by_id[cell_id]
    for source, run_ids in waiting.items():
        standing = by_text[source]
        found |= zip(run_ids[-len(standing) :], standing, strict=False)
    newest = {found[run.run_id].number: run.run_id for run in latest if run.run_id in found}
    told = {run_id for run_ids in waiting.values() for run_id in run_ids} | set(found)
    outlived = told - set(newest.values())
    return {run_id: cell for run_id, cell in found.items() if run_id not in outlived}, outlived


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
        own = {name: record.env.get(name) for name in RUN_IN_ENV}
        record = replace(record, env={**original.env, **own})
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
