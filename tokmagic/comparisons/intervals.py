"""95 % intervals of what is measured over items: of a mean, of pass rates, of a ratio. By scipy and statsmodels.

An item is one input; its repeats tell of each other, so they are averaged first and only items are counted. Repeats
that are identical therefore narrow nothing.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 9_999
BCA_ITEMS = 1_000
"""Beyond so many items BCa and Student's t differ by less than is shown, and BCa's jackknife takes seconds."""
FEW_ITEMS = 8
"""Of fewer items a bootstrap, which cannot leave their range, covers less than it says: 3 of 4 times with 3, 9 of 10
with 5."""
# Resampled values held at once.
_BATCH_VALUES = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval in the unit of what it is of. Ends are None where there is none; ``note`` says why."""

    low: float | None
    high: float | None
    method: str
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether there is one."""
        return self.low is not None

    def has(self, value: float) -> bool:
        """Whether a value lies in it; False where there is none."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


def item_means(values: Floats) -> Floats:
    """Each item's mean over its repeats. ``values``: items × repeats, NaN where there is none; empty items are NaN."""
    have = ~np.isnan(values)
    counts = have.sum(axis=-1)
    sums = np.where(have, values, 0.0).sum(axis=-1)
    found: Floats = np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    return found


def constant(items: Floats) -> bool:
    """Whether all are the same but for how floats round: differences of equal costs must not look like a spread."""
    return bool(np.ptp(items) <= 1e-9 * np.abs(items).max())


def expanded_level(items: int) -> float:
    """The level to ask a bootstrap for, so that 95 % is what it covers.

    A bootstrap of n items is too narrow by the factor √((n-1)/n), and by the normal's quantile in place of Student's.
    Source: T. C. Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69 (2015),
    371-386, the expanded percentile interval.
    """
    from scipy import stats

    tail = stats.norm.cdf(-stats.t.ppf((1 + LEVEL) / 2, items - 1) * np.sqrt(items / (items - 1)))
    return float(1 - 2 * max(tail, 1e-6))


