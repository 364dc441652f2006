"""What tokens and device time cost: rates in Decimal USD, and the bill of a run.

Rates are USD per 1,000,000 tokens, and USD per hour for the device. What is not known is ``None``
and stays so: a run without a price has no cost, never a cost of 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, localcontext

from tokmagic.errors import PriceError
from tokmagic.events import Bound, Cost, Rates, Source, Usage

PICODOLLARS = 10**12
_MILLION = Decimal(1_000_000)
_HOUR_NS = Decimal(3_600_000_000_000)
# A rate beyond this is a slip of the keyboard, and keeps every run's bill inside a 64-bit integer.
_HIGHEST_RATE = Decimal(1_000_000)
# Products of counts and rates are exact in this many digits.
_EXACT = Context(prec=60)


def rate(text: str | Decimal | int, *, what: str = "rate", per: int = 1_000_000) -> Decimal:
    """Parse a rate in USD for ``per`` tokens and return it for 1,000,000 tokens, exactly.

    Raises PriceError for what is no number, is negative, or is finer than a picodollar a token.
    """
    with localcontext(_EXACT):
        value = _money(text, what) * _MILLION / per
        if value * 1_000_000 % 1 != 0:
            raise PriceError(f"{what} {text} is finer than one picodollar a token; round it to $0.000001 per 1M tokens")
        if value > _HIGHEST_RATE:
            raise PriceError(f"{what} is {text}; that is more than {_HIGHEST_RATE:,} USD per 1,000,000 tokens")
    return value.normalize() if value else Decimal(0)


def hourly(text: str | Decimal | int, *, what: str = "--gpu-hour") -> Decimal:
    """Parse a device rate in USD per hour. Raises PriceError."""
    return _money(text, what)


def _money(text: str | Decimal | int, what: str) -> Decimal:
    try:
        value = Decimal(str(text).strip().removeprefix("$"))
    except InvalidOperation:
        raise PriceError(f"{what} is {text!r}; give a number in USD, such as 0.15") from None
    if not value.is_finite() or value < 0 or value > _HIGHEST_RATE:
        raise PriceError(f"{what} is {text}; give a number from 0 to {_HIGHEST_RATE:,} USD")
    return value


class PriceBook:
    """Rates by model name. Local names never match a hosted model's price: only what was set counts."""

    def __init__(self) -> None:
        self._rates: dict[str, Rates] = {}

    def set(self, model: str, rates: Rates) -> None:
        """Set the rates used for ``model`` from now on. Finished runs keep the rates they ran with."""
        self._rates[model] = rates

    def get(self, model: str) -> Rates:
        """Return the rates for ``model``; all unknown where none were set."""
        return self._rates.get(model, Rates())

    def __iter__(self) -> Iterator[tuple[str, Rates]]:
        return iter(sorted(self._rates.items()))


def bill(usage: Usage, device_s: float | None, rates: Rates) -> Cost:
    """Compute what a run costs (docs/metrics.md, "The bill").

    The bill is the token cost where token rates and counts are known, else the compute cost where a
    device rate and device seconds are known, else unknown. Counts that contradict each other give
    no cost and name the anomaly.
    """
    anomaly = _anomaly(usage)
    if anomaly:
        return Cost(anomaly=anomaly)
    with localcontext(_EXACT):
        token_usd, bound = _token_cost(usage, rates)
        compute_usd = _compute_cost(device_s, rates.device_hour)
    if token_usd is not None:
        estimated = "estimated" in (usage.input_source, usage.output_source)
        source: Source = "estimated" if estimated else _weakest(usage)
        return Cost(token_usd, source, bound, token_usd, compute_usd)
    if compute_usd is not None:
        return Cost(compute_usd, "measured", "exact", None, compute_usd)
    return Cost()


def _anomaly(usage: Usage) -> str | None:
    counts = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cached": usage.cached_input_tokens,
        "cache-write": usage.cache_write_input_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    for name, count in counts.items():
        if count is not None and count < 0:
            return f"negative {name} tokens ({count})"
    parts = (usage.cached_input_tokens or 0) + (usage.cache_write_input_tokens or 0)
    if usage.input_tokens is not None and parts > usage.input_tokens:
        return f"cached and cache-write tokens ({parts}) exceed the input ({usage.input_tokens})"
    if (usage.reasoning_tokens or 0) > (usage.output_tokens or 0):
        return f"reasoning tokens ({usage.reasoning_tokens}) exceed the output ({usage.output_tokens})"
    return None


def _token_cost(usage: Usage, rates: Rates) -> tuple[Decimal | None, Bound]:
    if rates.input is None or rates.output is None or usage.input_tokens is None or usage.output_tokens is None:
        return None, "exact"
    cached = usage.cached_input_tokens or 0
    written = usage.cache_write_input_tokens or 0
    plain = usage.input_tokens - cached - written
    total = (
        plain * rates.input
        + cached * (rates.input if rates.cached is None else rates.cached)
        + written * (rates.input if rates.cache_write is None else rates.cache_write)
        + usage.output_tokens * rates.output
    )
    # With the cached part unknown the whole input is priced in full: the bill can only be lower.
    at_most = usage.cached_input_tokens is None and rates.cached is not None
    return total / _MILLION, "at_most" if at_most else "exact"


def _compute_cost(device_s: float | None, device_hour: Decimal | None) -> Decimal | None:
    if device_s is None or device_hour is None:
        return None
    nanoseconds = Decimal(round(device_s * 1e9))
    # Rounded up to a picodollar: device time has no natural grain, and a bill should not lose any.
    return (nanoseconds * device_hour / _HOUR_NS).quantize(Decimal(1) / PICODOLLARS, rounding=ROUND_CEILING)


_STRENGTH: tuple[Source, ...] = ("measured", "reported", "counted", "estimated", "unknown")


def _weakest(usage: Usage) -> Source:
    return max((usage.input_source, usage.output_source), key=_STRENGTH.index)


def to_picodollars(amount: Decimal | None) -> int | None:
    """Dollars as an exact integer for the database. Raises PriceError where that would round."""
    if amount is None:
        return None
    with localcontext(_EXACT):
        scaled = amount * PICODOLLARS
        if scaled != scaled.to_integral_value():
            raise PriceError(f"{amount} USD is finer than a picodollar")
        return int(scaled)


def from_picodollars(amount: int | None) -> Decimal | None:
    """The inverse of :func:`to_picodollars`."""
    if amount is None:
        return None
    with localcontext(_EXACT):
        return (Decimal(amount) / PICODOLLARS).normalize() + Decimal(0)


def plain(amount: Decimal | None) -> str | None:
    """A decimal as it goes on the wire and into exports: ``"0.0000521"``, never ``5.21E-5``."""
    if amount is None:
        return None
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
