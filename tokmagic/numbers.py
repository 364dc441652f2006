"""Numbers as text, pure: the same spelling in footers, tables and reports.

Estimated is marked ``~``, unknown is ``—``, lower bounds ``≥``, upper bounds ``≤``.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal

from tokmagic.events import Bound, Cost, Reading, Source

UNKNOWN = "—"
_MARK: dict[Bound, str] = {"exact": "", "at_least": "≥", "at_most": "≤"}


def tokens(count: int | None, source: Source = "measured") -> str:
    """A token count in full: ``412``, ``~412``, ``—``."""
    if count is None:
        return UNKNOWN
    return f"{'~' if source == 'estimated' else ''}{count:,}"


def usd(amount: Decimal | None) -> str:
    """Dollars, with at least four decimals below $1 and three significant digits for small change."""
    if amount is None:
        return UNKNOWN
    if amount == 0:
        return "$0"
    if abs(amount) >= 1:
        return f"${_rounded(amount, 2):,.2f}"
    # Four decimals or three significant digits, whichever is finer.
    whole, _, fraction = f"{_rounded(amount, max(4, 2 - amount.adjusted())):f}".partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(4, '0')}"


def _rounded(amount: Decimal, decimals: int) -> Decimal:
    # Half up, as people round money and as the sidebar does.
    return amount.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP, Context(prec=60))


def cost(value: Cost) -> str:
    """The bill of a run with its marks: ``$0.0011``, ``~$0.0011``, ``≥$0.0011``, ``—``."""
    if value.usd is None:
        return UNKNOWN
    return f"{'~' if value.source == 'estimated' else ''}{_MARK[value.bound]}{usd(value.usd)}"


def seconds(value: float | None) -> str:
    """Seconds with the precision one reads: ``0.21 s``, ``12.4 s``, ``—``."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def milliseconds(value_s: float | None) -> str:
    """A duration given in seconds, in milliseconds: ``11.2``, ``—``."""
    if value_s is None:
        return UNKNOWN
    ms = value_s * 1e3
    return f"{ms:.2f}" if ms < 1 else f"{ms:.1f}"


def _shadow(value: Cost, model: str | None) -> str:
    return f" ({model}: {usd(value.shadow_usd)})" if model else ""


def footer(reading: Reading, model: str, status: str = "ok", shadow_model: str | None = None) -> str:
    """One line under an answer: tokens in → out, cost, TTFT, ms per token, model."""
    usage = reading.usage
    if status == "refused":  # nothing ran, so there is nothing to tell
        return f"{model} · refused"
    parts = [
        f"{tokens(usage.input_tokens, usage.input_source)} → {tokens(usage.output_tokens, usage.output_source)} tokens",
        cost(reading.cost) + _shadow(reading.cost, shadow_model),
        f"TTFT {seconds(reading.ttft_s)}",
        f"{milliseconds(reading.itl_mean_s)} ms/token",
        model,
    ]
    if status != "ok":
        parts.append(status)
    return " · ".join(parts)
