"""A finished run at today's prices: beside what is frozen in its row, never in its place."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from tokmagic.events import Cost, Rates, RunRecord
from tokmagic.prices.billing import bill
from tokmagic.prices.book import PriceBook


def reprice(record: RunRecord, book: PriceBook, at: datetime | None = None) -> Cost:
    """Return what a run would cost at the rates that ``book`` has for its model now, or had at another time.

    ``usd`` is None where there is no price today. What was replayed from the cache cost nothing then and costs nothing
    now; what it saved is repriced. Raises PriceError for an unreadable price file.
    """
    return at_rates(record, book.rates(record.info, at))


def at_rates(record: RunRecord, rates: Rates) -> Cost:
    """The same at rates that were looked up before, for many runs of one model."""
    reading = record.reading
    today = bill(reading.usage, reading.device_s, rates)
    if record.status != "cached":
        return today
    return replace(reading.cost, saved_usd=today.usd, shadow_usd=today.shadow_usd)
