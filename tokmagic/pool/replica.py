"""A replica: one loaded engine, whose runs it relays. It knows nothing of Ray, of keys or of money."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Prompt
from tokmagic.core.stream import Event, Finished, Started
from tokmagic.core.version import __version__
from tokmagic.engines.base import Engine, ModelSpec, Stream, no_progress
from tokmagic.engines.registry import open_engine
from tokmagic.errors import ModelError, TokmagicError
from tokmagic.pool.messages import Described, Ending, Told, shifted
from tokmagic.pool.plan import refuse_other_version
from tokmagic.runs.energy import ACCOUNTS

Tell = Callable[[str, Ending], None]
"""Tells the gateway the end of a run whose request was cancelled."""


class EngineReplica:
    """One engine. Its methods belong to one event loop."""

    def __init__(self, name: str, spec: ModelSpec, at_once: int, version: str, tell: Tell) -> None:
        """Load it. Raises UsageError where another tokmagic planned the pool, and TokmagicError."""
        refuse_other_version(version, __version__)
        self._engine: Engine = open_engine(name, spec, TokMagic())
        self._engine.load(no_progress)
        self._tell = tell
        # Twice as many: a run that was cancelled reads its last events while the next one begins.
        self._threads = ThreadPoolExecutor(2 * at_once, "tokmagic-replica")
        self._running = 0

    def describe(self) -> Described:
        """What it runs."""
        return Described(self._engine.info, self._engine.identity())

    def check_health(self) -> None:
        """Raise ModelError where the engine has failed for good."""
        if self._engine.state == "failed":
            raise ModelError(f"{self._engine.info.name} failed")

    async def stream(self, run: str, prompt: Prompt) -> AsyncIterator[Told]:
        """Run a prompt and tell its events as they come; several at once where they come quicker than they leave."""
        relay = _Relay(asyncio.get_running_loop())
        self._running += 1
        is_told = False
        try:
            self._threads.submit(self._read, run, prompt, relay)
            yield relay.told((), self._running)
            while (events := await relay.next()) is not None:
                yield relay.told(events, self._running)
            if relay.error is not None:
                yield relay.told((), self._running, relay.error)
            is_told = True
        finally:
            self._running -= 1
            if not is_told and (ending := relay.leave()) is not None:
                self._threads.submit(self._tell_ending, run, ending)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _read(self, run: str, prompt: Prompt, relay: _Relay) -> None:
        """Read an engine's stream to its end, on a thread of its own."""
        window = ACCOUNTS.open(self._engine.info)
        try:
            stream = self._engine.stream(prompt)
            relay.began(stream)
            for event in stream:
                if isinstance(event, Started) and window is not None:
                    window.begin(event.prefill_ns)
                elif isinstance(event, Finished) and window is not None and event.device_s is not None:
                    event = replace(event, energy=window.end(event.at_ns, event.device_s))
                    window = None
                relay.put(event)
        except TokmagicError as error:
            relay.fail(error)
        except Exception as error:
            relay.fail(ModelError(f"{type(error).__name__}: {' '.join(str(error).split())}"))
        finally:
            if window is not None:
                window.drop()
            ending = relay.end()
        if ending is not None:
            self._tell_ending(run, ending)

    def _tell_ending(self, run: str, ending: Ending) -> None:
        with suppress(Exception):  # the gateway has gone, too
            self._tell(run, ending)


class _Relay:
    """Hands events from the thread that reads them to the event loop, until nobody takes them any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.error: TokmagicError | None = None
        self._loop = loop
        self._origin_ns = time.perf_counter_ns()
        self._lock = threading.Lock()
        self._changed = asyncio.Event()
        self._events: list[Event] = []
        self._taken = 0
        self._ended = self._gone = False
        self._stream: Stream | None = None

    # In the event loop

    async def next(self) -> tuple[Event, ...] | None:
        """Wait for events; None after the last."""
        while True:
            self._changed.clear()
            with self._lock:
                events, ended = tuple(self._events[self._taken :]), self._ended
                self._taken = len(self._events)
            if events:
                return events
            if ended:
                return None
            await self._changed.wait()

    def told(self, events: tuple[Event, ...], running: int, error: TokmagicError | None = None) -> Told:
        """A message of this moment."""
        return Told(time.perf_counter_ns() - self._origin_ns, events, error, running)

    def leave(self) -> Ending | None:
        """Nobody takes events any more. What goes on is stopped; of what has ended, all of it."""
        with self._lock:
            self._gone = True
            stream, ended = self._stream, self._ended
        if ended:
            return Ending(tuple(self._events), self.error)
        if stream is not None:
            stream.close()
        return None

    # On the thread that reads

    def began(self, stream: Stream) -> None:
        """The engine took the prompt."""
        with self._lock:
            self._stream = stream
            gone = self._gone
        if gone:
            stream.close()

    def put(self, event: Event) -> None:
        """An event came."""
        event = shifted(event, -self._origin_ns)
        with self._lock:
            self._events.append(event)
        self._wake()

    def fail(self, error: TokmagicError) -> None:
        """The engine raised this."""
        error.__traceback__ = error.__context__ = error.__cause__ = None
        self.error = error

    def end(self) -> Ending | None:
        """No event comes any more; all of the run where nobody takes them any more."""
        with self._lock:
            self._ended = True
            ending = Ending(tuple(self._events), self.error) if self._gone else None
        self._wake()
        return ending

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._changed.set)
