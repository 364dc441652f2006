"""The gateway's side of a replica: its clock, and what is counted where the replica's end does not come."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

import pytest

from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Energy, Event, Finished, Started, Token, Usage
from tokmagic.engines.base import Tokenized
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import ContextError, EndpointError
from tokmagic.pool.engine import Endings, PoolEngine, PoolStream, ReplicaLost, pool_engine
from tokmagic.pool.messages import Described, Ending, Told
from tokmagic.runs.meter import Meter

MS = 1_000_000
PROMPT = Prompt((Message("user", "Count."),), Sampling(max_tokens=8))
ASKED = Usage.measured(7, 0)
STARTED = Started(0, ASKED, 10 * MS)
TOKENS = tuple(Token((50 + 20 * number) * MS, f" w{number}", number) for number in range(4))
FINISHED = Finished(110 * MS, ("stop",), Usage.measured(7, 4), device_s=0.1)
WHOLE: tuple[Event, ...] = (STARTED, *TOKENS, FINISHED)


class Replies:
    """What a replica tells, at once; after that ``last`` is raised, or an end is waited for."""

    def __init__(self, told: Sequence[Told], last: Exception | None = None, *, waits: bool = False) -> None:
        self._told = list(told)
        self._last = last or StopIteration()
        self._cancelled = threading.Event()
        self._waits = waits

    def __next__(self) -> Told:
        if self._told:
            return self._told.pop(0)
        if self._waits:
            assert self._cancelled.wait(60)
            raise ReplicaLost("the request was cancelled")
        raise self._last

    def cancel(self) -> None:
        self._cancelled.set()


class Replicas:
    """One model's, of which each gives the same replies."""

    def __init__(self, replies: Replies | None = None, described: Described | None = None) -> None:
        self.replies = replies
        self.described = described
        self.runs: list[str] = []

    def describe(self) -> Described:
        if self.described is None:
            raise ReplicaLost("no machine has a GPU")
        return self.described

    def run(self, run: str, prompt: Prompt) -> Replies:
        assert prompt == PROMPT
        assert self.replies is not None
        self.runs.append(run)
        return self.replies


def stream_of(replies: Replies, endings: Endings | None = None) -> tuple[PoolStream, str]:
    replicas = Replicas(replies)
    stream = PoolEngine(ScriptedEngine("tiny", [Script.of_text([])]), replicas, endings or Endings()).stream(PROMPT)
    return stream, replicas.runs[0]


