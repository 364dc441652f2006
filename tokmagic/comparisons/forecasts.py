"""What the rest of a comparison will cost, from the part that has run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from tokmagic.comparisons.intervals import LEVEL
from tokmagic.formatting import numbers


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


def forecast(costs: Sequence[Decimal], left: int) -> Forecast:
    """Forecast what ``left`` more items cost, in USD, where each of those that ran cost one of ``costs``.

    The interval is Student's for the sum of future observations: left · (mean ± t · s · √(1/n + 1/left)). Source:
    G. J. Hahn and W. Q. Meeker, Statistical Intervals (1991), section 4.7. It is cut off at 0.
    """
    items = len(costs)
    if not items or not left:
        return Forecast(items, left, None if left else Decimal(0), None, None)
    mean = sum(costs, Decimal(0)) / items
    usd = mean * left
    if items < 2:
        return Forecast(items, left, usd, None, None)
    from scipy import stats

    spread = float(np.std([float(it) for it in costs], ddof=1))
    t = float(stats.t.ppf((1 + LEVEL) / 2, items - 1))
    margin = Decimal(left * t * spread * math.sqrt(1 / items + 1 / left))
    return Forecast(items, left, usd, max(Decimal(0), usd - margin), usd + margin)
