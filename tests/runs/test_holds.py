"""What is set aside for a run: its worst case, or what nearly all answers of its model need, grown while it streams."""

from __future__ import annotations

import json
import random
import uuid
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers.test_store import run
from tests.runs.test_caps_in_stream import SAYS, Taken, endless
from tests.servers import serve
from tokmagic.core.budget import Budget, Hold
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Cost, Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo, Reading, Status
from tokmagic.core.stream import Usage
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import BudgetError, UsageError
from tokmagic.ledgers import Ledger
from tokmagic.runs.budget_guard import BudgetGuard, BudgetWarning
from tokmagic.runs.generation import Generation
from tokmagic.runs.recorder import Teller
from tokmagic.runs.session import Session

Make = Callable[..., Session]
ASK = (Message("user", "Why?"),)
DOLLAR_A_TOKEN = Rates(input=Decimal(1_000_000), output=Decimal(1_000_000), source="%price")
INFO = EngineInfo("m", "id", "scripted")


def answered(
    ledger: Ledger,
    *lengths: int,
    params: Any = None,
    status: Status = "ok",
    info: EngineInfo = INFO,
    reason: str | None = "stop",
) -> None:
    for tokens in lengths:
        usage = Usage(input_tokens=10, output_tokens=tokens, input_source="measured", output_source="measured")
        record = run(uuid.uuid4().hex, status=status, reading=Reading(usage, Cost(Decimal(0))))
        ledger.settle(replace(record, params=params or {}, info=info, finish_reason=reason))


def test_the_percentile_is_of_the_models_latest_complete_answers(ledger: Ledger) -> None:
    assert ledger.output_tokens_p95(INFO) is None
    answered(ledger, *[9_000] * 200, status="interrupted")
    answered(ledger, 0)
    assert ledger.output_tokens_p95(INFO) is None, "a cut answer does not tell how long it would be"
    lengths = random.Random(1).sample(range(1, 101), 100)
    answered(ledger, *[5_000] * 30)
    answered(ledger, *lengths)
    assert ledger.output_tokens_p95(INFO) == 95, "of the latest hundred"
    assert ledger.output_tokens_p95(EngineInfo("m", "other", "scripted")) is None


def test_a_run_of_several_answers_tells_their_mean(ledger: Ledger) -> None:
    answered(ledger, 31, params={"n": 3})
    assert ledger.output_tokens_p95(INFO) == 11


def test_a_row_of_many_requests_tells_their_mean(ledger: Ledger) -> None:
    answered(ledger, 100 * 16, params={"requests": 100, "concurrency": 8})
    assert ledger.output_tokens_p95(INFO) == 16
    answered(ledger, 100 * 3 * 16, params={"requests": 100, "n": 3})
    assert ledger.output_tokens_p95(INFO) == 16


@pytest.mark.parametrize(
    ("cut", "reason", "params", "found"),
    [
        (0, "length", {}, 40),
        (1, "length", {"max_tokens": 5}, 40),
        (2, "length", {"max_tokens": 5}, None),
        (20, "length", {"max_tokens": 5}, None),
        (20, "stop", {"max_tokens": 5}, 5),
        (20, "stop", {"max_tokens": 6}, 5),
        (20, None, {"max_tokens": 5}, None),
        (20, None, {"max_tokens": 6}, 5),
    ],
)
def test_an_answer_that_reached_its_limit_would_be_longer(
    ledger: Ledger, cut: int, reason: str | None, params: dict[str, Any], found: int | None
) -> None:
    """Runs of five tokens at most say nothing of how much one of 4,096 needs; a bench's rows name no reason."""
    answered(ledger, *[40] * (20 - cut))
    answered(ledger, *[5] * cut, params=params, reason=reason)
    assert ledger.output_tokens_p95(INFO) == found


@pytest.fixture
def session(make_session: Make, tmp_path: Path) -> Session:
    """A model m that answers a prompt of 10 tokens with 60; a token costs a dollar either way. Usual are 40."""
    made = make_session(hold="p95", cache=False)
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"pieces": ["a"] * 60, "input_tokens": 10}))
    made.models.add("m", made.models.spec(f"scripted:{path}"))
    made.prices.set("m", DOLLAR_A_TOKEN)
    answered(made.ledger(), 40, info=made.models.engine("m").info)
    return made


class Holding:
    """Notes what the run that streams holds, whenever that changes: in tokens, which are dollars here."""

    def __init__(self, session: Session, budget: Budget) -> None:
        self._session, self._budget = session, budget
        self.held: list[int] = []

    def token(self, _text: str) -> None:
        (stands,) = self._session.ledger().standings([self._budget], self._session.user, datetime.now())
        assert stands.held_usd == stands.held_tokens
        if stands.held_tokens not in self.held[-1:]:
            self.held.append(stands.held_tokens)


