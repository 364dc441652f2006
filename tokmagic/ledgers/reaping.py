"""What dead processes left, settled with the counts of their last moments. Functions over a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tokmagic.ledgers.schema import LIVE, runs, to_record
from tokmagic.prices import bill

ENDED: dict[str, Any] = {"owner": None, "hold_pico": None, "hold_tokens": None}
"""What a run that has ended holds and belongs to."""
_DIED = {"status": "interrupted", "finish_reason": "interrupted", "error": "the kernel ended during the run"}


def settle(connection: sa.Connection, owners: Sequence[str]) -> int:
    """End the runs of dead owners, which releases their holds; return how many there were."""
    theirs = (LIVE, runs.c.owner.in_(owners))
    _mark_cut(connection, theirs)
    return connection.execute(runs.update().where(*theirs).values(**_DIED, **ENDED)).rowcount


def _mark_cut(connection: sa.Connection, theirs: tuple[Any, ...]) -> None:
    """A server may have gone on after the last thing that was heard of it: it may bill more than the row says."""
    priced = runs.c.cost_pico.is_not(None)
    for row in connection.execute(sa.select(runs).where(*theirs, runs.c.engine == "endpoint", priced)).mappings().all():
        record = to_record(dict(row))
        cut = bill(record.reading.usage, record.reading.device_s, record.rates, cut=True)
        marks = {"cost_source": cut.source, "cost_bound": cut.bound}
        connection.execute(runs.update().where(runs.c.id == row["id"]).values(**marks))
