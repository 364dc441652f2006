"""What a million tokens cost at a level: at token rates by the bill, on a device by its hour and how busy it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

from tokmagic.bench.figures import Level
from tokmagic.core.money import Rates
from tokmagic.prices.money import EXACT, MILLION

UTILISATIONS = (Decimal("0.2"), Decimal("0.5"), Decimal(1))
"""Shares of an hour that a device has something to do."""
_HOUR_S = Decimal(3_600)
_GRAIN = Decimal("1E-9")


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million output tokens with their prompts, and for a million tokens, input and output together."""

    output: Decimal | None = None
    total: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """A level's prices: by the bill, and at each utilisation of a device that is paid by the hour."""

    billed: Price
    at: Mapping[Decimal, Price] = field(default_factory=dict)

    @property
    def best(self) -> Price:
        """The bill's, else those of a device that always has something to do."""
        return self.billed if self.billed.output is not None else self.at.get(Decimal(1), Price())


def prices(level: Level, rates: Rates) -> Prices:
    """What a million tokens cost at this level's speed and rates."""
    output, total = level.usage.output_tokens, level.total_tokens
    billed = Price()
    if rates.input is not None:
        usd = level.cost.usd
        billed = Price(_each(usd, output), _each(usd, total))
    if rates.device_hour is None or level.duration_s <= 0:
        return Prices(billed)
    with localcontext(EXACT):
        # Of the whole device over the level's time, whoever it worked for.
        usd = rates.device_hour * Decimal(repr(level.duration_s)) / _HOUR_S
        hourly = {share: usd / share for share in UTILISATIONS}
    return Prices(billed, {share: Price(_each(it, output), _each(it, total)) for share, it in hourly.items()})


def _each(usd: Decimal | None, tokens: int | None) -> Decimal | None:
    """USD for a million, where so many tokens cost ``usd``; unknown for none."""
    if usd is None or not tokens:
        return None
    with localcontext(EXACT):
        return (usd * MILLION / tokens).quantize(_GRAIN)
