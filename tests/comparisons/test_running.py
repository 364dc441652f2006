"""Runs of a comparison: each once whatever happens, within the budget, and what is missing is said."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tokmagic
from tests.comparisons.desk import VARIANTS, Desk, items, right, write_csv
from tokmagic.comparisons.inputs import Items
from tokmagic.comparisons.outcome import Answer
from tokmagic.comparisons.results import Comparison
from tokmagic.comparisons.running import GIVEN_UP
from tokmagic.comparisons.tally import Stand
from tokmagic.core.budget import Budget
from tokmagic.core.money import Rates, Uncertainty
from tokmagic.core.prompt import Sampling
from tokmagic.core.record import RunRecord, Selection, Sum
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import BudgetError, GenerationInterrupted, ModelError, UsageError
from tokmagic.runs import api

Make = Callable[..., Desk]


def slots(found: Comparison) -> Counter[tuple[int, int, int]]:
    return Counter((it.arm, it.item, it.repeat) for it in found.answers if it.ran)


def check_whole(found: Comparison, desk: Desk) -> None:
    """Every run is there once, and the ledger's total is the sum."""
    arms, rows = len(found.plan.arms), len(found.plan.items.rows)
    wanted = {(arm, item, repeat) for arm in range(arms) for item in range(rows) for repeat in range(found.plan.repeat)}
    assert slots(found) == dict.fromkeys(wanted, 1)
    ids = [it.run_id for it in found.answers]
    assert len(set(ids)) == len(ids)
    assert {row.run_id for row in desk.rows if row.status == "ok"} == set(ids)
    assert found.spent_usd == sum((row.reading.cost.usd or 0 for row in desk.rows), Decimal(0))
    assert found.complete


def by_id(desk: Desk, answer: Answer) -> list[RunRecord]:
    return [row for row in desk.rows if row.run_id == answer.run_id]


def test_every_variant_meets_every_item_once(desk: Desk) -> None:
    found = desk.compare(score="exact(a)", repeat=2, over=items(4))
    check_whole(found, desk)
    assert found.values("score").shape == (2, 4, 2)
    assert (found.values("score") == 1).all()
    assert found.passes
    # Two words in and one out, at $1 and $2 per million.
    assert found.values("usd") == pytest.approx(4e-6)
    assert found.values("tokens") == pytest.approx(3)
    assert found.values("latency_s") == pytest.approx(0.1)
    assert found.spent_usd == Decimal("0.000064")
    assert found.notes() == []


def test_the_order_is_the_seeds_and_interleaved(make_desk: Make) -> None:
    orders = []
    for seed in (1, 1, 2):
        desk = make_desk()
        before = desk.asked
        desk.compare(seed=seed, over=items(6), tags=[f"{len(orders)}"], sampling=Sampling(max_tokens=20 + len(orders)))
        orders.append(desk.engines["small"].asked[before:])
    assert orders[0] == orders[1] != orders[2]
    pairs = [{text.split()[0] for text in orders[0][at : at + 2]} for at in range(0, 12, 2)]
    assert pairs == [{"terse", "reasoned"}] * 6


def test_several_models_are_arms_too(make_desk: Make) -> None:
    desk = make_desk(small=right, big=lambda _text, _number: "wrong")
    found = desk.compare(models=["small", "big"], score="exact(a)", over=items(3))
    check_whole(found, desk)
    assert found.values("score").mean(axis=(1, 2)).tolist() == [1, 1, 0, 0]
    assert {row.info.name for row in desk.rows} == {"small", "big"}


def test_the_ledger_keeps_versions_and_tags(desk: Desk) -> None:
    found = desk.compare(tags=["mine"], over=items(3))
    terse, reasoned = (arm.variant.tag for arm in found.plan.arms)
    for tag in (terse, reasoned):
        assert len(desk.session.ledger().runs(Selection(tags=("mine", found.plan.question_tag, tag)))) == 3


def test_the_same_prompt_twice_is_run_twice(desk: Desk) -> None:
    found = desk.compare({"a": "same", "b": "same"}, [{}] * 3, repeat=2, sampling=Sampling(temperature=0))
    check_whole(found, desk)
    assert desk.asked == 12, "a repeat is a run of its own and no replay"


