"""Cost against quality as a chart: each arm with its intervals, and the line of those that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokmagic.comparisons.figures import ArmFigures, frontier
from tokmagic.errors import UsageError
from tokmagic.reports.plots import Plot, drawing, rendered

_WIDTH, _HEIGHT = 420, 300


def plot(arms: Sequence[ArmFigures], score: str) -> Plot:
    """Draw mean cost and mean score. Raises UsageError where either is unknown, and without altair."""
    altair, _ = drawing("a comparison's plot")
    points = _points(arms)
    if not points:
        raise UsageError("there is no cost or no score to draw; give score, and set a price with %price")
    data = altair.Data(values=points)
    x, y = altair.X("usd:Q", title="cost of a run (USD)"), altair.Y("score:Q", title=score).scale(zero=False)
    base = altair.Chart(data).encode(x=x, y=y)
    best = [points[at]["variant"] for at in range(len(points)) if points[at]["best"]]
    layers = [
        altair.Chart(data).mark_rule(opacity=0.5).encode(x="usd_low:Q", x2="usd_high:Q", y=y, color="variant:N"),
        altair.Chart(data).mark_rule(opacity=0.5).encode(x=x, y="score_low:Q", y2="score_high:Q", color="variant:N"),
        base.transform_filter("datum.best").mark_line(color="gray", strokeDash=[4, 4]),
        base.mark_circle(size=90).encode(
            color=altair.Color("variant:N", title="variant"), tooltip=["variant:N", "usd:Q", "score:Q"]
        ),
        base.mark_text(dy=-10).encode(text="variant:N"),
    ]
    title = altair.Title(
        "Cost against quality", subtitle="means with 95 % intervals; dashed: no other beats these in both"
    )
    chart = altair.layer(*layers, title=title).properties(width=_WIDTH, height=_HEIGHT).configure(background="white")
    return rendered(chart, f"cost against quality: {', '.join(best)} beaten by no other in both")


def _points(arms: Sequence[ArmFigures]) -> list[dict[str, Any]]:
    best, found = frontier(arms), []
    for number, arm in enumerate(arms):
        cost, score = arm.levels.get("usd"), arm.levels.get("score")
        if cost is None or score is None or cost.mean is None or score.mean is None:
            continue
        point: dict[str, Any] = {"variant": arm.label, "best": number in best}
        for name, level in (("usd", cost), ("score", score)):
            ends = level.interval
            # What is the same for every item has no interval, and is drawn without one.
            low, high = (level.mean, level.mean) if ends.low is None else (ends.low, ends.high)
            point |= {name: level.mean, f"{name}_low": low, f"{name}_high": high}
        found.append(point)
    return found
