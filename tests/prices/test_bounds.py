"""The most that a run can cost: never less than what it costs."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prices.test_bills import TIERED, D, usage
from tokmagic.core.money import Rates, Tier
from tokmagic.prices import (
    bill,
    bound_usd,
    input_usd,
)


@pytest.mark.parametrize(
    ("rates", "itl_s", "expected"),
    [
        (Rates(input=D(1), output=D(4)), None, (D("0.0002"), False)),
        (Rates(input=D(1), output=D(4), cached=D("0.1")), None, (D("0.0002"), False)),
        (Rates(input=D(1), output=D(4), cache_write=D("1.25")), None, (D("0.00021"), False)),
        (Rates(input=D(1), output=D(4), cached=D(3), cache_write=D("1.25")), None, (D("0.00028"), False)),
        (replace(TIERED, tiers=(Tier(40, D(1), D(4)),)), None, (D("0.00021"), False)),
        (replace(TIERED, tiers=(Tier(39, D(2), D(6), None, D("2.5")),)), None, (D("0.00034"), False)),
        (replace(TIERED, tiers=(Tier(39, D("0.5"), D(6)),)), None, (D("0.00029"), False)),
        (Rates(device_hour=D("3.6")), 0.02, (D("0.0008"), True)),
        (Rates(input=D(1), output=D(4), device_hour=D(99)), 0.02, (D("0.0002"), False)),
        (Rates(device_hour=D("3.6")), None, (None, True)),
        (Rates(), 0.02, (None, False)),
        (Rates(input=D(1)), None, (None, False)),
    ],
)
def test_the_most_that_a_run_can_cost(rates: Rates, itl_s: float | None, expected: tuple[Decimal | None, bool]) -> None:
    assert bound_usd(rates, 40, 40, itl_s) == expected


@given(
    asked=st.integers(0, 400),
    given_=st.integers(0, 300),
    cached=st.integers(0, 400),
    written=st.integers(0, 400),
    most=st.integers(0, 300),
)
def test_no_run_costs_more_than_its_bound(asked: int, given_: int, cached: int, written: int, most: int) -> None:
    spent = bill(usage(asked, given_, cached_input_tokens=cached, cache_write_input_tokens=written), None, TIERED).usd
    bound, _ = bound_usd(TIERED, asked, max(given_, most), None)
    assert bound is not None
    assert spent is None or 0 <= spent <= bound


@given(asked=st.integers(0, 400), calls=st.integers(1, 2_000), part=st.integers(0, 400))
def test_the_input_by_itself_costs_what_a_run_without_output_does(asked: int, calls: int, part: int) -> None:
    counts = usage(asked, 0, cached_input_tokens=0, cache_write_input_tokens=0)
    whole = bill(counts, None, TIERED).usd
    assert whole is not None
    assert input_usd(TIERED, asked) == whole
    assert input_usd(TIERED, asked, calls) == whole * calls
    # A part is billed at the tier that the whole reaches.
    first, rest = input_usd(TIERED, asked, calls, part=min(part, asked)), asked - min(part, asked)
    assert first is not None
    assert first + (input_usd(TIERED, asked, calls, part=rest) or 0) == whole * calls
    assert input_usd(Rates(device_hour=D(3)), asked) is None
