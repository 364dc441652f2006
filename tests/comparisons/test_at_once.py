"""Runs of a comparison at the same time: within each server's limit and one budget, each of them once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.comparisons.desk import DOLLARS, VARIANTS, Desk, items, right
from tests.comparisons.test_running import Interrupting, check_whole, interrupted, lasts_s, slots
from tests.examples import first
from tests.servers import Asked, Wire, chunk, serve
from tokmagic.comparisons import concurrency
from tokmagic.comparisons.concurrency import most_at_once
from tokmagic.comparisons.running import GIVEN_UP
from tokmagic.core.budget import Budget, Hold
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message
from tokmagic.core.record import RunRecord
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import BudgetError, GenerationInterrupted, ModelError, UsageError
from tokmagic.ledgers import Ledger
from tokmagic.runs.budget_guard import BudgetGuard
from tokmagic.runs.many import Others

Make = Callable[..., Desk]


class Slow:
    """Answers right after a moment that differs from run to run, and counts how many wait at the same time.

    The first ``meet`` wait for each other.
    """

    def __init__(self, most_s: float = 0.02, seed: int = 1, meet: int = 1, least_s: float = 0.0) -> None:
        self._meeting, self._meet = threading.Barrier(meet), meet
        self._least_s, self._most_s = least_s, most_s
        self._dice, self._lock = random.Random(seed), threading.Lock()
        self.now = self.most = 0

    def __call__(self, text: str, number: int) -> str:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            first, wait_s = number < self._meet, self._dice.uniform(self._least_s, self._most_s)
        if first:
            self._meeting.wait(60)
        threading.Event().wait(wait_s)
        with self._lock:
            self.now -= 1
        return right(text, number)


def test_so_many_go_on_at_once_and_each_is_there_once(make_desk: Make) -> None:
    slow = Slow(meet=4)
    desk = make_desk(small=slow)
    found = desk.compare(score="exact(a)", repeat=2, concurrency=4)
    check_whole(found, desk)
    assert slow.most == 4
    assert (found.values("score") == 1).all()
    assert [it.order for it in found.answers] == list(range(1, 41))
    wanted = [(arm, block.item, block.repeat) for block in found.plan.blocks() for arm in block.arms]
    assert [(it.arm, it.item, it.repeat) for it in found.answers] == wanted, (
        "in the order of the seed, whatever ends first"
    )


@pytest.mark.slow
def test_a_latency_among_others_is_told_as_such(make_desk: Make) -> None:
    # No answer is there before its stamps say that it was.
    slow = Slow(meet=4, least_s=0.2, most_s=0.22)
    desk = make_desk(small=slow)
    # The four that meet took all of their time, however far from each other they end.
    desk.engines["small"].ttft_s = lambda number: 3600.0 if number < 4 else 0.1
    (note,) = desk.compare(concurrency=4).notes()
    assert note.startswith("up to 4 runs went on at once at small: a latency is that of a run among others")
    again = make_desk(small=Slow())
    assert again.compare(concurrency=1).notes() == [note], "it is known of runs that are read from the ledger, too"
    assert again.asked == 0
    assert again.compare(concurrency=1, seed=1).notes() == []


def test_most_at_once_counts_what_overlaps() -> None:
    assert most_at_once([]) == 0
    assert most_at_once([(0, 1), (1, 2), (2, 3)]) == 1
    assert most_at_once([(0, 5), (1, 2), (1.5, 3), (4, 6)]) == 3


@contextmanager
def server(meet: threading.Barrier, most: list[int], most_here: int) -> Iterator[str]:
    """Holds the first requests until as many are there as the barrier wants, at all servers together."""
    open_now: list[int] = []

    def script(_asked: Asked, wire: Wire) -> None:
        open_now.append(1)
        most.append(len(open_now))
        if len(most) <= most_here:
            meet.wait(60)
        wire.gone.wait(0.02)
        open_now.pop()
        wire.open_stream()
        wire.event(chunk("yes", usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}))
        wire.end()

    with serve(script) as endpoint:
        yield endpoint.url


def test_several_servers_work_at_once_each_within_its_limit(desk: Desk) -> None:
    meet, most_a, most_b = threading.Barrier(5), list[int](), list[int]()
    with server(meet, most_a, 3) as one, server(meet, most_b, 2) as other:
        desk.session.models.add("a", ModelSpec("org/a", api_base=one))
        desk.session.models.add("b", ModelSpec("org/b", api_base=other))
        found = desk.compare(models=["a", "b"], over=items(6), concurrency={"a": 3, "b": 2}, variants={"x": "{{ q }}"})
    assert found.complete
    assert (max(most_a), max(most_b)) == (3, 2)


def test_models_of_one_server_share_its_limit(desk: Desk) -> None:
    most: list[int] = []
    with server(threading.Barrier(2), most, 2) as url:
        for name in ("a", "b"):
            desk.session.models.add(name, ModelSpec(f"org/{name}", api_base=url))
        assert desk.compare(models=["a", "b"], over=items(4), concurrency=2).complete
    assert max(most) == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"api_base": "http://a:1/v1"}, {"api_base": "http://a:1/v1"}, True),
        ({"api_base": "http://a:1/v1"}, {"api_base": "http://a:1/v1/"}, True),
        ({"api_base": "http://a:1/v1"}, {"api_base": "http://a:2/v1"}, False),
        ({"api_base": "http://a:1/v1?deployment=x"}, {"api_base": "http://a:1/v1?deployment=y"}, False),
        ({"api_key_name": "K"}, {"api_key_name": "K"}, True),
        ({"api_key_name": "K"}, {"api_base": "https://api.openai.com/v1", "api_key_name": "K"}, True),
        ({"api_key_name": "K"}, {"api_base": "http://a:1/v1", "api_key_name": "K"}, False),
        ({}, {}, False),
    ],
    ids=["one", "with a slash", "two ports", "two queries", "none named", "OpenAI named", "OpenAI and another", "here"],
)
def test_a_server_is_one_place_however_it_is_named(
    desk: Desk, one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    for name, given in (("a", one), ("b", other)):
        desk.session.models.add(name, ModelSpec(f"org/{name}", **given))  # type: ignore[arg-type]
    places = concurrency.Places(desk.session, ["a", "b"], None, 3)
    assert (places.of("a") == places.of("b")) == same
    assert places.at_once == (3 if same else 6)


def test_a_wrong_number_is_refused(desk: Desk) -> None:
    for given, says in (
        (0, "concurrency is 0; give a whole number above 0"),
        (True, "concurrency is True"),
        ("4", "concurrency is '4'"),
        ({"small": 1.5}, "concurrency is 1.5"),
        ({"big": 2}, "concurrency names the model 'big', which takes no part; there are small"),
    ):
        with pytest.raises(UsageError, match=says):
            desk.compare(concurrency=given)
    assert desk.asked == 0


@pytest.mark.parametrize(
    "at", [17, *(pytest.param(at, marks=pytest.mark.slow) for at in random.Random(4).sample(range(1, 61), 20))]
)
def test_interrupted_anywhere_and_resumed_each_run_is_there_once(make_desk: Make, at: int) -> None:
    """Twenty moments: as a run begins on its thread, as an answer is scored, or between two runs."""
    interrupt, slow = Interrupting(at), Slow(0.004)

    def answers(text: str, number: int) -> str:
        interrupt()
        return slow(text, number)

    def score(answer: str, item: dict[str, str]) -> bool:
        interrupt()
        return answer == item["a"]

    given: dict[str, Any] = {"score": score, "repeat": 2, "over": items(5), "concurrency": 4}
    first = make_desk(small=answers)
    with pytest.raises(GenerationInterrupted, match="call it again to go on") as caught:
        first.compare(**given, progress=lambda _stand: interrupt())
    before = sum(row.status == "ok" for row in first.rows)
    assert f"interrupted after {before} of 20 runs" in str(caught.value)
    assert {row.status for row in first.rows} <= {"ok", "interrupted"}, "every row is settled"
    again = make_desk(small=answers)
    found = again.compare(**given)
    check_whole(found, again)
    assert again.asked == 20 - before, "what was finished is not run again"
    assert (found.values("score") == 1).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_by_the_clock_and_resumed_each_run_is_there_once(make_desk: Make, tmp_path: Path) -> None:
    """As a person does it, while eight run at once."""
    given: dict[str, Any] = {"score": "exact(a)", "repeat": 20, "concurrency": 8}
    moment, interrupts = random.Random(6), 0
    elsewhere = {"ledger": f"sqlite:///{tmp_path}/timed.sqlite"}
    whole_s = lasts_s(make_desk(settings=elsewhere, small=Slow()), **given)
    for _ in range(20):
        desk = make_desk(small=Slow())
        interrupts += interrupted(partial(desk.compare, **given), whole_s * moment.uniform(0.004, 0.05))
    assert interrupts >= 15, "Python itself loses one that comes while it drops a weak reference"
    last = make_desk()
    check_whole(last.compare(score="exact(a)", repeat=20, concurrency=8), last)


# Budgets


@pytest.mark.parametrize("most", [2, 4, 8])
def test_a_budget_is_kept_by_all_together_and_ends_on_pairs(make_desk: Make, most: int) -> None:
    """A run costs $0.000004 and may cost $0.000042: what does not fit beside the others waits for them."""
    desk = make_desk(small=Slow(0.01))
    found = desk.compare(budget="0.0001", score="exact(a)", concurrency=most)
    assert found.spent_usd == sum((row.reading.cost.usd or 0 for row in desk.rows), Decimal(0)) <= Decimal("0.0001")
    ran = slots(found)
    assert sum(ran.values()) == 15, "as many as one after another"
    assert 6 <= sum(ran[0, item, 0] and ran[1, item, 0] for item in range(10)) <= 7
    assert found.notes()[0] == (
        "it ended early: this run may cost up to $0.000042, more than what is left of the budget of $0.00004; "
        "lower --max-tokens or raise the budget"
    )
    assert found.notes()[1].startswith("5 of 20 runs are missing; means are of the items that every variant has, ")
    check_whole(desk.compare(budget="0.001", score="exact(a)", concurrency=most), desk)
    assert desk.asked == 20


def test_a_prompt_that_never_fits_ends_it_without_waiting_for_the_others(
    make_desk: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the others give back would let it in."""
    in_time: list[bool] = []
    pair, both, admit_hold = list[str](), threading.Event(), BudgetGuard.admit_hold

    def in_order(guard: BudgetGuard, record: RunRecord, messages: Sequence[Message], hold: Hold) -> bool:
        if "long" in messages[-1].content:
            assert both.wait(60)
        return admit_hold(guard, record, messages, hold)

    monkeypatch.setattr(BudgetGuard, "admit_hold", in_order)

    def until_refused(text: str, number: int) -> str:
        if text.endswith(f"q{order[0]}"):
            pair.append(text)
            if len(pair) == 2:
                both.set()
        end = time.monotonic() + 5
        while not (refused := any(row.status == "refused" for row in desk.rows)) and time.monotonic() < end:
            time.sleep(0.01)
        in_time.append(refused)
        return right(text, number)

    desk = make_desk(small=until_refused)
    over = [{"q": f"q{number}", "a": f"a{number}"} for number in range(4)]
    order = list(range(4))
    random.Random(0).shuffle(order)  # as the plan does
    over[order[1]]["q"] = "long " * 1000 + "q"
    found = desk.compare(over=over, score="exact(a)", budget="0.0005", concurrency=8)
    assert len(in_time) >= 2
    assert all(in_time)
    assert found.notes()[0] == (
        "it ended early: this run may cost up to $0.00104, more than what is left of the budget of $0.0005; "
        "lower --max-tokens or raise the budget"
    )
    assert order[1] not in {it.item for it in found.answers}


