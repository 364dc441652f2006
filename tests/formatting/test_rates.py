"""Rates in words."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tokmagic.core.money import Rates, Tier
from tokmagic.formatting.rates import in_words


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (Rates(), "no price is known"),
        (Rates(Decimal("0.15"), Decimal(2), source="%price"), "$0.1500 in, $2.00 out per 1M tokens (%price)"),
        (Rates(Decimal(0), Decimal(0), source="p"), "$0 in, $0 out per 1M tokens (p)"),
        (
            Rates(device_hour=Decimal(2), source="list", version="2026-01"),
            "$2.00 per hour of the device (list, 2026-01)",
        ),
        (
            Rates(Decimal(1), Decimal(2), Decimal("0.1"), tiers=(Tier(1000, Decimal(3), Decimal(4)),), source="f"),
            "$1.00 in, $2.00 out, $0.1000 cached per 1M tokens; above 1,000 input tokens $3.00 in, $4.00 out (f)",
        ),
        (
            Rates(Decimal(1), Decimal(2), device_hour=Decimal(3), source="f"),
            "$1.00 in, $2.00 out per 1M tokens; $3.00 per hour of the device (f)",
        ),
    ],
)
def test_rates_in_words(rates: Rates, words: str) -> None:
    assert in_words(rates) == words
