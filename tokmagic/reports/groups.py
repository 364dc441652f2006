"""How runs are grouped, what their groups are called, and the runs of one cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokmagic.core.record import RunRecord
from tokmagic.core.sums import Selection
from tokmagic.errors import UsageError, nearest
from tokmagic.formatting import numbers

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger

_KEYS: dict[str, Callable[[RunRecord], tuple[Any, ...]]] = {
    "cell": lambda run: (run.notebook, run.session, run.cell_id),
    "run": lambda run: (run.run_id,),
    "model": lambda run: (run.info.name,),
    "notebook": lambda run: (run.notebook,),
    "day": lambda run: (f"{run.started_at.astimezone():%Y-%m-%d}",),
    "tag": lambda run: (json.dumps(list(run.tags)),),
    "user": lambda run: (run.user,),
    "status": lambda run: (run.status,),
}
GROUPS = tuple(_KEYS)
"""What a table can be grouped by."""
_RUN_SHOWN = 12


def key_of(by: str) -> Callable[[RunRecord], tuple[Any, ...]]:
    """What gives a run at hand the key by which a ledger would group it. Raises UsageError for an unknown group."""
    if by not in GROUPS:
        raise UsageError(f"cannot group by {by!r}{nearest(by, GROUPS)}; use one of {', '.join(GROUPS)}")
    return _KEYS[by]


def naming(by: str) -> Callable[[tuple[Any, ...]], list[str]]:
    """What gives a ledger's key the names of its groups: a run with two tags stands in two.

    Cells have ids, not names: they are numbered in the order in which they first ran.
    """
    places: dict[tuple[Any, Any], str] = {}

    def names(key: tuple[Any, ...]) -> list[str]:
        if by == "cell":
            notebook, session, cell_id = key
            return [places.setdefault((notebook or session, cell_id), f"cell {len(places) + 1}")]
        if by == "tag":
            return json.loads(key[0]) or [numbers.UNKNOWN]
        return [str(key[0] or numbers.UNKNOWN)]

    return names


def shown(name: str, by: str) -> str:
    """A name as a table shows it: a run's id is long, and its beginning tells it apart."""
    return name[:_RUN_SHOWN] if by == "run" else name


def cell_runs(ledger: Ledger, where: Selection, cell: str | None = None) -> list[RunRecord]:
    """The selected complete runs of one cell, oldest first; running, failed and replayed ones are not complete.

    ``cell`` is its number in :func:`table`, or its id; None: the cell whose complete run is the latest. Raises
    UsageError where there is none.
    """
    if cell is None:
        latest = ledger.runs(replace(where, status="ok"), limit=1)
        if not latest:
            raise UsageError("there is no complete run to project from; run a cell first")
        notebook, session, cell_id = _KEYS["cell"](latest[0])
    else:
        notebook, session, cell_id = _found(ledger, where, cell)
    # Without a path the session stands for the notebook, as it does in the table's numbers.
    place = {"session": session} if notebook is None else {"notebook": notebook}
    found = ledger.stream(replace(where, status="ok", cell_id=cell_id, **place))
    return [run for run in found if run.cell_id == cell_id and run.notebook == notebook]


def _found(ledger: Ledger, where: Selection, cell: str) -> tuple[Any, ...]:
    names, keys = naming("cell"), [key for key, _ in ledger.summarise(where, "cell")]
    numbered = {names(key)[0].removeprefix("cell "): key for key in keys}
    key = {key[2]: key for key in keys}.get(cell) or numbered.get(cell.removeprefix("cell "))
    if key is None:
        raise UsageError(f"--cell {cell!r} is not a cell that ran here; %cost and tokmagic report list the cells")
    return key
