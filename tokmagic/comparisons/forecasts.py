"""What the rest of a comparison will cost, from the part that has run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from scipy import special

from tokmagic.comparisons.intervals import LEVEL
from tokmagic.formatting import numbers


@dataclass(frozen=True, slots=True)
class Costs:
    """What items cost that have run, added up: their number, the sum in USD, and the sum of the squares."""

    items: int = 0
    usd: Decimal = Decimal(0)
    squares: Decimal = Decimal(0)

    def plus(self, usd: Decimal) -> Costs:
        """With one more item."""
        return Costs(self.items + 1, self.usd + usd, self.squares + usd * usd)

    @property
    def spread(self) -> float:
        """The standard deviation of two items or more, in USD."""
        variance = (self.squares - self.usd * self.usd / self.items) / (self.items - 1)
        return math.sqrt(max(Decimal(0), variance))


NO_COSTS = Costs()


@dataclass(frozen=True, slots=True)
class Forecast:
    """USD that the remaining items will cost, with the 95 % interval. None: nothing has run to tell from, or to few."""

    items: int
    """How many items (with one repeat each) it is from."""
    left: int
    """How many are left."""
    usd: Decimal | None
    low_usd: Decimal | None
    high_usd: Decimal | None

    def __str__(self) -> str:
        if not self.left:
            return "nothing is left to run"
        if self.usd is None:
            return f"{numbers.counted(self.left, 'item')} left; no cost is known to tell what they will cost"
        told = f"{numbers.counted(self.left, 'item')} left: about {numbers.usd(self.usd)}"
        if self.low_usd is None:
            return f"{told}, from a single item"
        spread = f"{numbers.usd(self.low_usd)} to {numbers.usd(self.high_usd)}"
        return f"{told} (95 %: {spread}), from {numbers.counted(self.items, 'item')}"


def forecast(costs: Costs, left: int, begun_usd: Decimal = Decimal(0)) -> Forecast:
    """Forecast what ``left`` more items cost, in USD, where those that ran cost so much.

    ``begun_usd`` is what was spent already on those that are left. The interval is Student's for the sum of future
    observations: left · (mean ± t · s · √(1/n + 1/left)). Source: G. J. Hahn and W. Q. Meeker, Statistical Intervals
    (1991), section 4.7. Everything is cut off at 0.
    """
    items, nothing = costs.items, Decimal(0)
    if not items or not left:
        return Forecast(items, left, None if left else nothing, None, None)
    usd = costs.usd / items * left - begun_usd
    if items < 2:
        return Forecast(items, left, max(nothing, usd), None, None)
    t = float(special.stdtrit(items - 1, (1 + LEVEL) / 2))
    margin = Decimal(left * t * costs.spread * math.sqrt(1 / items + 1 / left))
    return Forecast(items, left, *(max(nothing, it) for it in (usd, usd - margin, usd + margin)))
