"""Many prompts at once: in order, within budgets, each settled, whatever becomes of the others."""

from __future__ import annotations

import _thread
import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import tokmagic
from tests.servers import Asked, Wire, chunk, serve
from tokmagic.core.budget import Budget, Hold
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import RunRecord, Sum
from tokmagic.engines import scripted
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream
from tokmagic.errors import BudgetError, EndpointError, GenerationInterrupted, ModelError, UsageError
from tokmagic.ledgers import Ledger
from tokmagic.runs import api, pace
from tokmagic.runs.budget_guard import BudgetGuard
from tokmagic.runs.pace import Pace
from tokmagic.runs.session import Session

DOLLAR_A_TOKEN = Rates(input=Decimal(0), output=Decimal(1_000_000), source="%price")
PIECES = ["One ", "two ", "three."]


@pytest.fixture
def session(make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    session = make_session()
    script = tmp_path / "slow.json"
    script.write_text(json.dumps({"pieces": PIECES, "ttft_s": 0.05, "itl_s": 0.05, "pace": 1.0}), encoding="utf-8")
    session.models.add("slow", ModelSpec(f"scripted:{script}"))
    session.models.use("slow")
    session.prices.set("slow", DOLLAR_A_TOKEN)
    monkeypatch.setattr(api, "_session", session)
    return session


def statuses(session: Session) -> list[str]:
    return sorted(row.status for row in session.ledger().runs())


@pytest.mark.parametrize(
    ("budget", "hold", "in_lumps"),
    [
        (None, "worst", True),
        ("1000", "worst", True),
        ("1000", "p95", False),  # less than the worst case is held: it may have to be stopped at any token
    ],
)
def test_runs_beside_each_other_are_read_in_lumps_unless_they_are_watched(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    budget: str | None,
    hold: str,
    in_lumps: bool,
) -> None:
    """A thread that is woken for each token holds up the engine's own, which all of them wait for."""
    relaxed: list[int] = []

    class Stream(ScriptedStream):
        def relax(self) -> None:
            relaxed.append(1)

    monkeypatch.setattr(scripted, "ScriptedStream", Stream)
    script = tmp_path / "quick.json"
    script.write_text(json.dumps({"pieces": PIECES}), encoding="utf-8")
    session.models.add("quick", ModelSpec(f"scripted:{script}"))
    session.models.use("quick")
    session.prices.set("quick", DOLLAR_A_TOKEN)
    session.settings.hold = hold  # type: ignore[assignment]
    for _ in range(30):  # so that the usual length of an answer is known
        tokmagic.generate("A question", cache=False, max_tokens=50)
    assert relaxed == [], "one alone may be looked at"
    tokmagic.generate_many([f"Question {it}" for it in range(4)], max_tokens=50, cache=False, budget=budget)
    assert len(relaxed) == (4 if in_lumps else 0)


def test_answers_come_in_the_order_of_their_prompts(session: Session) -> None:
    """Whichever ends first: each says which question it answers."""
    order = list(range(12))

    def script(asked: Asked, wire: Wire) -> None:
        number = int(asked.body["messages"][0]["content"])
        wire.gone.wait(0.01 * (12 - number))
        wire.open_stream()
        wire.event(chunk(f"answer {number}", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}))
        wire.end()

    with serve(script) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        answers = tokmagic.generate_many(map(str, order), "m")
    assert [it.text for it in answers] == [f"answer {number}" for number in order]
    assert statuses(session) == ["ok"] * 12
    assert len({it.run_id for it in answers}) == 12


@pytest.mark.parametrize(("concurrency", "at_once"), [(None, 8), (1, 1), (3, 3)])
def test_so_many_are_at_a_server_at_once(session: Session, concurrency: int | None, at_once: int) -> None:
    meet = threading.Barrier(at_once)
    open_now: list[int] = []
    most: list[int] = []

    def script(_asked: Asked, wire: Wire) -> None:
        open_now.append(1)
        most.append(len(open_now))
        meet.wait(60)
        open_now.pop()
        wire.open_stream()
        wire.event(chunk("yes"))
        wire.end()

    with serve(script) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        prompts = [f"Question {number}" for number in range(at_once * 2)]
        assert len(tokmagic.generate_many(prompts, "m", concurrency=concurrency)) == at_once * 2
    assert max(most) == at_once


