"""The points of a chart: a run each, or, where there are too many to draw, sums and means over runs near each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal, localcontext
from math import isqrt
from typing import Any, NamedTuple

from tokmagic.core.money import CERTAIN, Precision, Uncertainty
from tokmagic.core.record import RunRecord

MOST = 1_000
"""More points make the notebook's file large and the picture no clearer."""


class Point(NamedTuple):
    """What is drawn of a run that has a price. USD, seconds, tokens; None is unknown."""

    at: datetime
    model: str
    usd: Decimal
    latency_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    uncertainty: Uncertainty = CERTAIN


def priced(records: Iterable[RunRecord]) -> list[Point]:
    """The runs that have a price, in their order."""
    return [
        Point(
            record.started_at,
            record.info.name,
            record.reading.cost.usd,
            # A replayed answer has no latency of its own.
            None if record.status == "cached" else record.reading.latency_s,
            record.reading.usage.input_tokens,
            record.reading.usage.output_tokens,
            Uncertainty.of(record.reading.cost),
        )
        for record in records
        if record.reading.cost.usd is not None
    ]


def total_usd(points: Iterable[Point]) -> Decimal:
    """The exact sum."""
    with localcontext(prec=60):
        return sum((point.usd for point in points), Decimal(0))


def total_precision(points: Iterable[Point]) -> Precision:
    """Whether the sum is only an estimate, and what it bounds."""
    return sum((point.uncertainty for point in points), CERTAIN).precision(0)


def over_time(points: list[Point]) -> list[dict[str, Any]]:
    """The cost so far, in the order of time: after each run, or after each of at most :data:`MOST` equal spans.

    Sums are exact until they are drawn, as floats: a picture has no picodollars.
    """
    ordered = sorted(points, key=lambda point: point.at)
    span = _bins([point.at.timestamp() for point in ordered], MOST) if len(points) > MOST else None
    groups: dict[int, list[Point]] = {}
    for number, point in enumerate(ordered):
        groups.setdefault(span(point.at.timestamp()) if span else number, []).append(point)
    drawn, so_far = [], Decimal(0)
    for group in groups.values():
        spent = total_usd(group)
        with localcontext(prec=60):
            so_far += spent
        at = group[-1].at.astimezone().isoformat(timespec="milliseconds")
        drawn.append({"at": at, "runs": len(group), "usd": float(spent), "sum_usd": float(so_far)})
    return drawn


def by_latency(points: list[Point]) -> list[dict[str, Any]]:
    """Cost against latency by model: a run each, or, for more than :data:`MOST`, means over the squares of a grid.

    A square that holds a single run shows it as it was, so what stands out is never smoothed away.
    """
    timed = [point for point in points if point.latency_s is not None]
    if len(timed) <= MOST:
        return [_mean([point]) for point in timed]
    side = max(1, isqrt(MOST // len({point.model for point in timed})))
    across = _bins([point.latency_s or 0.0 for point in timed], side)
    up = _bins([float(point.usd) for point in timed], side)
    squares: dict[tuple[str, int, int], list[Point]] = {}
    for point in timed:
        squares.setdefault((point.model, across(point.latency_s or 0.0), up(float(point.usd))), []).append(point)
    return [_mean(group) for group in squares.values()]


def _mean(group: list[Point]) -> dict[str, Any]:
    """The mean of runs of one model; what is unknown of one of them is unknown."""
    return {
        "model": group[0].model,
        "runs": len(group),
        "usd": float(total_usd(group)) / len(group),
        "latency_s": _average([point.latency_s for point in group]),
        "input_tokens": _average([point.input_tokens for point in group]),
        "output_tokens": _average([point.output_tokens for point in group]),
    }


def _average(values: list[Any]) -> float | None:
    return None if None in values else sum(values) / len(values)


def _bins(values: list[float], count: int) -> Callable[[float], int]:
    """Which of ``count`` equal parts of the values' range a value is in."""
    low, high = min(values), max(values)
    width = (high - low) / count

    def number(value: float) -> int:
        return min(count - 1, int((value - low) / width)) if width else 0

    return number
