"""Budgets in the ledger: who may spend how much, and how it stands. Functions over a connection.

What a budget has left is cap − spent − live holds. All three come from the runs themselves: an ended run's cost, and a
running one's hold, so there is nothing that could disagree with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.days import start_of_day
from tokmagic.core.fields import utc_text
from tokmagic.core.money import CERTAIN, Uncertainty
from tokmagic.ledgers import keys, summaries
from tokmagic.ledgers.schema import ENDED, LIVE, ONCE, budgets, money, money_sum, runs, storable
from tokmagic.prices import from_picodollars, to_picodollars
from tokmagic.prices.budgets import this_month, today

SESSION = "session:"
"""Begins what stands for the notebook where its path is not known: the session is all that there is of it."""


# Written once: every run asks, and building it takes as long as SQLite takes to answer. Nothing equals a user of NULL.
_HOLDING = (
    sa.select(budgets)
    .where(
        sa.or_(budgets.c.user.is_(None), budgets.c.user == sa.bindparam("its_user")),
        sa.or_(budgets.c.notebook.is_(None), budgets.c.notebook == sa.bindparam("its_notebook")),
    )
    .order_by(budgets.c.id)
)


def read(
    connection: sa.Connection, user: str | None, notebook: str | None, key: str | None, *, duplicate: bool
) -> list[Budget]:
    """Return the budgets that hold for a user's run in a notebook, made with a key; for a duplicate the key's alone."""
    of_key = None if key is None else keys.budget_of(connection, key)
    ours = [] if duplicate else _read(connection, user, notebook)
    return ours if of_key is None else [*ours, of_key]


def binding(held: Sequence[Budget], *, duplicate: bool) -> list[Budget]:
    """Those of some budgets that a run has to keep to: its client's row of a duplicate was let in by all the others."""
    return [budget for budget in held if not duplicate or budget.key is not None or budget.scope == "cell"]


def _read(connection: sa.Connection, user: str | None, notebook: str | None) -> list[Budget]:
    whose = {"its_user": user, "its_notebook": None if notebook is None else storable(notebook)}
    return [from_row(row) for row in connection.execute(_HOLDING, whose).mappings()]


def read_all(connection: sa.Connection) -> list[Budget]:
    """Everybody's budgets."""
    return [from_row(row) for row in connection.execute(sa.select(budgets).order_by(budgets.c.id)).mappings()]


def write(connection: sa.Connection, budget: Budget) -> None:
    """Set a budget in place of the one of the same scope, notebook and user."""
    drop(connection, budget)
    add(connection, budget)


def add(connection: sa.Connection, budget: Budget) -> None:
    """Set a budget where there is none of the same scope, notebook and user."""
    row = {
        "scope": budget.scope,
        "notebook": None if budget.notebook is None else storable(budget.notebook),
        "user": budget.user,
        "cap_pico": to_picodollars(budget.usd),
        "cap_tokens": budget.tokens,
        "warn_at": budget.warn_at,
        "strict": budget.strict,
    }
    connection.execute(budgets.insert(), row)


def drop(connection: sa.Connection, budget: Budget) -> int:
    """Remove the budget of the same scope, notebook and user; return how many there were."""
    same = (budgets.c.scope == budget.scope, _same(budgets.c.user, budget.user))
    notebook = None if budget.notebook is None else storable(budget.notebook)
    return connection.execute(budgets.delete().where(*same, _same(budgets.c.notebook, notebook))).rowcount


def standing(
    connection: sa.Connection,
    budget: Budget,
    user: str | None,
    now: datetime,
    *,
    began: datetime | None = None,
    but: str | None = None,
) -> Standing:
    """How a budget stands for a user's runs; ``but`` leaves one run's hold out.

    It is that of the day or month of ``now``; for a run that ``began`` in an earlier one it is that one's.
    """
    if budget.scope == "cell":
        return Standing(budget)  # it bounds each run by itself
    # First what runs: one that ends between the two looks is counted twice rather than not at all.
    # All that run, and then whose they are: they are few, while a user's runs are many.
    running = connection.execute(sa.select(*_HELD).where(LIVE, runs.c.owner.is_not(None))).all()
    window = _window(budget, now, began)
    counted = [row for row in running if row.run_id != but and _counts(row, budget, user, window)]
    # What was replayed from the cache used no tokens.
    metered = sa.func.coalesce(runs.c.input_tokens, 0) + sa.func.coalesce(runs.c.output_tokens, 0)
    used = sa.case((runs.c.status != "cached", metered), else_=0)
    # Answered from an index alone: a month may have very many runs, and every admission asks.
    ended = sa.select(*money_sum(runs.c.cost_pico), sa.func.sum(used), sa.func.sum(summaries.UNPRICED)).where(
        *_counted(budget, user, window)
    )
    spent_high, spent_low, spent_tokens, unpriced_runs = connection.execute(ended).one()
    # One that has used more than its hold counts with what it has used.
    pico = sum(max(row.hold_pico or 0, row.cost_pico or 0) for row in counted)
    tokens = sum(max(row.hold_tokens or 0, (row.input_tokens or 0) + (row.output_tokens or 0)) for row in counted)
    return Standing(
        budget,
        money(spent_high, spent_low) or Decimal(0),
        from_picodollars(pico) or Decimal(0),
        int(spent_tokens or 0),
        tokens,
        int(unpriced_runs or 0),
    )


