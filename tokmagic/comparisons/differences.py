"""What a variant differs by from the baseline on the same items, and how sure that is. By scipy and statsmodels."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tokmagic.comparisons.intervals import LEVEL, Interval, constant, item_means, of_mean, of_rates_apart, of_ratio

if TYPE_CHECKING:
    from tokmagic.comparisons.intervals import Floats

ALPHA = 1 - LEVEL
POWER = 0.8
"""How often a difference of the given size shall be seen where it is there."""
_EXACT_ITEMS = 500
"""With more items McNemar's exact test sees nearly what a t test does."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Variant minus baseline, in the unit of what is measured (USD, tokens, seconds, score).

    ``pairs`` are runs of both on one item and repeat. ``p_value`` is of a test on the items, ``p_holm`` the same after
    Holm's correction over all variants; ``smallest`` is what so many items show in four comparisons of five.
    """

    items: int
    pairs: int
    mean: float | None
    interval: Interval
    test: str = ""
    p_value: float | None = None
    p_holm: float | None = None
    smallest: float | None = None
    needed: int | None = None
    """How many items it takes to see a difference of the size that was measured."""

    @property
    def seen(self) -> bool:
        """Whether there is a difference at the 5 % level, all variants considered."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def leaning(self) -> int:
        """1 or −1 where no difference is seen, but all of its own interval lies above or below 0; else 0.

        So it is where Holm's correction alone took a small p value away, and where a test is stricter than a bootstrap.
        """
        low, high = self.interval.low, self.interval.high
        if self.seen or low is None or high is None:
            return 0
        return int(low > 0) - int(high < 0)


def pair(baseline: Floats, variant: Floats) -> tuple[Floats, int]:
    """Each item's mean difference over its complete pairs, for items with any; and how many pairs there are.

    Both: items × repeats, NaN where a run is missing. Pairs are averaged within an item first, so that repeats count
    for what they tell and not for their number.
    """
    apart = variant - baseline
    means = item_means(apart)
    return means[~np.isnan(means)], int((~np.isnan(apart)).sum())


def difference(baseline: Floats, variant: Floats, *, passes: bool = False, seed: int = 0) -> Difference:
    """Compare a variant with the baseline. ``passes``: the values are 0 and 1, so McNemar's exact test is asked."""
    items, pairs = pair(baseline, variant)
    if not items.size:
        return Difference(0, 0, None, Interval(None, None, "none", "no item has both"))
    p_value, test = mcnemar(items) if passes else mean_test(items)
    mean = float(items.mean())
    needed, smallest = (passes_needed, smallest_in_passes) if passes else (items_needed, smallest_difference)
    interval = of_rates_apart(variant - baseline) if passes else of_mean(items, seed)
    return Difference(items.size, pairs, mean, interval, test, p_value, p_value, smallest(items), needed(items, mean))


def mean_test(items: Floats) -> tuple[float | None, str]:
    """The p value of the items' mean being 0, and the test's name.

    Student's paired t test (scipy.stats.ttest_1samp of the differences), or the sign test where all are the same, which
    leaves t no spread to compare with.
    """
    from scipy import stats

    if items.size < 2:
        return None, ""
    if constant(items):
        if items[0] == 0:
            return 1.0, "sign"
        return float(stats.binomtest(items.size, items.size).pvalue), "sign"
    return float(stats.ttest_1samp(items, 0.0).pvalue), "paired t"


