"""``tokmagic reproduce``: a notebook run again, beside what it was frozen with or what its outputs keep."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from tokmagic.core.files import expanded, read_file
from tokmagic.core.money import CERTAIN, Uncertainty
from tokmagic.errors import LedgerError, NotebookError, UsageError
from tokmagic.formatting import numbers
from tokmagic.ledgers import file_of
from tokmagic.notebooks import frozen_file, saved
from tokmagic.notebooks.freeze import text_of
from tokmagic.notebooks.reproduce.compare import Comparison, Kind, compare
from tokmagic.notebooks.reproduce.differences import another_text
from tokmagic.notebooks.reproduce.execute import Executed, Executor, Progress, execute, write_document
from tokmagic.notebooks.reproduce.kernel import in_kernel
from tokmagic.notebooks.saved import SavedNotebook
from tokmagic.notebooks.snapshots import CellSnapshot, RunSnapshot
from tokmagic.runs.generation import answers_sha256
from tokmagic.runs.session import Session

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


@dataclass(frozen=True, slots=True)
class Report:
    """What reproducing a notebook found. ``against`` is what it was compared with, ``allowed`` what may change."""

    notebook: str
    against: str
    comparisons: tuple[Comparison, ...]
    error: str | None = None
    allowed: frozenset[Kind] = frozenset()
    notes: tuple[str, ...] = ()
    unwritten: str | None = None
    """Why the notebook's new outputs were not written."""

    @property
    def changed(self) -> tuple[Comparison, ...]:
        """The runs of which more changed than may."""
        return tuple(it for it in self.comparisons if any(change.kind not in self.allowed for change in it.changes))

    @property
    def compared(self) -> int:
        """How many runs were compared."""
        return sum(it.state in ("same", "changed") for it in self.comparisons)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it did not pass, a line each; the runs that changed are told by themselves."""
        found = tuple(it for it in (self.error, self.unwritten) if it)
        if self.error or self.compared:
            return found
        if any(it.before and not it.before.ended_well for it in self.comparisons):
            why = "no run had completed; run the notebook's cells, then %tokmagic freeze in it"
        else:
            why = "no run of it is greedy or seeded; give --temperature 0 or --seed N"
        return (*found, f"nothing was compared: {why}")

    @property
    def ok(self) -> bool:
        """Whether everything that was compared is the same, and something was."""
        return not self.changed and not self.problems


def reproduce(
    session: Session,
    path: str,
    *,
    frozen: str | None = None,
    out: str | None = None,
    kernel: str | None = None,
    timeout_s: int | None = None,
    budget_usd: str | None = None,
    allowed: Iterable[Kind] = (),
    progress: Progress = lambda _doing: None,
    executor: Executor | None = None,
) -> Report:
    """Run the notebook at ``path`` again and compare each greedy and each seeded run.

    ``session`` only gives the ledger that may hold the earlier texts; nothing is written to it. With ``out`` the
    notebook is written there with its new outputs. ``executor`` runs the cells; None: a new kernel named ``kernel``,
    where each cell may take ``timeout_s``. Raises UsageError, NotebookError and KeyboardInterrupt.
    """
    notebook = saved.read(read_file(path), str(Path(path)))
    against, before, notes = _before(notebook, frozen, _ledger(session))
    if out is not None:
        _check_output(Path(out), Path(path))
    executed = execute(notebook, executor or in_kernel(kernel, timeout_s), budget_usd=budget_usd, progress=progress)
    unwritten = None if out is None else write_document(executed.document, Path(out))
    if executed.strays:
        notes.append(f"{numbers.counted(executed.strays, 'run')} outside any cell, such as in a thread, not compared")
    notes += _billed(executed)
    found = compare(before, executed.cells)
    edited = dict.fromkeys(it.cell for it in found if it.before and it.now and another_text(it.before, it.now))
    notes += [f"{cell}: its numbers are of an earlier text" for cell in edited]
    return Report(path, against, found, executed.error, frozenset(allowed), tuple(notes), unwritten)


def _check_output(out: Path, notebook: Path) -> None:
    """Raises UsageError for a file that could not be written, before anything runs and bills."""
    if out.exists() and out.samefile(notebook):
        raise UsageError(f"-o {out} is the notebook itself, which is never overwritten; name another file")
    if out.is_dir() or not os.access(out if out.exists() else out.resolve().parent, os.W_OK):
        raise UsageError(f"-o {out} cannot be written; name a file in an existing folder that you can write to")
    if out.is_file() and out.stat().st_size:
        try:
            saved.read(read_file(str(out)), str(out))
        except NotebookError:
            # A slip of the pen must not cost the frozen file, or another that somebody needs.
            raise UsageError(f"-o {out} already exists and is not a notebook; name another file") from None


def _before(
    notebook: SavedNotebook, frozen: str | None, ledger: Ledger | None
) -> tuple[str, Sequence[CellSnapshot], list[str]]:
    """What to compare with, and what it is called: the frozen file, else the outputs with the ledger."""
    path = Path(notebook.name)
    file = expanded(frozen) if frozen is not None else frozen_file.beside(path)
    # A folder or a link to nowhere in its place is told, not passed over.
    if frozen is not None or os.path.lexists(file):
        found = frozen_file.read(file).cells
        cells = [replace(cell, runs=tuple(_with_text(run, ledger) for run in cell.runs)) for cell in found]
        if not any(cell.runs for cell in cells):
            raise NotebookError(f"{file} contains no run; run the notebook's cells, then %tokmagic freeze in it")
        return str(file), cells, []
    notebook.refuse_conflict()
    cells = [
        replace(cell, runs=tuple(_with_row(run, ledger) for run in cell.runs)) for cell in notebook.cells if cell.runs
    ]
    if not cells:
        raise NotebookError(
            f"{path} has no frozen file ({file.name}) and keeps no numbers in its outputs; "
            "run %tokmagic freeze in the notebook first"
        )
    known = [run.prompt_sha256 is not None for cell in cells for run in cell.runs]
    note = (
        f"there is no {file.name}: compared with the notebook's outputs, "
        f"{sum(known)} of {numbers.counted(len(known), 'run')} with a row in the ledger"
    )
    return "its outputs", cells, [note]


def _billed(executed: Executed) -> list[str]:
    """What running it again cost at endpoints, which is money spent."""
    runs = [run for cell in executed.cells for run in cell.runs if run.info.traits.remote]
    costs = [run.cost for run in runs if run.status != "refused"]  # that one was never sent
    if not costs:
        return []
    known = [cost.usd for cost in costs if cost.usd is not None]
    precision = sum(map(Uncertainty.of, costs), CERTAIN).precision(len(costs) - len(known))
    spent = numbers.usd_marked(sum(known, Decimal(0)), precision) if known else "not known"
    return [f"real runs at endpoints: {len(costs)}, cost: {spent}"]


def _ledger(session: Session) -> Ledger | None:
    """The person's ledger, where there is one: none is made for a look."""
    with suppress(LedgerError):
        file = file_of(session.settings.ledger)
        return session.ledger() if file is None or file.is_file() else None
    return None


def _with_text(run: RunSnapshot, ledger: Ledger | None) -> RunSnapshot:
    """The run with its text, where the file leaves it out and the ledger has it."""
    if run.answer is not None or ledger is None:
        return run
    text = text_of(ledger, run.run_id)
    its_own = text is not None and (run.params.get("n", 1) != 1 or answers_sha256([text]) == run.answer_sha256)
    return replace(run, answer=text) if its_own else run


def _with_row(run: RunSnapshot, ledger: Ledger | None) -> RunSnapshot:
    """A run that an output shows, as the ledger's row has it, which says more, where it is there."""
    with suppress(LedgerError):
        if ledger is not None and (record := ledger.run(run.run_id)) is not None:
            return RunSnapshot.of(record, text_of(ledger, run.run_id))
    return run
