"""The live channel: messages equal the shared fixtures, their rate is bounded, the last reading always arrives."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import comm
import pytest
from traitlets import default

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Cost, Rates, Uncertainty
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import EnergySum, EngineInfo, Reading, RunRecord, Sum, source_sha256
from tokmagic.core.stream import Usage
from tokmagic.engines.base import ModelSpec, ServedModel, Share
from tokmagic.engines.fit import Held
from tokmagic.engines.gpu import Gpu, Load
from tokmagic.engines.gpu.memory import split
from tokmagic.engines.registry import Models
from tokmagic.errors import LedgerError
from tokmagic.runs.channel import CONTROL_TARGET, DATA_TARGET, INTERVAL_S, Channel
from tokmagic.runs.drafts.likely import Likely
from tokmagic.runs.drafts.wire import Draft, Edit, State, draft_wire, parse
from tokmagic.runs.gpu_readings import GpuReading
from tokmagic.runs.live import ModelView, View, row_wire, snapshot_wire
from tokmagic.runs.session import Session
from tokmagic.runs.shared_readings import SharedReading

FIXTURES = Path(__file__).parents[1] / "fixtures" / "wire"
PATIENCE_S = 60.0
GIB = 2**30
SMOLLM = EngineInfo(
    "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "local", device="cpu", dtype="bfloat16", context_tokens=8192
)
NOTEBOOK = "/home/ada/notebooks/01_quickstart.ipynb"
SESSION = "0b7c5a52a1f64a3c9a4e6a6b8a1d2c3e"


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def record(run_id: str, cell_id: str | None, status: Any, reading: Reading, **more: Any) -> RunRecord:
    started = datetime(2026, 11, 24, 9, 15, 2, 120000, tzinfo=UTC)
    return RunRecord(run_id, started, status, SMOLLM, "", {"max_tokens": 256}, cell_id=cell_id, reading=reading, **more)


def usage(output: int | None, source: Any = "measured") -> Usage:
    return Usage(input_tokens=412, output_tokens=output, input_source="measured", output_source=source)


PRICE = Cost(Decimal("0.0000521"), "measured")
STREAMING = Reading(usage(37), PRICE, 0.204, None, 0.6036, 0.0111, spark_ms=(11.0, 11.2, 11.1, 11.1))
BILL = Cost(Decimal("0.0011"), "measured", shadow_usd=Decimal("0.00030"))
DONE = Reading(usage(118), BILL, 0.204, None, 1.5, 0.0111, spark_ms=(11.2,))
GUESSED = Reading(usage(37, "estimated"), replace(PRICE, source="estimated", bound="at_least"), 0.204, None, 0.6036)
CACHED = Reading(usage(37), Cost(Decimal(0), "measured", saved_usd=Decimal("0.00110")))
OF_CELL = {"source_sha256": source_sha256("%%generate\nWhy?"), "execution": "request-1", "execution_count": 3}
OK_ROW = record(
    *("a1", "c-ok", "ok", DONE),
    finish_reason="stop",
    rates=Rates(shadow_model="openai/gpt-5-mini"),
    env={"python": "3.11.7", **OF_CELL},
)
ROWS = (
    OK_ROW,
    record("a2", "c-unpriced", "interrupted", replace(STREAMING, cost=Cost()), finish_reason="interrupted"),
    record("a3", "c-estimated", "ok", GUESSED),
    record("a4", "c-cached", "cached", CACHED),
    record("a5", "c-refused", "refused", Reading(), error="the prompt has 9000 tokens, the context 8192"),
    record("a6", None, "failed", Reading(usage(0), latency_s=0.6036), finish_reason="error", error="out of memory"),
    record(
        *("a7", "c-stopped", "interrupted", replace(STREAMING, cost=replace(PRICE, compute_usd=PRICE.usd))),
        finish_reason="budget",
        error="stopped at $0.0000521",
        rates=Rates(device_hour=Decimal(1), source="list price: a GPU by the hour"),
    ),
)
BEFORE = record(
    *("a0", "c-ok", "ok"),
    replace(DONE, usage=replace(usage(100), input_tokens=400), cost=Cost(Decimal("0.00090")), latency_s=1.25),
)
SPENT_AND_HELD = (Decimal("0.00110"), Decimal("0.00050"), 942, 512, 1)
STANDINGS = (
    Standing(Budget("cell", Decimal("0.050"))),
    Standing(Budget("notebook", tokens=20_000), spent_tokens=530, held_tokens=412, unpriced_runs=1),
    Standing(Budget("day", Decimal("0.002")), *SPENT_AND_HELD),
    Standing(Budget("month", Decimal("5.00"), warn_at=0.5), *SPENT_AND_HELD),
)


NOTICE = "its server counts 2 tokens more than the tokenizer here, in 3 of 8 runs since 2026-11-24 09:15"


def test_a_streaming_message_is_the_fixture() -> None:
    running = record("01930f5e8c7a4b0f8f1d2a3b4c5d6e7f", "3a7c1f0e-95f8-4d3b-a8a3-2c1d9e7b6f50", "running", STREAMING)
    before_today = Sum(30, 12_000, 3_100, Decimal("0.41200"), 2)
    view = View(
        NOTEBOOK,
        ModelView(SMOLLM, "ready", notice=NOTICE),
        Sum.of([running]),
        before_today + Sum.of([running]),
        (running,),
    )
    assert snapshot_wire(view, session=SESSION, seq=12, complete=False) == fixture("streaming")


def test_a_model_on_a_gpu_is_the_fixture() -> None:
    load = Load(0.38, 0.12, 412.0, 700.0)
    board = Gpu(0, "NVIDIA H200", 140 * GIB, 30 * GIB, "580", load=load, processes={os.getpid(): 20 * GIB})
    memory = split(board, Held(12 * GIB, 15 * GIB, 19 * GIB), other_weights_bytes=GIB)
    reading = GpuReading(board, memory, datetime(2026, 11, 24, 9, 15, 2, 120_000, tzinfo=UTC))
    energy = EnergySum(3, 1234.5, uncertainty=Uncertainty(at_most_runs=1))
    on_gpu = replace(SMOLLM, device="cuda:0")
    told = []
    for view in (
        ModelView(on_gpu, "ready", gpu=reading, energy=energy),
        ModelView(on_gpu, "ready", gpu=GpuReading(replace(board, load=Load()), None, reading.at)),
    ):
        message = snapshot_wire(View(None, view, None, None, ()), session=SESSION, seq=1, complete=False)
        told.append(message["model"])
    assert told == fixture("gpu")


def test_a_model_at_a_shared_engine_is_the_fixture() -> None:
    model = ServedModel("smollm2", "ready", {"ada": 2, "ben": 1})
    money: dict[str, Any] = {
        "cap_usd": Decimal("20.00"),
        "left_usd": Decimal("12.3400"),
        "cap_tokens": 100_000,
        "left_tokens": 2500,
    }
    share = Share(model, running=2, waiting=1, key="notebooks", team="research", **money)
    at = datetime(2026, 11, 24, 9, 15, 2, 120_000, tzinfo=UTC)
    info = replace(SMOLLM, engine="endpoint", device=None, server="http://engine:8000")
    told = []
    for one in (share, Share(ServedModel("smollm2", "unloaded", {}))):
        view = ModelView(info, "ready", shared=SharedReading(one, at))
        message = snapshot_wire(View(None, view, None, None, ()), session=SESSION, seq=1, complete=False)
        told.append(message["model"])
    assert told == fixture("shared")


def test_a_state_message_with_every_kind_of_row_is_the_fixture() -> None:
    view = View(
        NOTEBOOK,
        ModelView(SMOLLM, "loading", "loading weights", 0.4),
        Sum(1, unpriced_runs=1),
        Sum(2, 824, 118, Decimal("0.0011"), 1, uncertainty=Uncertainty(estimated_runs=1)),
        ROWS,
        STANDINGS,
        (BEFORE,),
    )
    message = snapshot_wire(view, session=SESSION, seq=1, complete=True)
    assert message == fixture("state")
    assert json.loads(json.dumps(message)) == message, "a message must survive JSON as it is"


def test_an_empty_message_is_the_fixture() -> None:
    view = View(None, None, None, None, ())
    assert snapshot_wire(view, session="s", seq=1, complete=True) == fixture("empty")


def test_a_run_that_waits_for_its_turn_says_so_where_that_is_known() -> None:
    waiting = record("w", "c", "running", Reading())
    assert row_wire(waiting)["queued"] is True
    assert "queued" not in row_wire(replace(waiting, reading=Reading(usage(0)))), "its prompt was counted"
    assert "queued" not in row_wire(replace(waiting, status="interrupted"))
    assert "queued" not in row_wire(replace(waiting, info=replace(SMOLLM, engine="endpoint"))), "a server does not say"


@pytest.mark.parametrize(("params", "told"), [({}, None), ({"n": 1}, None), ({"n": 3}, 3)])
def test_a_row_says_how_many_answers_were_asked_for(params: dict[str, Any], told: int | None) -> None:
    asked = replace(record("r", "c", "running", Reading()), params={"max_tokens": 256, **params})
    assert (row_wire(asked)["max_tokens"], row_wire(asked).get("choices")) == (256, told)


def test_the_metadata_of_an_output_is_the_fixture() -> None:
    assert row_wire(OK_ROW) == fixture("output_metadata")


def test_running_rows_are_added_to_the_sums_and_unknown_stays_unknown() -> None:
    priced, unpriced, unknown = ROWS[0], ROWS[1], ROWS[4]
    base = Sum(3, 10, 20, Decimal("0.5"), 1)

    def told(total: Sum) -> tuple[Any, ...]:
        return (total.cost_usd, total.input_tokens, total.output_tokens, total.runs, total.unpriced_runs)

    assert base + Sum.of([]) == base
    assert told(base + Sum.of([priced])) == (Decimal("0.5011"), 422, 138, 4, 1)
    assert told(base + Sum.of([unpriced])) == (Decimal("0.5"), 422, 57, 4, 2)
    guessed = base + Sum.of([ROWS[2]])
    assert told(guessed) == (Decimal("0.5000521"), 422, 57, 4, 1)
    assert guessed.uncertainty == Uncertainty(1, 1), "an estimate that is a lower bound"
    assert guessed.precision == (True, "at_least")
    assert told(Sum.of([replace(unknown, status="running")])) == (None, None, None, 1, 1)
    by_the_hour = replace(unknown, status="running", rates=Rates(device_hour=Decimal(1), source="list price: a GPU"))
    assert told(Sum.of([by_the_hour])) == (None, None, None, 1, 0), "its price is known, and nothing is owed yet"
    assert told(Sum.of([replace(by_the_hour, status="interrupted")])) == (None, None, None, 1, 1)
    assert told(Sum.of([priced, priced])) == (Decimal("0.0022"), 824, 236, 2, 0)


def test_a_look_from_the_sidebar_does_not_undo_the_choice_of_a_model() -> None:
    class Asked(TokMagic):
        """Settings that are slow to answer: meanwhile the person chooses a model."""

        @default("model")
        def _model(self) -> str:
            models.use("chosen")
            return "smollm2"

    models = Models(Asked())
    models.add("chosen", ModelSpec("scripted"))
    assert models.current == "smollm2"
    assert models.current == "chosen"


def test_a_look_from_the_sidebar_does_not_freeze_the_default_model() -> None:
    settings = TokMagic(model="smollm2")
    models = Models(settings)
    models.add("other", ModelSpec("scripted"))
    assert models.current == "smollm2"
    settings.model = "other"
    assert models.current == "other"


class Wire:
    """The transport of a kernel: everything sent is kept, with its instant; everything else is comm's own."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any], float]] = []
        self.arrived = threading.Condition()

    def keep(self, kind: str, target: str, data: dict[str, Any] | None) -> None:
        with self.arrived:
            self.sent.append((kind, target, json.loads(json.dumps(data or {})), time.perf_counter()))
            self.arrived.notify_all()

    def messages(self, target: str = DATA_TARGET) -> list[dict[str, Any]]:
        with self.arrived:
            return [data for kind, to, data, _ in self.sent if kind == "comm_msg" and to == target]

    def stamps(self) -> list[float]:
        with self.arrived:
            return [at for kind, to, _, at in self.sent if kind == "comm_msg" and to == DATA_TARGET]

    def wait(self, enough: Callable[[list[dict[str, Any]]], bool]) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: enough(self.messages()), PATIENCE_S), "the message never came"

    def ask(self, request: Any) -> list[dict[str, Any]]:
        """Open a control comm as the sidebar does, send one request and return the replies."""
        comm_id, manager = uuid.uuid4().hex, comm.get_comm_manager()
        before = len(self.messages(CONTROL_TARGET))
        manager.comm_open(None, "", {"content": {"comm_id": comm_id, "target_name": CONTROL_TARGET}})  # type: ignore[arg-type]
        manager.comm_msg(None, "", {"content": {"comm_id": comm_id, "data": request}})  # type: ignore[arg-type]
        return self.messages(CONTROL_TARGET)[before:]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    kept = Wire()

    class KernelComm(comm.BaseComm):
        def publish_msg(self, msg_type: str, data: Any = None, *_rest: Any, **_more: Any) -> None:
            kept.keep(msg_type, self.target_name, data)

    monkeypatch.setattr(comm, "create_comm", KernelComm)
    monkeypatch.setattr(comm, "_comm_manager", comm.base_comm.CommManager())
    return kept