def test_what_waits_behind_the_run_that_ends_it_is_not_let_in(make_desk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would fit, and stand at the door while the first one is refused."""
    at_the_door, admit_hold, admit = threading.Event(), BudgetGuard.admit_hold, Ledger.admit

    def in_order(guard: BudgetGuard, record: RunRecord, messages: Sequence[Message], hold: Hold) -> bool:
        if "long" not in messages[-1].content:
            assert at_the_door.wait(60)
        try:
            return admit_hold(guard, record, messages, hold)
        except BudgetError:
            if "long" in messages[-1].content:
                time.sleep(0.3)  # those behind are done with before it says why
            raise

    def slowly(ledger: Ledger, record: RunRecord, messages: Any, *more: Any) -> Any:
        at_the_door.set()
        if "long" in messages[-1].content:
            time.sleep(0.3)
        return admit(ledger, record, messages, *more)

    monkeypatch.setattr(BudgetGuard, "admit_hold", in_order)
    monkeypatch.setattr(Ledger, "admit", slowly)
    desk = make_desk()
    desk.session.ledger().set_budget(Budget("day", tokens=100, user=desk.session.user))
    over = [{"q": f"{'long ' * 200}q{it}" if it == 0 else f"q{it}", "a": f"a{it}"} for it in range(3)]
    with pytest.raises(BudgetError, match="ended the comparison before one pair was complete: this run may use up to"):
        desk.compare(over=over, concurrency=6)
    assert desk.asked == 0


def taken_in(desk: Desk, asked: Asked, tokens: int) -> bool:
    """Wait until the run of a request has taken in so many tokens; False where it goes on no more."""
    text, end = asked.body["messages"][-1]["content"], time.monotonic() + 60
    while time.monotonic() < end:
        running = list(desk.session._under_way._running.values())
        run = next((it for it in running if it._prompt.messages[-1].content == text), None)
        if run is None:
            return False
        if (run.snapshot().reading.usage.output_tokens or 0) >= tokens:
            return True
        time.sleep(0.002)
    return False


def test_one_that_outgrows_what_it_held_takes_from_the_common_budget_alone(make_desk: Make) -> None:
    """A server that goes on past its limit: each run holds more as it grows, beside others that wait to begin."""

    def endless(asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for number in range(1, 30):
            counts = {"prompt_tokens": 1, "completion_tokens": number, "total_tokens": 1 + number}
            wire.event(chunk(" abc", usage=counts))
            # Not ahead of those who read it, however busy they are.
            if not taken_in(desk, asked, number - 3):
                return
        wire.event(chunk(reason="stop"))
        wire.end()

    desk = make_desk()
    with serve(endless) as endpoint:
        desk.session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        desk.session.prices.set("m", Rates(input=Decimal(0), output=Decimal(1_000_000), source="%price"))
        try:
            spent_usd = desk.compare(models=["m"], budget="60", concurrency=4).spent_usd
        except BudgetError:
            spent_usd = Decimal(0)
    used = sum((row.reading.cost.usd or 0 for row in desk.rows), Decimal(0))
    # Each may have been sent a few tokens more than it was stopped for.
    assert 0 < used <= 60 + 4 * 4
    assert spent_usd in (0, used)
    assert "running" not in {row.status for row in desk.rows}


# What goes wrong


def test_a_model_that_always_fails_is_given_up_and_the_others_go_on(make_desk: Make) -> None:
    def answers(_text: str, _number: int) -> str:
        raise ModelError("out of order")

    desk = make_desk(small=Slow(), big=answers)
    found = desk.compare(models=["small", "big"], over=items(40), concurrency=4)
    assert sum(slots(found).values()) == 80
    assert GIVEN_UP <= len(desk.engines["big"].asked) <= GIVEN_UP + 8
    assert "big failed too often in a row and was given up: ModelError: out of order" in found.notes()


def test_an_option_that_no_run_can_have_ends_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, stop = threading.Event(), Others.stop

    def stopping(others: Others) -> None:
        stop(others)
        stopped.set()

    def answers(_text: str, number: int) -> str:
        if number == 5:
            raise UsageError("this server takes no such option")
        if number > 10:  # its thread may be the slowest
            stopped.wait(60)
        return "yes"

    monkeypatch.setattr(Others, "stop", stopping)

    desk.engines["small"].answers = answers
    with pytest.raises(UsageError, match="takes no such option"):
        desk.compare(concurrency=4)
    assert desk.asked < 20
    assert "running" not in {row.status for row in desk.rows}


def test_a_judge_works_beside_the_others(make_desk: Make) -> None:
    def judging(text: str, _number: int) -> str:
        return "B" if "right" in text.split("<answer B>")[1] else "A"

    def answers(text: str, number: int) -> str:
        Slow(0.01, number)(text, number)
        return "right" if "reasoned" in text else "so"

    desk = make_desk(small=answers, big=judging)
    found = desk.compare(score="judge(big)", concurrency={"small": 4, "big": 3}, repeat=2)
    assert slots(found).total() == 40
    assert found.values("score")[1].ravel().tolist() == [1.0] * 20
    assert len(desk.engines["big"].asked) == 40
    assert found.outcome.blocks == found.outcome.costs.items == 20
    assert found.spent_usd == sum((row.reading.cost.usd or 0 for row in desk.rows), Decimal(0))
    before = desk.asked
    assert desk.compare(score="judge(big)", concurrency=2, repeat=2).values("score")[1].sum() == 20
    assert desk.asked == before


@pytest.mark.parametrize("most", first(2, [4, None, 1, 8]))
@pytest.mark.parametrize("budget", first(2, ["0.0008", "0.002", "0.0012", "0.003"]))
def test_runs_at_once_leave_enough_of_a_budget_to_judge(make_desk: Make, budget: str, most: int | None) -> None:
    """An answer costs up to $0.000042 and often as much; a judgement costs little, but may cost over $0.0005."""
    desk = make_desk(small=lambda _text, _number: " ".join(["word"] * 20), big=lambda _text, _number: "A")
    found = desk.compare(score="judge(big)", over=items(40), budget=budget, concurrency=most)
    judged = sum(it.score is not None for it in found.answers if it.arm == 1)
    assert found.outcome.ended is not None
    assert judged == found.outcome.blocks > 0
    assert len(found.answers) <= 2 * (judged + 1), "of pairs that were begun at most the last is not judged"
    used = sum((row.reading.cost.usd or 0 for row in desk.rows), Decimal(0))
    assert found.spent_usd == used <= Decimal(budget)
    more = desk.compare(score="judge(big)", over=items(40), budget="0.1", concurrency=most)
    assert more.outcome.blocks == 40
    assert desk.asked == 160


def test_a_judge_that_always_fails_is_given_up_beside_the_others(make_desk: Make) -> None:
    def answers(_text: str, _number: int) -> str:
        raise ModelError("out of order")

    desk = make_desk(small=Slow(0.005), big=answers)
    found = desk.compare(score="judge(big)", over=items(30), concurrency=4)
    assert GIVEN_UP <= len(desk.engines["big"].asked) <= GIVEN_UP + 8
    assert sum(slots(found).values()) == 60
    assert sum("big" in note for note in found.notes()) == 1
    assert "30 pairs are not judged" in "".join(found.notes())


def test_a_budget_that_ends_it_leaves_judged_pairs(make_desk: Make) -> None:
    desk = make_desk(small=Slow(0.005), big=lambda _text, _number: "A")
    for name in ("small", "big"):
        desk.session.prices.set(name, DOLLARS)
    found = desk.compare(score="judge(big)", budget="0.0009", concurrency=2)
    assert 0 < found.outcome.blocks < 10
    judged = sum(it.score is not None for it in found.answers if it.arm == 1)
    pairs = sum(slots(found)[0, item, 0] and slots(found)[1, item, 0] for item in range(10))
    assert found.outcome.blocks <= judged <= pairs <= judged + 3
    assert found.spent_usd <= Decimal("0.0009")
    assert VARIANTS.keys() == {row[0] for row in found.levels.rows}
