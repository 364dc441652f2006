"""The bill of a run: from counts, device time and frozen rates (docs/metrics.md, "The bill")."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_CEILING, Decimal, localcontext

from tokmagic.events import Bound, Cost, Rates, Source, Usage
from tokmagic.prices.money import EXACT, MILLION, PICODOLLARS

_HOUR_NS = Decimal(3_600_000_000_000)


def bill(usage: Usage, device_s: float | None, rates: Rates) -> Cost:
    """Compute what a run costs (docs/metrics.md, "The bill").

    The bill is the token cost where token rates and counts are known, else the compute cost where a
    device rate and device seconds are known, else unknown. Counts that contradict each other give
    no cost and name the anomaly.
    """
    anomaly = _anomaly(usage)
    if anomaly:
        return Cost(anomaly=anomaly)
    with localcontext(EXACT):
        token_usd, bound = _token_cost(usage, rates)
        compute_usd = _compute_cost(device_s, rates.device_hour)
    shadow_usd = bill(usage, None, rates.shadow).usd if rates.shadow is not None else None
    if token_usd is not None:
        estimated = "estimated" in (usage.input_source, usage.output_source)
        source: Source = "estimated" if estimated else _weakest(usage)
        return Cost(token_usd, source, bound, token_usd, compute_usd, shadow_usd=shadow_usd)
    if compute_usd is not None:
        return Cost(compute_usd, "measured", "exact", None, compute_usd, shadow_usd=shadow_usd)
    return Cost(shadow_usd=shadow_usd)


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
    rates = _tier(rates, usage.input_tokens)
    assert rates.input is not None
    assert rates.output is not None
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
    return total / MILLION, "at_most" if at_most else "exact"


def _compute_cost(device_s: float | None, device_hour: Decimal | None) -> Decimal | None:
    if device_s is None or device_hour is None:
        return None
    nanoseconds = Decimal(round(device_s * 1e9))
    # Rounded up to a picodollar: device time has no natural grain, and a bill should not lose any.
    return (nanoseconds * device_hour / _HOUR_NS).quantize(Decimal(1) / PICODOLLARS, rounding=ROUND_CEILING)


_STRENGTH: tuple[Source, ...] = ("measured", "reported", "counted", "estimated", "unknown")


def _weakest(usage: Usage) -> Source:
    return max((usage.input_source, usage.output_source), key=_STRENGTH.index)


def bound_usd(
    rates: Rates, input_tokens: int, max_output_tokens: int, token_time_s: float | None
) -> tuple[Decimal | None, bool]:
    """The most that a run can cost, and whether that is only an estimate; None where it cannot be known.

    With token rates: every input token at the dearest rate that it may be billed at, and all output tokens. With a
    device rate alone: all output tokens at ``token_time_s``, seconds each, which bounds nothing.
    """
    if rates.input is not None and rates.output is not None:
        tier = _tier(rates, input_tokens)
        dearest = max(rate for rate in (tier.input, tier.cached, tier.cache_write) if rate is not None)
        counted = Usage(input_tokens=input_tokens, output_tokens=max_output_tokens)
        return bill(counted, None, Rates(input=dearest, output=tier.output)).usd, False
    if token_time_s is None:
        return None, True
    return bill(Usage(), token_time_s * max_output_tokens, rates).usd, True


def loaded_usd(seconds: float, device_hour: Decimal) -> Decimal:
    """The device rate over the time since a model was loaded, idle time included: beside the runs, never in them."""
    with localcontext(EXACT):
        return _compute_cost(seconds, device_hour) or Decimal(0)


def _tier(rates: Rates, input_tokens: int | None) -> Rates:
    """The rates that hold for a run with so many input tokens: the whole run is priced at the tier that it reaches."""
    for tier in sorted(rates.tiers, key=lambda tier: tier.above_tokens, reverse=True):
        if input_tokens is not None and input_tokens > tier.above_tokens:
            return replace(
                rates, input=tier.input, output=tier.output, cached=tier.cached, cache_write=tier.cache_write, tiers=()
            )
    return rates
