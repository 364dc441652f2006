"""Amounts of money, exact: rates as people type them, picodollars for the database, decimals for the wire."""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation, localcontext

from tokmagic.errors import PriceError, TokmagicError

PICODOLLARS = 10**12
MILLION = Decimal(1_000_000)
# An amount or a rate beyond this is a slip of the keyboard.
_HIGHEST = Decimal(1_000_000)
_GRAIN = Decimal(1) / PICODOLLARS
# Products of counts and rates are exact in this many digits.
EXACT = Context(prec=60)
# Decimal itself also takes underscores, and digits of other scripts, which a reader may not recognise.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_CURRENCY = re.compile(r"^(\$|USD)\s*|\s*USD$", re.IGNORECASE)


def usd(
    text: str | Decimal | int, *, what: str, error: type[TokmagicError] = PriceError, above_zero: bool = False
) -> Decimal:
    """Read an amount of money as a person types it: ``5``, ``$0.25``, ``5 USD``, ``1e-3``.

    Raises ``error``, which names ``what``, for anything else, for what is negative, and beyond a million.
    """
    given = _CURRENCY.sub("", str(text).strip())
    try:
        value = Decimal(given) if _NUMBER.fullmatch(given) or isinstance(text, Decimal) else None
    except InvalidOperation:  # an exponent beyond all bounds
        value = None
    if value is None:
        raise error(f"{what} is {text!r}; give a number in USD, such as 0.15")
    if not value.is_finite() or not (value > 0 if above_zero else value >= 0) or value > _HIGHEST:
        bounds = "above 0 and up" if above_zero else "from 0"
        raise error(f"{what} is {text}; give a number {bounds} to {_HIGHEST:,} USD")
    return value


def rate(text: str | Decimal | int, *, what: str = "rate", per: int = 1_000_000) -> Decimal:
    """Parse a rate in USD for ``per`` tokens and return it for 1,000,000 tokens, exactly.

    Raises PriceError for anything that is not a number, is negative, or is finer than a picodollar per token.
    """
    value = usd(text, what=what)
    if not _is_multiple(value, per * _GRAIN):
        raise PriceError(f"{what} {text} is finer than one picodollar per token; round it to $0.000001 per 1M tokens")
    with localcontext(EXACT):
        value = value * MILLION / per
        if value > _HIGHEST:
            raise PriceError(f"{what} is {text}; that is more than {_HIGHEST:,} USD per 1,000,000 tokens")
        return value.normalize() if value else Decimal(0)


def hourly(text: str | Decimal | int, *, what: str = "--gpu-hour") -> Decimal:
    """Parse a device rate in USD per hour. Raises PriceError."""
    value = usd(text, what=what)
    if not _is_multiple(value, _GRAIN):
        raise PriceError(f"{what} {text} is finer than one picodollar per hour; round it")
    return value if value else Decimal(0)


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
