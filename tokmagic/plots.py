"""Cost over time, and cost against latency, as one chart: interactive where the front end can, a picture elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from tokmagic.errors import UsageError
from tokmagic.events import RunRecord

_WIDTH, _HEIGHT = 320, 240


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
    """Draw runs that have a price. Raises UsageError where there is none, and without altair."""
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise UsageError(f"%cost plot needs the package {error.name}; run: pip install 'tokmagic[report]'") from None
    points, total = _points(records)
    if not points:
        raise UsageError("no run here has a price to draw; set one with %price and run a cell")
    spec, version = _spec(altair, points)
    png = bytes(vl_convert.vegalite_to_png(spec, scale=2))
    return Plot(spec, png, f"application/vnd.vegalite.v{version}+json", f"{len(points)} runs, ${total:.6f} in all")


def _spec(altair: Any, points: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The chart as Vega-Lite, and the version of that language."""
    data = altair.Data(values=points)
    shared = {"width": _WIDTH, "height": _HEIGHT}
    colour = altair.Color("model:N", title="model")
    over_time = (
        altair.Chart(data, title="Cost over time")
        .mark_line(interpolate="step-after", point=True)
        .encode(
            x=altair.X("at:T", title="time"),
            y=altair.Y("sum_usd:Q", title="cost so far (USD)"),
            tooltip=["at:T", "model:N", "usd:Q", "sum_usd:Q"],
        )
        .properties(**shared)
    )
    against = (
        altair.Chart(data, title="Cost against latency")
        .mark_circle(size=60, opacity=0.7)
        .encode(
            x=altair.X("latency_s:Q", title="latency (s)"),
            y=altair.Y("usd:Q", title="cost of a run (USD)"),
            color=colour,
            tooltip=["model:N", "input_tokens:Q", "output_tokens:Q", "latency_s:Q", "usd:Q"],
        )
        .properties(**shared)
    )
    chart = (over_time | against).configure(background="white")
    return chart.to_dict(), altair.SCHEMA_VERSION.lstrip("v").partition(".")[0]


def _points(records: Iterable[RunRecord]) -> tuple[list[dict[str, Any]], float]:
    """A point for each priced run. Floats: a picture has no picodollars."""
    points: list[dict[str, Any]] = []
    total = 0.0
    for record in records:
        usd = record.reading.cost.usd
        if usd is None:
            continue
        total += float(usd)
        usage = record.reading.usage
        points.append(
            {
                "at": record.started_at.astimezone().isoformat(timespec="milliseconds"),
                "model": record.info.name,
                "usd": float(usd),
                "sum_usd": total,
                # A replayed answer has no latency of its own.
                "latency_s": None if record.status == "cached" else record.reading.latency_s,
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
            }
        )
    return points, total
