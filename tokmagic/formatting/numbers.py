"""Numbers as text, pure: the same spelling in footers, tables and reports.

Estimated is marked ``~``, unknown is ``—``, lower bounds ``≥``, upper bounds ``≤``.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

from tokmagic.core.money import Bound, Cost, Precision, Rates, Uncertainty
from tokmagic.core.record import Reading
from tokmagic.core.stream import Source, Usage

UNKNOWN = "—"
NO_RATES = Rates()
# A cost that a server reports is rounded: differences below a nanodollar say nothing.
_COST_GRAIN = Decimal("1e-9")
_MARK: dict[Bound, str] = {"exact": "", "at_least": "≥", "at_most": "≤"}


def tokens(count: int | None, source: Source = "measured") -> str:
    """A token count in full: ``412``, ``~412``, ``—``."""
    if count is None:
        return UNKNOWN
    return f"{'~' if source == 'estimated' else ''}{count:,}"


def counted(count: int, noun: str) -> str:
    """How many of what, for a noun whose plural takes an s: ``1 run``, ``1,234 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def usd(amount: Decimal | None) -> str:
    """Dollars, with at least four decimals below $1 and three significant digits for small change."""
    if amount is None:
        return UNKNOWN
    if amount == 0:
        return "$0"
    sign, amount = "-" if amount < 0 else "", abs(amount)
    if amount >= 1:
        return f"{sign}${_rounded(amount, 2):,.2f}"
    # Four decimals or three significant digits, whichever is finer.
    whole, _, fraction = f"{_rounded(amount, max(4, 2 - amount.adjusted())):f}".partition(".")
    return f"{sign}${whole}.{fraction.rstrip('0').ljust(4, '0')}"


def usd_marked(amount: Decimal | None, precision: Precision) -> str:
    """Dollars with their marks, whether estimated and of what a bound: ``$0.3000``, ``~$0.3000``, ``≥$0.3000``."""
    return usd(amount) if amount is None else marked(usd(amount), precision)


def marked(figure: str, precision: Precision) -> str:
    """A figure that is known, with its marks: ``60%``, ``~60%``, ``≥60%``."""
    estimated, bound = precision
    return f"{'~' if estimated else ''}{_MARK[bound]}{figure}"


def _rounded(amount: Decimal, decimals: int) -> Decimal:
    # Half up, as people round money and as the sidebar does.
    return amount.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP, Context(prec=60))


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals, rounded half up on its exact value, as the sidebar's browser rounds it."""
    # With all digits that a float may have; what is no number stays none.
    step = Decimal(1).scaleb(-decimals)
    return f"{Decimal(value).quantize(step, ROUND_HALF_UP, Context(prec=400, traps=[])):f}"


def percent(share: float) -> str:
    """A share of a cap, rounded down as in the sidebar, so that 100% is all of it: ``86%``, ``<1%``."""
    # A little more, because 0.29 × 100 is a little less than 29 among floats.
    whole = math.floor(share * 100 + 1e-12)
    return "<1%" if whole == 0 and share > 0 else f"{whole}%"


def cost(value: Cost) -> str:
    """The bill of a run with its marks: ``$0.0011``, ``~$0.0011``, ``≥$0.0011``, ``—``."""
    return usd_marked(value.usd, Uncertainty.of(value).precision(0))


def seconds(value: float | None) -> str:
    """Seconds with the precision one reads: ``0.21 s``, ``12.4 s``, ``—``."""
    if value is None:
        return UNKNOWN
    return f"{fixed(value, 2 if value < 10 else 1)} s"


def duration(value_s: float) -> str:
    """How long something will take, as one says it: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = max(1, int(fixed(value_s, 0)))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(int(fixed(whole / 60, 0)), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def milliseconds(value_s: float | None) -> str:
    """A duration given in seconds, in milliseconds: ``0.52``, ``11.2``, ``1234``, ``—``."""
    if value_s is None:
        return UNKNOWN
    ms = value_s * 1e3
    return fixed(ms, 2 if ms < 1 else 1 if ms < 999.95 else 0)


def joules(value: float | None) -> str:
    """Energy with three significant digits, in the unit one reads: ``0.31 J``, ``12.5 J``, ``1.25 kJ``, ``—``."""
    if value is None:
        return UNKNOWN
    amount, unit = value, "J"
    for larger in ("kJ", "MJ", "GJ"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    decimals = 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{fixed(amount, decimals if amount >= 0.0995 else 4)} {unit}"


def size(count_bytes: int) -> str:
    """Bytes with the unit one reads: ``0 bytes``, ``1.4 KiB``, ``256 MiB``."""
    amount, unit = float(count_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{fixed(amount, 0 if unit == 'bytes' or amount >= 99.95 else 1)} {unit}"


def list_price(value: Cost, rates: Rates) -> str | None:
    """The device's list price at which a cost, or what a replay saved, was calculated; None for another price."""
    of_device = value.token_usd is None and value.compute_usd is not None
    saved_of_device = value.saved_usd is not None and rates.input is None
    return rates.source if (of_device or saved_of_device) and rates.source.startswith("list price") else None


def _saved(value: Cost, rates: Rates) -> str:
    """What a replay saved, and whose price it is calculated at."""
    saved = usd_marked(value.saved_usd, Uncertainty.of_saved(value).precision(0))
    return f"saved {saved}{' at list price' if list_price(value, rates) else ''}"


def _beside(value: Cost, usage: Usage, rates: Rates) -> str:
    """What stands beside a cost: that it is what the device's time is worth at list price; what it would be there."""
    guessed = "estimated" in (usage.input_source, usage.output_source)
    there = usd_marked(value.shadow_usd, Precision(guessed))
    shadow = f" ({rates.shadow_model}: {there})" if rates.shadow_model else ""
    return f"{' at list price' if list_price(value, rates) else ''}{shadow}"


def other_cost(ours: Decimal | None, reported_usd: Decimal | None) -> str | None:
    """What to say of a cost that the server reports and that is more than 1 % off ours; else None."""
    if ours is None or reported_usd is None:
        return None
    apart = abs(ours - reported_usd)
    if apart * 100 <= ours or apart < _COST_GRAIN:
        return None
    return f"the server reports a cost of {usd(reported_usd)}, here it is {usd(ours)}"


def footer(reading: Reading, model: str, status: str = "ok", rates: Rates = NO_RATES) -> str:
    """One line under an answer: tokens in → out, cost and whose price it is, TTFT, ms per token, model."""
    usage = reading.usage
    if status == "refused":  # nothing ran, so there is nothing to tell
        return f"{model} · refused"
    counts = (
        f"{tokens(usage.input_tokens, usage.input_source)} → {tokens(usage.output_tokens, usage.output_source)} tokens"
    )
    if status == "cached":  # what took no time has no latency to tell
        return " · ".join([counts, cost(reading.cost), model, status, _saved(reading.cost, rates)])
    parts = [
        counts,
        cost(reading.cost) + _beside(reading.cost, usage, rates),
        f"TTFT {seconds(reading.ttft_s)}",
        f"{milliseconds(reading.itl_mean_s)} ms/token",
        model,
    ]
    if status != "ok":
        parts.append(status)
    return " · ".join(parts)
