"""A finished run at today's prices: beside what is frozen in its row, never in its place."""

from __future__ import annotations

from datetime import datetime

from tokmagic.core.money import Cost, Rates
from tokmagic.core.record import RunRecord
from tokmagic.prices.bills import bill, replay
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
    if record.status == "cached":
        return replay(bill(reading.usage, reading.device_s, rates))
    return bill(reading.usage, reading.device_s, rates, cut=_cut(record))


def _cut(record: RunRecord) -> bool:
    """Whether its server may have billed more than was counted, which a row tells only by the marks of its cost.

    Where the rates of then leave the same marks anyway it cannot tell, and the run is taken for one that was cut off.
    """
    reading, cost = record.reading, record.reading.cost
    if cost.bound != "at_least" and cost.source != "estimated":
        return False  # nearly all, and there can be a million
    cut = bill(reading.usage, reading.device_s, record.rates, cut=True)
    return (cost.source, cost.bound) == (cut.source, cut.bound)
