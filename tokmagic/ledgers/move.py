"""One ledger's content copied into another, whatever databases they are kept in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tokmagic.core.budget import Budget
from tokmagic.errors import LedgerError
from tokmagic.ledgers import budgets as budget_rows
from tokmagic.ledgers import duplicates
from tokmagic.ledgers.schema import ENDED, LIVE, alerts, answers, keys, runs, texts
from tokmagic.ledgers.store import Ledger

_AT_ONCE = 500
# An answer can be long, and a portion is in memory.
_ANSWERS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Moved:
    """What was copied, what was there already, and what still runs and was left."""

    runs: int = 0
    texts: int = 0
    present: int = 0
    running: int = 0
    answers: int = 0
    """Remembered answers that were copied."""
    budgets_left: int = 0
    """Budgets that were not copied, because the target has other caps of the same scope, notebook and user."""
    keys: int = 0
    """Keys that were copied, with their budgets."""
    keys_left: int = 0
    """Keys that were not copied, because the target has another one of the same name."""


def move(source: Ledger, target: Ledger, told: Callable[[int], None] = lambda _done: None) -> Moved:
    """Copy runs, texts, answers, budgets and keys from ``source`` into ``target``; told how many runs are done.

    Run again it copies only what is new; what is there is never replaced. Texts and answers are copied where the target
    keeps them. Raises LedgerError.
    """
    if source.name == target.name:
        raise LedgerError(f"{source.name} is the ledger in use already; name another one to copy into")
    source.reap()
    began, open_ids = _newest(source), _live(source)
    may_end = sa.or_(runs.c.run_id.in_(open_ids), runs.c.id > began)
    counts, seen = Counter[str](), set[str]()
    # Twice: a run may end when its turn has passed.
    for which in (ENDED, sa.and_(ENDED, may_end)):
        running = _live(source)  # before they are read: else one that ends in between would be neither
        for rows in _portions(source, runs, runs.c.id, _AT_ONCE, which):
            late = {row["run_id"] for row in rows if row["id"] > began or row["run_id"] in open_ids}
            counts.update(_copy_runs(source, target, [row for row in rows if row["run_id"] not in seen]))
            seen |= late
            told(counts["copied"] + counts["present"])
    remembered = 0
    if target.store_text:
        remembered = sum(map(target.take_answers, _portions(source, answers, answers.c.key, _ANSWERS_AT_ONCE)))
    left = _copy_budgets(source, target)
    _copy_alerts(source, target)
    keys_copied, keys_left = _copy_keys(source, target)
    left_running = len(running - seen)
    return Moved(
        counts["copied"], counts["texts"], counts["present"], left_running, remembered, left, keys_copied, keys_left
    )


def _newest(ledger: Ledger) -> int:
    """The key of the run that began last."""
    with ledger.reading() as connection:
        return int(connection.execute(sa.select(sa.func.max(runs.c.id))).scalar_one() or 0)


def _live(ledger: Ledger) -> set[str]:
    """The ids of the runs that go on."""
    with ledger.reading() as connection:
        return set(connection.execute(sa.select(runs.c.run_id).where(LIVE)).scalars())


def _copy_runs(source: Ledger, target: Ledger, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Copy those of some runs that are not there, with their texts; return how many of what."""
    for row in rows:
        del row["id"]  # each database has its own
        row["duplicate"] = None  # of what is there
    ids = [row["run_id"] for row in rows]
    written = _texts(source, ids) if target.store_text else []
    with target.writing() as connection:
        known = set(connection.execute(sa.select(runs.c.run_id).where(runs.c.run_id.in_(ids))).scalars())
        new = [row for row in rows if row["run_id"] not in known]
        new_texts = [row for row in written if row["run_id"] not in known]
        if new:
            connection.execute(runs.insert(), new)
            duplicates.mark(connection, [row["run_id"] for row in new])
        if new_texts:
            connection.execute(texts.insert(), new_texts)
    return {"copied": len(new), "present": len(known), "texts": len(new_texts)}


def _portions(
    ledger: Ledger, table: sa.Table, key: sa.Column[Any], size: int, *which: Any
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table that meet the conditions, in the order of ``key``, at most ``size`` at a time."""
    query = rest = sa.select(table).where(*which).order_by(key).limit(size)
    while True:
        with ledger.reading() as connection:
            rows = [dict(row) for row in connection.execute(rest).mappings()]
        if not rows:
            return
        rest = query.where(key > rows[-1][key.name])
        yield rows


def _texts(ledger: Ledger, ids: list[str]) -> list[dict[str, Any]]:
    with ledger.reading() as connection:
        return [dict(row) for row in connection.execute(sa.select(texts).where(texts.c.run_id.in_(ids))).mappings()]


def _copy_budgets(source: Ledger, target: Ledger) -> int:
    """Copy budgets whose place is free, and return how many others differ: the target's caps may be a whole team's."""
    with source.reading() as connection:
        found = budget_rows.read_all(connection)
    with target.writing() as connection:
        there = {_place(budget): budget for budget in budget_rows.read_all(connection)}
        for budget in found:
            if _place(budget) not in there:
                budget_rows.add(connection, budget)
    return sum(there.get(_place(budget), budget) != budget for budget in found)


def _copy_alerts(source: Ledger, target: Ledger) -> None:
    """Copy which alerts were sent, so that none of a budget is sent once more from there."""
    its = (alerts.c.budget, alerts.c.period, alerts.c.percent)
    with source.reading() as connection:
        found = [dict(row) for row in connection.execute(sa.select(alerts)).mappings()]
    with target.writing() as connection:
        known = {tuple(row) for row in connection.execute(sa.select(*its))}
        new = [row for row in found if tuple(row[column.name] for column in its) not in known]
        if new:
            connection.execute(alerts.insert(), new)


def _copy_keys(source: Ledger, target: Ledger) -> tuple[int, int]:
    """Copy keys that are not there; return how many, and how many were left since their names are taken."""
    with source.reading() as connection:
        found = [dict(row) for row in connection.execute(sa.select(keys)).mappings()]
    with target.writing() as connection:
        there = {row.name: row.id for row in connection.execute(sa.select(keys.c.name, keys.c.id))}
        known = set(there.values())
        new = [row for row in found if row["id"] not in known and row["name"] not in there]
        if new:
            connection.execute(keys.insert(), new)
    return len(new), sum(row["id"] not in known for row in found) - len(new)


def _place(budget: Budget) -> tuple[str | None, ...]:
    return budget.scope, budget.notebook, budget.user