def finished_of(events: Sequence[Event]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def test_intervals_are_the_replicas_and_the_beginning_is_the_gateways() -> None:
    before = time.perf_counter_ns()
    stream, _ = stream_of(Replies([Told(0), Told(50 * MS, WHOLE[:2]), Told(120 * MS, WHOLE[2:])]))
    events = list(stream)
    after = time.perf_counter_ns()
    started = events[0]
    assert isinstance(started, Started)
    assert before <= started.submitted_ns <= after
    stamps = [event.at_ns for event in events if isinstance(event, Token)]
    assert [later - earlier for earlier, later in pairwise(stamps)] == [20 * MS] * 3
    assert started.prefill_ns is not None
    assert stamps[0] - started.prefill_ns == 40 * MS
    # The message that travelled shortest says when the replica received the prompt: all came at once here, and the
    # second one was sent 50 ms after it.
    assert stamps[0] <= after
    meter = Meter(Rates())
    for event in events:
        meter.fold(event)
    reading = meter.reading(final=True)
    assert reading.itl_p50_s == pytest.approx(0.02)
    assert reading.device_s == 0.1


def test_what_the_replica_measured_arrives() -> None:
    energy = Energy(1.5, "measured", "exact", "NVML energy counter")
    last = Finished(110 * MS, ("length",), Usage.measured(7, 4), ("…",), device_s=0.1, peak_bytes=5, energy=energy)
    events = list(stream_of(Replies([Told(0, (STARTED, *TOKENS, last))]))[0])
    found = finished_of(events)
    assert (found.reasons, found.tails, found.peak_bytes, found.energy, found.cut) == (
        ("length",),
        ("…",),
        5,
        energy,
        False,
    )
    assert [event.id for event in events if isinstance(event, Token)] == [0, 1, 2, 3]


def test_what_the_engine_raised_is_raised_here() -> None:
    stream, _ = stream_of(Replies([Told(0), Told(5 * MS, (), ContextError("too long"))]))
    with pytest.raises(ContextError, match="too long"):
        list(stream)
    assert list(stream) == []


def test_a_replica_that_dies_in_mid_answer_leaves_what_was_counted() -> None:
    events = list(stream_of(Replies([Told(0, WHOLE[:3])], ReplicaLost("its process ended")))[0])
    last = finished_of(events)
    assert last.error == "a replica of tiny was lost in mid-answer (its process ended); ask again"
    assert last.cut
    assert (last.usage.input_tokens, last.usage.output_tokens, last.usage.output_source) == (7, 2, "measured")
    # Two tokens after the prefill's beginning, alone on the replica.
    assert last.device_s == pytest.approx(0.06)


def test_a_share_of_the_device_is_told_by_how_many_runs_there_were() -> None:
    told = [Told(0, WHOLE[:2], running=1), Told(60 * MS, WHOLE[2:4], running=4)]
    last = finished_of(list(stream_of(Replies(told, ReplicaLost("gone")))[0]))
    assert last.device_s == pytest.approx(0.04 + 0.04 / 4)
    meter = Meter(Rates(device_hour=Decimal(36)))
    meter.fold(STARTED)
    meter.fold(last)
    cost = meter.reading(final=True).cost
    assert (cost.usd, cost.source, cost.bound) == (Decimal("0.0005"), "estimated", "at_least")


def test_a_replica_that_dies_before_its_first_word() -> None:
    stream, _ = stream_of(Replies([], ReplicaLost("its process ended")))
    with pytest.raises(EndpointError, match="lost before it answered"):
        list(stream)


def test_a_cancelled_run_is_counted_to_its_real_end() -> None:
    endings = Endings()
    stream, run = stream_of(Replies([Told(0, WHOLE[:3])], waits=True), endings)
    seen = [next(stream) for _ in range(3)]
    stream.close()
    cut = Finished(90 * MS, ("interrupted",), Usage.measured(7, 3), device_s=0.08)
    endings.put(run, Ending((*WHOLE[:4], cut)))
    rest = list(stream)
    assert len(seen) + len(rest) == 5
    last = finished_of(rest)
    assert (last.usage.output_tokens, last.device_s, last.reasons, last.cut) == (3, 0.08, ("interrupted",), False)
    stamps = [event.at_ns for event in [*seen, *rest] if isinstance(event, Token)]
    assert stamps[2] - stamps[1] == 20 * MS


def test_a_cancelled_run_whose_end_is_not_told_may_have_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmagic.pool.engine._PATIENCE_S", 0.01)
    stream, run = stream_of(Replies([Told(0, WHOLE[:3])], waits=True))
    for _ in range(3):
        next(stream)
    stream.close()
    stream.close()
    last = finished_of(list(stream))
    assert (last.usage.output_tokens, last.reasons, last.error, last.cut) == (2, ("interrupted",), None, True)
    meter = Meter(Rates(Decimal(1), Decimal(2)))
    for event in (*WHOLE[:3], last):
        meter.fold(event)
    cost = meter.reading(final=True).cost
    assert (cost.usd, cost.bound) == (Decimal("0.000011"), "at_least")
    assert run


def test_one_that_no_replica_took_costs_nothing_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmagic.pool.engine._NEVER_BEGUN_S", 0.01)
    stream, _ = stream_of(Replies([], waits=True))
    stream.close()
    last = finished_of(list(stream))
    assert (last.usage.input_tokens, last.usage.output_tokens, last.device_s) == (0, 0, None)


def test_an_end_that_nobody_waits_for_is_dropped() -> None:
    endings = Endings()
    endings.put("unknown", Ending(()))
    endings.expect("one")
    endings.forget("one")
    endings.put("one", Ending(()))
    endings.expect("one")
    assert endings.wait("one", 0.0) is None


def test_info_is_the_replicas_and_counting_is_done_here() -> None:
    there = EngineInfo(
        "tiny", "org/tiny", "local", revision="abc", device="cuda:0", dtype="bf16", device_name="NVIDIA L4"
    )
    replicas = Replicas(described=Described(there, there))
    engine = pool_engine(ScriptedEngine("tiny", [Script.of_text([" a"], input_tokens=9)]), replicas, Endings())
    assert not isinstance(engine, Tokenized)
    assert (engine.state, engine.info.model_id) == ("unloaded", "scripted")
    engine.load(lambda _doing, _share: None)
    assert engine.state == "ready"
    info = engine.info
    assert (info.model_id, info.revision, info.device, info.dtype, info.device_name) == (
        "org/tiny",
        "abc",
        "cuda:0",
        "bf16",
        "NVIDIA L4",
    )
    # This machine's meters and memory have nothing to do with it, but its device's time is billed.
    assert (info.engine, info.traits.has_weights, info.traits.remote, info.traits.billed_by_device) == (
        "pool",
        False,
        False,
        True,
    )
    identity = engine.identity()
    assert identity is not None
    assert identity.revision == "abc"
    assert (engine.count(PROMPT), engine.estimate(PROMPT)) == (9, (9, "counted"))
    engine.close()
    assert engine.state == "unloaded"


def test_no_replica_is_one_line() -> None:
    engine = PoolEngine(ScriptedEngine("tiny", [Script.of_text([])]), Replicas(), Endings())
    with pytest.raises(EndpointError, match=r"no replica of tiny could be had \(no machine has a GPU\)"):
        engine.load(lambda _doing, _share: None)
    assert engine.state == "failed"
