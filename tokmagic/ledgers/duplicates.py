"""A run that both its client and the server recorded: the client's row counts, the server's for its key alone.

Of several requests for one run the client's row has the counts and the cost of one alone, and names its row. What the
others came to is in none but their own rows, which count.

Functions over a connection.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from tokmagic.core.record import RunRecord
from tokmagic.ledgers.schema import json_value, runs

_TOLD = "server_run_id"
"""Under which name a client's row has, in its ``env``, the id of the server's row that it took over."""


def concerns(record: RunRecord, *, is_new: bool) -> bool:
    """Whether a row that is written may be a duplicate, or make others ones; ``is_new``: it was not there."""
    return is_new or record.client_run_id is not None or _TOLD in record.env


def mark(connection: sa.Connection, run_ids: Collection[str]) -> None:
    """Mark the server's rows of runs whose client's row is here, where either is among these."""
    client = runs.alias()
    which = sa.or_(runs.c.run_id.in_(run_ids), runs.c.client_run_id.in_(run_ids))
    both = sa.select(runs.c.run_id, runs.c.status, runs.c.duplicate, client.c.env)
    for row in connection.execute(both.join(client, client.c.run_id == runs.c.client_run_id).where(which)).all():
        told = (json_value(row.env) if row.env else {}).get(_TOLD)
        is_duplicate = told in (None, row.run_id) or row.status == "refused"
        if is_duplicate != bool(row.duplicate):
            change = runs.update().where(runs.c.run_id == row.run_id)
            connection.execute(change.values(duplicate=True if is_duplicate else None))
