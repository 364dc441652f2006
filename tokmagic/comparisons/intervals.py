"""95 % intervals of what is measured over items: of a mean, of a pass rate, of a ratio. By scipy and statsmodels.

An item is one input; its repeats tell of each other, so they are averaged first and only items are counted. Repeats
that are identical therefore narrow nothing.
"""

from __future__ import annotations

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
FEW_ITEMS = 5
"""Of fewer items a bootstrap, which cannot leave their range, covers much less than it says: 3 of 4 times with 3."""
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

    Student's t below :data:`FEW_ITEMS` and beyond :data:`BCA_ITEMS`. ``items``: a value each, in any unit, none of them
    NaN; no mean can be below ``least`` or above ``most``.
    """
    if items.size < 2:
        return Interval(None, None, "none", "fewer than two items have no spread")
    if constant(items):
        return Interval(None, None, "none", "it is the same for every item, so there is no spread to tell an interval")
    if items.size < FEW_ITEMS or items.size > BCA_ITEMS:
        from statsmodels.stats.weightstats import DescrStatsW

        low, high = DescrStatsW(items).tconfint_mean(alpha=1 - LEVEL)
        many = f"more than {BCA_ITEMS:,}" if items.size > BCA_ITEMS else f"fewer than {FEW_ITEMS}"
        ends = max(float(low), least), min(float(high), most)
        return Interval(*ends, "t", f"Student's t, as there are {many} items")
    return _bootstrapped((items,), mean, seed)


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


def of_rate(passed: Floats) -> Interval:
    """Wilson's interval of a pass rate, 0 to 1. ``passed``: items × repeats of 0 and 1, NaN where there is none.

    With repeats the number of items is replaced by the effective one, p(1-p) ÷ (variance of the mean over items), which
    is that of the items where repeats are identical and that of the runs where they are independent.
    Source: E. B. Wilson, JASA 22 (1927), 209-212; with an effective sample size as in C. Franco, R. J. A. Little,
    T. A. Louis and E. V. Slud, Journal of Survey Statistics and Methodology 7 (2019), 334-364.
    """
    from statsmodels.stats.proportion import proportion_confint

    runs = int((~np.isnan(passed)).sum())
    means = item_means(passed)
    means = means[~np.isnan(means)]
    if not means.size:
        return Interval(None, None, "none", "no run has a score")
    rate, spread = float(means.mean()), float(means.var())
    if spread > 0:
        effective = min(float(runs), means.size * rate * (1 - rate) / spread)
    else:  # all passed, or none; or each item passed as often as the others
        effective = float(means.size if rate in (0.0, 1.0) else runs)
    low, high = proportion_confint(rate * effective, effective, alpha=1 - LEVEL, method="wilson")
    return Interval(float(low), float(high), "Wilson")