def mcnemar(items: Floats) -> tuple[float, str]:
    """McNemar's exact test on each item's difference in passes.

    An item counts for the variant if that passed more of its repeats than the baseline, against it if fewer; where both
    passed equally often it counts for neither. With one repeat these are McNemar's discordant pairs, and identical
    repeats change nothing. Source: Q. McNemar, Psychometrika 12 (1947), 153-157;
    statsmodels.stats.contingency_tables.mcnemar.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    better, worse = int((items > 0).sum()), int((items < 0).sum())
    if better + worse == 0:
        return 1.0, "McNemar, exact"
    table = [[items.size - better - worse, better], [worse, 0]]
    return min(1.0, float(exact(table, exact=True).pvalue)), "McNemar, exact"


def holm(found: Sequence[Difference]) -> list[Difference]:
    """The same differences with p values corrected for their number.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70; statsmodels.stats.multitest.multipletests.
    """
    from statsmodels.stats.multitest import multipletests

    values = [it.p_value for it in found if it.p_value is not None]
    if not values:
        return list(found)
    corrected = iter(multipletests(values, alpha=ALPHA, method="holm")[1].tolist())
    return [it if it.p_value is None else replace(it, p_holm=next(corrected)) for it in found]


def items_needed(items: Floats, size: float) -> int | None:
    """How many items it takes to see a difference of ``size`` (in their unit) in four comparisons of five.

    For a paired t test at the 5 % level with the spread that ``items``, differences, have; None where they have none.
    Source: statsmodels.stats.power.TTestPower.
    """
    from statsmodels.stats.power import TTestPower

    spread = _spread(items)
    if spread is None or size == 0:
        return None
    # Below a handful of items the equation has no solution, and above a billion nobody runs them.
    effect = min(2.0, max(1e-4, abs(size) / spread))
    return math.ceil(float(TTestPower().solve_power(effect_size=effect, alpha=ALPHA, power=POWER)))


def smallest_difference(items: Floats) -> float | None:
    """The difference that so many items show in four comparisons of five, in their unit; see :func:`items_needed`."""
    from statsmodels.stats.power import TTestPower

    spread = _spread(items)
    if spread is None or items.size < 3:
        return None
    return float(TTestPower().solve_power(nobs=items.size, alpha=ALPHA, power=POWER)) * spread


def smallest_in_passes(items: Floats) -> float | None:
    """The difference in pass rates that McNemar's exact test on so many items sees in four comparisons of five.

    As many items differ as were measured, or as the difference takes. None where none differs, and where so few items
    show no difference reliably.
    """
    from scipy import optimize

    if items.size > _EXACT_ITEMS or not items.any():
        return smallest_difference(items)
    differ, each = float((items != 0).mean()), float(np.abs(items[items != 0]).mean())

    def short(apart: float) -> float:
        return _sees(items.size, max(differ, apart), apart) - POWER

    return None if short(1.0) < 0 else each * float(optimize.brentq(short, 1e-6, 1.0))


def passes_needed(items: Floats, size: float) -> int | None:
    """How many items it takes to see a difference of ``size`` in pass rates; see :func:`smallest_in_passes`."""
    about = items_needed(items, size)
    if about is None or about > _EXACT_ITEMS:
        return about
    differ, each = float((items != 0).mean()), float(np.abs(items[items != 0]).mean())
    apart = min(1.0, abs(size) / each)
    most = 4 * about + 20
    return bisect_left(range(most), POWER, lo=1, key=lambda count: _sees(count, max(differ, apart), apart))


def _sees(items: int, differ: float, apart: float) -> float:
    """How often McNemar's exact test at 5 % sees pass rates ``apart`` where the share ``differ`` of items differs.

    What a paired t test sees is more where few differ: of fewer than six it is never sure.
    """
    from scipy import stats

    counts = np.arange(1, items + 1)
    beyond = stats.binom.isf(ALPHA / 2, counts, 0.5)
    more = (1 + apart / differ) / 2
    seen = stats.binom.sf(beyond, counts, more) + stats.binom.cdf(counts - beyond - 1, counts, more)
    return float(stats.binom.pmf(counts, items, differ) @ seen)


def _spread(items: Floats) -> float | None:
    return None if items.size < 2 or constant(items) else float(items.std(ddof=1))


@dataclass(frozen=True, slots=True)
class PassPrice:
    """What each extra pass costs, in USD: the difference in cost over that in passes, and its interval.

    ``usd`` is None where the passes may not differ at all: dividing by what may be 0 tells nothing. ``note`` says so.
    """

    usd: float | None
    interval: Interval
    note: str = ""


NO_PRICE = "the pass rates may be equal, so an extra pass has no price that these items could tell"


def price_of_a_pass(costs: Floats, passes: Floats, seed: int = 0) -> PassPrice:
    """Dollars for each extra pass. ``costs`` in USD and ``passes``: the differences of pairs, items × repeats.

    The interval is a paired bootstrap of the ratio (scipy.stats.bootstrap); there is none where the interval of the
    difference in passes holds 0.
    """
    both = ~np.isnan(costs) & ~np.isnan(passes)
    apart = of_rates_apart(np.where(both, passes, np.nan))
    if not apart.known or apart.has(0.0):
        return PassPrice(None, Interval(None, None, "none", NO_PRICE), NO_PRICE)
    means = [item_means(np.where(both, it, np.nan)) for it in (costs, passes)]
    usd, more = (it[~np.isnan(it)] for it in means)
    return PassPrice(float(usd.mean() / more.mean()), of_ratio(usd, more, seed))
