"""Percentiles, the same in a run's reading and over the requests of a bench."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` (0 to 1) of ``values`` lie; ``None`` for no values.

    Linear interpolation between the closest ranks: type 7 of Hyndman and Fan (1996), numpy's default.
    """
    if not values:
        return None
    ranked = sorted(values)
    rank = share * (len(ranked) - 1)
    low = int(rank)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (rank - low)
