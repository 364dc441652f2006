"""The pipeline: one settled row a run whatever happens, totals that are its sums, settings obeyed or refused."""

from __future__ import annotations

import gc
import json
import math
import signal
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tokmagic.core.budget import Budget
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import RunRecord, Selection, Sum
from tokmagic.core.stream import Event, Logprob, Token, Usage
from tokmagic.engines.registry import Models
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream
from tokmagic.errors import GenerationInterrupted, ModelError, PromptError, UsageError
from tokmagic.ledgers import Ledger
from tokmagic.runs import api, cache, checkpoints
from tokmagic.runs import records as records_module
from tokmagic.runs import run as execution
from tokmagic.runs import session as session_module
from tokmagic.runs.channel import Channel
from tokmagic.runs.generation import Choice, Generation
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Hi"),))
NOTEBOOK = "/home/ada/nb/one.ipynb"
PIECES = ["Hel", "lo", " you", " there", "!"]
DOLLARS = Rates(input=Decimal(1), output=Decimal(2), source="%price")
Make = Callable[..., Session]


class Each:
    """Does something at each piece of text, told its number from 1 on."""

    def __init__(self, do: Callable[[int], object]) -> None:
        self.do = do
        self.seen: list[str] = []

    def token(self, text: str) -> None:
        self.seen.append(text)
        self.do(len(self.seen))


def interrupt_at(*numbers: int) -> Each:
    def do(number: int) -> None:
        if number in numbers:
            raise KeyboardInterrupt

    return Each(do)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write a script file and return the model's name."""

    def write(**more: Any) -> str:
        path = tmp_path / "script.json"
        path.write_text(json.dumps({"pieces": PIECES, "input_tokens": 7, "ttft_s": 0.5, "itl_s": 0.25, **more}))
        return f"scripted:{path}"

    return write


def settled(session: Session, generation: Generation) -> RunRecord:
    """The run's row: the only one, ended, and what the Generation says."""
    (row,) = session.ledger().runs()
    assert row == generation.record
    assert row.status != "running"
    assert row.finished_at is not None
    assert row.finished_at >= row.started_at
    assert "\n" not in (row.error or "")
    return row


