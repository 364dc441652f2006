"""Cost over time, and cost against latency, as one chart: interactive where the front end can, a picture elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from tokmagic.core.money import Precision
from tokmagic.core.record import RunRecord
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.reports.points import MOST, Point, by_latency, over_time, priced, total_precision, total_usd

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
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise UsageError(f"%cost plot needs the package {error.name}; run: pip install 'tokmagic[report]'") from None
    points = priced(records)
    if not points:
        raise UsageError("no run here has a price to draw; set one with %price and run a cell")
    chart = (_over_time(altair, points) | _against_latency(altair, points)).configure(background="white")
    spec = chart.to_dict()
    png = bytes(vl_convert.vegalite_to_png(spec, scale=2))
    version = altair.SCHEMA_VERSION.lstrip("v").partition(".")[0]
    together = " (runs near each other are drawn together)" if len(points) > MOST else ""
    says = f"{numbers.counted(len(points), 'run')}, {_total(points)} in all{together}"
    return Plot(spec, png, f"application/vnd.vegalite.v{version}+json", says)


def _total(points: list[Point]) -> str:
    return numbers.usd_marked(total_usd(points), total_precision(points))


def _over_time(altair: Any, points: list[Point]) -> Any:
    drawn = over_time(points)
    notes = [f"{len(points):,} runs in {len(drawn):,} spans of time"] if len(drawn) < len(points) else []
    # A line has no marks of its own, so the title says what its end is worth.
    notes += [f"{_total(points)} in all"] if total_precision(points) != Precision() else []
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
