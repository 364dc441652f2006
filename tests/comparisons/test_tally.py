"""How far a comparison is: what the progress line says is still to come, and the sidebar's row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from scipy import stats

from tests.comparisons.desk import Desk, items, right
from tokmagic.comparisons.forecasts import NO_COSTS, Costs, forecast
from tokmagic.comparisons.tally import Stand
from tokmagic.core.budget import Budget
from tokmagic.core.money import Uncertainty
from tokmagic.core.prompt import Sampling
from tokmagic.core.record import Sum
from tokmagic.errors import BudgetError, EndpointError, GenerationInterrupted
from tokmagic.runs.comparing import ComparisonRow

Make = Callable[..., Desk]


def costs(*usd: str) -> Costs:
    found = NO_COSTS
    for it in usd:
        found = found.plus(Decimal(it))
    return found


def spent(usd: str) -> Sum:
    return Sum(1, cost_usd=Decimal(usd))


def test_a_forecast_is_students_interval_of_the_sum_to_come() -> None:
    measured = ["0.00031", "0.00052", "0.00029", "0.00047", "0.00040"]
    found = forecast(costs(*measured), 20, Decimal("0.0001"))
    mean, spread = sum(map(float, measured)) / 5, stats.tstd([float(it) for it in measured])
    margin = 20 * stats.t.ppf(0.975, 4) * spread * (1 / 5 + 1 / 20) ** 0.5
    assert float(found.usd or 0) == pytest.approx(20 * mean - 0.0001)
    assert float(found.low_usd or 0) == pytest.approx(20 * mean - 0.0001 - margin)
    assert float(found.high_usd or 0) == pytest.approx(20 * mean - 0.0001 + margin)
    same = forecast(costs("0.1", "0.1", "0.1"), 2)
    assert (same.low_usd, same.usd, same.high_usd) == (Decimal("0.2"),) * 3
    assert forecast(costs("0.1"), 3).low_usd is None
    assert forecast(costs("0.1"), 1, Decimal(1)).usd == 0, "what is left never costs less than nothing"


@pytest.mark.parametrize(
    ("stand", "says"),
    [
        (Stand(0, 40, left=20), "0 of 40 runs, $0 so far"),
        (Stand(1, 40, Sum(1, unpriced_runs=1), left=20), "1 of 40 runs"),
        (Stand(2, 40, spent("0.0012") + Sum(1, unpriced_runs=1), left=20), "2 of 40 runs, ≥$0.0012 so far"),
        (Stand(1, 40, replace(spent("0.0012"), uncertainty=Uncertainty(1)), left=20), "1 of 40 runs, ~$0.0012 so far"),
        (
            Stand(3, 40, spent("0.0012"), fresh=3, elapsed_s=6, left=20),
            "3 of 40 runs, $0.0012 so far; to come: about 1 min 14 s",
        ),
        (
            Stand(2, 40, spent("0.0012"), 0, 2, 4.0, costs("0.0012"), 19),
            "2 of 40 runs, $0.0012 so far; to come: about $0.0228, about 1 min 16 s",
        ),
        (
            Stand(5, 40, spent("0.0029"), 1, 5, 5.0, costs("0.0012", "0.0014"), 18, Decimal("0.0003")),
            (
                "5 of 40 runs (1 without an answer), $0.0029 so far; "
                "to come: about $0.0231 (95 %: $0 to $0.0472), about 35 s"
            ),
        ),
        (Stand(40, 40, spent("0.025"), 0, 40, 80.0, costs("0.1", "0.2")), "40 of 40 runs, $0.0250 so far"),
    ],
)
def test_the_progress_line_says_what_is_still_to_come(stand: Stand, says: str) -> None:
    assert str(stand) == says


def here(desk: Desk) -> Desk:
    """A desk whose comparisons are a cell's."""
    desk.session.cell_id = lambda: "c1"
    return desk


def test_a_cell_has_one_row_while_it_compares_and_after(make_desk: Make) -> None:
    desk = here(make_desk())
    seen: list[tuple[Stand, ComparisonRow]] = []

    def look(stand: Stand) -> None:
        view = desk.session.changes()
        assert view.rows == ()
        seen.append((stand, view.comparisons[0]))

    found = desk.compare(score="exact(a)", over=items(5), progress=look)
    assert [stand.done for stand, _ in seen] == [row.done for _, row in seen] == list(range(1, 11))
    assert {row.row_id for _, row in seen} == {seen[0][1].row_id}
    stand, row = seen[5]
    assert (row.status, row.runs, row.items, row.repeat, row.passes) == ("running", 10, 5, 1, True)
    assert sum(it.done for it in row.parts) == 6
    assert row.spent.cost_usd == stand.spent.cost_usd == Decimal("0.000004") * 6
    # All cost the same: two items are left of which nothing has run.
    rest = stand.to_come
    assert rest is not None
    assert rest.usd == Decimal("0.000016") == rest.low_usd == rest.high_usd
    assert row.to_come is not None
    assert row.to_come.usd == rest.usd
    assert (rest.seconds or 0) > 0

    (ended,) = desk.session.changes().comparisons
    assert ended == found.row
    assert (ended.status, ended.done, ended.to_come, ended.note) == ("ok", 10, None, None)
    assert [(it.label, it.runs, it.done, it.score, it.latency_s) for it in ended.parts] == [
        ("terse", 5, 5, 1.0, pytest.approx(0.1)),
        ("reasoned", 5, 5, 1.0, pytest.approx(0.1)),
    ]
    assert ended.spent.cost_usd == found.spent_usd