class Given(Models):
    """A session's models, every name one scripted engine of which some methods do something else."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        super().__init__(TokMagic(model="scripted"))
        given = ScriptedEngine("odd", [Script.of_text(PIECES)])
        for name, method in methods.items():
            setattr(given, name, method)
        self.engine = lambda _name=None: given  # type: ignore[method-assign]


def raising(error: BaseException) -> Callable[..., Any]:
    def do(*_arguments: object) -> Any:
        raise error

    return do


def test_a_whole_run(make_session: Make, script: Callable[..., str]) -> None:
    session, watcher = make_session(), Each(lambda _number: None)
    model = script()
    session.prices.set(model, DOLLARS)
    session.notebook, session.cell_id = NOTEBOOK, lambda: "cell-9"
    prompt = Prompt(ASK.messages, Sampling(max_tokens=99, seed=5))
    generation = session.generate(prompt, model, tags=["a", "b"], watcher=watcher)
    row = settled(session, generation.raise_for_status())
    assert (row.status, row.finish_reason, row.error) == ("ok", "stop", None)
    assert (generation.text, generation.tokens) == ("Hello you there!", (0, 1, 2, 3, 4))
    assert watcher.seen == PIECES
    usage = row.reading.usage
    assert (usage.input_tokens, usage.output_tokens, usage.output_source) == (7, 5, "measured")
    assert row.reading.cost.usd == Decimal("0.000017")
    assert (row.reading.ttft_s, row.reading.itl_mean_s, row.reading.latency_s) == pytest.approx((0.5, 0.25, 1.5))
    assert row.params == {"max_tokens": 99, "seed": 5, "n": 1}
    assert (row.notebook, row.cell_id, row.tags) == (NOTEBOOK, "cell-9", ("a", "b"))
    assert row.session == session.session_id
    assert row.env["python"]
    cut = session.generate(Prompt(ASK.messages, Sampling(max_tokens=2)), model, cell_id="given").record
    assert (cut.cell_id, cut.finish_reason, cut.reading.usage.output_tokens) == ("given", "length", 2)
    assert session.ledger().texts(row.run_id) == ([Message("user", "Hi")], "Hello you there!")


def test_a_failed_run_keeps_what_it_had(make_session: Make, script: Callable[..., str]) -> None:
    session = make_session()
    model = script(error="the device fell off the bus")
    session.prices.set(model, DOLLARS)
    generation = session.generate(ASK, model)
    row = settled(session, generation)
    assert (row.status, row.finish_reason, row.error) == ("failed", "error", "the device fell off the bus")
    assert (row.reading.usage.output_tokens, row.reading.cost.usd) == (5, Decimal("0.000017"))
    assert generation.text == "Hello you there!"
    with pytest.raises(ModelError, match="fell off"):
        generation.raise_for_status()
    assert session.ledger().totals(Selection()).runs == 1


NOT_TAKEN: list[tuple[Exception, str]] = [(PromptError("too long"), "refused"), (UsageError("give one"), "refused")]
NOT_TAKEN += [(RuntimeError("index 7\nis out of range"), "failed")]


@pytest.mark.parametrize(("error", "status"), NOT_TAKEN, ids=repr)
def test_a_run_that_is_not_taken_costs_nothing(make_session: Make, error: Exception, status: str) -> None:
    session = make_session()
    session.models = Given(stream=raising(error))
    session.prices.set("odd", DOLLARS)
    generation = session.generate(ASK)
    row = settled(session, generation)
    assert (row.status, row.finish_reason) == (status, None if status == "refused" else "error")
    assert (row.reading.usage, row.reading.cost.usd, generation.text, generation.tokens) == (Usage(), None, "", ())
    assert str(error).splitlines()[0] in str(row.error)
    assert generation.error is not None
    assert error in (generation.error, generation.error.__cause__), "the stack is kept for a report"
    assert session.ledger().totals(Selection()).unpriced_runs == (status == "failed")


@pytest.mark.parametrize("text", ["half \ud83d", "nul \x00", "\r\n"])
@pytest.mark.parametrize("place", ["answer", "tag", "notebook"])
def test_any_characters_are_settled(make_session: Make, script: Callable[..., str], text: str, place: str) -> None:
    """A lone surrogate also stands for a byte of a file name that is no UTF-8."""
    session = make_session()
    session.notebook = text if place == "notebook" else None
    answer = text if place == "answer" else "yes"
    generation = session.generate(ASK, script(pieces=[answer]), tags=[text] if place == "tag" else [])
    assert (generation.text, generation.status) == (answer, "ok")
    assert [row.status for row in session.ledger().runs()] == ["ok"]


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=0), Sampling(temperature=-1.0), Sampling(stop=("",))])
def test_what_cannot_begin_leaves_no_row(make_session: Make, sampling: Sampling) -> None:
    session = make_session()
    with pytest.raises(UsageError):
        session.generate(Prompt(ASK.messages, sampling), "scripted")
    with pytest.raises(UsageError, match="is unknown"):
        session.generate(ASK, "smolm")
    with pytest.raises(ModelError, match="is not a script"):
        session.generate(ASK, "scripted:/none")
    assert session.ledger().runs() == []


def test_an_interrupt_keeps_text_ids_and_usage_and_settles_first(
    make_session: Make, script: Callable[..., str]
) -> None:
    session, model = make_session(), script()
    session.prices.set(model, DOLLARS)
    generation = session.generate(ASK, model, watcher=interrupt_at(3))
    row = settled(session, generation)
    assert (row.status, row.finish_reason, row.error) == ("interrupted", "interrupted", None)
    assert (generation.text, generation.tokens) == ("Hello you", (0, 1, 2))
    assert (row.reading.usage.input_tokens, row.reading.usage.output_tokens) == (7, 3)
    assert row.reading.cost.usd == Decimal("0.000013")
    texts = session.ledger().texts(row.run_id)
    assert texts is not None
    assert texts[1] == "Hello you"
    with pytest.raises(GenerationInterrupted, match="after 3 tokens; its text and its cost are kept"):
        generation.raise_for_status()
    assert session.generate(ASK, model).status == "ok", "the next run is whole"


def queued(_prompt: Prompt) -> ScriptedStream:
    """What was generated before the close can still be read, as from a model that ran ahead."""
    stream = ScriptedStream(Script.of_text(PIECES), 99)
    stream.close = lambda: None  # type: ignore[method-assign]
    return stream


@pytest.mark.parametrize(("at", "kept"), [((2,), 5), ((2, 4), 4), ((2, 5), 5), ((2, 3, 4), 3)])
def test_a_second_interrupt_gives_up_waiting_for_the_rest(make_session: Make, at: tuple[int, ...], kept: int) -> None:
    session, watcher = make_session(), interrupt_at(*at)
    session.models = Given(stream=queued)
    generation = session.generate(ASK, watcher=watcher)
    row = settled(session, generation)
    assert row.status == "interrupted"
    assert isinstance(generation.error, GenerationInterrupted)
    assert generation.tokens == tuple(range(kept))
    assert (generation.text, watcher.seen) == ("".join(PIECES[:kept]), PIECES[:kept])
    assert row.reading.usage.output_tokens == kept


@pytest.mark.parametrize(("at", "kept"), [((2,), 5), ((5,), 5), ((2, 4), 3)])
def test_an_interrupt_between_taking_an_event_and_keeping_it_loses_none(
    make_session: Make, at: tuple[int, ...], kept: int
) -> None:
    """Ctrl-C comes when a token is no longer in the stream and the run does not have it yet."""

    class Interrupting(ScriptedStream):
        taken = 0

        def __next__(self) -> Event:
            event = super().__next__()
            self.taken += isinstance(event, Token)
            if isinstance(event, Token) and self.taken in at:
                signal.raise_signal(signal.SIGINT)
            return event

        def close(self) -> None:
            """What was generated before can still be read."""

    session = make_session()
    session.models = Given(stream=lambda _prompt: Interrupting(Script.of_text(PIECES), 99))
    generation = session.generate(ASK)
    row = settled(session, generation)
    assert (row.status, row.reading.usage.output_tokens) == ("interrupted", kept)
    assert isinstance(generation.error, GenerationInterrupted)
    assert (generation.tokens, generation.text) == (tuple(range(kept)), "".join(PIECES[:kept]))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_watcher_that_breaks_after_an_interrupt_changes_nothing(make_session: Make) -> None:
    session, errors = make_session(), iter([KeyboardInterrupt(), OSError("the terminal went away")])
    session.models = Given(stream=queued)
    generation = session.generate(ASK, watcher=Each(lambda _number: raising(next(errors))()))
    assert settled(session, generation).status == "interrupted"
    assert isinstance(generation.error, GenerationInterrupted)


def test_an_interrupt_while_the_row_is_settled_waits_for_it(make_session: Make) -> None:
    session, sent = make_session(model="scripted"), []

    def interrupt(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("UPDATE runs") and not sent:
            sent.append(statement)
            signal.raise_signal(signal.SIGINT)

    sa.event.listen(sa.Engine, "before_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            session.generate(ASK)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", interrupt)
    assert [row.status for row in session.ledger().runs()] == ["ok"]
    assert session.changes().notebook_totals == session.ledger().totals(session.selection)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("capped", [False, True], ids=["no budget", "a day's budget"])
def test_a_run_asks_once_for_each_thing(make_session: Make, monkeypatch: pytest.MonkeyPatch, capped: bool) -> None:
    """Budgets are read, sampling checked, the prompt digested and the answer put together once a run."""
    session, asked = make_session(model="scripted"), Counter[str]()
    session.prices.set("scripted", DOLLARS)
    if capped:
        session.ledger().set_budget(Budget("day", Decimal(5), user=session.user))

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def wrapper(*args: Any, **more: Any) -> Any:
            asked[name] += 1
            return function(*args, **more)

        monkeypatch.setattr(module, name, wrapper)

    counted(session_module, "check_prompt")
    counted(records_module, "sha256")
    counted(cache, "key")
    counted(execution, "Generation")

    def statement(_connection: Any, _cursor: Any, text: str, *_more: Any) -> None:
        asked["budget reads"] += "FROM budgets" in text

    session.generate(Prompt((Message("user", "an earlier one"),)))
    asked.clear()
    sa.event.listen(sa.Engine, "before_cursor_execute", statement)
    try:
        generation = session.generate(Prompt(ASK.messages, Sampling(temperature=0, max_tokens=50)))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", statement)
    assert generation.status == "ok"
    assert asked == {"budget reads": 1, "check_prompt": 1, "sha256": 1, "key": 1, "Generation": 1}


def test_a_run_is_stopped_from_another_thread(make_session: Make, script: Callable[..., str]) -> None:
    session, begun, done = make_session(), threading.Event(), []
    model = script(pieces=["a", "b"], ttft_s=0, itl_s=9000.0, pace=1.0)
    watcher = Each(lambda _number: begun.set())
    thread = threading.Thread(target=lambda: done.append(session.generate(ASK, model, watcher=watcher)))
    thread.start()
    assert begun.wait(60)
    (row,) = session.changes().rows
    session.stop("another")
    session.stop(row.run_id)
    thread.join(60)
    (generation,) = done
    kept = settled(session, generation)
    assert (kept.run_id, kept.status, kept.finish_reason) == (row.run_id, "interrupted", "interrupted")
    assert (generation.text, kept.reading.usage.output_tokens) == ("a", 1)
    with pytest.raises(GenerationInterrupted, match="was stopped after 1 token;"):
        generation.raise_for_status()
    session.stop(row.run_id)
    assert session.ledger().runs() == [kept], "stopping what has ended changes nothing"


def test_the_running_row_is_brought_up_to_date(
    make_session: Make, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_S", 0.0)
    session, looks = make_session(model="scripted"), []
    session.prices.set("scripted", DOLLARS)
    session.generate(ASK, watcher=Each(lambda _number: looks.append(ledger.runs()[0])))
    assert {row.status for row in looks} == {"running"}
    assert [row.reading.usage.output_tokens for row in looks] == [None, *range(1, len(looks))]
    assert [row.reading.cost.usd for row in looks[1:3]] == [Decimal("0.000014"), Decimal("0.000016")]


def test_totals_are_the_sum_of_the_rows_the_running_one_included(
    make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Channel, "listens", True)
    session, views = make_session(model="scripted"), []
    session.notebook = NOTEBOOK
    session.prices.set("scripted", DOLLARS)
    everything = Each(lambda number: views.append(session.everything(None, False) if number % 2 else session.changes()))
    session.generate(ASK, cell_id="a")
    session.generate(ASK, cell_id="b", watcher=interrupt_at(2))
    session.changes()
    session.generate(ASK, cell_id="c", watcher=everything)
    finished = session.ledger().runs()
    for number, view in enumerate(views, 1):
        live = view.rows[-1]
        assert (live.status, live.reading.usage.output_tokens) == ("running", number)
        assert [row.cell_id for row in view.rows] == (["a", "b", "c"] if number % 2 else ["c"])
        assert view.notebook_totals == view.day_totals == Sum.of([*finished[:2], live])
    last = session.changes()
    assert [row.status for row in last.rows] == ["ok"]
    assert last.notebook_totals == Sum.of(finished) == session.ledger().totals(session.selection)
    assert session.changes().rows == (), "told once"


@pytest.mark.slow
def test_a_long_script_keeps_nothing_of_its_runs(make_session: Make) -> None:
    session = make_session(model="scripted")
    tracemalloc.start()
    try:
        for _ in range(40):  # what is kept once: statements, adapters
            session.generate(ASK)
        gc.collect()
        grown = []
        for _ in range(3):  # what else goes on in this process may take memory, too
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(50):
                session.generate(ASK)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert min(grown) / 50 < 200


def test_today_is_what_this_user_ran_in_a_ledger_of_several(make_session: Make) -> None:
    mine, theirs = make_session(model="scripted"), make_session(model="scripted")
    mine.notebook = theirs.notebook = NOTEBOOK
    theirs.user = "somebody-else"
    for session in (mine, theirs, theirs):
        session.generate(ASK)
    view = mine.everything(None, False)
    assert view.notebook_totals is not None
    assert view.day_totals is not None
    assert (view.notebook_totals.runs, view.day_totals.runs) == (3, 1)


def test_rows_of_ids_that_are_only_places_are_this_kernels(make_session: Make) -> None:
    """What nbstripout called the third cell yesterday is not the third cell of today."""
    earlier, now = make_session(model="scripted"), make_session(model="scripted")
    earlier.notebook = now.notebook = NOTEBOOK
    for session, cells in ((earlier, ("1", "2", "a")), (now, ("2", "b"))):
        for cell in cells:
            session.generate(ASK, cell_id=cell)
    found = [(it.cell_id, it.session == now.session_id) for it in now.everything(None, False).rows]
    assert sorted(found) == [("2", True), ("a", False), ("b", True)]


def test_a_run_keeps_the_rates_it_ran_with(make_session: Make) -> None:
    session = make_session(model="scripted")
    session.prices.set("scripted", DOLLARS)
    dearer = replace(DOLLARS, input=Decimal(100))
    session.generate(ASK, watcher=Each(lambda _number: session.prices.set("scripted", dearer)))
    session.generate(ASK)
    first, second = session.ledger().runs()
    assert (first.rates, second.rates) == (DOLLARS, dearer)
    tokens = first.reading.usage.output_tokens or 0
    assert first.reading.cost.usd == Decimal(12 + 2 * tokens) / 1_000_000
    assert second.reading.cost.usd == Decimal(1200 + 2 * tokens) / 1_000_000


def test_another_ledger_is_opened_when_the_setting_changes(make_session: Make, tmp_path: Path) -> None:
    session = make_session(model="scripted")
    one, old = session.generate(ASK).run_id, session.settings.ledger
    session.settings.ledger = f"sqlite:///{tmp_path}/other.sqlite"
    two = session.generate(ASK).run_id
    assert [row.run_id for row in session.ledger().runs()] == [two]
    session.settings.store_text = False
    assert session.ledger().texts(session.generate(ASK).run_id) is None
    session.settings.ledger = old
    assert [row.run_id for row in session.ledger().runs()] == [one]


WRONG_PROMPTS: tuple[Any, ...] = (5, None, {"role": "user", "content": "x"}, ["x"], b"x", [5], [{"role": "user"}])
WRONG_PROMPTS += ([{"role": "robot", "content": "x"}], [Message("user", 5)], " ", [], Prompt("x"))  # type: ignore[arg-type]
WRONG_OPTIONS: tuple[Any, ...] = ({"model": 5}, {"model": "smolm"}, {"system": 5}, {"max_token": 5}, {"stop": 5})
WRONG_OPTIONS += ({"max_tokens": "5"}, {"seed": 1.5}, {"tags": 5}, {"tags": "one"}, {"tags": [5]})
CALLS: dict[str, Callable[[], object]] = {
    **{f"generate {prompt!r}": partial(api.generate, prompt) for prompt in WRONG_PROMPTS},
    **{f"generate {options}": partial(api.generate, "x", **options) for options in WRONG_OPTIONS},
    **{f"many {prompts!r}": partial(api.generate_many, prompts) for prompts in (5, "one text", [5])},
    **{f"count {prompt!r}": partial(api.count, prompt) for prompt in (5, None, [{"role": "user"}])},
    "count model": lambda: api.count("x", 5),  # type: ignore[arg-type]
    "a Prompt and more": lambda: api.generate(ASK, max_tokens=5),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wrong_arguments_give_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, make_session: Make, call: Callable[[], object]
) -> None:
    session = make_session(model="scripted")
    monkeypatch.setattr(api, "_session", session)
    with pytest.raises((UsageError, PromptError)) as raised:
        call()
    assert "\n" not in str(raised.value)
    assert session.ledger().runs() == []


def test_a_log_probability_that_json_cannot_say_is_null(make_session: Make) -> None:
    choice = Choice("Hi", (1, 2, 3), "stop", (Logprob("H", -0.5), Logprob("i", -math.inf), Logprob("", math.nan)))
    told = replace(make_session(model="scripted").generate(ASK), choices=(choice,)).as_dict()
    (pieces,) = json.loads(json.dumps(told, allow_nan=False))["logprobs"]
    assert [(it["text"], it["logprob"]) for it in pieces] == [("H", -0.5), ("i", None), ("", None)]
