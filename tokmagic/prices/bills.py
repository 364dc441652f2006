"""The bill of a run: from counts, device time and frozen rates (docs/metrics.md, "The bill")."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import ROUND_CEILING, Decimal, localcontext

from tokmagic.core.money import Bound, Cost, Rates, Tier
from tokmagic.core.record import RunRecord
from tokmagic.core.stream import Source, Usage, weakest
from tokmagic.prices.book import PriceBook
from tokmagic.prices.devices import with_its_cpus
from tokmagic.prices.money import EXACT, MILLION, PICODOLLARS

_HOUR_NS = Decimal(3_600_000_000_000)
# In picodollars it still fits into a database's 64-bit integer.
_HIGHEST_BILL = Decimal(9_000_000)
# Thirty years.
_LONGEST_S = 1e9


def bill(usage: Usage, device_s: float | None, rates: Rates, *, cut: bool = False) -> Cost:
    """Compute what a run costs (docs/metrics.md, "The bill").

    The bill is the token cost where token rates and counts are known, else the compute cost where a
    device rate and device seconds are known, else unknown. Counts that contradict each other give
    no cost and name the anomaly. ``cut``: more may have been generated, and may be billed, than was counted.
    """
    anomaly = _anomaly(usage, device_s)
    if anomaly:
        return Cost(anomaly=anomaly)
    with localcontext(EXACT):
        token_usd, bound, source = _token_cost(usage, rates, cut)
        compute_usd = _compute_cost(device_s, rates.device_hour)
    for amount in (token_usd, compute_usd):
        if amount is not None and not 0 <= amount <= _HIGHEST_BILL:
            return Cost(anomaly=f"a cost of {amount:.2f} USD is impossible")
    shadow_usd = bill(usage, None, rates.shadow, cut=cut).usd if rates.shadow is not None else None
    if token_usd is not None:
        return Cost(token_usd, source, bound, token_usd, compute_usd, shadow_usd=shadow_usd)
    if compute_usd is not None:
        source, bound = _marks_of_device(cut)
        return Cost(compute_usd, source, bound, None, compute_usd, shadow_usd=shadow_usd)
    return Cost(shadow_usd=shadow_usd)


def _marks_of_device(cut: bool) -> tuple[Source, Bound]:
    """How sure a compute cost is: where a run's end was not told, its share of the device is not known exactly."""
    return ("estimated", "at_least") if cut else ("measured", "exact")


def replay(worth: Cost) -> Cost:
    """What a replay costs: nothing. Beside it stands what it saved, ``worth``, with that figure's source and bound."""
    source = "measured" if worth.usd is None else worth.source
    return Cost(Decimal(0), source, worth.bound, saved_usd=worth.usd, shadow_usd=worth.shadow_usd)


def reprice(record: RunRecord, book: PriceBook, at: datetime | None = None) -> Cost:
    """Return what a run would cost at the rates that ``book`` has for its model now, or had at another time.

    It stands beside what is frozen in the run's row, never in its place. ``usd`` is None where there is no price today.
    What was replayed from the cache cost nothing then and costs nothing now; what it saved is repriced. Raises
    PriceError for an unreadable price file.
    """
    return at_rates(record, book.rates(record.info, at))


def at_rates(record: RunRecord, rates: Rates) -> Cost:
    """The same at rates that were looked up before, for many runs of one model."""
    reading, frozen = record.reading, record.reading.cost
    rates = with_its_cpus(_of_each(rates, record), record.rates)
    then = _of_each(record.rates, record)
    if record.status == "cached":
        return replay(bill(reading.usage, reading.device_s, rates))
    cut = False
    if frozen.bound == "at_least" or frozen.source == "estimated":  # few, and there can be a million runs
        # Its server may have billed more than was counted, which a row tells only by the marks of its cost. Where the
        # rates of then leave the same marks anyway it cannot tell, and the run is taken for one that was cut off.
        marked = bill(reading.usage, reading.device_s, then, cut=True)
        cut = (frozen.source, frozen.bound) == (marked.source, marked.bound)
    return bill(reading.usage, reading.device_s, rates, cut=cut)