def answer(session: Session, cap: Budget, max_tokens: int, n: int = 1) -> tuple[list[int], Generation]:
    """What a run held while it streamed, and how it ended."""
    budget = replace(cap, user=session.user)
    session.ledger().set_budget(budget)
    seen = Holding(session, budget)
    generation = session.generate(Prompt(ASK, Sampling(max_tokens=max_tokens, n=n)), "m", watcher=seen)
    assert session.ledger().standings([budget], session.user, datetime.now())[0].held_tokens == 0
    return seen.held, generation


CAPS = {
    "dollars": lambda most: Budget("day", Decimal(most)),
    "tokens": lambda most: Budget("day", None, most),
    "both": lambda most: Budget("day", Decimal(most), most),
}
capped = pytest.mark.parametrize("kind", CAPS)


@capped
def test_a_usual_answer_is_held_and_a_longer_one_makes_its_hold_grow(session: Session, kind: str) -> None:
    held, generation = answer(session, CAPS[kind](1_000), max_tokens=500)
    # At 80 % of what it holds the double of what it has used is asked for: at 40, and at 64.
    assert held == [50, 80, 128]
    assert (generation.status, generation.usage.output_tokens) == ("ok", 60)


@capped
def test_no_more_is_held_than_a_run_can_use(session: Session, kind: str) -> None:
    assert answer(session, CAPS[kind](1_000), max_tokens=61)[0] == [50, 71]
    assert answer(session, CAPS[kind](1_000), max_tokens=30)[0] == [40]


@capped
def test_a_run_that_has_its_worst_case_is_not_stopped_at_its_last_token(session: Session, kind: str) -> None:
    held, generation = answer(session, CAPS[kind](70), max_tokens=60)
    assert (held, generation.status, generation.usage.output_tokens) == ([50, 70], "ok", 60)


@capped
def test_a_longer_answer_is_stopped_where_others_hold_the_rest(session: Session, kind: str) -> None:
    cap = replace(CAPS[kind](75), user=session.user)
    other = run("other", status="running", user=session.user, started_at=datetime.now(UTC), reading=Reading())
    assert session.ledger().admit(other, (), Hold(20, Decimal(20)), [cap], datetime.now()).refused is None
    session.ledger().set_budget(cap)
    with pytest.warns(BudgetWarning, match="93% used"):
        generation = session.generate(Prompt(ASK, Sampling(max_tokens=60)), "m")
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    # At the last dollar, after the last token.
    assert generation.usage.output_tokens == (46 if kind == "tokens" else 45)
    (stands,) = session.ledger().standings([cap], session.user, datetime.now())
    assert stands.held_tokens == 20


def test_several_answers_hold_so_many_times_the_usual(session: Session) -> None:
    seen: list[Hold | None] = []
    guard = BudgetGuard(session.ledger, [CAPS["both"](1_000)], [], teller=Teller(BudgetWarning), hold_by="p95")
    engine = session.models.engine("m")
    for number, (max_tokens, n) in enumerate([(100, 3), (40, 3), (100, 1)]):
        record = replace(run(f"r{number}", status="running", rates=DOLLAR_A_TOKEN), info=engine.info)
        guard.admit(record, Prompt(ASK, Sampling(max_tokens=max_tokens, n=n)), engine)
        seen.append(guard.hold)
    assert seen == [Hold(130, Decimal(130), True), Hold(130, Decimal(130)), Hold(50, Decimal(50), True)]


@pytest.mark.parametrize(("given", "fit"), [({}, 2), ({"hold_by": "p95"}, 20)], ids=["worst", "p95"])
def test_as_many_runs_are_let_in_as_holds_fit(session: Session, given: Any, fit: int) -> None:
    engine, prompt = session.models.engine("m"), Prompt(ASK, Sampling(max_tokens=490))

    def ask() -> None:
        guard = BudgetGuard(session.ledger, [CAPS["both"](1_000)], [], teller=Teller(BudgetWarning), **given)
        record = run(status="running", rates=DOLLAR_A_TOKEN, started_at=datetime.now(UTC))
        guard.admit(replace(record, info=engine.info), prompt, engine)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(fit):
            ask()
        with pytest.raises(BudgetError) as refused:
            ask()
    assert refused.value.passing, "nothing is spent: it fits when another run has ended"


def test_a_server_that_keeps_to_no_limit_is_stopped_at_the_cap(
    make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(hold="p95")
    with serve(endless(SAYS["nothing"], Taken(monkeypatch))) as server:
        session.models.add("m", ModelSpec("org/m", api_base=server.url))
        session.prices.set("m", Rates(input=Decimal(0), output=Decimal(1_000_000), source="%price"))
        answered(session.ledger(), 5, info=session.models.engine("m").info)
        generation = session.generate(Prompt(ASK, Sampling(max_tokens=20)), "m", budget="50")
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    assert 20 < (generation.usage.output_tokens or 0) <= 65


def test_the_setting_takes_one_of_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TokMagic().hold == "worst"
    monkeypatch.setenv("TOKMAGIC_HOLD", "p95")
    assert TokMagic().hold == "p95"
    monkeypatch.setenv("TOKMAGIC_HOLD", "p50")
    with pytest.raises(UsageError, match="TOKMAGIC_HOLD is 'p50'; use worst or p95"):
        _ = TokMagic().hold
