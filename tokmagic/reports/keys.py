"""How the budgets of a ledger's keys stand."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.fields import utc_text
from tokmagic.core.keys import SCOPE_OF, Key
from tokmagic.core.money import plain
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.prices.budgets import figures
from tokmagic.reports.tables import marks

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger

_PERIODS = {scope: period for period, scope in SCOPE_OF.items()}


def keys_table(ledger: Ledger, now: datetime) -> Table:
    """A line for each key, with what is spent, held and left in its period at ``now``; never a secret."""
    keys = ledger.keys.all()
    # Of a key without a budget it is told as well what was spent.
    held = [key.budget or Budget("key", key=key.key_id) for key in keys]
    standings = ledger.with_uncertainty(ledger.standings(held, None, now), None, now)
    pairs = list(zip(keys, standings, strict=True))
    unpriced = sum(it.unpriced_runs for it in standings)
    note = "" if keys else "there is no key; tokmagic key add NAME makes one"
    if unpriced:
        note = f"{numbers.counted(unpriced, 'run')} without a price, not in what is spent in USD"
    return Table(
        ("key", "id", "user", "team", "per", "cap", "spent", "held", "left", "state"),
        tuple(_row(key, it) for key, it in pairs),
        note,
        exact=tuple(_exact(key, it) for key, it in pairs),
        words=("id", "user", "team", "per", "state"),
    )


def _row(key: Key, it: Standing) -> tuple[str, ...]:
    if key.budget is None:
        spent = numbers.usd_marked(it.spent_usd, it.precision)
        columns = (numbers.UNKNOWN, spent, numbers.usd(it.held_usd), numbers.UNKNOWN)
    else:
        columns = figures(it)
    who = (key.name, key.key_id, key.user or numbers.UNKNOWN, key.team or numbers.UNKNOWN)
    return (*who, _PERIODS[it.budget.scope], *columns, "revoked" if key.revoked_at else "valid")


def _exact(key: Key, it: Standing) -> dict[str, Any]:
    return {
        "name": key.name,
        "id": key.key_id,
        "user": key.user,
        "team": key.team,
        "created_at": utc_text(key.created_at),
        "revoked_at": None if key.revoked_at is None else utc_text(key.revoked_at),
        "per": _PERIODS[it.budget.scope],
        "cap_usd": plain(it.budget.usd),
        "cap_tokens": it.budget.tokens,
        "spent_usd": plain(it.spent_usd),
        **marks("spent", it.precision),
        "unpriced_runs": it.unpriced_runs,
        "spent_tokens": it.spent_tokens,
        "held_usd": plain(it.held_usd),
        "held_tokens": it.held_tokens,
        "left_usd": plain(it.available_usd),
        "left_tokens": it.available_tokens,
    }
