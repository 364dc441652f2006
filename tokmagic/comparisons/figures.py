"""The figures of a comparison: each arm's means, and what it differs by from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tokmagic.comparisons.differences import Difference, PassPrice, difference, holm, price_of_a_pass
from tokmagic.comparisons.intervals import Interval, item_means, of_mean, of_rate

if TYPE_CHECKING:
    from tokmagic.comparisons.intervals import Floats

METRICS = ("score", "usd", "tokens", "latency_s")


@dataclass(frozen=True, slots=True)
class Level:
    """An arm's mean over the items of which every arm has a value, with its interval. ``runs`` are those of the arm."""

    runs: int
    items: int
    mean: float | None
    interval: Interval


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm: levels by metric; of all but the baseline also differences, and the price of an extra pass."""

    label: str
    levels: Mapping[str, Level]
    differences: Mapping[str, Difference]
    pass_price: PassPrice | None = None


def figures(labels: Sequence[str], values: Mapping[str, Floats], *, passes: bool, seed: int) -> list[ArmFigures]:
    """The figures of each arm, the baseline's first; p values are corrected over all arms for each metric.

    ``values`` by metric: arms × items × repeats, NaN where there is none. A metric without any value is left out.
    """
    known = {metric: values[metric] for metric in METRICS if not np.isnan(values[metric]).all()}
    shared = {metric: _of_all(values) for metric, values in known.items()}
    apart: dict[str, list[Difference]] = {}
    for metric, all_arms in known.items():
        rate = metric == "score" and passes
        apart[metric] = holm([difference(all_arms[0], it, passes=rate, seed=seed) for it in all_arms[1:]])
    return [
        ArmFigures(
            label,
            {metric: _level(metric, it[arm], passes=passes, seed=seed) for metric, it in shared.items()},
            {metric: it[arm - 1] for metric, it in apart.items()} if arm else {},
            _pass_price(known, arm, seed) if arm and passes else None,
        )
        for arm, label in enumerate(labels)
    ]


def level_means(values: Floats) -> list[float | None]:
    """Each arm's mean over the items of which every arm has a value, the one that its level has; None without any.

    ``values``: arms × items × repeats, NaN where there is none.
    """
    return [float(it.mean()) if it.size else None for it in map(_item_means, _of_all(values))]


def _of_all(values: Floats) -> Floats:
    """Without what some arm has no value of: means of other items would not be of the same thing.

    An arm that has no value at all, such as one whose model was given up, takes nothing from the others.
    """
    there = ~np.isnan(values)
    some = there.reshape(len(values), -1).any(axis=1)
    shared: Floats = np.where(there[some].all(axis=0), values, np.nan)
    return shared


def _item_means(values: Floats) -> Floats:
    """The mean of each item that has one."""
    items = item_means(values)
    return items[~np.isnan(items)]


def _level(metric: str, values: Floats, *, passes: bool, seed: int) -> Level:
    items = _item_means(values)
    if not items.size:
        return Level(0, 0, None, Interval(None, None, "none", "no run has a value"))
    runs = int((~np.isnan(values)).sum())
    is_score = metric == "score"
    interval = of_rate(values) if is_score and passes else of_mean(items, seed, least=-np.inf if is_score else 0.0)
    return Level(runs, items.size, float(items.mean()), interval)


def _pass_price(known: Mapping[str, Floats], arm: int, seed: int) -> PassPrice | None:
    """Of the pairs of which both cost and score are known."""
    if "usd" not in known or "score" not in known:
        return None
    costs, passes = (known[metric][arm] - known[metric][0] for metric in ("usd", "score"))
    return None if np.isnan(costs + passes).all() else price_of_a_pass(costs, passes, seed)


def frontier(arms: Sequence[ArmFigures]) -> list[int]:
    """The arms that no other beats: costs less and scores as well, or scores more at no higher cost. Cheapest first."""
    points = [
        (cost.mean, -score.mean, number)
        for number, arm in enumerate(arms)
        if (cost := arm.levels.get("usd")) and (score := arm.levels.get("score"))
        if cost.mean is not None and score.mean is not None
    ]
    best = [it for it in points if not any(_beats(other, it) for other in points)]
    return [number for _, _, number in sorted(best)]


def _beats(one: tuple[float, float, int], other: tuple[float, float, int]) -> bool:
    return one[:2] != other[:2] and one[0] <= other[0] and one[1] <= other[1]
