"""The runs of one cell, for what is calculated from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokmagic.core.record import RunRecord
from tokmagic.core.sums import Selection
from tokmagic.errors import UsageError
from tokmagic.reports.names import cell_names

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


def cell_runs(ledger: Ledger, where: Selection, cell: str | None = None) -> list[RunRecord]:
    """The selected complete runs of one cell, oldest first; running, failed and replayed ones are not complete.

    ``cell`` is its number in :func:`table`, or its id; None: the cell of the latest complete run. Raises UsageError if
    there is none.
    """
    if cell is not None:
        return _runs_of(ledger, where, _found(ledger, where, cell))
    latest = ledger.runs(replace(where, status="ok"), limit=1)
    if not latest:
        raise UsageError("there is no complete run to project from; run a cell first")
    return _runs_of(ledger, where, (latest[0].notebook, latest[0].session, latest[0].cell_id))


def _found(ledger: Ledger, where: Selection, cell: str) -> tuple[Any, ...]:
    names = cell_names()
    keys = [key for key, _ in ledger.summarise(where, "cell")]
    numbered = {names(key).removeprefix("cell "): key for key in keys}
    by_id = {key[2]: key for key in keys}
    key = by_id.get(cell) or numbered.get(cell.removeprefix("cell "))
    if key is None:
        raise UsageError(f"--cell {cell!r} is not a cell that ran here; %cost and tokmagic report list the cells")
    return key


def _runs_of(ledger: Ledger, where: Selection, key: tuple[Any, ...]) -> list[RunRecord]:
    notebook, session, cell_id = key
    # Without a path the session stands for the notebook, as it does in the table's numbers.
    place = {"session": session} if notebook is None else {"notebook": notebook}
    found = ledger.stream(replace(where, status="ok", cell_id=cell_id, **place))
    return [run for run in found if run.cell_id == cell_id and run.notebook == notebook]
