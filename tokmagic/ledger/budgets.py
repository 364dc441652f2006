"""Budgets in the ledger: who may spend how much, and how it stands. Functions over a connection.

What a budget has left is cap − spent − live holds. All three come from the runs themselves: an ended run's cost, and a
running one's hold, so there is nothing that could disagree with them.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from tokmagic.days import start_of_day, start_of_month
from tokmagic.events import Budget, Standing
from tokmagic.ledger.schema import budgets, money, money_sum, runs, storable, utc_text
from tokmagic.prices import from_picodollars, to_picodollars

SESSION = "session:"
"""Begins what stands for the notebook where its path is not known: the session is all that there is of it."""


def read(connection: sa.Connection, user: str | None, notebook: str | None) -> list[Budget]:
    """Return the budgets that hold for a user's run in a notebook."""
    query = sa.select(budgets).where(_for_user(user), _for_notebook(notebook)).order_by(budgets.c.id)
    return [from_row(row) for row in connection.execute(query).mappings()]


def write(connection: sa.Connection, budget: Budget) -> None:
    """Set a budget in place of the one of the same scope, notebook and user."""
    drop(connection, budget)
    row = {
        "scope": budget.scope,
        "notebook": None if budget.notebook is None else storable(budget.notebook),
        "user": budget.user,
        "cap_pico": None if budget.usd is None else to_picodollars(budget.usd),
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
    connection: sa.Connection, budget: Budget, user: str | None, now: datetime, *, but: str | None = None
) -> Standing:
    """How a budget stands for a user's runs; ``but`` leaves one run's hold out."""
    if budget.scope == "cell":
        return Standing(budget)  # it bounds each run by itself
    conditions = [_same(runs.c.user, user), *_period(budget, now)]
    live = runs.c.status == "running"
    zero = sa.literal(0, sa.BigInteger)
    cost, hold = sa.func.coalesce(runs.c.cost_pico, 0), sa.func.coalesce(runs.c.hold_pico, 0)
    used = sa.func.coalesce(runs.c.input_tokens, 0) + sa.func.coalesce(runs.c.output_tokens, 0)
    kept = sa.func.coalesce(runs.c.hold_tokens, 0)
    if but is not None:
        conditions.append(runs.c.run_id != but)
    # A running run that has used more than its hold counts with what it has used.
    query = sa.select(
        *money_sum(sa.case((live, zero), else_=cost)),
        *money_sum(sa.case((live, sa.case((hold > cost, hold), else_=cost)), else_=zero)),
        sa.func.coalesce(sa.func.sum(sa.case((live, zero), else_=used)), 0),
        sa.func.coalesce(sa.func.sum(sa.case((live, sa.case((kept > used, kept), else_=used)), else_=zero)), 0),
        sa.func.coalesce(
            sa.func.sum(
                sa.case((sa.and_(runs.c.cost_pico.is_(None), runs.c.status.not_in(["running", "refused"])), 1), else_=0)
            ),
            0,
        ),
    ).where(*conditions)
    spent_high, spent_low, held_high, held_low, spent, held, unpriced = connection.execute(query).one()
    return Standing(
        budget,
        money(spent_high, spent_low) or Decimal(0),
        money(held_high, held_low) or Decimal(0),
        int(spent),
        int(held),
        int(unpriced),
    )


def _period(budget: Budget, now: datetime) -> list[Any]:
    if budget.scope == "notebook":
        session = (budget.notebook or "").removeprefix(SESSION)
        if session != budget.notebook:
            return [runs.c.session == session]
        return [runs.c.notebook == storable(session)]
    start = start_of_day(now) if budget.scope == "day" else start_of_month(now)
    return [runs.c.started_at >= utc_text(start)]


def _for_user(user: str | None) -> Any:
    return sa.or_(budgets.c.user.is_(None), _same(budgets.c.user, user))


def _for_notebook(notebook: str | None) -> Any:
    if notebook is None:
        return budgets.c.notebook.is_(None)
    return sa.or_(budgets.c.notebook.is_(None), budgets.c.notebook == storable(notebook))


def _same(column: Any, value: str | None) -> Any:
    return column.is_(None) if value is None else column == value


def from_row(row: Any) -> Budget:
    """A budget as its row says."""
    cap = row["cap_pico"]
    return Budget(
        row["scope"],
        None if cap is None else from_picodollars(cap),
        row["cap_tokens"],
        row["warn_at"],
        bool(row["strict"]),
        row["notebook"],
        row["user"],
    )
