"""Numbers as text: the sidebar shows the same figures, as labextension/test/format.test.ts asserts of the same file."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tokmagic.comparisons.showing import shows
from tokmagic.formatting import numbers

SHOWN = json.loads((Path(__file__).parents[1] / "fixtures" / "numbers.json").read_text(encoding="utf-8"))
WAYS: dict[str, Callable[[Any], str]] = {
    "usd": lambda amount: numbers.usd(Decimal(amount)),
    "seconds": numbers.seconds,
    "milliseconds": numbers.milliseconds,
    "joules": numbers.joules,
    "duration": numbers.duration,
    "percent": numbers.percent,
    "passed": shows(passes=True)["score"][1],
    "score": shows(passes=False)["score"][1],
}


@pytest.mark.parametrize("kind", SHOWN)
def test_a_number_is_rounded_as_in_the_sidebar(kind: str) -> None:
    # Only the units are spelled apart: 3 min 20 s here, 3m 20s there.
    told = {str(value): WAYS[kind](value).replace(" ", "").replace("min", "m") for value, _ in SHOWN[kind]}
    assert told == {str(value): text for value, text in SHOWN[kind]}


def test_what_is_no_number_or_beyond_all_is_written_all_the_same() -> None:
    assert numbers.fixed(float("nan"), 1) == numbers.fixed(float("inf"), 1) == "NaN"
    assert numbers.fixed(1e300, 2).endswith(".00")
