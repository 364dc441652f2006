"""The chart of a notebook's costs: a specification for front ends that draw it, a picture for those that do not."""

from __future__ import annotations

import base64
import struct
from datetime import timedelta

import pytest

from tests.test_report import START, run
from tokmagic.errors import UsageError
from tokmagic.plots import plot


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
    points = spec["data"]["values"] if "data" in spec else left["data"]["values"]
    assert [point["sum_usd"] for point in points] == pytest.approx([0.001, 0.003, 0.006])
    assert bundle["text/plain"] == "3 runs, $0.006000 in all"


def test_nothing_to_draw_is_told() -> None:
    with pytest.raises(UsageError, match="no run here has a price to draw; set one with %price"):
        plot([run()])
