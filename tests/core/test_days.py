"""Local days in zones that change their clocks at midnight, by half hours, and across the date line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.examples import first
from tests.ledgers.test_store import run
from tokmagic.cli.common import _date, _month
from tokmagic.core.days import start_of_day
from tokmagic.core.record import Selection
from tokmagic.ledgers import Ledger
from tokmagic.prices.budgets import this_month, today

CHANGES = {
    "America/Havana": date(2026, 3, 8),  # 0:00 is followed by 1:00 at once
    "Africa/Cairo": date(2026, 4, 24),
    "Asia/Beirut": date(2026, 3, 29),
    "America/Santiago": date(2026, 9, 6),
    "America/Asuncion": date(2023, 10, 1),
    "America/Sao_Paulo": date(2018, 11, 4),
    "Atlantic/Azores": date(2026, 10, 25),  # 0:00 comes twice
    "Australia/Lord_Howe": date(2026, 4, 5),  # half an hour
    "Europe/Berlin": date(2026, 10, 25),
    "Asia/Kathmandu": date(2026, 5, 1),
    "Pacific/Apia": date(2011, 12, 31),  # the day before was skipped
    "Asia/Pyongyang": date(2018, 5, 5),  # 23:30 is followed by 0:00
    "America/Caracas": date(2016, 5, 1),
    "Pacific/Chatham": date(2026, 9, 27),
    "UTC": date(2026, 1, 1),
}


@contextmanager
def zone(name: str) -> Iterator[ZoneInfo]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        try:
            yield ZoneInfo(name)
        finally:
            patch.undo()
            time.tzset()


@pytest.mark.parametrize("name", CHANGES)
def test_a_day_begins_with_its_first_instant(name: str) -> None:
    with zone(name) as its:
        for shift in range(-3, 4):
            day = CHANGES[name] + timedelta(days=shift)
            begun = start_of_day(day)
            assert (begun - timedelta(seconds=1)).astimezone(its).date() < day
            assert begun.astimezone(its).date() >= day
            assert today(begun) == today(begun + timedelta(minutes=1))
            assert _date(str(begun.astimezone(its).date())) == begun
        first = CHANGES[name].replace(day=1)
        assert this_month(start_of_day(first)) == start_of_day(first) == _month(f"{first:%Y-%m}")[0]


@pytest.mark.parametrize("name", first(5, CHANGES))
def test_by_day_since_and_until_agree(name: str, ledger: Ledger) -> None:
    with zone(name) as its:
        changed = datetime.combine(CHANGES[name], datetime.min.time(), UTC)
        instants = [changed + timedelta(minutes=15 * step, seconds=1) for step in range(-120, 120)]
        # Long before and after another offset may hold.
        instants += [changed - timedelta(days=200), changed + timedelta(days=200)]
        for number, instant in enumerate(instants):
            ledger.settle(run(f"{number}", started_at=instant))
        expected = Counter(f"{instant.astimezone(its):%Y-%m-%d}" for instant in instants)
        found = {key[0]: total.runs for key, total in ledger.summarise(Selection(), "day")}
        assert found == expected
        for day in sorted(expected):
            following = str(date.fromisoformat(day) + timedelta(days=1))
            assert ledger.totals(Selection(since=_date(day), until=_date(following))).runs == expected[day], day
