"""What a reader of a comparison is told of its costs: at which rates its runs were billed, and how surely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.comparisons.desk import DOLLARS, Desk, items
from tokmagic.comparisons.billed import Billed
from tokmagic.core.money import Cost, Rates
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo, Reading, RunRecord
from tokmagic.runs.records import new_record

NONE, DEARER = Rates(), Rates(input=Decimal(10), output=Decimal(20), source="%price")
LATE = (
    "runs had no price when they ran, and what is finished keeps what it had; another seed runs all of it anew, at the "
    "price that is set now"
)
DIFFERENT = (
    "runs of small were billed at different rates, so that their costs do not compare: 4 at $1.00 in, $2.00 out per 1M "
    "tokens (%price); 4 at $10.00 in, $20.00 out per 1M tokens (%price); another seed runs all of it anew"
)


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        pytest.param(DOLLARS, DOLLARS, [], id="the same"),
        pytest.param(DOLLARS, replace(DOLLARS, source="file", version="2"), [], id="the same, from elsewhere"),
        pytest.param(DOLLARS, replace(DOLLARS, device_hour=Decimal(1)), [], id="another device's, beside the bill"),
        pytest.param(NONE, NONE, ["8 runs had no price; set one with %price"], id="none"),
        pytest.param(NONE, DOLLARS, [f"4 {LATE}"], id="none before"),
        pytest.param(DOLLARS, NONE, ["4 runs had no price; set one with %price"], id="none any more"),
        pytest.param(
            DOLLARS,
            DEARER,
            [DIFFERENT],
            id="another",
        ),
    ],
)
def test_a_comparison_that_goes_on_at_another_price_says_so(
    make_desk: Callable[..., Desk], before: Rates, now: Rates, says: list[str]
) -> None:
    desk = make_desk()
    desk.session.prices.set("small", before)
    desk.compare(over=items(4), pilot=2)
    desk.session.prices.set("small", now)
    found = desk.compare(over=items(4))
    assert found.complete
    assert desk.asked == 8, "what is finished is not paid for twice"
    assert found.notes() == says


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (DOLLARS, []),
        (replace(DOLLARS, source="file"), []),
        (NONE, []),
        (
            DEARER,
            [
                (
                    "runs of small were billed at $1.00 in, $2.00 out per 1M tokens (%price), and now it is $10.00 in, "
                    "$20.00 out per 1M tokens (%price); another seed runs all of it anew"
                )
            ],
        ),
    ],
    ids=["the same", "the same, from elsewhere", "none any more", "another"],
)
def test_a_comparison_that_is_shown_again_at_another_price_says_so(
    make_desk: Callable[..., Desk], now: Rates, says: list[str]
) -> None:
    desk = make_desk()
    desk.compare(over=items(3))
    desk.session.prices.set("small", now)
    assert desk.compare(over=items(3)).notes() == says


@pytest.mark.parametrize(("tier", "says"), [(None, 1), ("priority", 0)])
def test_what_a_service_tier_costs_is_no_change_of_the_price(tier: str | None, says: int) -> None:
    record = billed(EXACT, DEARER)
    its = Billed({"m": DOLLARS})
    its.add("m", replace(record, info=replace(record.info, service_tier=tier)))
    assert len(list(its.notes())) == says


def test_finished_runs_without_a_price_keep_none(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.session.prices.set("small", NONE)
    desk.compare(over=items(3))
    desk.session.prices.set("small", DOLLARS)
    assert desk.compare(over=items(3)).notes() == [f"6 {LATE}"], "not to set one, which is set"
    assert desk.compare(over=items(3), seed=1).notes() == []


def billed(cost: Cost, rates: Rates = DOLLARS) -> RunRecord:
    made = new_record(EngineInfo("m", "m", "scripted"), Prompt(()), rates, session="s", user="u")
    return replace(made, reading=Reading(cost=cost))


EXACT = Cost(Decimal(1), "measured")


@pytest.mark.parametrize(
    ("costs", "says"),
    [
        ([EXACT], []),
        ([EXACT, replace(EXACT, source="reported")], []),
        ([replace(EXACT, source="estimated")] * 2, ["not all costs are exact; of 2 runs, estimated: 2"]),
        (
            [
                *(EXACT, replace(EXACT, source="estimated"), replace(EXACT, source="estimated", bound="at_least")),
                replace(EXACT, bound="at_most"),
            ],
            ["not all costs are exact; of 4 runs, estimated: 2, lower bounds: 1, upper bounds: 1"],
        ),
        (
            [EXACT, Cost(anomaly="negative input tokens (-1)"), Cost()],
            ["the cost of 2 runs is not known, the first: negative input tokens (-1)"],
        ),
        ([Cost()], ["the cost of 1 run is not known, the first: a count is not known"]),
    ],
)
def test_costs_are_said_to_be_as_sure_as_they_are(costs: list[Cost], says: list[str]) -> None:
    its = Billed({"m": DOLLARS})
    for cost in costs:
        its.add("m", billed(cost))
    assert list(its.notes()) == says
