"""The chart of a notebook's costs: a specification for front ends that draw it, a picture for those that do not."""

from __future__ import annotations

import base64
import json
import random
import struct
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.test_tables import GUESSED, LEAST, MARKS, START, Known, known, run
from tokmagic.core.record import RunRecord
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.reports.plots import MOST, Point, by_latency, over_time, plot


def test_a_chart_brings_its_picture_and_its_numbers_along() -> None:
    runs = [run(str(n), cost=f"0.00{n}", at=START + timedelta(minutes=n)) for n in range(1, 4)] + [run("unpriced")]
    made = plot(runs)
    bundle = made._repr_mimebundle_()
    picture = base64.b64decode(bundle["image/png"])
    assert picture.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 1_200
    assert height > 400
    ((mime, spec),) = [(key, value) for key, value in bundle.items() if key.startswith("application/vnd.vegalite.v")]
    assert mime.endswith("+json")
    left, right = spec["hconcat"]
    assert left["encoding"]["y"]["title"] == "cost so far (USD)"
    assert right["encoding"]["x"]["title"] == "latency (s)"
    points = left["data"]["values"]
    assert [point["sum_usd"] for point in points] == pytest.approx([0.001, 0.003, 0.006])
    assert bundle["text/plain"] == "3 runs, ≥$0.0060 in all (1 run without a price is not in it)"


def test_a_chart_says_how_sure_its_sum_is() -> None:
    made = plot(known(LEAST, GUESSED))
    assert repr(made) == "2 runs, ~≥$2.00 in all"
    assert made.spec["hconcat"][0]["title"]["subtitle"] == "~≥$2.00 in all"
    assert made.spec["hconcat"][1]["title"]["subtitle"] == ""


@pytest.mark.parametrize(("costs", "shown"), [it for it in MARKS if "$" in it[1]])
def test_a_charts_sum_is_as_sure_as_the_tables(costs: list[Known], shown: str) -> None:
    owing_none = [run("r", status="refused"), run("g", status="running", cost="7")]
    made = plot([*known(*costs), *owing_none])
    assert repr(made).partition(", ")[2].partition(" ")[0] == shown
    subtitle = made.spec["hconcat"][0]["title"]["subtitle"]
    assert subtitle.partition(" ")[0] == (shown if not shown.startswith("$") else ""), "a line has no marks"


def test_nothing_to_draw_is_told() -> None:
    with pytest.raises(UsageError, match="no run here has a price to draw; set one with %price"):
        plot([run()])


@pytest.mark.slow
def test_many_runs_are_drawn_together_and_the_chart_says_so() -> None:
    dice = random.Random(1)
    moments = [START + timedelta(minutes=dice.random() * 10**6) for _ in range(20_000)]
    runs = [timed(f"{dice.randrange(1, 10**9)}e-12", dice.random(), at) for at in moments]
    runs += [timed("9", 30.0, START), replace(run(cost="0", status="cached"), started_at=START)]
    made = plot(runs)
    size = len(json.dumps(made._repr_mimebundle_()))
    assert size < 500_000
    left, right = made.spec["hconcat"]
    spent, drawn = left["data"]["values"], right["data"]["values"]
    assert len(spent) <= MOST
    assert sum(point["runs"] for point in spent) == 20_002
    exact = sum((record.reading.cost.usd or 0 for record in runs), Decimal(0))
    assert spent[-1]["sum_usd"] == float(exact)
    assert [point["at"] for point in spent] == sorted(point["at"] for point in spent)
    assert left["title"]["subtitle"] == f"20,002 runs in {len(spent):,} spans of time"
    assert len(drawn) <= MOST
    assert sum(point["runs"] for point in drawn) == 20_001, "a replay has no latency of its own"
    (dear,) = [point for point in drawn if point["usd"] > 1]
    assert (dear["usd"], dear["latency_s"], dear["runs"]) == (9, 30.0, 1), "what stands out is drawn as it was"
    assert right["title"]["subtitle"] == f"20,001 runs as {len(drawn):,} means of nearby runs"
    assert repr(made) == f"20,002 runs, {numbers.usd(exact)} in all (runs near each other are drawn together)"


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**18), st.none() | st.floats(0, 100), st.sampled_from("mno")),
        max_size=40,
    )
)
def test_drawing_together_loses_no_run_and_no_picodollar(drawn: list[tuple[int, int, float | None, str]]) -> None:
    points = [
        Point(START + timedelta(seconds=second), model, Decimal(pico).scaleb(-12), latency_s, 1, 1)
        for second, pico, latency_s, model in drawn
    ]
    with patch("tokmagic.reports.plots.MOST", 9):
        spent, scattered = over_time(points), by_latency(points)
    assert len(spent) <= 9
    assert len(scattered) <= 9
    assert sum(point["runs"] for point in spent) == len(points)
    assert sum(point["runs"] for point in scattered) == sum(point.latency_s is not None for point in points)
    if points:
        assert spent[-1]["sum_usd"] == float(sum((point.usd for point in points), Decimal(0)))


def timed(cost: str, latency_s: float, at: datetime) -> RunRecord:
    made = run(cost=cost, at=at)
    return replace(made, reading=replace(made.reading, latency_s=latency_s))