def test_the_public_function_does_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(api, "_session", desk.session)
    data = write_csv(tmp_path / "questions.csv", 4)
    seen: list[Stand] = []
    found = tokmagic.compare(
        VARIANTS,
        data,
        model="small",
        score=lambda answer, item: answer == item["a"],
        max_tokens=20,
        progress=seen.append,
    )
    check_whole(found, desk)
    assert found.passes
    assert [it.done for it in seen] == list(range(1, 9))
    assert (seen[-1].runs, seen[-1].usd) == (8, found.spent_usd)
    with pytest.raises(UsageError, match=r"unknown option 'max_token' \(did you mean max_tokens\?\)"):
        tokmagic.compare(VARIANTS, data, max_token=20)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmagic.comparisons.packages.find_spec", lambda name: None if name == "scipy" else object())
    with pytest.raises(UsageError, match=r"needs the package scipy; run: pip install 'tokmagic\[compare\]'"):
        tokmagic.compare(VARIANTS)


# Going on


class Interrupting:
    """Raises KeyboardInterrupt at one of the calls, wherever it is asked."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def interrupted(work: Callable[[], object], after_s: float) -> bool:
    """Interrupt ``work`` by the clock, and say whether it was; what comes too late interrupts nothing else."""
    over = False

    def end(_number: int, _frame: object) -> None:
        if not over:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        work()
        over = True
    except KeyboardInterrupt:
        over = True
        return True
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)
    return False


def lasts_s(desk: Desk, **given: Any) -> float:
    """How long a comparison takes here, without what is imported for the first one."""
    desk.compare(**{**given, "repeat": 1})
    began = time.monotonic()
    desk.compare(**{**given, "seed": 1})
    return time.monotonic() - began


MOMENTS = random.Random(17).sample(range(1, 61), 20)


@pytest.mark.parametrize("at", [9, *(pytest.param(at, marks=pytest.mark.slow) for at in MOMENTS)])
def test_interrupted_anywhere_and_resumed_each_run_is_there_once(make_desk: Make, at: int) -> None:
    """Twenty moments: while a run begins, as an answer is scored, or between two runs."""
    interrupt = Interrupting(at)

    def answers(text: str, number: int) -> str:
        interrupt()
        return right(text, number)

    def score(answer: str, item: dict[str, str]) -> bool:
        interrupt()
        return answer == item["a"]

    given: dict[str, Any] = {"score": score, "repeat": 2, "over": items(5), "progress": lambda _stand: interrupt()}
    with pytest.raises(GenerationInterrupted, match=r"interrupted after \d+ of 20 runs; call it again to go on"):
        make_desk(small=answers).compare(**given)
    again = make_desk(small=answers)
    before = sum(row.status == "ok" for row in again.rows)
    found = again.compare(**given)
    check_whole(found, again)
    assert again.asked == 20 - before, "what was finished is not run again"
    assert (found.values("score") == 1).all()
    last = make_desk(small=answers)
    check_whole(last.compare(**given), last)
    assert last.asked == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_by_the_clock_and_resumed_each_run_is_there_once(make_desk: Make, tmp_path: Path) -> None:
    """As a person does it: an interrupt at a random time, wherever that finds the comparison."""
    given: dict[str, Any] = {"score": "exact(a)", "repeat": 20}
    moment, interrupts = random.Random(5), 0
    whole_s = lasts_s(make_desk(settings={"ledger": f"sqlite:///{tmp_path}/timed.sqlite"}), **given)
    for _ in range(20):
        desk = make_desk()
        interrupts += interrupted(partial(desk.compare, **given), whole_s * moment.uniform(0.004, 0.05))
    assert interrupts >= 15, "Python itself loses one that comes while it drops a weak reference"
    last = make_desk()
    check_whole(last.compare(score="exact(a)", repeat=20), last)


def test_items_are_not_digested_again_for_each_finished_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, asked = Items.sha256.fget, list[int]()  # type: ignore[attr-defined]
    monkeypatch.setattr(Items, "sha256", property(lambda self: asked.append(len(self.rows)) or digest(self)))
    for _ in range(2):
        desk.compare(over=items(12))
        desk.compare(over=items(2))
    assert asked.count(12) == asked.count(2)


@pytest.mark.parametrize(
    "also",
    [
        {"baseline": "reasoned"},
        {"variants": dict(reversed(VARIANTS.items()))},
        {"sampling": Sampling(max_tokens=20, temperature=0.0)},
    ],
)
def test_what_is_the_same_comparison_is_not_paid_for_again(desk: Desk, also: dict[str, Any]) -> None:
    """As docs/compare.md says: the same variants, models, items, repeats, sampling options and seed."""
    given: dict[str, Any] = {"score": "exact(a)", "over": items(4), "sampling": Sampling(max_tokens=20, temperature=0)}
    desk.compare(**given)
    found = desk.compare(**{**given, **also})
    check_whole(found, desk)
    assert desk.asked == 8
    assert {it.text.split()[0] for it in found.answers if it.text} == {"a0", "a1", "a2", "a3"}
    assert all(run.tags[-1] == found.plan.arms[it.arm].variant.tag for it in found.answers for run in by_id(desk, it))


def test_a_longer_comparison_is_another_one(desk: Desk) -> None:
    desk.compare(over=items(3))
    found = desk.compare(over=items(4))
    assert len({row.tags for row in desk.rows}) == 4
    assert found.complete


def test_a_file_that_changed_in_between_is_told(make_desk: Make, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "questions.csv", 3)
    make_desk().compare(over=data, pilot=1)
    write_csv(data, 4)
    with pytest.raises(UsageError, match=r"questions\.csv was changed since .*: 2 of 6 runs are finished with what it"):
        make_desk().compare(over=data)
    check_desk = make_desk()
    assert check_desk.compare(over=data, seed=1).complete
    write_csv(data, 3)
    assert make_desk().compare(over=data).complete
    write_csv(data, 5)
    assert make_desk().compare(over=data).complete, "what was finished is no obstacle"


def test_where_texts_are_not_kept_finished_runs_cannot_be_scored(make_desk: Make) -> None:
    settings = {"store_text": False}
    given = {"over": items(2)}
    first = make_desk(settings=settings).compare(score="exact(a)", **given)
    assert (first.values("score") == 1).all()
    with pytest.raises(UsageError, match="but not their answers, since texts are not kept"):
        make_desk(settings=settings).compare(score="exact(a)", **given)
    desk = make_desk(settings=settings)
    assert desk.compare(**given).complete
    assert desk.asked == 0


# Budgets


def test_a_budget_ends_it_on_complete_pairs(desk: Desk) -> None:
    # A run costs $0.000004, and is let in if 2 × $1 + 20 × $2 per million are left.
    found = desk.compare(budget="0.0001", score="exact(a)")
    assert found.spent_usd <= Decimal("0.0001")
    ran = slots(found)
    whole = sum(ran[0, item, 0] and ran[1, item, 0] for item in range(10))
    assert 0 < whole < 10
    assert sum(ran.values()) == 15
    assert not found.complete
    assert found.notes()[0].startswith("it ended early: this run may cost up to $0.000042")
    assert found.notes()[1].startswith("5 of 20 runs are missing; means are of the items that every variant has, ")
    more = desk.compare(budget="0.001", score="exact(a)")
    check_whole(more, desk)
    assert desk.asked == 20
    assert found.forecast.left == 3


def test_a_budget_too_small_for_one_pair_is_refused(desk: Desk) -> None:
    with pytest.raises(BudgetError, match=r"\$0.00001 does not cover one pair: a single run may cost up to \$0.000042"):
        desk.compare(budget="0.00001")
    assert desk.asked == 0
    with pytest.raises(BudgetError, match="ended the comparison before one pair was complete"):
        desk.compare(budget="0.000043")
    assert desk.asked == 1
    with pytest.raises(BudgetError, match="budget"):
        desk.compare(budget="-1")


def test_a_prompt_that_is_too_long_to_pass_unasked_is_told_with_what_helps(desk: Desk) -> None:
    """A comparison has no --yes."""
    session = desk.session
    session.ledger().set_budget(Budget("cell", tokens=2, notebook=session.budget_notebook, user=session.user))
    with pytest.raises(BudgetError, match=r"nobody can be asked; raise that with %budget cell --tokens N$"):
        desk.compare(over=[{"q": "a long question"}])
    assert desk.asked == 0


LONG = {"q": "long " * 30 + "q99", "a": "a99"}
EACH: dict[str, tuple[Budget, str]] = {
    "in dollars": (
        Budget("cell", Decimal("0.00005")),
        "this run may cost up to $0.000072, more than the cell's budget",
    ),
    "in tokens": (Budget("cell", tokens=12), "the prompt has 32 tokens, more than the 12 allowed"),
}


@pytest.mark.parametrize("cap", EACH)
@pytest.mark.parametrize("at_once", [1, 4])
def test_what_is_beyond_what_each_run_may_cost_is_left_out_and_the_rest_goes_on(
    desk: Desk, cap: str, at_once: int
) -> None:
    session, (budget, says) = desk.session, EACH[cap]
    session.ledger().set_budget(replace(budget, notebook=session.budget_notebook, user=session.user))
    found = desk.compare(over=[*items(3), LONG, *items(6)[3:]], score="exact(a)", concurrency=at_once)
    assert (sum(slots(found).values()), desk.asked, found.complete) == (12, 12, False)
    assert found.outcome.ended is None
    told = found.notes()
    assert told[0].startswith("2 of 14 runs are missing; means are of the items that every variant has")
    assert [it.startswith("1 run of ") and says in it for it in told[1:3]] == [True, True]
    assert "--yes" not in "".join(told), "a comparison has none"
    session.ledger().drop_budget(replace(budget, notebook=session.budget_notebook, user=session.user))
    again = desk.compare(over=[*items(3), LONG, *items(6)[3:]], score="exact(a)", concurrency=at_once)
    assert (again.complete, desk.asked) == (True, 14)


def test_a_run_that_is_stopped_at_what_each_may_cost_is_left_out_and_the_rest_goes_on(desk: Desk) -> None:
    """Of device time nothing is known before the first run."""
    session = desk.session
    session.prices.set("small", Rates(device_hour=Decimal(3600), source="%price"))
    session.ledger().set_budget(Budget("cell", Decimal("0.5"), notebook=session.budget_notebook, user=session.user))
    desk.engines["small"].ttft_s = lambda number: 1.0 if number == 0 else 0.1
    found = desk.compare(over=items(3), score="exact(a)")
    assert (sum(slots(found).values()), desk.asked, found.outcome.ended) == (5, 6, None)
    assert "stopped at $1" in "".join(found.notes())
    assert found.spent_usd == sum((row.reading.cost.usd or 0 for row in desk.rows), Decimal(0)) > 1


def test_a_judge_whose_prompt_is_beyond_it_leaves_a_pair_unscored(make_desk: Make) -> None:
    desk = make_desk(small=right, big=lambda _text, _number: "tie")
    session = desk.session
    session.ledger().set_budget(Budget("cell", tokens=100, notebook=session.budget_notebook, user=session.user))
    found = desk.compare(over=[{"q": "why " * 90 + "q7"}, *items(2)], score="judge(big)")
    assert sum(slots(found).values()) == 6
    assert sum(it.score is not None for it in found.answers) == 5, "the baseline's is its own"
    assert any("could not be scored" in it and "allowed without confirmation" in it for it in found.notes())


@pytest.mark.parametrize("progress", [True, 5])
def test_progress_that_cannot_be_told_is_refused_before_anything_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, progress: Any
) -> None:
    monkeypatch.setattr(api, "_session", desk.session)
    with pytest.raises(UsageError, match=f"progress is {progress}; give a function"):
        tokmagic.compare(VARIANTS, items(2), model="small", progress=progress)
    assert desk.asked == 0


def test_what_is_spent_at_once_counts(desk: Desk) -> None:
    desk.compare(pilot=5)
    with pytest.raises(UsageError, match="pilot is 0"):
        desk.compare(pilot=0)
    found = desk.compare(budget="0.00004")
    assert desk.asked == 10
    assert found.notes()[0] == "it ended early: all of $0.00004 is spent"


def test_a_pilot_forecasts_the_rest(make_desk: Make) -> None:
    desk = make_desk(small=lambda text, _number: "word " * (1 + int(text[-1])))
    pilot = desk.compare(pilot=4)
    assert (pilot.forecast.items, pilot.forecast.left) == (4, 6)
    low, high = pilot.forecast.low_usd, pilot.forecast.high_usd
    assert low is not None
    assert high is not None
    rest = desk.compare().spent_usd - pilot.spent_usd
    assert low <= rest <= high
    assert "6 items left: about $0." in str(pilot.forecast)
    assert str(desk.compare().forecast) == "nothing is left to run"


# What goes wrong


def test_a_run_that_fails_is_missing_and_the_rest_goes_on(make_desk: Make) -> None:
    def answers(text: str, number: int) -> str:
        if "terse q3" in text:
            raise ModelError("the server hung up")
        return right(text, number)

    desk = make_desk(small=answers)
    found = desk.compare(score="exact(a)", over=items(5))
    assert sum(slots(found).values()) == 9
    assert math.isnan(found.values("usd")[0, 3, 0])
    assert found.notes() == [
        "1 of 10 runs are missing; means are of the items that every variant has, differences of complete pairs alone",
        "1 run of terse failed, the first: ModelError: the server hung up",
        "1 item left: about $0.000004 (95 %: $0.000004 to $0.000004), from 4 items",
    ]
    desk.engines["small"].answers = right
    check_whole(desk.compare(score="exact(a)", over=items(5)), desk)
    assert desk.asked == 11


@pytest.mark.parametrize("given", [{"pilot": 3}, {"budget": "0.0001"}, {"budget": "0.0001", "pilot": 9}, {}])
@pytest.mark.parametrize("failing", [(), (4,), (4, 9)], ids=["none fails", "one fails", "two fail"])
def test_the_forecast_is_of_the_runs_that_are_to_come(
    make_desk: Make, given: dict[str, Any], failing: tuple[int, ...]
) -> None:
    """Whatever of an item has run is not paid for twice. Each run costs the same."""

    def answers(text: str, number: int) -> str:
        if number in failing:
            raise ModelError("the server hung up")
        return right(text, number)

    desk = make_desk(small=answers)
    found = desk.compare(**given)
    before = desk.asked
    expected = found.forecast.usd
    desk.engines["small"].answers = right
    desk.compare()
    assert expected == (desk.asked - before) * Decimal("0.000004")


def test_what_a_judge_has_yet_to_reply_is_to_come(make_desk: Make) -> None:
    def answers(text: str, number: int) -> str:
        if number in (0, 5):
            raise ModelError("busy")
        return judging(text, number)

    desk = make_desk(small=right, big=answers)
    found = desk.compare(score="judge(big)", over=items(6))
    spent, left = found.spent_usd, found.forecast
    desk.engines["big"].answers = judging
    again = desk.compare(score="judge(big)", over=items(6))
    assert left.left == 2
    assert spent is not None
    assert left.usd is not None
    assert again.spent_usd is not None
    assert left.usd == pytest.approx(again.spent_usd - spent, rel=Decimal("0.05")), "prompts differ a little in length"
    assert again.forecast.left == 0


def test_a_model_that_fails_half_way_is_given_up(make_desk: Make) -> None:
    def answers(text: str, number: int) -> str:
        if number >= 3:
            raise ModelError("out of order")
        return right(text, number)

    desk = make_desk(small=right, big=answers)
    found = desk.compare(models=["small", "big"], over=items(6))
    assert len(desk.engines["big"].asked) == 3 + GIVEN_UP
    assert len(desk.engines["small"].asked) == 12
    assert "big failed too often in a row and was given up: ModelError: out of order" in found.notes()
    assert sum(slots(found).values()) == 15


def test_what_is_finished_is_read_where_nothing_new_can_run(make_desk: Make) -> None:
    """The first runs failed; later ones count although a budget, or the model, lets nothing more in."""

    def answers(text: str, number: int) -> str:
        if number < 2:
            raise ModelError("not yet")
        return right(text, number)

    make_desk(small=answers).compare(over=items(4))
    desk = make_desk()
    found = desk.compare(over=items(4), budget="0.000025")
    assert desk.asked == 0
    assert sum(slots(found).values()) == 6
    assert (
        found.notes()[1]
        == "2 of 8 runs are missing; means are of the items that every variant has, differences of complete pairs alone"
    )
    assert found.forecast.left == 1

    def never(_text: str, _number: int) -> str:
        raise ModelError("gone")

    late = make_desk(small=never)
    late.engines["small"].answers = never
    assert sum(slots(late.compare(over=items(4))).values()) == 6


def test_another_model_of_the_same_name_is_another_comparison(make_desk: Make) -> None:
    make_desk().compare(over=items(2))
    desk = make_desk()
    engine = desk.engines["small"]
    desk.session.models.add("small", ModelSpec("scripted:elsewhere.json"))
    desk.session.models._engines["small"] = engine
    assert desk.compare(over=items(2)).complete
    assert desk.asked == 4


@pytest.mark.parametrize("users", [("ada", "bob"), ("ada", None), (None, "bob")])
def test_anothers_runs_in_a_shared_ledger_are_not_taken_over(
    make_desk: Make, tmp_path: Path, users: tuple[str | None, str | None]
) -> None:
    data, (first, second) = write_csv(tmp_path / "questions.csv", 3), users
    begun = desk_of(make_desk, first).compare(over=data, pilot=1)
    desk = desk_of(make_desk, second)
    found = desk.compare(over=data)
    assert (desk.asked, found.complete, found.spent_usd) == (6, True, 3 * begun.spent_usd)
    again = desk_of(make_desk, first)
    assert again.compare(over=data).complete
    assert again.asked == 4, "the two that were finished are still one's own"
    desk_of(make_desk, first).compare(over=data, pilot=1, seed=1)
    write_csv(data, 4)
    assert desk_of(make_desk, second).compare(over=data, seed=1).complete, "nor is one told of what they began"


def desk_of(make_desk: Make, user: str | None) -> Desk:
    desk = make_desk()
    desk.session.user = user
    return desk


def test_a_prompt_that_one_item_does_not_make_is_no_fault_of_the_model(desk: Desk) -> None:
    rows = [{"q": " "} for _ in range(8)] + [{"q": "q"}]
    found = desk.compare({"a": "{{ q }}", "b": "b {{ q }}"}, rows)
    assert sum(slots(found).values()) == 10
    assert found.outcome.given_up == {}
    assert found.notes()[1].startswith("8 runs of a failed, the first: PromptError: variant a, item ")


def test_answers_that_were_cut_are_counted(make_desk: Make) -> None:
    desk = make_desk(small=lambda _text, _number: "word " * 30)
    assert desk.compare(over=items(2)).notes() == ["4 answers reached max_tokens and may be incomplete"]


def test_both_models_given_up_ends_quietly(make_desk: Make) -> None:
    def answers(_text: str, _number: int) -> str:
        raise ModelError("no such device")

    found = make_desk(small=answers).compare()
    assert len(found.answers) == GIVEN_UP
    assert not slots(found)


def test_scores_that_fail_mark_their_answers_and_are_shown_once(desk: Desk) -> None:
    def score(answer: str, item: dict[str, str]) -> float:
        if item["q"] == "q3":
            raise ValueError("no key")
        return math.nan if item["q"] == "q4" else 1.0

    found = desk.compare(score=score, over=items(6))
    assert [bool(it) for it in (found.values("score")[0, :, 0] == 1)] == [True] * 3 + [False] * 2 + [True]
    (note,) = found.notes()
    assert note.startswith("4 answers could not be scored and are left out (2 of terse, 2 of reasoned): ")
    assert len(found.to_pandas().query("problem.notna()")) == 4


def test_empty_answers_are_counted(make_desk: Make) -> None:
    desk = make_desk(small=lambda text, number: "" if "terse" in text else right(text, number))
    found = desk.compare(score="exact(a)", over=items(3))
    assert found.notes() == ["3 answers had no text"]
    assert found.values("score").mean(axis=(1, 2)).tolist() == [0, 1]


def test_what_no_run_can_have_ends_it_at_once(desk: Desk) -> None:
    for given, says in (
        ({"models": ["smal"]}, "model 'smal' is unknown"),
        ({"models": []}, "no model is named"),
        ({"score": "exact(b)"}, r"the score exact\(b\) needs the column 'b'"),
        ({"sampling": Sampling(temperature=-1)}, "--temperature is -1"),
        ({"over": []}, "there is nothing to compare over"),
    ):
        with pytest.raises(UsageError, match=says):
            desk.compare(**given)
    assert desk.asked == 0


# The judge


def judging(text: str, _number: int) -> str:
    """Prefers the answer that says right; without one, whatever comes first."""
    first, second = text.split("<answer A>")[1].split("<answer B>")
    return "B" if "right" in second and "right" not in first else "A"


def test_a_judge_compares_with_the_baseline_and_costs_apart(make_desk: Make) -> None:
    def answers(text: str, _number: int) -> str:
        return "right" if "reasoned" in text and int(text[-1]) < 3 else "so"

    desk = make_desk(small=answers, big=judging)
    found = desk.compare(score="judge(big)", over=items(5))
    assert found.values("score")[0].ravel().tolist() == [0.5] * 5
    assert found.values("score")[1].ravel().tolist() == [1.0] * 3 + [0.5] * 2
    judge_usd = sum((row.reading.cost.usd or 0 for row in desk.rows if row.info.name == "big"), Decimal(0))
    assert found.outcome.judge.cost_usd == judge_usd > 0
    assert found.spent_usd == judge_usd + Decimal("0.00004")
    (note,) = found.notes()
    assert note.startswith("the judge big cost $0.0")
    one = Sum(1, cost_usd=Decimal(1))
    for judge, says in [
        (one + Sum(1, unpriced_runs=1), "cost ≥$1.00"),
        (replace(one, uncertainty=Uncertainty(1)), "cost ~$1.00"),
        (Sum(2, unpriced_runs=2), "has no price"),
    ]:
        found.outcome.judge = judge
        assert f"the judge big {says} and preferred" in found.notes()[0]
    assert note.endswith("and preferred the same answer with places swapped in 60% of 5 pairs")
    again = desk.compare(score="judge(big)", over=items(5))
    assert desk.asked == 20
    assert again.values("score")[1].sum() == 4


def test_another_judge_of_the_same_name_judges_anew(make_desk: Make) -> None:
    def judged(revision: str, better: str) -> tuple[int, float]:
        def answers(text: str, _number: int) -> str:
            return "A" if f"<answer A>\n{better}" in text else "B"

        desk = make_desk(small=lambda text, _number: text.split()[0], big=answers)
        desk.session.models.add("big", ModelSpec(f"scripted:{revision}.json"))
        desk.session.models._engines["big"] = desk.engines["big"]
        found = desk.compare(score="judge(big)", over=items(3))
        return desk.asked, float(found.values("score")[1].mean())

    assert judged("one", "reasoned") == (12, 1.0)
    assert judged("one", "terse") == (0, 1.0), "what is finished is not asked again"
    assert judged("other", "terse") == (6, 0.0), "the answers stay, another judge is asked"


def test_a_judge_is_asked_nothing_of_an_item_that_the_baseline_cannot_be_asked(make_desk: Make) -> None:
    desk = make_desk(small=right, big=lambda _text, _number: "A")
    over = [{"q": " "}, {"q": "q1"}, {"q": "q2"}]
    found = desk.compare({"bare": "{{ q }}", "asked": "say {{ q }}"}, over, score="judge(big)")
    assert len(desk.engines["big"].asked) == 4
    assert np.isnan(found.values("score")).ravel().tolist() == [True, False, False] * 2
    assert "1 run of bare failed, the first: PromptError: variant bare, item 1: the prompt is empty for this item" in (
        found.notes()
    )


def test_a_judge_that_answers_nonsense_marks_the_pair(make_desk: Make) -> None:
    desk = make_desk(small=right, big=lambda _text, _number: "What a question!")
    found = desk.compare(score="judge(big)", over=items(2))
    assert math.isnan(found.values("score")[1, 0, 0])
    assert found.notes()[0] == (
        "2 answers could not be scored and are left out (2 of reasoned): the judge's reply cannot be read: "
        "'What a question!'; it should be A, B or tie"
    )
    assert found.notes()[1].startswith("the judge big cost $0.00")
    assert found.notes()[1].endswith(", and no two replies of it could be read")


def test_a_judge_that_fails_marks_the_pair(make_desk: Make) -> None:
    def answers(_text: str, _number: int) -> str:
        raise ModelError("gone")

    found = make_desk(small=right, big=answers).compare(score="judge(big)", over=items(2))
    assert (
        "2 answers could not be scored and are left out (2 of reasoned): the judge failed: ModelError: gone"
        in found.notes()
    )
    assert sum(slots(found).values()) == 4


def test_a_judge_that_always_fails_is_given_up(make_desk: Make) -> None:
    def answers(_text: str, _number: int) -> str:
        raise ModelError("gone")

    desk = make_desk(small=right, big=answers)
    found = desk.compare(score="judge(big)", over=items(30))
    assert len(desk.engines["big"].asked) == GIVEN_UP
    assert found.complete, "the answers are there all the same"
    assert all(map(math.isnan, found.values("score")[1].ravel()))
    assert found.notes() == [
        "the judge big failed too often in a row and was given up: ModelError: gone; 30 pairs are not judged",
        "30 items left; no cost is known to tell what they will cost",
    ]
    desk.engines["big"].answers = judging
    again = desk.compare(score="judge(big)", over=items(30))
    assert len(desk.engines["small"].asked) == 60
    assert not any(map(math.isnan, again.values("score")[1].ravel())), "the next call tries it again"


def test_a_judge_that_fails_now_and_then_goes_on(make_desk: Make) -> None:
    def answers(_text: str, number: int) -> str:
        if number % GIVEN_UP:
            raise ModelError("busy")
        return "A"

    desk = make_desk(small=right, big=answers)
    found = desk.compare(score="judge(big)")
    assert len(desk.engines["big"].asked) == 20
    assert found.outcome.given_up == {}
    *_, judged, left = found.notes()
    assert judged.endswith(", and no two replies of it could be read")
    assert left.startswith("10 items left"), "the next call asks the judge again"


def test_a_judge_that_does_not_fit_is_no_matter_of_max_tokens(make_desk: Make) -> None:
    """The judge may write 256 tokens: $0.000512 here, and its prompt."""
    desk = make_desk(small=right, big=judging)
    helps = "; raise the budget, or take a judge that costs less"
    with pytest.raises(BudgetError, match="a single run of the judge big may cost up") as caught:
        desk.compare(score="judge(big)", budget="0.0005")
    assert str(caught.value).endswith(helps)
    assert desk.asked == 0, "no answer is paid for that could not be judged"
    found = desk.compare(score="judge(big)", budget="0.0008")
    assert found.notes()[0].startswith("it ended early: a single run of the judge big may cost up to $0.0005")
    assert found.notes()[0].endswith(helps)
    assert 0 < found.outcome.blocks < 10
    assert len(found.answers) == 2 * found.outcome.blocks, "none is begun that cannot be judged"


def test_a_judge_whose_prompt_is_too_dear_is_told_with_what_helps(make_desk: Make) -> None:
    desk = make_desk(small=lambda _text, _number: " ".join(["word"] * 20), big=judging)
    # What holds for answers without text does not for forty words.
    with pytest.raises(BudgetError, match="the judge big: this run may cost up to") as caught:
        desk.compare(score="judge(big)", budget="0.00068")
    assert str(caught.value).endswith("; raise the budget, or take a judge that costs less")
