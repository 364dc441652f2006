"""Rates and amounts: parsed exactly, kept exactly, refused in one line."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prices.test_bills import D, usage
from tokmagic.core.money import Cost, Rates, plain, rates_dict, rates_of
from tokmagic.errors import PriceError
from tokmagic.prices import (
    bill,
    from_picodollars,
    hourly,
    rate,
    to_picodollars,
)


@given(picodollars=st.integers(0, 10**18))
def test_a_rate_comes_back_as_it_was_given(picodollars: int) -> None:
    """From a picodollar a token up to a dollar, by 1M and by 1k tokens, and through JSON."""
    value = D(picodollars).scaleb(-6)
    if value > 1_000_000:
        with pytest.raises(PriceError):
            rate(value)
        return
    text = f"{value:f}"
    assert rate(text) == rate(f"${text}") == rate(value) == rate(f" {text}0 " if "." in text else text) == value
    assert rate(f"{value.scaleb(-3):f}", per=1_000) == value
    rates = Rates(input=rate(text), output=rate(text), device_hour=hourly(text))
    assert rates_of(json.loads(json.dumps(rates_dict(rates)))) == rates


@given(picodollars=st.integers(-(10**30), 10**30))
def test_picodollars_round_trip(picodollars: int) -> None:
    amount = from_picodollars(picodollars)
    assert amount is not None
    assert to_picodollars(amount) == picodollars
    written = str(plain(amount))
    assert D(written) == amount
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", written)


NO_RATES = ["-1", "-1e-30", "nan", "NaN", "-nan", "sNaN", "inf", "-inf", "1e400", "1E+400", "1000000.000001", "", " "]
NO_RATES += ["1e-30", "0.0000001", "1E-999999999", "1e999999999999999999999999", "0." + "0" * 90 + "1", "abc", "1,5"]
NO_RATES += ["１２", "٣", "½", "²", "1_000", "0x10", "1 000", "0.15 EUR", "0.15/1k", "€1", "$", "--1", "1e", "True"]


@pytest.mark.parametrize("text", NO_RATES)
def test_what_is_no_rate_is_refused_in_one_line(text: str) -> None:
    for read in (rate, hourly):
        if text == "0.0000001" and read is hourly:
            continue
        with pytest.raises(PriceError) as raised:
            read(text, what="--input")
        message = str(raised.value)
        assert message.startswith("--input ")
        assert "\n" not in message
        assert re.search("give a number|finer than one picodollar", message)


@pytest.mark.parametrize(
    "value", [D("NaN"), D("-0.1"), D("Infinity"), D("1E-30"), -5, D("1E+999999")], ids=lambda value: str(value)
)
def test_numbers_are_checked_as_texts_are(value: Decimal | int) -> None:
    with pytest.raises(PriceError):
        rate(value)


def test_a_rate_beyond_the_highest_is_refused_by_any_unit() -> None:
    assert rate("1000000") == rate("1000", per=1_000) == 1_000_000
    with pytest.raises(PriceError, match="--per-1k is 1001; that is more than 1,000,000 USD per 1,000,000 tokens"):
        rate("1001", what="--per-1k", per=1_000)


def test_zero_is_free_and_not_unknown() -> None:
    assert [plain(rate(text)) for text in ("0", "-0", "0.000", "0e99999")] == ["0"] * 4
    free = Rates(input=D(0), output=D(0))
    assert bill(usage(10, 10), None, free) == Cost(D(0), "measured", "exact", D(0), None)
