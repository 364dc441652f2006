"""What groups of runs are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tokmagic.core.record import RunRecord
from tokmagic.core.sums import Sum
from tokmagic.errors import UsageError, nearest
from tokmagic.formatting import numbers

GROUPS = ("cell", "run", "model", "notebook", "day", "tag", "user", "status")
"""What a table can be grouped by."""
_RUN_SHOWN = 12


def group(by: str) -> str:
    """Return ``by`` if runs can be grouped by it. Raises UsageError."""
    if by not in GROUPS:
        raise UsageError(f"cannot group by {by!r}{nearest(by, GROUPS)}; use one of {', '.join(GROUPS)}")
    return by


def labelled(found: Iterable[tuple[tuple[Any, ...], Sum]], by: str) -> dict[str, Sum]:
    """Groups by what they are called; a run with two tags stands in two."""
    cells = cell_names() if by == "cell" else None
    groups: dict[str, Sum] = {}
    for key, part in found:
        for name in [cells(key)] if cells else _names(key[0], by):
            groups[name] = groups.get(name, Sum()) + part
    return groups


def cell_names() -> Callable[[tuple[Any, ...]], str]:
    """Cells have ids, not names: they are numbered in the order in which they first ran."""
    places: dict[tuple[Any, Any], str] = {}

    def name(key: tuple[Any, ...]) -> str:
        notebook, session, cell_id = key
        return places.setdefault((notebook or session, cell_id), f"cell {len(places) + 1}")

    return name


def record_names(record: RunRecord, by: str, cells: Callable[[tuple[Any, ...]], str]) -> list[str]:
    """The groups that a run at hand belongs to."""
    if by == "cell":
        return [cells((record.notebook, record.session, record.cell_id))]
    keys: dict[str, Any] = {
        "run": record.run_id,
        "model": record.info.name,
        "notebook": record.notebook,
        "tag": json.dumps(list(record.tags)),
        "user": record.user,
        "status": record.status,
        "day": f"{record.started_at.astimezone():%Y-%m-%d}",
    }
    return _names(keys[by], by)


def shown(name: str, by: str) -> str:
    """A name as a table shows it: a run's id is long, and its beginning tells it apart."""
    return name[:_RUN_SHOWN] if by == "run" else name


def _names(key: Any, by: str) -> list[str]:
    if by == "tag":
        return json.loads(key) or [numbers.UNKNOWN]
    return [str(key or numbers.UNKNOWN)]