def test_what_does_not_fit_beside_the_others_waits_for_them(session: Session) -> None:
    """Each may cost $10 and costs $3: of a budget of $25 two can begin at once, and all fit one after another."""
    session.ledger().set_budget(Budget("day", usd=Decimal(25)))
    answers = tokmagic.generate_many([f"Question {it}" for it in range(6)], max_tokens=10, cache=False)
    assert [it.cost.usd for it in answers] == [Decimal(3)] * 6
    assert statuses(session) == ["ok"] * 6


def test_what_fits_no_more_is_refused_and_the_rest_is_kept(session: Session) -> None:
    session.ledger().set_budget(Budget("day", usd=Decimal(15)))
    prompts = [f"Question {it}" for it in range(5)]
    answers = tokmagic.generate_many(prompts, max_tokens=10, cache=False, return_errors=True)
    assert sorted(it.status for it in answers) == ["ok", "ok", "refused", "refused", "refused"]
    for refused in (it for it in answers if it.status == "refused"):
        assert isinstance(refused.error, BudgetError)
        assert "$9.00 left ($6.00 spent, $0 held by active runs)" in str(refused.error)
    with pytest.raises(BudgetError, match=r"\$9\.00 left"):
        tokmagic.generate_many(prompts, max_tokens=10, cache=False)


CAPS: dict[str, Budget | None] = {
    "the cell's": Budget("cell", Decimal(100)),
    "the day's": Budget("day", Decimal(100)),
    "in tokens": Budget("day", None, 1_000),
    "of the run": None,
}


@pytest.mark.parametrize("cap", CAPS)
def test_what_never_fits_holds_nobody_up(session: Session, monkeypatch: pytest.MonkeyPatch, cap: str) -> None:
    """A prompt that may cost more than the whole budget is refused at once, not when those before it have ended."""
    asked_long, refused, asked_later = threading.Event(), threading.Event(), threading.Event()
    in_time = list[bool]()
    admit_hold, admit = BudgetGuard.admit_hold, Ledger.admit

    def in_order(guard: BudgetGuard, record: RunRecord, messages: Any, hold: Hold) -> bool:
        if (before := {"dear": asked_long, "later": refused}.get(messages[0].content)) is not None:
            assert before.wait(5)
        return admit_hold(guard, record, messages, hold)

    def noted(ledger: Ledger, record: RunRecord, messages: Any, *more: Any) -> Any:
        found = admit(ledger, record, messages, *more)
        if messages[0].content == "dear":
            refused.set()
        return found

    def script(asked: Asked, wire: Wire) -> None:
        if asked.body["messages"][0]["content"] == "long":
            asked_long.set()
            in_time.append(asked_later.wait(5))
        asked_later.set()
        wire.open_stream()
        wire.event(chunk("fine", reason="stop"))
        wire.end()

    monkeypatch.setattr(BudgetGuard, "admit_hold", in_order)
    monkeypatch.setattr(Ledger, "admit", noted)
    budget = CAPS[cap]
    if budget is not None:
        notebook = session.budget_notebook if budget.scope == "cell" else None
        session.ledger().set_budget(replace(budget, notebook=notebook, user=session.user))
    most = {"long": 10, "dear": 100_000, "later": 10}
    prompts = [Prompt((Message("user", text),), Sampling(max_tokens=tokens)) for text, tokens in most.items()]
    with serve(script) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        session.prices.set("m", DOLLAR_A_TOKEN)
        of_each = None if budget is not None else "100"
        answers = tokmagic.generate_many(prompts, "m", concurrency=3, return_errors=True, budget=of_each)
    assert [it.status for it in answers] == ["ok", "refused", "ok"]
    assert in_time == [True]


def failing(asked: Asked, wire: Wire) -> None:
    if asked.body["messages"][0]["content"] == "bad":
        wire.answer(400, {"error": {"message": "no"}})
        return
    wire.open_stream()
    wire.event(chunk("fine"))
    wire.end()


