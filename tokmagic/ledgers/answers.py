"""Remembered answers in the ledger, the least recently used leaving first. Functions over a connection.

What an answer says is the cache's own business: here it is a text under a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from tokmagic.core.fields import utc_text, utc_time
from tokmagic.core.record import CacheStatus
from tokmagic.ledgers import summaries
from tokmagic.ledgers.schema import answers

_EVICTED_AT_ONCE = 100


def find(connection: sa.Connection, key: str) -> tuple[str, str] | None:
    """Return the id of the run that gave the answer, and the answer; None where there is none."""
    row = connection.execute(sa.select(answers.c.run_id, answers.c.answer).where(answers.c.key == key)).one_or_none()
    return None if row is None else (row.run_id, row.answer)


def keep(connection: sa.Connection, key: str, run_id: str, answer: str, limit_bytes: int) -> bool:
    """Put an answer in the place of an earlier one of its key, and others out until all fit ``limit_bytes``.

    One that does not fit by itself is not kept, and leaves the earlier one out too. Returns whether it was kept.
    """
    drop(connection, key)
    size = len(answer.encode())
    fits = size <= limit_bytes
    if fits:
        used_at = _now(connection)
        row = {"key": key, "run_id": run_id, "answer": answer, "size_bytes": size, "used_at": used_at}
        connection.execute(answers.insert(), row)
    _evict(connection, limit_bytes)
    return fits


def use(connection: sa.Connection, key: str) -> None:
    """Note that an answer was used just now."""
    connection.execute(answers.update().where(answers.c.key == key).values(used_at=_now(connection)))


def take(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add rows of another ledger with the time of their last use, and return how many were new.

    Where there is an answer of that key it stays, as used last at the later of both times. A limit holds again at the
    next :func:`keep`.
    """
    present = sa.select(answers.c.key, answers.c.used_at).where(answers.c.key.in_([row["key"] for row in rows]))
    known: dict[str, str] = {row.key: row.used_at for row in connection.execute(present)}
    new = [row for row in rows if row["key"] not in known]
    if new:
        connection.execute(answers.insert(), new)
    later = [
        {"its_key": row["key"], "at": row["used_at"]}
        for row in rows
        if row["key"] in known and row["used_at"] > known[row["key"]]
    ]
    if later:
        changed = answers.update().where(answers.c.key == sa.bindparam("its_key")).values(used_at=sa.bindparam("at"))
        connection.execute(changed, later)
    return len(new)


def drop(connection: sa.Connection, key: str) -> None:
    """Remove an answer, if it is there."""
    connection.execute(answers.delete().where(answers.c.key == key))


def clear(connection: sa.Connection) -> int:
    """Remove all answers and return how many there were."""
    return connection.execute(answers.delete()).rowcount


def status(connection: sa.Connection) -> CacheStatus:
    """What is kept, and what the hits saved."""
    count, size = connection.execute(_COUNT).one()
    # Written out, so that the index of cached runs alone is looked at.
    return CacheStatus(int(count), int(size), summaries.add_up(connection, sa.text("status = 'cached'")))


_COUNT = sa.select(sa.func.count(answers.c.used_at), sa.func.coalesce(sa.func.sum(answers.c.size_bytes), 0))


def _now(connection: sa.Connection) -> str:
    """Later than every use before, whatever the clock says."""
    now = utc_text(datetime.now(UTC))
    last = connection.execute(sa.select(sa.func.max(answers.c.used_at))).scalar_one()
    return now if last is None or now > last else utc_text(utc_time(last) + timedelta(microseconds=1))


def _evict(connection: sa.Connection, limit_bytes: int) -> None:
    _, size = connection.execute(_COUNT).one()
    excess = int(size) - limit_bytes
    oldest = sa.select(answers.c.key, answers.c.size_bytes).order_by(answers.c.used_at, answers.c.key)
    while excess > 0:
        leaving: list[Any] = []
        for row in connection.execute(oldest.limit(_EVICTED_AT_ONCE)).all():
            if excess > 0:
                leaving.append(row.key)
                excess -= row.size_bytes
        if not leaving:
            return
        connection.execute(answers.delete().where(answers.c.key.in_(leaving)))
