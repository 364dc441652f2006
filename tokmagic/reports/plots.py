"""Cost over time, and cost against latency, as one chart: interactive where the front end can, a picture elsewhere.

A point is a run, or, where there are too many to draw, the sums and means over runs near each other.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal, localcontext
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

from tokmagic.core.files import atomic_write
from tokmagic.core.money import CERTAIN, Precision, Uncertainty
from tokmagic.core.record import RunRecord
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers

MOST = 1_000
"""More points make the notebook's file large and the picture no clearer."""
_WIDTH, _HEIGHT = 320, 240
# Beyond this many a line shows more without dots.
_MOST_DOTS = 200


class Plot:
    """A chart that brings its picture along, so that it shows without a renderer and in an exported notebook."""

    def __init__(self, spec: dict[str, Any], png: bytes, mime: str, says: str) -> None:
        self.spec = spec
        self.png = png
        self._mime = mime
        self._says = says

    def __repr__(self) -> str:
        return self._says

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {
            self._mime: self.spec,
            "image/png": base64.b64encode(self.png).decode("ascii"),
            "text/plain": self._says,
        }


def plot(records: Iterable[RunRecord]) -> Plot:
    """Draw runs that have a price. Raises UsageError where there is none, and without altair.

    The chart holds at most a few thousand points, however many runs there are: beyond that runs are drawn together.
    """
    altair, _ = drawing("%cost plot")
    points, unpriced = priced(records)
    if not points:
        raise UsageError("no run here has a price to draw; set one with %price and run a cell")
    chart = (_over_time(altair, points, unpriced) | _against_latency(altair, points)).configure(background="white")
    notes = ["runs near each other are drawn together"] if len(points) > MOST else []
    if unpriced:
        are = "is" if unpriced == 1 else "are"
        notes.append(f"{numbers.counted(unpriced, 'run')} without a price {are} not in it")
    beside = f" ({'; '.join(notes)})" if notes else ""
    return rendered(chart, f"{numbers.counted(len(points), 'run')}, {_total(points, unpriced)} in all{beside}")


def drawing(what: str) -> tuple[Any, Any]:
    """The packages that charts are made with, altair and vl_convert. Raises UsageError, which names ``what``."""
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise UsageError(f"{what} needs the package {error.name}; run: pip install 'tokmagic[report]'") from None
    return altair, vl_convert


def rendered(chart: Any, says: str) -> Plot:
    """An altair chart with its picture; ``says`` stands for it where neither can be shown."""
    altair, vl_convert = drawing("a chart")
    spec = chart.to_dict()
    png = bytes(vl_convert.vegalite_to_png(spec, scale=2))
    version = altair.SCHEMA_VERSION.lstrip("v").partition(".")[0]
    return Plot(spec, png, f"application/vnd.vegalite.v{version}+json", says)


def save(plot: Plot, path: Path) -> None:
    """Write a chart's picture: SVG or PNG, by the file's ending. Raises UsageError."""
    check_picture(path)
    try:
        if path.suffix.lower() == ".svg":
            _, vl_convert = drawing("a picture")
            atomic_write(path, vl_convert.vegalite_to_svg(plot.spec))
        else:
            path.write_bytes(plot.png)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}; name another file") from error


def check_picture(path: Path) -> None:
    """Raise UsageError for a file whose ending names no kind of picture."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"{path} is neither .svg nor .png; name the picture with one of these endings")


def _total(points: list[Point], unpriced: int) -> str:
    return numbers.usd_marked(total_usd(points), total_precision(points, unpriced))


def _over_time(altair: Any, points: list[Point], unpriced: int) -> Any:
    drawn = over_time(points)
    notes = [f"{len(points):,} runs in {len(drawn):,} spans of time"] if len(drawn) < len(points) else []
    # A line has no marks of its own, so the title says what its end is worth.
    notes += [f"{_total(points, unpriced)} in all"] if total_precision(points, unpriced) != Precision() else []
    note = "; ".join(notes)
    return (
        altair.Chart(altair.Data(values=drawn), title=altair.Title("Cost over time", subtitle=note))
        .mark_line(interpolate="step-after", point=len(drawn) <= _MOST_DOTS)
        .encode(
            x=altair.X("at:T", title="time"),
            y=altair.Y("sum_usd:Q", title="cost so far (USD)"),
            tooltip=["at:T", "runs:Q", "usd:Q", "sum_usd:Q"],
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )


def _against_latency(altair: Any, points: list[Point]) -> Any:
    drawn = by_latency(points)
    timed = sum(point.latency_s is not None for point in points)
    thinned = len(drawn) < timed
    note = f"{timed:,} runs as {len(drawn):,} means of nearby runs" if thinned else ""
    size = {"size": altair.Size("runs:Q", title="runs")} if thinned else {}
    return (
        altair.Chart(altair.Data(values=drawn), title=altair.Title("Cost against latency", subtitle=note))
        .mark_circle(opacity=0.7, **({} if thinned else {"size": 60}))
        .encode(
            x=altair.X("latency_s:Q", title="latency (s)"),
            y=altair.Y("usd:Q", title="cost of a run (USD)"),
            color=altair.Color("model:N", title="model"),
            tooltip=["model:N", "runs:Q", "input_tokens:Q", "output_tokens:Q", "latency_s:Q", "usd:Q"],
            **size,
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )


class Point(NamedTuple):
    """What is drawn of a run that has a price. USD, seconds, tokens; None is unknown."""

    at: datetime
    model: str
    usd: Decimal
    latency_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    uncertainty: Uncertainty = CERTAIN


def priced(records: Iterable[RunRecord]) -> tuple[list[Point], int]:
    """The ended runs that have a price, in their order, and of how many others it is missing."""
    points, unpriced = list[Point](), 0
    for record in records:
        if record.status in ("running", "refused"):  # as in the tables' sums
            continue
        usd = record.reading.cost.usd
        if usd is None:
            unpriced += 1
            continue
        points.append(
            Point(
                record.started_at,
                record.info.name,
                usd,
                # A replayed answer has no latency of its own.
                None if record.status == "cached" else record.reading.latency_s,
                record.reading.usage.input_tokens,
                record.reading.usage.output_tokens,
                Uncertainty.of(record.reading.cost),
            )
        )
    return points, unpriced


def total_usd(points: Iterable[Point]) -> Decimal:
    """The exact sum."""
    with localcontext(prec=60):
        return sum((point.usd for point in points), Decimal(0))


def total_precision(points: Iterable[Point], unpriced: int) -> Precision:
    """Whether the sum is only an estimate, and what it bounds, where so many runs are missing from it."""
    return sum((point.uncertainty for point in points), CERTAIN).precision(unpriced)


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