def test_one_that_fails_stops_no_other(session: Session) -> None:
    with serve(failing) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        with pytest.raises(EndpointError, match="400"):
            tokmagic.generate_many(["one", "bad", "two", "three"], "m")
        assert statuses(session) == ["failed", "ok", "ok", "ok"]
        answers = tokmagic.generate_many(["four", "bad"], "m", return_errors=True)
    assert [(it.status, it.text) for it in answers] == [("ok", "fine"), ("failed", "")]
    assert isinstance(answers[1].error, EndpointError)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0}, ["cached", "cached", "ok", "ok"]),
        ({"cache": True}, ["cached", "cached", "ok", "ok"]),
        ({}, ["ok"] * 4),
        ({"temperature": 0, "cache": False}, ["ok"] * 4),
        ({"temperature": 0, "refresh": True}, ["ok"] * 4),
    ],
)
def test_the_same_prompt_is_answered_once_where_its_answer_is_kept(
    session: Session, options: dict[str, Any], expected: list[str]
) -> None:
    answers = tokmagic.generate_many(["Why?", "How?", "Why?", "How?"], **options)
    assert [it.text for it in answers] == ["".join(PIECES)] * 4
    assert statuses(session) == expected


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_an_interrupt_settles_every_row(session: Session, after_s: float) -> None:
    """It comes so long after the first of them began; all of them would take longer than any machine makes it wait."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while not session._under_way.ids():
            time.sleep(0.002)
        time.sleep(after_s)
        signal.raise_signal(signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(GenerationInterrupted, match=r"interrupted after \d+ of 1,000 answers"):
        tokmagic.generate_many([f"Question {it}" for it in range(1000)], concurrency=4, cache=False)
    interrupting.join()
    rows = session.ledger().runs()
    assert {row.status for row in rows} <= {"ok", "interrupted"}
    assert len(rows) < 1000
    assert session.changes().rows == ()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_let_in_ahead_asks_nothing_where_it_is_stopped(session: Session) -> None:
    """Of four prompts two are answered and one more has its row: it ends with them, and costs nothing."""
    asked: list[str] = []

    def script(it: Asked, wire: Wire) -> None:
        asked.append(it.body["messages"][0]["content"])
        wire.open_stream()
        wire.event(chunk("Well"))
        wire.gone.wait(60)

    def stop() -> None:
        until = time.monotonic() + 60
        while (len(session._under_way.ids()) < 3 or len(asked) < 2) and time.monotonic() < until:
            time.sleep(0.01)
        _thread.interrupt_main()

    with serve(script) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        session.prices.set("m", DOLLAR_A_TOKEN)
        stopping = threading.Thread(target=stop)
        stopping.start()
        with pytest.raises(GenerationInterrupted):
            tokmagic.generate_many(["1", "2", "3", "4"], "m", concurrency=2)
        stopping.join()
    rows = session.ledger().runs()
    assert (len(asked), len(rows)) == (2, 3)
    assert {row.status for row in rows} == {"interrupted"}
    (unasked,) = (row for row in rows if row.reading.usage.input_tokens == 0)
    assert (unasked.reading.cost.usd, unasked.reading.cost.bound, unasked.finish_reason) == (0, "exact", "interrupted")
    assert session._under_way.ids() == []


class SlowToLetGo(ScriptedEngine):
    """Streams the closing of which gives others the time to begin."""

    def __init__(self, pace: float = 1.0) -> None:
        super().__init__("m", [Script.of_text(["Well"] * 100, itl_s=1.0, pace=pace)])
        self.asked = 0

    def stream(self, prompt: Prompt) -> ScriptedStream:
        self.asked += 1
        stream = super().stream(prompt)
        close = stream.close
        stream.close = lambda: (close(), time.sleep(0.3))[0]  # type: ignore[method-assign]
        return stream


def as_many(session: Session) -> None:
    with suppress(GenerationInterrupted):
        tokmagic.generate_many(["1", "2", "3"], "m", concurrency=2, return_errors=True)


def in_comparison(session: Session) -> None:
    variants = {name: f"Say {name}" for name in "123"}
    with suppress(GenerationInterrupted):
        tokmagic.compare(variants, model="m", concurrency=2)


@pytest.mark.parametrize("begin", [as_many, in_comparison])
@pytest.mark.parametrize("stop", [Session.close, lambda _session: _thread.interrupt_main()], ids=["close", "interrupt"])
def test_the_turn_of_one_that_was_stopped_is_no_turn_of_another(
    session: Session, begin: Callable[[Session], None], stop: Callable[[Session], None]
) -> None:
    """Where all are stopped, one after another, the first that ends must not let in one that waits."""
    engine = SlowToLetGo()
    session.models.add("m", session.models.spec("scripted"))
    session.models._engines["m"] = engine

    def stopping() -> None:
        until = time.monotonic() + 60
        while (len(session._under_way.ids()) < 3 or engine.asked < 2) and time.monotonic() < until:
            time.sleep(0.01)
        stop(session)

    thread = threading.Thread(target=stopping)
    thread.start()
    begin(session)
    thread.join()
    assert engine.asked == 2


def test_a_sidebar_that_stops_one_stops_that_one(session: Session) -> None:
    stopped = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Well"))
        stopped.wait(60)
        wire.end()

    def stop() -> None:
        until = time.monotonic() + 60
        while len(session._under_way.ids()) < 3 and time.monotonic() < until:
            time.sleep(0.002)
        one = session._under_way.ids()[0]
        session.stop(one)
        while one in session._under_way.ids() and time.monotonic() < until:
            time.sleep(0.002)
        stopped.set()

    with serve(script) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        stopping = threading.Thread(target=stop)
        stopping.start()
        answers = tokmagic.generate_many(["One?", "Two?", "Three?"], "m", cache=False, return_errors=True)
        stopping.join()
    assert sorted(it.status for it in answers) == ["interrupted", "ok", "ok"]


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no number of runs": ({"concurrency": 0}, UsageError, "concurrency is 0"),
    "half a run": ({"concurrency": 1.5}, UsageError, "concurrency is 1.5"),
    "true": ({"concurrency": True}, UsageError, "concurrency is True"),
    "a wrong option": ({"temperature": -1}, UsageError, "temperature"),
    "an unknown option": ({"temprature": 1}, UsageError, "temperature"),
    "an unknown model": ({"model": "slo"}, UsageError, "slow"),
    "a model that is not there": ({"model": "./nowhere"}, ModelError, "nowhere"),
}


@pytest.mark.parametrize(("options", "kind", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_before_anything_runs(
    session: Session, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        tokmagic.generate_many(["One?", "Two?"], **options)
    assert session.ledger().runs() == []


def test_a_wrong_prompt_among_them_keeps_all_from_running(session: Session) -> None:
    with pytest.raises(UsageError, match="not a prompt"):
        tokmagic.generate_many(["One?", 5, "Two?"])  # type: ignore[list-item]
    assert session.ledger().runs() == []


def test_stop_texts_of_a_prompt_may_be_a_list_and_are_no_letters_of_a_text(session: Session) -> None:
    def prompts(stop: Any) -> list[Prompt]:
        return [Prompt((Message("user", "Hi"),), Sampling(temperature=0, stop=stop))] * 2

    many = tokmagic.generate_many(prompts(["three"]))
    assert [(it.status, it.record.params["stop"]) for it in many] == [("ok", ("three",)), ("cached", ("three",))]
    for stop in ("END", None):
        for call in (tokmagic.generate_many, lambda asked: tokmagic.generate(asked[0])):
            with pytest.raises(UsageError, match=f"--stop is {stop!r}; give a tuple of strings"):
                call(prompts(stop))


def test_no_prompts_are_no_runs(session: Session) -> None:
    assert tokmagic.generate_many([]) == []
    assert tokmagic.generate_many(iter(())) == []
    assert session.ledger().runs() == []


def test_a_function_is_told_how_far_it_is(session: Session) -> None:
    stands: list[Pace] = []
    answers = tokmagic.generate_many(
        [f"Question {it}" for it in range(6)], max_tokens=10, cache=False, concurrency=2, progress=stands.append
    )
    assert [it.done for it in stands] == sorted(it.done for it in stands)
    last = stands[-1]
    cost, tokens = sum(it.cost.usd or 0 for it in answers), sum(it.usage.output_tokens or 0 for it in answers)
    assert (last.done, last.prompts, last.sum.cost_usd, last.sum.output_tokens) == (6, 6, cost, tokens)
    assert all(0 < it.done <= 6 and it.elapsed_s > 0 for it in stands)
    for it in stands[:-1]:
        assert it.usd_to_come == it.sum.cost_usd * (6 - it.done) / it.done  # type: ignore[operator]


def test_what_the_cache_had_of_a_call_that_goes_on_says_nothing_of_the_rest(session: Session) -> None:
    asked = [f"Question {it}" for it in range(12)]
    stands: list[Pace] = []
    for prompts, progress in ((asked[:8], None), (asked, stands.append)):
        answers = tokmagic.generate_many(prompts, max_tokens=10, seed=1, concurrency=1, progress=progress)
    assert [it.status for it in answers] == ["cached"] * 8 + ["ok"] * 4
    each = answers[-1].cost.usd
    assert each
    for it in stands:
        assert it.replayed == min(8, it.done)
        if it.done > 8:
            assert it.usd_to_come == each * (12 - it.done)
            assert it.left_s == pytest.approx(it.elapsed_s * (12 - it.done) / (it.done - 8))
        else:
            assert (it.usd_to_come, it.left_s) == (None, None)


def test_of_prompts_that_are_the_same_replays_are_to_come_as_often(session: Session) -> None:
    stands: list[Pace] = []
    tokmagic.generate_many(["Same?"] * 4, max_tokens=10, seed=1, progress=stands.append)
    assert {it.replayed for it in stands} == {0}


PRICED = Sum(runs=3, input_tokens=1200, output_tokens=60, cost_usd=Decimal("0.30"))
SAID = {
    Pace(0, 4): "0 of 4 prompts, 0 in, 0 out",
    Pace(3, 4, PRICED, 90.0): "3 of 4 prompts, 1,200 in, 60 out, $0.3000 so far; to come: about $0.1000, about 30 s",
    Pace(3, 4, replace(PRICED, cost_usd=None), 90.0): "3 of 4 prompts, 1,200 in, 60 out; to come: about 30 s",
    Pace(3, 4, PRICED, 90.0, 32): "3 of 4 prompts, 1,200 in, 60 out, $0.3000 so far; to come: about $0.1000",
    Pace(3, 5, replace(PRICED, unpriced_runs=1)): (
        "3 of 5 prompts, 1,200 in, 60 out, ≥$0.3000 so far; to come: about $0.3000, about 1 s"
    ),
    Pace(3, 5, replace(PRICED, refused_runs=1)): (
        "3 of 5 prompts, 1,200 in, 60 out, $0.3000 so far; to come: about $0.3000, about 1 s"
    ),
    Pace(3, 5, replace(PRICED, refused_runs=2, unpriced_runs=1)): (
        "3 of 5 prompts, 1,200 in, 60 out, ≥$0.3000 so far; to come: about 1 s"
    ),
    Pace(5, 7, replace(PRICED, runs=5), 90.0, 1, 2): (
        "5 of 7 prompts, 1,200 in, 60 out, $0.3000 so far; to come: about $0.2000, about 1 min"
    ),
    Pace(2, 7, replace(PRICED, runs=2, cost_usd=Decimal(0)), 0.1, 1, 2): (
        "2 of 7 prompts, 1,200 in, 60 out, $0 so far"
    ),
    Pace(3, 3, PRICED, 90.0): "3 of 3 prompts, 1,200 in, 60 out, $0.3000 so far",
}


@pytest.mark.parametrize(("stand", "says"), SAID.items(), ids=SAID.values())
def test_how_far_it_is_in_words(stand: Pace, says: str) -> None:
    assert str(stand) == says


class ALine:
    """A place for a line: what it showed, and whether it is empty now."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.is_empty = True

    def progress(self, doing: str, _share: float | None) -> None:
        self.shown.append(doing)
        self.is_empty = False

    def clear(self) -> None:
        self.is_empty = True