class Numbers:
    """A source whose one row counts: what the channel shows is ``value`` at the moment of the look."""

    def __init__(self) -> None:
        self.value = 0
        self.asked: list[Any] = []
        self.failure: Exception | None = None

    def changes(self) -> View:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return View(None, None, None, None, (record("r", "c", "running", Reading(usage(self.value))),))

    def everything(self, path: str | None, widgets: bool) -> View:
        self.asked.append((path, widgets))
        if path == "broken":
            raise LedgerError("the ledger cannot be opened")
        return View(path, None, None, None, ROWS)

    def stop(self, run_id: str) -> None:
        self.asked.append(run_id)

    def draft(self, page: str, request: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        assert page, "a page's texts are kept by its comm"
        self.asked.append(parse(request))
        send(draft_wire(Draft(), cell_id="c", seq=1, state="lost"))


def shown(message: dict[str, Any]) -> int:
    return int(message["rows"][0]["output_tokens"])


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
def channel(wire: Wire, numbers: Numbers) -> Iterator[Channel]:
    opened = Channel("s", lambda: numbers)
    opened.open()
    yield opened
    opened.close()


def touched_fast(wire: Wire, numbers: Numbers, channel: Channel) -> list[float]:
    """Touch as fast as a thread can until a dozen messages came; return the instants of those since then."""
    before, ended = len(wire.stamps()), threading.Event()

    def touch_fast() -> None:
        while not ended.is_set():
            numbers.value += 1
            channel.touch()

    toucher = threading.Thread(target=touch_fast)
    toucher.start()
    wire.wait(lambda messages: len(messages) >= before + 12)
    ended.set()
    toucher.join()
    channel.touch()
    wire.wait(lambda messages: shown(messages[-1]) == numbers.value)
    return wire.stamps()[before:]


@pytest.mark.slow
def test_messages_are_at_most_twenty_a_second_and_the_last_value_arrives(
    wire: Wire, numbers: Numbers, channel: Channel
) -> None:
    assert INTERVAL_S >= 1 / 20
    stamps = touched_fast(wire, numbers, channel)
    assert len(stamps) <= (stamps[-1] - stamps[0]) / INTERVAL_S + 1
    # Nearly every touch is coalesced: far more happened than was sent.
    assert numbers.value > len(stamps)
    sequence = [message["seq"] for message in wire.messages()]
    assert sequence == list(range(1, len(sequence) + 1))


@pytest.mark.slow
def test_a_channel_that_was_opened_again_keeps_to_the_rate(wire: Wire, numbers: Numbers, channel: Channel) -> None:
    """As %reload_ext does it: shut and opened in one breath."""
    channel.touch()
    channel.close()
    channel.open()
    stamps = touched_fast(wire, numbers, channel)
    assert len(stamps) <= (stamps[-1] - stamps[0]) / INTERVAL_S + 1


def test_what_runs_without_a_word_is_told_again(
    wire: Wire, numbers: Numbers, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long prefill: nothing happens that anybody is told of, and its cost grows."""
    monkeypatch.setattr("tokmagic.runs.channel.RUNNING_S", 0.02)
    channel.touch()
    wire.wait(lambda messages: len(messages) >= 1)
    numbers.value = 5
    wire.wait(lambda messages: shown(messages[-1]) == 5)


def test_at_midnight_the_sums_of_the_new_day_are_told(
    wire: Wire, numbers: Numbers, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [date(2026, 11, 24)]
    monkeypatch.setattr("tokmagic.runs.channel.MINUTE_S", 0.01)
    monkeypatch.setattr("tokmagic.runs.channel.local_day", lambda: days[-1])
    monkeypatch.setattr(numbers, "changes", lambda: View(None, None, None, None, ()))
    channel.touch()
    channel.flush(PATIENCE_S)
    for told in (1, 2):
        wire.wait(lambda messages, told=told: len(messages) == told)
        time.sleep(0.05)
        assert len(wire.messages()) == told, "within a day nothing is told that did not change"
        days.append(days[-1] + timedelta(days=1))


def test_closing_sends_the_last_value_and_nothing_after_it(wire: Wire, numbers: Numbers, channel: Channel) -> None:
    numbers.value = 41
    channel.touch()
    numbers.value = 42
    channel.touch()
    channel.close()
    assert shown(wire.messages()[-1]) == 42
    assert wire.sent[-1][:2] == ("comm_close", DATA_TARGET)


def test_closing_sends_the_last_value_where_it_could_not_be_waited_for(
    wire: Wire, numbers: Numbers, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that sends may be kept from it for longer than a flush waits."""
    monkeypatch.setattr(channel, "flush", lambda: None)
    channel.touch()
    wire.wait(lambda messages: len(messages) >= 1)
    numbers.value = 42
    channel.touch()
    channel.close()
    assert shown(wire.messages()[-1]) == 42


@pytest.mark.parametrize("line", range(4))
def test_a_touch_just_after_a_message_went_out_is_sent_too(wire: Wire, numbers: Numbers, line: int) -> None:
    """Another thread touches between the channel's message and its ``line``-th step after that."""
    channel, touched, steps = Channel("s", lambda: numbers), threading.Event(), itertools.count()

    def touch() -> None:
        numbers.value = 7
        channel.touch()
        touched.set()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        ours = frame.f_code.co_filename == channel_file and threading.current_thread() is not toucher
        if ours and event == "line" and wire.messages() and next(steps) == line:
            toucher.start()
            touched.wait(0.2)  # it may have to wait for a lock that the traced thread holds
        return trace if ours else None

    channel_file, toucher = inspect.getfile(Channel), threading.Thread(target=touch)
    threading.settrace(trace)
    try:
        channel.open()
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    channel.touch()
    assert touched.wait(PATIENCE_S)
    channel.flush(PATIENCE_S)
    assert shown(wire.messages()[-1]) == 7
    channel.close()


def test_a_look_that_fails_does_not_silence_the_sidebar(wire: Wire, numbers: Numbers, channel: Channel) -> None:
    numbers.failure = RuntimeError("dictionary changed size during iteration")
    channel.touch()
    wire.wait(lambda messages: len(messages) == 1)  # and no other until it is touched again
    numbers.value = 5
    channel.touch()
    wire.wait(lambda messages: len(messages) >= 2)
    failed, last = wire.messages()[:2]
    assert failed["type"] == "error"
    assert shown(last) == 5


def test_control_messages_of_the_fixture_are_understood(wire: Wire, numbers: Numbers, channel: Channel) -> None:
    hello, stop, *drafts = fixture("control")
    (reply,) = wire.ask(hello)
    assert (reply["type"], reply["complete"], reply["session"]) == ("snapshot", True, "s")
    assert reply["notebook"] == hello["path"]
    assert reply["rows"] == [row_wire(row) for row in ROWS]
    assert wire.ask(stop) == []
    assert [wire.ask(draft)[0]["state"] for draft in drafts] == ["lost", "lost"]
    assert numbers.asked == [
        *(("notebooks/01_quickstart.ipynb", True), "a1"),
        Edit("c-draft", 1, None, 0, 0, "%%generate\nHi 🚀"),
        Edit("c-draft", 2, 1, 14, 2, "!"),
    ]


def test_drafts_are_the_fixture() -> None:
    priced = Cost(Decimal("0.0000618"), "counted"), Cost(Decimal("0.00021540"), "counted")
    expected = Likely(Decimal("0.00010"), Decimal("0.00008"), Decimal("0.00012"), 4, True)
    estimated = "the template holds more than {{ name }} of a string or number, which only a run fills in"
    by_the_hour = Draft(
        *("smollm2", 412, "counted", 256, 8192),
        high=Cost(Decimal("0.00210"), "estimated"),
        device_hour=Decimal("0.080"),
        list_price="list price: 2 vCPU, a cloud by the hour",
    )
    drafts: list[tuple[State, Draft]] = [
        ("counting", Draft("smollm2", 6, "estimated", 256)),
        ("counted", Draft("smollm2", 412, "counted", 256, 8192, *priced, likely=expected)),
        ("counted", Draft(None, 108_031, "estimated", reason=estimated, costly=True)),
        ("lost", Draft()),
        ("counted", by_the_hour),
    ]
    made = [draft_wire(it, cell_id="c-draft", seq=at, state=state) for at, (state, it) in enumerate(drafts, 1)]
    assert made == fixture("drafts")


def test_a_session_counts_a_draft_on_the_comm_that_asked(wire: Wire, make_session: Callable[..., Session]) -> None:
    session = make_session(model="scripted")
    session.channel.open()
    whole, change = fixture("control")[2:]
    (*_, counted) = wire.ask(whole)
    assert (counted["type"], counted["cell_id"], counted["seq"]) == ("draft", "c-draft", 1)
    # Another comm is another page, which told nothing of the text yet.
    assert [it["state"] for it in wire.ask(change)] == ["lost"]
    (error,) = wire.ask({**whole, "seq": None})
    assert (error["type"], "'draft'" in error["message"]) == ("error", True)


@pytest.mark.parametrize(
    "request_",
    [{"v": 1, "type": "dance"}, {"v": 2, "type": "hello"}, {"type": "hello"}, "hello", None, [], {"v": 1}],
    ids=repr,
)
def test_unknown_control_messages_get_an_error(wire: Wire, numbers: Numbers, channel: Channel, request_: Any) -> None:
    (reply,) = wire.ask(request_)
    assert set(reply) == set(fixture("error"))
    assert (reply["v"], reply["type"]) == (1, "error")
    assert numbers.asked == []


def test_an_error_of_ours_is_answered_as_the_fixture(wire: Wire, channel: Channel) -> None:
    (reply,) = wire.ask({"v": 1, "type": "hello", "path": "broken", "widgets": False})
    assert reply == fixture("error")


@pytest.mark.parametrize("kind", ["draft", "detail", "forecast", "totals"])
@pytest.mark.parametrize(
    ("failure", "told"),
    [(LedgerError("the ledger is gone"), "the ledger is gone"), (KeyError("a\nb"), "KeyError: 'a\\nb'")],
    ids=["ours", "unforeseen"],
)
def test_a_question_that_fails_is_answered_with_what_was_asked(
    wire: Wire, numbers: Numbers, channel: Channel, kind: str, failure: Exception, told: str
) -> None:
    def fail(*_: Any) -> Any:
        raise failure

    setattr(numbers, kind, fail)
    assert wire.ask({"v": 1, "type": kind, "seq": 1}) == [{"v": 1, "type": "error", "message": told, "to": kind}]


def test_outside_a_kernel_a_channel_stays_shut(numbers: Numbers) -> None:
    before = set(threading.enumerate())
    quiet = Channel("s", lambda: numbers)
    quiet.open()
    quiet.touch()
    quiet.flush(PATIENCE_S)
    assert set(threading.enumerate()) <= before
    quiet.close()


def test_an_answer_that_took_long_does_not_hide_what_came_meanwhile(
    wire: Wire, numbers: Numbers, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked, answer = numbers.everything, threading.Event(), threading.Event()

    def slowly(path: str | None, widgets: bool) -> View:
        seen = look(path, widgets)
        looked.set()
        assert answer.wait(PATIENCE_S)
        return seen

    monkeypatch.setattr(numbers, "everything", slowly)
    hello = {"v": 1, "type": "hello", "path": "one.ipynb", "widgets": False}
    asking = threading.Thread(target=wire.ask, args=(hello,))
    asking.start()
    assert looked.wait(PATIENCE_S)
    numbers.value = 7
    channel.touch()
    channel.flush(0.3)
    answer.set()
    asking.join()
    channel.flush(PATIENCE_S)
    newest = max([*wire.messages(), *wire.messages(CONTROL_TARGET)], key=lambda message: message["seq"])
    assert [row["output_tokens"] for row in newest["rows"]] == [7]


@pytest.mark.parametrize("how", ["announced", "asked"])
def test_nothing_is_sent_before_a_front_end_may_listen(wire: Wire, numbers: Numbers, how: str) -> None:
    quiet = Channel("s", lambda: numbers)
    quiet.open(heard=False)
    quiet.touch()
    quiet.flush(PATIENCE_S)
    assert wire.sent == []
    if how == "announced":
        quiet.announce()
    else:
        assert wire.ask({"v": 1, "type": "hello", "path": "one.ipynb", "widgets": False})
    quiet.touch()
    quiet.flush(PATIENCE_S)
    assert wire.messages()
    quiet.close()


def test_a_session_shows_its_runs_as_the_ledger_keeps_them(wire: Wire, make_session: Callable[..., Session]) -> None:
    session = make_session(model="scripted")
    session.notebook = "/home/ada/books/one.ipynb"
    session.channel.open()
    session.generate(Prompt((Message("user", "Hi"),)), cell_id="cell-1")
    session.channel.flush(PATIENCE_S)
    (kept,) = session.ledger().runs()
    last = wire.messages()[-1]
    assert last["rows"][-1] == row_wire(kept)
    assert last["totals"]["notebook"]["runs"] == 1
    assert last["totals"]["notebook"]["output_tokens"] == kept.reading.usage.output_tokens
    (reply,) = wire.ask({"v": 1, "type": "hello", "path": "books/two.ipynb", "widgets": False})
    assert reply["notebook"] == "/home/ada/books/two.ipynb"