def test_a_pilot_counts_what_it_runs(make_desk: Make) -> None:
    stands: list[Stand] = []
    found = here(make_desk()).compare(over=items(8), pilot=3, progress=stands.append)
    assert [it.runs for it in stands] == [6] * 6
    assert found.row is not None
    assert (found.row.runs, found.row.done, found.row.status) == (6, 6, "ok")
    assert found.forecast.usd == Decimal("0.00004")


def test_what_fails_and_is_refused_is_said(make_desk: Make) -> None:
    def answers(text: str, number: int) -> str:
        if text.endswith("q3"):
            raise EndpointError("the server answered 500")
        return right(text, number)

    found = here(make_desk(small=answers)).compare(over=items(5))
    assert found.row is not None
    assert found.row.note == "2 runs failed; the first: EndpointError: the server answered 500"
    assert (found.row.status, found.row.done) == ("ok", 10)
    assert found.outcome.costs.items == 4


def test_what_has_no_price_tells_no_cost_to_come(make_desk: Make) -> None:
    desk = here(make_desk())
    desk.session.prices.reset("small")
    stands: list[Stand] = []
    found = desk.compare(over=items(3), progress=stands.append)
    assert all(it.to_come is None or it.to_come.usd is None for it in stands)
    assert found.row is not None
    assert found.row.spent.cost_usd is None


def test_stopped_in_the_sidebar_it_is_interrupted_and_goes_on_later(make_desk: Make) -> None:
    desk = here(make_desk())

    def stop(stand: Stand) -> None:
        if stand.done == 4:
            desk.session.stop(desk.session.changes().comparisons[0].row_id)

    with pytest.raises(GenerationInterrupted, match="call it again to go on"):
        desk.compare(progress=stop)
    (row,) = desk.session.changes().comparisons
    assert (row.status, row.finish_reason, row.to_come) == ("interrupted", "interrupted", None)
    assert 4 <= row.done < 20
    asked = desk.asked
    assert desk.compare().complete
    assert desk.asked == 20 + (asked - row.done)


def test_a_budget_that_ends_it_or_lets_nothing_begin_is_said(make_desk: Make) -> None:
    desk = here(make_desk())
    found = desk.compare(budget="0.0000500", sampling=Sampling(max_tokens=1))
    assert found.row is not None
    assert (found.row.status, found.row.finish_reason) == ("interrupted", "budget")
    assert str(found.row.note).startswith("it ended early: ")
    with pytest.raises(BudgetError):
        desk.compare(budget="0.000001", seed=7)
    refused = desk.session.comparisons.known()["c1"]
    assert (refused.status, refused.done) == ("refused", 0)
    assert "does not cover one pair" in str(refused.note)


def test_a_run_that_is_beyond_what_each_may_cost_is_refused_in_the_row_of_the_whole(make_desk: Make) -> None:
    desk = here(make_desk())
    session = desk.session
    session.ledger().set_budget(Budget("cell", tokens=12, notebook=session.budget_notebook, user=session.user))
    found = desk.compare(over=[{"q": "long " * 30 + "q9", "a": "a9"}, *items(2)], score="exact(a)")
    assert found.row is not None
    assert (found.row.status, [it.refused for it in found.row.parts], [it.done for it in found.row.parts]) == (
        "ok",
        [1, 1],
        [2, 2],
    )
    assert "more than the 12 allowed" in str(found.row.note)


def test_a_judge_counts_in_what_it_costs_and_in_the_scores(make_desk: Make) -> None:
    desk = here(make_desk(small=right, big=lambda _text, _number: "tie"))
    found = desk.compare(score="judge(big)", over=items(3))
    row: Any = found.row
    assert row.judge == found.outcome.judge
    assert (row.judge.cost_usd or 0) > 0
    assert row.spent.cost_usd == found.spent_usd
    assert [it.score for it in row.parts] == [0.5, 0.5]
    assert not row.passes


@pytest.mark.parametrize("name", ["a", "as it is"])
def test_what_savings_leave_out_stands_beside_the_comparison(make_desk: Make, name: str) -> None:
    desk = here(make_desk(small=lambda text, number: right(text, number) if "q1" in text else "no"))
    variants = {name: "Be kind. Be brief. {{ q }}", "b": "{{ q }}"}
    found = desk.compare(variants, over=items(3), score="contains(a)")
    found.savings(budget="0.01", variant=name, items=1)
    (row,) = list(desk.session.comparisons.known().values())
    assert found.shown is not None
    assert row.parts == found.shown.parts
    assert [it.score for it in row.parts] == [pytest.approx(1 / 3)] * 2
    assert [it.label.split(":")[0] for it in row.beside] == ["as it is", "without 1", "without 2"]
    assert row.runs == row.done == 6 + 3
    assert (row.spent.cost_usd or 0) > found.spent_usd