@pytest.mark.parametrize("progress", [None, True, False])
def test_it_is_shown_where_there_is_a_line_unless_nobody_wants_it(
    session: Session, monkeypatch: pytest.MonkeyPatch, progress: bool | None
) -> None:
    monkeypatch.setattr(pace, "UPDATE_S", 0.0)
    line = ALine()
    session.line = lambda: line

    def script(asked: Asked, wire: Wire) -> None:
        until = time.monotonic() + 60
        second = asked.body["messages"][0]["content"] == "Two?"
        while second and progress is not False and not line.shown and time.monotonic() < until:
            time.sleep(0.002)  # or both might be done before the first is told
        wire.open_stream()
        wire.event(chunk("Well"))
        wire.end()

    with serve(script) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        tokmagic.generate_many(["One?", "Two?"], "m", cache=False, concurrency=1, progress=progress)
    assert [it.split(" prompts")[0] for it in line.shown] == ([] if progress is False else ["1 of 2", "2 of 2"])
    assert line.is_empty


def test_what_is_quick_shows_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "UPDATE_S", 60.0)  # than which this is quicker on any machine
    line = ALine()
    session.line = lambda: line
    tokmagic.generate_many(["One?"], max_tokens=1, cache=False)
    assert line.shown == []


def test_a_progress_that_is_none_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="progress is 5; give True, False or a function"):
        tokmagic.generate_many(["One?"], progress=5)  # type: ignore[arg-type]
