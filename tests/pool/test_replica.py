"""A replica by itself: it relays an engine's events, stops with its request, and says what nobody took."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Event, Finished, Started, Token
from tokmagic.core.version import __version__
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import ModelError, UsageError
from tokmagic.pool.messages import Ending, Told
from tokmagic.pool.replica import EngineReplica

PROMPT = Prompt((Message("user", "Count."),), Sampling(max_tokens=100))


class Gateway:
    """Where a replica tells ends."""

    def __init__(self) -> None:
        self.told: dict[str, Ending] = {}

    def tell(self, run: str, ending: Ending) -> None:
        self.told[run] = pickle.loads(pickle.dumps(ending))


def replica(folder: Path, gateway: Gateway | None = None, **script: Any) -> EngineReplica:
    file = folder / "script.json"
    file.write_text(json.dumps({"pieces": [f" w{number}" for number in range(50)], **script}), encoding="utf-8")
    tell = (gateway or Gateway()).tell
    return EngineReplica("tiny", ModelSpec(f"scripted:{file}"), 2, __version__, tell)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 120))  # type: ignore[arg-type]


def test_it_relays_all_events_on_a_clock_of_its_own(tmp_path: Path) -> None:
    made = replica(tmp_path)

    async def work() -> None:
        told = [pickle.loads(pickle.dumps(it)) async for it in made.stream("one", PROMPT)]
        assert told[0].events == ()
        events: list[Event] = [event for it in told for event in it.events]
        started, last = events[0], events[-1]
        assert isinstance(started, Started)
        assert isinstance(last, Finished)
        assert 0 <= started.submitted_ns < 1e9
        tokens = [event for event in events if isinstance(event, Token)]
        assert [token.id for token in tokens] == list(range(50))
        assert tokens[1].at_ns - tokens[0].at_ns == 20_000_000
        assert last.usage.output_tokens == 50
        assert [it.sent_ns for it in told] == sorted(it.sent_ns for it in told)

    run(work)


def test_a_request_that_is_cancelled_stops_the_engine_and_its_end_is_told(tmp_path: Path) -> None:
    gateway = Gateway()
    made = replica(tmp_path, gateway, pace=1.0, ttft_s=0.01, itl_s=60.0)

    async def work() -> None:
        generates = asyncio.Event()

        async def read() -> None:
            async for it in made.stream("one", PROMPT):
                if any(isinstance(event, Token) for event in it.events):
                    generates.set()

        reading = asyncio.create_task(read())
        await generates.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        until = time.monotonic() + 60
        while "one" not in gateway.told and time.monotonic() < until:
            await asyncio.sleep(0.01)
        ending = gateway.told["one"]
        last = ending.events[-1]
        assert isinstance(last, Finished)
        assert last.reasons == ("interrupted",)
        generated = [event for event in ending.events if isinstance(event, Token)]
        assert last.usage.output_tokens == len(generated) < 50
        assert ending.error is None

    run(work)


def test_one_that_is_answered_tells_no_end_again(tmp_path: Path) -> None:
    gateway = Gateway()
    made = replica(tmp_path, gateway)

    async def work() -> None:
        async for _ in made.stream("one", PROMPT):
            pass
        await asyncio.sleep(0.05)
        assert gateway.told == {}

    run(work)


def test_runs_beside_each_other_are_told(tmp_path: Path) -> None:
    made = replica(tmp_path, pace=1.0, ttft_s=0.01, itl_s=60.0)
    short = Prompt(PROMPT.messages, Sampling(max_tokens=1))

    async def work() -> None:
        told: list[Told] = []
        generates = asyncio.Event()

        async def read() -> None:
            async for it in made.stream("one", PROMPT):
                told.append(it)
                if any(isinstance(event, Token) for event in it.events):
                    generates.set()

        reading = asyncio.create_task(read())
        await generates.wait()
        beside = [it async for it in made.stream("two", short)]
        assert {it.running for it in told} == {1}
        assert {it.running for it in beside} == {2}
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    run(work)


def test_what_the_engine_raises_is_told_with_what_it_gave_before(tmp_path: Path) -> None:
    made = replica(tmp_path, pieces=[" a", " b"], error="the device is gone")

    async def work() -> None:
        told = [pickle.loads(pickle.dumps(it)) async for it in made.stream("one", PROMPT)]
        assert sum(isinstance(event, Token) for it in told for event in it.events) == 2
        error = told[-1].error
        assert isinstance(error, ModelError)
        assert str(error) == "the device is gone"

    run(work)


def test_it_says_what_it_runs(tmp_path: Path) -> None:
    made = replica(tmp_path)
    described = made.describe()
    assert (described.info.name, described.info.engine) == ("tiny", "scripted")
    assert described.identity is not None
    assert len(described.identity.revision or "") == 64
    made.check_health()
    made.close()


def test_another_version_refuses_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"this machine has tokmagic .*, the pool was started by 0\.0\.1; install"
    ) as raised:
        EngineReplica("tiny", ModelSpec("scripted"), 2, "0.0.1", Gateway().tell)
    assert len(str(raised.value).splitlines()) == 1
