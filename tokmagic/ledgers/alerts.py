"""Which alerts of budgets were sent, so that each is sent once, however many processes see it due.

Functions over a connection.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from tokmagic.core.budget import Budget
from tokmagic.core.fields import utc_text
from tokmagic.core.money import plain
from tokmagic.ledgers.schema import alerts, json_text

_KEPT = timedelta(days=100)
"""Another server may be in a zone where the month before goes on, and a run may end long after the one it began in."""


def take(connection: sa.Connection, budget: Budget, user: str | None, period: str, percent: int) -> bool:
    """Whether the alert is still to be sent; if so it is the caller's, and nobody else's from now on.

    A raised cap is another budget, whose alerts are due anew. What was sent in earlier periods is forgotten in time.
    """
    whose = [budget.scope, budget.key, None if budget.key is not None else user, plain(budget.usd), budget.tokens]
    its = alerts.c.budget == (name := json_text(whose))
    sent = sa.select(alerts.c.budget).where(its, alerts.c.period == period, alerts.c.percent == percent)
    if connection.execute(sent).first() is not None:
        return False
    now = datetime.now(UTC)
    connection.execute(alerts.delete().where(its, alerts.c.period < period, alerts.c.taken_at < utc_text(now - _KEPT)))
    row = {"budget": name, "period": period, "percent": percent, "taken_at": utc_text(now)}
    connection.execute(alerts.insert(), row)
    return True
