"""A measured cell projected to scale, exactly."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.test_tables import GUESSED, LEAST, MOST, known, run
from tokmagic.core.money import Rates
from tokmagic.core.record import RunRecord
from tokmagic.core.stream import Usage
from tokmagic.errors import UsageError
from tokmagic.prices.projection import Spread, calls_a_day, project, student_t, usd


def measured(tokens_in: int, tokens_out: int, cost: str | None, **more: Any) -> RunRecord:
    made = run(cost=cost, **more)
    usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out, input_source="measured", output_source="measured")
    return replace(made, reading=replace(made.reading, usage=usage))


def test_800_tokens_a_call_a_million_times_a_day_are_1200_dollars() -> None:
    # $0.0015 per 1,000 tokens: $0.0012 a call.
    found = project([measured(500, 300, "0.0012")], "1e6/day")
    assert usd(found.day_usd.mean) == Decimal("1200")
    assert usd(found.month_usd.mean) == Decimal("36000")
    rows = {row[0]: row[1:] for row in found.table().rows}
    assert rows["a day"] == ("$1,200.00", "$1,200.00", "—", "$1,200.00")
    assert rows["a month (30 days)"] == ("$36,000.00", "$36,000.00", "—", "$36,000.00")
    assert found.table().note.startswith("1,000,000 calls a day of smollm2, from 1 run (median 800 tokens)")
    assert (
        project([measured(500, 300, "0.0012")], "1/day").table().note.startswith("1 call a day of smollm2, from 1 run")
    )


def test_the_spread_is_the_measured_one() -> None:
    found = project([measured(100, out, f"0.000{out}") for out in (1, 2, 6)], "10/hour")
    assert (found.output_tokens.least, found.output_tokens.mean, found.output_tokens.most) == (1, 3, 6)
    assert found.calls_a_day == 240
    assert (usd(found.day_usd.least), usd(found.day_usd.mean), usd(found.day_usd.most)) == (
        Decimal("0.024"),
        Decimal("0.072"),
        Decimal("0.144"),
    )
    assert found.table().rows[1] == ("tokens out", "1", "3", "6.6", "6")


TOKENS = Rates(Decimal("0.15"), Decimal("0.6"), source="%price")
HOUR = Rates(device_hour=Decimal(2), source="list price: 4 vCPU, shop")


@pytest.mark.parametrize(
    ("rates", "left_out"),
    [
        ((TOKENS, TOKENS), 0),
        ((TOKENS, replace(TOKENS, source="prices.toml", version="v2")), 0),
        ((replace(TOKENS, device_hour=Decimal("0.08")), replace(TOKENS, device_hour=Decimal(2))), 0),
        ((replace(TOKENS, shadow_model="m", shadow=HOUR), TOKENS), 0),
        ((HOUR, replace(HOUR, device_hour=Decimal(3))), 1),
        ((replace(TOKENS, output=Decimal(1)), TOKENS), 1),
        ((HOUR, TOKENS), 1),
    ],
    ids=["the same", "from elsewhere", "on another device", "beside another", "its hour", "its tokens", "its kind"],
)
def test_runs_at_other_rates_are_those_of_another_bill(rates: tuple[Rates, Rates], left_out: int) -> None:
    """Where tokens are billed it makes no difference on which device a run was."""
    found = project([measured(10, 10, "0.5", rates=it) for it in rates], "1/day")
    assert (found.runs, found.left_out) == (2 - left_out, left_out)


def test_only_whole_runs_of_the_latest_model_count() -> None:
    found = project(
        [
            measured(10, 10, "9", model="old"),
            measured(10, 10, "0.5"),
            measured(10, 10, "7", status="interrupted"),
            measured(10, 10, "0", status="cached"),
            measured(10, 10, None),
        ],
        "1",
    )
    assert (found.runs, usd(found.day_usd.mean)) == (1, Decimal("0.5"))


def test_runs_at_other_rates_are_left_out() -> None:
    old, new = Rates(Decimal(5_000), Decimal(5_000)), Rates(Decimal("1.5"), Decimal("1.5"))
    found = project([measured(500, 300, "4", rates=old), measured(500, 300, "0.0012", rates=new)], "1e6/day")
    assert (found.runs, usd(found.day_usd.mean), usd(found.day_usd.most)) == (1, Decimal(1200), Decimal(1200))


@pytest.mark.parametrize(
    "text",
    [
        *("", "often", "-1/day", "0/day", "nan/day", "inf/day", "1e6/fortnight", "1e16/day", "1/2/day"),
        # A comma that may be meant for a point.
        *("0,5/day", "1,5/day", "12,34/day", "1,0000/day", "1000,000/day", "0,500/day", "1,000,00/day", "1e1,000"),
    ],
)
def test_calls_that_are_none_are_told_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--calls is ") as raised:
        calls_a_day(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e6/day", 10**6),
        ("1,000,000/day", 10**6),
        ("12,500.5/day", Fraction(25_001, 2)),
        ("1,000e3/day", 10**6),
        ("1_0/day", 10),
        ("24/hour", 576),
        ("7/week", 1),
        ("1/month", Fraction(1, 30)),
        ("5", 5),
    ],
)
def test_calls_are_read_exactly(text: str, expected: Fraction) -> None:
    assert calls_a_day(text) == expected


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "no complete run"),
        ([run(status="failed")], "no complete run"),
        ([run()], "have no price; set one with %price"),
    ],
)
def test_nothing_to_project_from_is_told(records: list[RunRecord], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        project(records, "1/day")


@given(st.lists(st.decimals(0, 1000, places=12), min_size=1, max_size=20), st.integers(1, 10**9))
def test_a_projection_is_exact_to_a_picodollar(costs: list[Decimal], calls: int) -> None:
    found = project([run(cost=f"{cost:f}") for cost in costs], f"{calls}/day")
    exact = sum(map(Fraction, costs)) * calls / len(costs)
    assert abs(Fraction(usd(found.day_usd.mean)) - exact) <= Fraction(1, 2 * 10**12)
    assert found.day_usd.least <= found.day_usd.mean <= found.day_usd.most


@pytest.mark.parametrize(("halves", "picodollars"), [(1, 1), (3, 2), (5, 3), (4, 2)])
def test_half_a_picodollar_is_rounded_up(halves: int, picodollars: int) -> None:
    assert usd(Fraction(halves, 2 * 10**12)) == Decimal(picodollars) / 10**12


def test_who_says_so_changes_no_price() -> None:
    rates = Rates(Decimal("1.5"), Decimal("1.5"), source="%price", version="2026-11-24")
    alike = replace(rates, source="your file", version=None)
    assert project([measured(1, 1, "1", rates=rates), measured(1, 1, "3", rates=alike)], "1/day").runs == 2


def test_what_is_left_out_is_counted() -> None:
    left = [measured(1, 1, "1", model="old"), measured(1, 1, None), measured(1, 1, "0", status="cached")]
    note = project([*left, measured(1, 1, "1")], "1/day").table().note
    assert "; 2 with another model, other rates or no price left out; run the cell again" in note


def test_runs_of_another_text_of_the_cell_are_told_of() -> None:
    """Edited or not, they may be other inputs of the same prompt: who knows is the person, who has to be told."""
    texts = ("old", "old", None, "new", "new")
    runs = [replace(measured(1, 1, "1"), env={"source_sha256": it} if it else {}) for it in texts]
    note = project(runs, "1/day").table().note
    assert "from 5 runs (median 2 tokens) at the rates they ran with; 2 of them of another text of the cell" in note
    assert "another text" not in project(runs[:3], "1/day").table().note


def test_the_mean_has_an_interval_where_it_was_measured_more_than_once() -> None:
    assert project([measured(1, 1, "1")], "1/day").call_usd.margin is None
    # The standard deviation of 1, 2, 3 is 1, and Student's t for 2 degrees of freedom 4.303.
    found = project([measured(tokens, 1, f"{tokens}") for tokens in (1, 2, 3)], "10/day")
    margin = 4.303 / 3**0.5
    assert found.call_usd.margin == found.input_tokens.margin == pytest.approx(margin)
    assert found.output_tokens.margin == 0
    rows = {row[0]: row[1:] for row in found.table().rows}
    assert rows["a call"] == ("$1.00", "$2.00", "$2.48", "$3.00")
    assert rows["tokens in"] == ("1", "2", "2.5", "3")
    assert rows["tokens out"] == ("1", "1", "0", "1")
    assert rows["a day"][2] == f"${10 * margin:.2f}"
    exact = {row["of"]: row for row in found.table().as_dicts()}
    assert exact["call_usd"]["mean_low"] == "0", "no mean cost is below 0"
    assert float(exact["day_usd"]["mean_high"]) == pytest.approx(20 + 10 * margin)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (10, 2.228), (30, 2.042), (31, 2.040), (40, 2.021), (60, 2.000), (10**6, 1.960)],
)
def test_percentiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert round(student_t(freedom), 3) == expected


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    dice = random.Random(5)
    held = 0
    for _ in range(2_000):
        spread = Spread.of([Decimal(dice.gauss(100, 15)) for _ in range(5)])
        assert spread.margin is not None
        held += abs(float(spread.mean) - 100) <= spread.margin
    assert 0.935 <= held / 2_000 <= 0.965


def test_a_projection_for_programs_is_exact() -> None:
    rows = {row["of"]: row for row in project([measured(500, 300, "0.0012")], "1e6/day").table().as_dicts()}
    money = {"least": "1200", "mean": "1200", "mean_low": None, "mean_high": None, "most": "1200"}
    money |= {"cost_estimated": False, "cost_bound": "exact"}
    assert rows["day_usd"] == {"of": "day_usd", "runs": 1, **money}
    assert rows["input_tokens"]["mean"] == "500"
    third = project([measured(1, 1, "1"), measured(1, 1, "0"), measured(1, 1, "0")], "1/day").table().as_dicts()
    assert third[3]["mean"] == "0.333333333333"


def test_a_projection_is_as_sure_as_the_runs_that_it_is_made_from() -> None:
    made = project(known(LEAST, GUESSED), "2/day").table()
    rows = {row[0]: row[1:] for row in made.rows}
    assert rows["a day"] == ("~≥$2.00", "~≥$2.00", "$0", "~≥$2.00")
    assert rows["tokens in"][0] == "10"
    exact = {row["of"]: row for row in made.as_dicts()}
    assert (exact["month_usd"]["cost_estimated"], exact["month_usd"]["cost_bound"]) == (True, "at_least")
    assert "cost_bound" not in exact["input_tokens"]
    replayed = replace(known(GUESSED)[0], status="cached")
    assert project([*known(MOST), replayed], "1/day").table().rows[2][1] == "≤$1.00", "what is left out marks nothing"


def test_a_mistyped_unit_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"the unit is one of /hour, /day, /week, /month \(did you mean month\?\)"):
        calls_a_day("1e6/mnth")
