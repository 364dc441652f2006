"""Budgets of comparisons, as callers and files give them."""

from __future__ import annotations

from decimal import Decimal

from tokmagic.errors import BudgetError
from tokmagic.prices.money import usd


def amount(given: object, what: str = "budget") -> Decimal:
    """A budget in USD. Raises BudgetError, which names ``what``."""
    plain = given if isinstance(given, str | int | Decimal) and not isinstance(given, bool) else repr(given)
    return usd(plain, what=what, error=BudgetError)