def _of_each(rates: Rates, record: RunRecord) -> Rates:
    """Rates for the sums of a row: of many requests each reaches the tier of its own input, not of all of them."""
    tokens = record.reading.usage.input_tokens
    if not rates.tiers or record.requests == 1 or tokens is None:
        return rates
    # Where it was broken off not all were sent, and each of those took an attempt at least.
    return at_input(rates, -(-tokens // max(1, min(record.requests, record.reading.attempts))))


def at_input(rates: Rates, input_tokens: int) -> Rates:
    """The rates by which a run with so many input tokens is billed: those of the tier that it reaches."""
    tier = _tier(rates, input_tokens)
    names = ("input", "output", "cached", "cache_write", "cache_write_1h")
    return replace(rates, tiers=(), **{name: getattr(tier, name) for name in names})


def _anomaly(usage: Usage, device_s: float | None) -> str | None:
    counts = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cached": usage.cached_input_tokens,
        "cache-write": usage.cache_write_input_tokens,
        "one-hour cache-write": usage.cache_write_1h_input_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    for name, count in counts.items():
        if count is not None and count < 0:
            return f"negative {name} tokens ({count})"
    parts = (usage.cached_input_tokens or 0) + (usage.cache_write_input_tokens or 0)
    if usage.input_tokens is not None and parts > usage.input_tokens:
        return f"cached and cache-write tokens ({parts}) exceed the input ({usage.input_tokens})"
    if (usage.cache_write_1h_input_tokens or 0) > (usage.cache_write_input_tokens or 0):
        return f"one-hour cache-write tokens ({usage.cache_write_1h_input_tokens}) exceed all cache-write tokens"
    if (usage.reasoning_tokens or 0) > (usage.output_tokens or 0):
        return f"reasoning tokens ({usage.reasoning_tokens}) exceed the output ({usage.output_tokens})"
    if device_s is not None and not 0 <= device_s <= _LONGEST_S:
        return f"{device_s} device seconds"
    return None


def _token_cost(usage: Usage, rates: Rates, cut: bool) -> tuple[Decimal | None, Bound, Source]:
    if rates.input is None or rates.output is None or usage.input_tokens is None or usage.output_tokens is None:
        return None, "exact", "unknown"
    tier = _tier(rates, usage.input_tokens)
    assert tier.input is not None
    assert tier.output is not None
    cached_rate = tier.input if tier.cached is None else tier.cached
    write_rate = tier.input if tier.cache_write is None else tier.cache_write
    hour_rate = write_rate if tier.cache_write_1h is None else tier.cache_write_1h
    cached = usage.cached_input_tokens or 0
    written = usage.cache_write_input_tokens or 0
    for_an_hour = usage.cache_write_1h_input_tokens or 0
    plain = usage.input_tokens - cached - written
    total = plain * tier.input + cached * cached_rate + (written - for_an_hour) * write_rate + for_an_hour * hour_rate
    total += usage.output_tokens * tier.output
    # A part that is unknown is priced as plain input: the bill may be lower, or higher, where its rate is.
    unknown = [cached_rate] if usage.cached_input_tokens is None else []
    unknown += [write_rate] if usage.cache_write_input_tokens is None else []
    lower, higher = any(rate < tier.input for rate in unknown), cut or any(rate > tier.input for rate in unknown)
    counts = weakest((usage.input_source, usage.output_source))
    source = "estimated" if lower and higher else counts
    bound: Bound = "exact" if lower == higher else "at_most" if lower else "at_least"
    return total / MILLION, bound, source


def _compute_cost(device_s: float | None, device_hour: Decimal | None) -> Decimal | None:
    if device_s is None or device_hour is None:
        return None
    nanoseconds = Decimal(round(device_s * 1e9))
    # Rounded up to a picodollar: device time has no natural grain, and a bill should not lose any.
    return (nanoseconds * device_hour / _HOUR_NS).quantize(Decimal(1) / PICODOLLARS, rounding=ROUND_CEILING)


def _tier(rates: Rates, input_tokens: int) -> Rates | Tier:
    """The rates that hold for a run with so many input tokens: the complete run is priced at the tier it reaches."""
    found: Rates | Tier = rates
    above = -1
    for tier in rates.tiers:
        if above < tier.above_tokens < input_tokens:
            found, above = tier, tier.above_tokens
    return found


def _input_rates(rates: Rates | Tier) -> tuple[Decimal | None, ...]:
    return rates.input, rates.cached, rates.cache_write, rates.cache_write_1h


def input_usd(rates: Rates, input_tokens: int, calls: int = 1, *, part: int | None = None) -> Decimal | None:
    """What the input of so many calls costs, in USD, none of it from a cache; None where its rate is not known.

    With ``part``: what so many of each call's ``input_tokens`` cost, at the tier that the whole input reaches.
    """
    rate = _tier(rates, input_tokens).input
    if rate is None:
        return None
    with localcontext(EXACT):
        return (input_tokens if part is None else part) * calls * rate / MILLION


def span(input_tokens: int, source: Source, max_output_tokens: int, rates: Rates) -> tuple[Cost, Cost]:
    """What a prompt costs if nothing is answered, without any cache, and the most that it can cost with an answer."""
    no_cache = Usage(cached_input_tokens=0, cache_write_input_tokens=0)
    counted = replace(no_cache, input_tokens=input_tokens, input_source=source, output_source="measured")
    low, high = (bill(replace(counted, output_tokens=tokens), None, rates) for tokens in (0, max_output_tokens))
    most, _ = bound_usd(replace(rates, device_hour=None), input_tokens, max_output_tokens, None)
    return low, replace(high, usd=most)


def bound_usd(
    rates: Rates, input_tokens: int, max_output_tokens: int, token_time_s: float | None
) -> tuple[Decimal | None, bool]:
    """The most that a run can cost, and whether that is only an estimate; None where it cannot be known.

    With token rates: every input token at the highest rate that it may be billed at, and all output tokens. With a
    device rate alone: all output tokens at ``token_time_s``, seconds each, which bounds nothing.
    """
    if rates.input is not None and rates.output is not None:
        # The count may itself be an upper bound, so each tier up to it can be the one that is billed.
        tiers: list[Rates | Tier] = [rates, *(tier for tier in rates.tiers if tier.above_tokens < input_tokens)]
        parts = [rate for tier in tiers for rate in _input_rates(tier) if rate is not None]
        outputs = [tier.output for tier in tiers if tier.output is not None]
        with localcontext(EXACT):
            return (input_tokens * max(parts) + max_output_tokens * max(outputs)) / MILLION, False
    if rates.device_hour is None:
        return None, False
    if token_time_s is None:
        return None, True
    with localcontext(EXACT):
        return _compute_cost(token_time_s * max_output_tokens, rates.device_hour), True


def loaded_usd(seconds: float, device_hour: Decimal) -> Decimal:
    """The device rate over the time since a model was loaded, idle time included: beside the runs, never in them."""
    with localcontext(EXACT):
        return _compute_cost(seconds, device_hour) or Decimal(0)
