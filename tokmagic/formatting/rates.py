"""Rates in words, for a line of text."""

from __future__ import annotations

from tokmagic.core.money import Rates, Tier
from tokmagic.formatting import numbers


def in_words(rates: Rates) -> str:
    """``$0.1500 in, $0.6000 out per 1M tokens (%price)``, where they come from included; what is unknown is left out.

    Tiers stand with the number of input tokens that they begin above.
    """
    told = [f"{_tokens(rates)} per 1M tokens"] if _tokens(rates) else []
    told += [f"above {tier.above_tokens:,} input tokens {_tokens(tier)}" for tier in rates.tiers]
    if rates.device_hour is not None:
        told.append(f"{numbers.usd(rates.device_hour)} per hour of the device")
    if not told:
        return "no price is known"
    origin = rates.source if rates.version is None else f"{rates.source}, {rates.version}"
    return f"{'; '.join(told)} ({origin})"


def _tokens(rates: Rates | Tier) -> str:
    amounts = {
        "in": rates.input,
        "out": rates.output,
        "cached": rates.cached,
        "cache-write": rates.cache_write,
        "one-hour cache-write": rates.cache_write_1h,
    }
    return ", ".join(f"{numbers.usd(amount)} {name}" for name, amount in amounts.items() if amount is not None)
