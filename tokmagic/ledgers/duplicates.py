"""A run that both its client and the server recorded: the client's row counts, the server's for its key alone.

Functions over a connection.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from tokmagic.ledgers.schema import ONCE, runs


def mark(connection: sa.Connection, run_ids: Collection[str]) -> None:
    """Mark the server's rows of runs whose client's row is here, where either is among these."""
    client = runs.alias()
    here = sa.exists().where(client.c.run_id == runs.c.client_run_id)
    which = sa.or_(runs.c.run_id.in_(run_ids), runs.c.client_run_id.in_(run_ids))
    told = (runs.c.client_run_id.is_not(None), ONCE, which, here)
    connection.execute(runs.update().where(*told).values(duplicate=True))
