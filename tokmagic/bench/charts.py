"""A bench as a chart: latency and throughput by the number of requests at once, with the roof as a dashed line."""

from __future__ import annotations

from typing import Any

from tokmagic.bench import roofs
from tokmagic.bench.running import Bench
from tokmagic.bench.showing import heading
from tokmagic.formatting import numbers
from tokmagic.reports.plots import Plot, drawing, rendered

_WIDTH, _HEIGHT = 300, 220
_COLOURS = {
    "TTFT": "#4c78a8",
    "least TTFT": "#4c78a8",
    "ITL": "#e45756",
    "least ITL": "#e45756",
    "TPOT": "#f2a541",
}
_MEDIANS = (("TTFT", "ttft_s"), ("ITL", "itl_s"), ("TPOT", "tpot_s"))


def plot(bench: Bench) -> Plot:
    """Draw a bench that has a level. Raises UsageError without altair."""
    altair, _ = drawing("a bench's plot")
    title = altair.Title(heading(bench.info), subtitle=_subtitle(bench))
    panels = altair.hconcat(_latency(altair, bench), _throughput(altair, bench), title=title)
    chart = panels.configure(background="white").resolve_scale(color="independent")
    return rendered(chart, f"latency and throughput at {numbers.counted(len(bench.levels), 'level')} of concurrency")


def _subtitle(bench: Bench) -> str:
    plan = bench.plan
    return f"{plan.prompt_tokens:,} prompt and up to {plan.output_tokens:,} output tokens"


def _latency(altair: Any, bench: Bench) -> Any:
    points: list[dict[str, Any]] = []
    for level in bench.levels:
        for name, field in _MEDIANS:
            values = getattr(level, field)
            if values is not None:
                both = {"ms": 1e3 * values.at(0.5), "p95": 1e3 * values.at(0.95)}
                points.append({"concurrency": level.concurrency, "time": name, **both})
    points += _least(bench)
    data = altair.Data(values=points)
    x = altair.X("concurrency:O", title="requests at once", axis=altair.Axis(labelAngle=0))
    y = altair.Y("ms:Q", title="ms (log)").scale(type="log")
    drawn = {point["time"] for point in points}
    named = {name: color for name, color in _COLOURS.items() if name in drawn}
    scale = altair.Scale(domain=list(named), range=list(named.values()))
    color = altair.Color("time:N", title="median, with the 95th percentile", scale=scale)
    base = altair.Chart(data, title="Latency").encode(x=x, color=color)
    measured = base.transform_filter("isValid(datum.p95)")
    roof = base.transform_filter("!isValid(datum.p95)")
    return altair.layer(
        measured.mark_line(point=True).encode(y=y, tooltip=["concurrency:O", "time:N", "ms:Q", "p95:Q"]),
        measured.mark_rule(opacity=0.5).encode(y=y, y2="p95:Q"),
        roof.mark_line(strokeDash=[4, 4]).encode(y=y),
        roof.mark_point(shape="cross").encode(y=y, tooltip=["concurrency:O", "time:N", "ms:Q"]),
    ).properties(width=_WIDTH, height=_HEIGHT)


def _least(bench: Bench) -> list[dict[str, Any]]:
    """The least times that the device allows, as points without a percentile."""
    if bench.roof is None or bench.work is None:
        return []
    found = []
    for level in bench.levels:
        for name, of in (("least ITL", roofs.decode), ("least TTFT", roofs.prefill)):
            if (beside := of(level, bench.roof, bench.work)) is not None:
                found.append({"concurrency": level.concurrency, "time": name, "ms": 1e3 * beside.least_s})
    return found


def _throughput(altair: Any, bench: Bench) -> Any:
    points = [
        {"concurrency": level.concurrency, "throughput": level.output_per_s}
        for level in bench.levels
        if level.output_per_s is not None
    ]
    x = altair.X("concurrency:O", title="requests at once", axis=altair.Axis(labelAngle=0))
    y = altair.Y("throughput:Q", title="output token/s").scale(zero=True)
    base = altair.Chart(altair.Data(values=points), title="Throughput").encode(x=x, y=y)
    drawn = base.mark_line(point=True).encode(tooltip=["concurrency:O", "throughput:Q"])
    return drawn.properties(width=_WIDTH, height=_HEIGHT)
