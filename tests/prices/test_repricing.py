"""Finished runs at today's prices, beside what is frozen in their rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.prices.test_bills import GPU, NOW, D, record, usage
from tokmagic.core.money import Cost, Rates, Tier
from tokmagic.core.record import EngineInfo, Reading, Selection
from tokmagic.formatting import numbers
from tokmagic.ledgers import Ledger
from tokmagic.prices import (
    PriceBook,
    bill,
    devices,
    reprice,
)
from tokmagic.prices.hosted import hosted_rates
from tokmagic.reports import repriced


def test_a_closed_run_keeps_its_cost_and_shows_todays_beside_it(ledger: Ledger) -> None:
    book = PriceBook()
    book.set("m", Rates(input=D(1), output=D(2), source="%price"))
    rates, counts = book.rates(GPU, NOW), usage(100, 10)
    ledger.settle(record(Reading(counts, bill(counts, 2.0, rates), device_s=2.0), rates))
    book.set("m", Rates(input=D(10), output=D(20), source="%price"))
    (kept,) = ledger.runs()
    assert kept.reading.cost.usd == D("0.00012")
    assert reprice(kept, book).usd == D("0.0012")
    book.reset("m")
    assert reprice(kept, book).usd == D("0.000444"), "the L4's list price, by the name that the row keeps"
    assert reprice(replace(kept, info=replace(GPU, device_name=None)), book).usd is None
    assert ledger.runs() == [kept]


def test_a_hosted_run_is_repriced_as_of_a_day(ledger: Ledger) -> None:
    hosted = EngineInfo("gpt", "gpt-5-mini", "endpoint", provider="openai")
    counts = usage(100, 10)
    ledger.settle(record(Reading(counts), info=hosted))
    (kept,) = ledger.runs()
    assert kept.info == hosted
    assert reprice(kept, PriceBook(), NOW).usd == bill(counts, None, hosted_rates("openai/gpt-5-mini", NOW)).usd


def test_what_came_from_the_cache_stays_free_and_its_saving_is_repriced() -> None:
    book = PriceBook()
    book.set("m", Rates(input=D(10), output=D(20)))
    hit = record(Reading(usage(100, 10), Cost(D(0), "measured", saved_usd=D("0.00012"))), status="cached")
    assert reprice(hit, book) == Cost(D(0), "measured", saved_usd=D("0.0012"))
    assert reprice(record(Reading(), status="refused"), book).usd is None


PLAIN = Rates(input=D(10), output=D(20))
CHEAPER = replace(PLAIN, cached=D(1))
PARTLY = {"cached_input_tokens": None}


@pytest.mark.parametrize(
    ("then", "now", "counts", "whole", "cut"),
    [
        (PLAIN, PLAIN, {}, "$0.0012", "≥$0.0012"),
        (PLAIN, CHEAPER, PARTLY, "≤$0.0012", "~$0.0012"),
        (CHEAPER, PLAIN, PARTLY, "$0.0012", "≥$0.0012"),
        (CHEAPER, CHEAPER, PARTLY, "≤$0.0012", "~$0.0012"),
        (PLAIN, PLAIN, {"output_source": "estimated"}, "~$0.0012", "~≥$0.0012"),
        (CHEAPER, PLAIN, {"output_source": "estimated", **PARTLY}, "~$0.0012", "~≥$0.0012"),
    ],
)
def test_what_was_cut_off_may_cost_more_at_todays_prices_too(
    ledger: Ledger, then: Rates, now: Rates, counts: dict[str, Any], whole: str, cut: str
) -> None:
    book, counted = PriceBook(), usage(100, 10, **counts)
    book.set("m", now)
    for run_id, was_cut in (("whole", False), ("cut", True)):
        made = record(Reading(counted, bill(counted, None, then, cut=was_cut)), then)
        ledger.settle(replace(made, run_id=run_id))
    assert [numbers.cost(reprice(kept, book)) for kept in ledger.runs()] == [whole, cut]
    assert [row[3] for row in repriced(ledger, Selection(), book, "run").rows[:2]] == [whole, cut]


@pytest.mark.parametrize(
    ("requests", "attempts", "each", "expected"),
    [
        (100, 100, 3_000, "0.3100"),  # 300,000 tokens together, and none of them above 200,000
        (100, 100, 200_000, "20.0100"),
        (100, 100, 200_001, "40.0202"),
        (100, 1, 300_000, "0.6002"),  # the first was the last
        (2, 3, 150_000, "0.3002"),  # one was tried twice
    ],
)
def test_a_row_of_many_requests_is_repriced_at_the_tier_of_each(
    ledger: Ledger, requests: int, attempts: int, each: int, expected: str
) -> None:
    rates = Rates(input=D(1), output=D(10), tiers=(Tier(200_000, D(2), D(20)),))
    sent = min(requests, attempts)
    counts, one = usage(each * sent, 10 * sent), bill(usage(each, 10), None, rates)
    assert one.usd is not None
    cost = replace(one, usd=one.usd * sent, token_usd=one.usd * sent)
    made = record(Reading(counts, cost, attempts=attempts), rates)
    ledger.settle(replace(made, params={"requests": requests, "concurrency": 8}))
    book = PriceBook()
    book.set("m", rates)
    (line, _) = repriced(ledger, Selection(), book, "model").as_dicts()
    assert (line["cost_usd"], line["today_usd"], line["difference_usd"]) == (
        *(f"{D(expected).normalize():f}",) * 2,
        "0",
    )


def test_a_run_on_a_cpu_is_repriced_with_the_cpus_that_it_had(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, counts, book = EngineInfo("m", "org/m", "local", device="cpu"), usage(100, 10), PriceBook()
    for run_id, there in (("large", 64), ("small", 2)):
        monkeypatch.setattr(devices, "cpus", lambda there=there: there)
        rates = book.rates(cpu, NOW)
        made = record(Reading(counts, bill(counts, 3600.0, rates), device_s=3600.0), rates, info=cpu)
        ledger.settle(replace(made, run_id=run_id))
    # This is asked on the smaller machine, at the same price of a CPU.
    lines = repriced(ledger, Selection(), book, "run").as_dicts()
    assert [(line["cost_usd"], line["today_usd"]) for line in lines[:2]] == [("2.6112", "2.6112"), ("0.0816", "0.0816")]
    beside = replace(rates, input=D(1), output=D(1), source=f"%price; device {rates.source} (2026-06)")
    kept = record(Reading(counts, bill(counts, 36.0, beside), device_s=36.0), beside, info=cpu)
    assert reprice(kept, book).usd == D("0.000816"), "its device's rate stood beside it"
    unknown = record(Reading(counts, device_s=36.0), Rates(D(1), D(1), source="%price"), info=cpu)
    assert reprice(unknown, book).usd == D("0.000816"), "of how many is not known: of as many as here"