def with_uncertainty(
    connection: sa.Connection, standings: Sequence[Standing], user: str | None, now: datetime, began: datetime | None
) -> list[Standing]:
    """What :func:`standing` says with how sure it is: apart from it, since no index answers this alone."""
    return [replace(it, uncertainty=_uncertainty(connection, it.budget, user, now, began)) for it in standings]


def _uncertainty(
    connection: sa.Connection, budget: Budget, user: str | None, now: datetime, began: datetime | None
) -> Uncertainty:
    if budget.scope == "cell" or (budget.usd is None and budget.key is None):
        return CERTAIN
    columns = [sa.func.sum(it) for it in summaries.uncertainty_terms(runs)]
    counted = _counted(budget, user, _window(budget, now, began))
    return summaries.uncertainty_of(connection.execute(sa.select(*columns).where(*counted)).one())


_HELD = (
    *(runs.c.run_id, runs.c.user, runs.c.notebook, runs.c.session, runs.c.started_at),
    *(runs.c.cost_pico, runs.c.hold_pico, runs.c.hold_tokens, runs.c.input_tokens, runs.c.output_tokens),
    *(runs.c.key, runs.c.duplicate),
)


_Window = tuple[str, str | None]
"""From when on runs count and, for a period that is over, until when."""


def _counts(row: Any, budget: Budget, user: str | None, window: _Window | None) -> bool:
    """What :func:`_counted` asks of ended runs, asked of one that goes on."""
    if budget.key is not None:
        if row.key != budget.key:
            return False
    elif row.duplicate or row.user != user:
        return False
    if budget.scope == "notebook":
        notebook = budget.notebook or ""
        return bool(storable(notebook) == row.notebook or notebook == f"{SESSION}{row.session}")
    if window is None:
        return True
    start, end = window
    return bool(row.started_at >= start and (end is None or row.started_at < end))


def _counted(budget: Budget, user: str | None, window: _Window | None) -> list[Any]:
    since: list[Any] = []
    if window is not None:
        start, end = window
        since = [runs.c.started_at >= start] + ([] if end is None else [runs.c.started_at < end])
    if budget.key is not None:
        return [runs.c.key == budget.key, *since, ENDED]
    session = (budget.notebook or "").removeprefix(SESSION)
    where: list[Any] = [runs.c.notebook == storable(session)]
    if budget.scope != "notebook":
        where = since
    elif session != budget.notebook:
        where = [runs.c.session == session]
    return [_same(runs.c.user, user), *where, ENDED, ONCE]


def _window(budget: Budget, now: datetime, began: datetime | None) -> _Window | None:
    """When a run must have begun to count; None for a budget without a period.

    A run counts in the period in which it began, so that one's cap holds for it, also when it is over. The present
    period has no end: where a clock is set back it forgets nothing.
    """
    if budget.scope not in ("day", "month"):
        return None
    starts, days = (today, 1) if budget.scope == "day" else (this_month, 32)
    start = utc_text(starts(now))
    if began is None or utc_text(began) >= start:
        return start, None
    its = starts(began)
    following = its.date() + timedelta(days=days)
    end = start_of_day(following if budget.scope == "day" else following.replace(day=1))
    return utc_text(its), utc_text(end)


def _same(column: Any, value: str | None) -> Any:
    return column.is_(None) if value is None else column == value


def from_row(row: Any) -> Budget:
    """A budget as its row says."""
    return Budget(
        row["scope"],
        from_picodollars(row["cap_pico"]),
        row["cap_tokens"],
        row["warn_at"],
        bool(row["strict"]),
        row["notebook"],
        row["user"],
    )