def bootstrap(
    data: tuple[Floats, ...], statistic: Any, seed: int, *, resamples: int, method: str = "BCa"
) -> tuple[Floats, Floats]:
    """The ends of scipy's bootstrap interval over the last axis; NaN where the method is degenerate.

    Source: B. Efron, Better Bootstrap Confidence Intervals, JASA 82 (1987), 171-185; scipy.stats.bootstrap.
    """
    from scipy import stats

    batch = max(1, _BATCH_VALUES // data[0].size)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a degenerate interval is NaN, and told by whoever asked
        found = stats.bootstrap(
            data,
            statistic,
            axis=-1,
            vectorized=True,
            paired=len(data) > 1,
            n_resamples=resamples,
            batch=batch,
            confidence_level=expanded_level(data[0].shape[-1]),
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return np.asarray(found.low), np.asarray(found.high)


def mean(values: Floats, axis: int = -1) -> Floats:
    """The mean, as :func:`bootstrap` calls it."""
    return np.asarray(values.mean(axis=axis))


def ratio(over: Floats, under: Floats, axis: int = -1) -> Floats:
    """The ratio of two means, as :func:`bootstrap` calls it."""
    return np.asarray(over.mean(axis=axis) / under.mean(axis=axis))


def of_mean(items: Floats, seed: int = 0, *, least: float = -np.inf, most: float = np.inf) -> Interval:
    """The interval of the mean over items: BCa, and what it fell back to.

    Student's t below :data:`FEW_ITEMS` and beyond :data:`BCA_ITEMS`. Where all but a few items are the same, it reaches
    as far as either: most samples of a bootstrap have those few seldom or often, all of them on one side, so that it
    ends at what is the same. ``items``: a value each, in any unit, none of them NaN; no mean can be below ``least`` or
    above ``most``.
    """
    if items.size < 2:
        return Interval(None, None, "none", "fewer than two items have no spread")
    if constant(items):
        return Interval(None, None, "none", "it is the same for every item, so there is no spread to tell an interval")
    if items.size < FEW_ITEMS or items.size > BCA_ITEMS:
        many = f"more than {BCA_ITEMS:,}" if items.size > BCA_ITEMS else f"fewer than {FEW_ITEMS}"
        return Interval(*_students(items, least, most), "t", f"Student's t, as there are {many} items")
    found = _bootstrapped((items,), mean, seed)
    if (apart := _apart(items)) >= min(FEW_ITEMS, items.size - 1) or found.low is None or found.high is None:
        return found
    low, high = _students(items, least, most)
    told = f"as far as BCa's or Student's t reach, as all but {apart} of {items.size:,} items are the same"
    return Interval(min(low, found.low), max(high, found.high), "BCa, t", told)


def _students(items: Floats, least: float, most: float) -> tuple[float, float]:
    from statsmodels.stats.weightstats import DescrStatsW

    low, high = DescrStatsW(items).tconfint_mean(alpha=1 - LEVEL)
    return max(float(low), least), min(float(high), most)


def _apart(items: Floats) -> int:
    """How many items are not what most are, but for how floats round."""
    counts = np.unique(np.round(items / (1e-9 * np.abs(items).max())), return_counts=True)[1]
    return int(items.size - counts.max())


def of_ratio(over: Floats, under: Floats, seed: int = 0) -> Interval:
    """The interval of mean(over) / mean(under) over the same items. The second must be clearly apart from 0."""
    if over.size < FEW_ITEMS:
        return Interval(None, None, "none", f"fewer than {FEW_ITEMS} items tell no interval of a ratio")
    if over.size > BCA_ITEMS:
        low, high = bootstrap((over, under), ratio, seed, method="percentile", resamples=RESAMPLES)
        told = f"percentile bootstrap, as there are more than {BCA_ITEMS:,} items"
        return Interval(float(low), float(high), "percentile", told)
    return _bootstrapped((over, under), ratio, seed)


def _bootstrapped(data: tuple[Floats, ...], statistic: Any, seed: int) -> Interval:
    low, high = bootstrap(data, statistic, seed, resamples=RESAMPLES)
    if np.isfinite(low) and np.isfinite(high):
        return Interval(float(low), float(high), "BCa")
    low, high = bootstrap(data, statistic, seed, method="percentile", resamples=RESAMPLES)
    told = "BCa is degenerate here; a percentile bootstrap stands for it"
    if np.isfinite(low) and np.isfinite(high):
        return Interval(float(low), float(high), "percentile", told)
    return Interval(None, None, "none", "no bootstrap gives an interval here")


def of_rates_apart(apart: Floats) -> Interval:
    """The interval of the difference of two pass rates, by Tango's score test; also where no item differs.

    ``apart``: the pairs' differences, items × repeats of −1, 0 and 1, NaN where there is none. With repeats the number
    of items is the effective one, as :func:`of_rate` has it. A bootstrap ends at 0 where the few items that differ do
    so on one side, however few they are.
    Source: T. Tango, Statistics in Medicine 17 (1998), 891-908.
    """
    runs = int((~np.isnan(apart)).sum())
    means = item_means(apart)
    means = means[~np.isnan(means)]
    if not means.size:
        return Interval(None, None, "none", "no item has both")
    shares = [item_means(np.clip(sign * apart, 0, None)) for sign in (1, -1)]
    more, fewer = (float(it[~np.isnan(it)].mean()) for it in shares)
    effective = _effective(means, runs, more + fewer - (more - fewer) ** 2)
    low, high = (_tangos_end(more, fewer, effective, side) for side in (-1.0, 1.0))
    return Interval(low, high, "Tango")


def _tangos_end(more: float, fewer: float, items: float, side: float) -> float:
    """The difference furthest on one ``side`` that Tango's test does not refuse, −1 to 1."""
    from scipy import optimize, stats

    limit, found = float(stats.norm.ppf((1 + LEVEL) / 2)), more - fewer
    near = found + side * 1e-9  # where no item differs there is no variance at 0 itself
    if side * near >= 1:
        return side

    def beyond(true: float) -> float:
        # The likeliest share of items that lose a pass, where so much is the true difference.
        linear = (2 - found) * true - more - fewer
        lost = (math.sqrt(max(0.0, linear**2 + 8 * fewer * true * (1 - true))) - linear) / 4
        variance = max(0.0, 2 * lost + true * (1 - true)) / items
        return side * (true - found) - limit * math.sqrt(variance)

    return float(optimize.brentq(beyond, near, side)) if beyond(side) > 0 else side


def of_rate(passed: Floats) -> Interval:
    """Wilson's interval of a pass rate, 0 to 1. ``passed``: items × repeats of 0 and 1, NaN where there is none.

    With repeats the number of items is replaced by the effective one. Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    from statsmodels.stats.proportion import proportion_confint

    runs = int((~np.isnan(passed)).sum())
    means = item_means(passed)
    means = means[~np.isnan(means)]
    if not means.size:
        return Interval(None, None, "none", "no run has a score")
    rate = float(means.mean())
    effective = _effective(means, runs, rate * (1 - rate))
    low, high = proportion_confint(rate * effective, effective, alpha=1 - LEVEL, method="wilson")
    return Interval(float(low), float(high), "Wilson")


def _effective(means: Floats, runs: int, variance: float) -> float:
    """How many independent items ``runs`` are worth, from the items' means and the ``variance`` of a run.

    That is variance ÷ (variance of the mean over items): the items where repeats are identical, nearly the runs where
    they are independent. Of few items their spread is not well known, so that Student's t stands for the normal.
    Source: C. Franco, R. J. A. Little, T. A. Louis and E. V. Slud, Journal of Survey Statistics and Methodology 7
    (2019), 334-364; E. L. Korn and B. I. Graubard, Survey Methodology 24 (1998), 193-201.
    """
    from scipy import stats

    if means.size < 2 or variance < 1e-12:  # all are the same, which repeats do not make surer
        return float(means.size)
    spread, end = float(means.var()), (1 + LEVEL) / 2
    worth = min(runs, means.size * variance / spread) if spread > 1e-12 else runs
    return max(float(means.size), worth * float(stats.norm.ppf(end) / stats.t.ppf(end, means.size - 1)) ** 2)
