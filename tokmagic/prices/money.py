"""Amounts of money, exact: rates as people type them, picodollars for the database, decimals for the wire."""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation, localcontext

from tokmagic.errors import PriceError

PICODOLLARS = 10**12
MILLION = Decimal(1_000_000)
# A rate beyond this is a slip of the keyboard.
_HIGHEST_RATE = Decimal(1_000_000)
_GRAIN = Decimal(1) / PICODOLLARS
# Products of counts and rates are exact in this many digits.
EXACT = Context(prec=60)
# Decimal itself also takes underscores, and digits of other scripts, which a reader may not recognise.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def rate(text: str | Decimal | int, *, what: str = "rate", per: int = 1_000_000) -> Decimal:
    """Parse a rate in USD for ``per`` tokens and return it for 1,000,000 tokens, exactly.

    Raises PriceError for anything that is not a number, is negative, or is finer than a picodollar per token.
    """
    value = _money(text, what)
    if not _is_multiple(value, per * _GRAIN):
        raise PriceError(f"{what} {text} is finer than one picodollar per token; round it to $0.000001 per 1M tokens")
    with localcontext(EXACT):
        value = value * MILLION / per
        if value > _HIGHEST_RATE:
            raise PriceError(f"{what} is {text}; that is more than {_HIGHEST_RATE:,} USD per 1,000,000 tokens")
        return value.normalize() if value else Decimal(0)


def hourly(text: str | Decimal | int, *, what: str = "--gpu-hour") -> Decimal:
    """Parse a device rate in USD per hour. Raises PriceError."""
    value = _money(text, what)
    if not _is_multiple(value, _GRAIN):
        raise PriceError(f"{what} {text} is finer than one picodollar per hour; round it")
    return value if value else Decimal(0)


def _money(text: str | Decimal | int, what: str) -> Decimal:
    given = str(text).strip().removeprefix("$")
    if not _NUMBER.fullmatch(given) and not isinstance(text, Decimal):
        raise PriceError(f"{what} is {text!r}; give a number in USD, such as 0.15")
    try:
        value = Decimal(given)
    except InvalidOperation:  # an exponent beyond all bounds
        raise PriceError(f"{what} is {text!r}; give a number in USD, such as 0.15") from None
    if not value.is_finite() or value < 0 or value > _HIGHEST_RATE:
        raise PriceError(f"{what} is {text}; give a number from 0 to {_HIGHEST_RATE:,} USD")
    return value


def _is_multiple(value: Decimal, grain: Decimal) -> bool:
    # Comparing is exact, whatever the number of digits; arithmetic would round.
    return value.quantize(grain.normalize(), context=EXACT) == value


def to_picodollars(amount: Decimal | None) -> int | None:
    """Dollars as an exact integer for the database. Raises PriceError where that would round."""
    if amount is None:
        return None
    with localcontext(EXACT):
        scaled = amount * PICODOLLARS
        if scaled != scaled.to_integral_value():
            raise PriceError(f"{amount} USD is finer than a picodollar")
        return int(scaled)


def from_picodollars(amount: int | None) -> Decimal | None:
    """The inverse of :func:`to_picodollars`."""
    if amount is None:
        return None
    with localcontext(EXACT):
        return (Decimal(amount) / PICODOLLARS).normalize() + Decimal(0)
