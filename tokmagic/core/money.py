"""Rates, costs, and how sure a cost or a sum of costs is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from typing import Any, Literal, NamedTuple

from tokmagic.core.stream import Source

Bound = Literal["exact", "at_least", "at_most"]
_TOKEN_RATES = ("input", "output", "cached", "cache_write", "cache_write_1h")


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates that replace the base ones for all of a run whose input has more than ``above_tokens`` tokens."""

    above_tokens: int
    input: Decimal
    output: Decimal
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices frozen into a run: USD per 1,000,000 tokens, USD per hour for the device.

    ``cache_write_1h`` is that of tokens that are kept in a cache for an hour, where it differs from ``cache_write``.
    ``source`` and ``version`` say where they came from. ``shadow`` are the rates of the hosted model named
    ``shadow_model``, for what the same tokens would cost there.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    device_hour: Decimal | None = None
    source: str = "unknown"
    version: str | None = None
    tiers: tuple[Tier, ...] = ()
    shadow_model: str | None = None
    shadow: Rates | None = None
    cache_write_1h: Decimal | None = None

    @property
    def charged(self) -> Rates:
        """What of them makes a bill, whoever says so and whatever stands beside it: a device's rate only by itself."""
        device_hour = self.device_hour if self.input is None else None
        return replace(self, device_hour=device_hour, source="", version=None, shadow_model=None, shadow=None)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run costs, in USD. ``usd`` is the bill; the other figures stand beside it, never added.

    Of a replay ``source`` and ``bound`` are those of ``saved_usd``: that it costs 0 is sure.
    """

    usd: Decimal | None = None
    source: Source = "unknown"
    bound: Bound = "exact"
    token_usd: Decimal | None = None
    compute_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    anomaly: str | None = None
    shadow_usd: Decimal | None = None


class Precision(NamedTuple):
    """Whether a sum of money is only an estimate, and what it bounds."""

    estimated: bool = False
    bound: Bound = "exact"


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Of how many priced runs the cost, or what they saved, is estimated, or a bound; and what follows for the sum."""

    estimated_runs: int = 0
    at_least_runs: int = 0
    at_most_runs: int = 0

    @classmethod
    def of(cls, cost: Cost) -> Uncertainty:
        """How unsure one cost is; none about an unknown one, which is in no sum, nor about a replay's."""
        return cls() if cost.usd is None or cost.saved_usd is not None else cls._of(cost)

    @classmethod
    def of_saved(cls, cost: Cost) -> Uncertainty:
        """How unsure it is what a replay saved."""
        return cls() if cost.saved_usd is None else cls._of(cost)

    @classmethod
    def _of(cls, cost: Cost) -> Uncertainty:
        return cls(int(cost.source == "estimated"), int(cost.bound == "at_least"), int(cost.bound == "at_most"))

    def __add__(self, other: Uncertainty) -> Uncertainty:
        return Uncertainty(
            self.estimated_runs + other.estimated_runs,
            self.at_least_runs + other.at_least_runs,
            self.at_most_runs + other.at_most_runs,
        )

    def precision(self, unpriced_runs: int) -> Precision:
        """Whether a sum is only an estimate, and what it bounds (docs/metrics.md, "Sums").

        What has no price is missing from the sum, so that the whole is at least it. Where some costs are lower bounds
        and others upper ones, the sum may lie on either side of the whole: it is an estimate and bounds nothing.
        """
        lower, upper = unpriced_runs + self.at_least_runs > 0, self.at_most_runs > 0
        bound: Bound = "exact" if lower == upper else "at_least" if lower else "at_most"
        return Precision(self.estimated_runs > 0 or (lower and upper), bound)


CERTAIN = Uncertainty()


def known_sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    """Add two amounts, of which an unknown one adds nothing; None where both are unknown."""
    if one is None or other is None:
        return other if one is None else one
    # As many digits as both need: sums of money are exact, however many runs there are.
    with localcontext(prec=60):
        return one + other


def plain(amount: Decimal | None) -> str | None:
    """A decimal as it goes on the wire and into exports: ``"0.0000521"``, never ``5.21E-5``."""
    if amount is None:
        return None
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rates_dict(rates: Rates) -> dict[str, Any]:
    """Rates as a row freezes them: decimal strings, with their source and version; what is unknown is left out."""
    found: dict[str, Any] = {**_amounts(rates, (*_TOKEN_RATES, "device_hour")), "source": rates.source}
    if rates.version:
        found["version"] = rates.version
    if rates.tiers:
        found["tiers"] = [{"above_tokens": tier.above_tokens, **_amounts(tier, _TOKEN_RATES)} for tier in rates.tiers]
    if rates.shadow is not None:
        found["shadow_model"], found["shadow"] = rates.shadow_model, rates_dict(rates.shadow)
    return found


def _amounts(of: Rates | Tier, names: tuple[str, ...]) -> dict[str, str]:
    values = {name: plain(getattr(of, name)) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def rates_of(values: dict[str, Any]) -> Rates:
    """The inverse of :func:`rates_dict`."""
    shadow = values.get("shadow")
    return Rates(
        **_decimals(values, (*_TOKEN_RATES, "device_hour")),
        source=values["source"],
        version=values.get("version"),
        tiers=tuple(Tier(it["above_tokens"], **_decimals(it, _TOKEN_RATES)) for it in values.get("tiers", ())),
        shadow_model=values.get("shadow_model"),
        shadow=None if shadow is None else rates_of(shadow),
    )


def _decimals(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: Decimal(values[name]) for name in names if name in values}
