"""A closed loop: so many threads, each of which sends its next request as soon as its last one has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import Reading
from tokmagic.core.stream import Finished, Started, Token
from tokmagic.engines.base import Engine, Stream, submit
from tokmagic.errors import EndpointError, ModelError, TokmagicError
from tokmagic.runs.meter import Meter

_WAIT_S = 0.1

Outcome = Literal["ok", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was measured. Times ending in ``_ns`` are readings of ``time.perf_counter_ns``.

    ``gaps_s`` are the seconds between arrivals of its answer that follow each other. ``by_token``: each arrival was one
    token; otherwise a network chunk, which may hold several.
    """

    outcome: Outcome
    reading: Reading
    submitted_ns: int | None = None
    ended_ns: int | None = None
    gaps_s: tuple[float, ...] = ()
    by_token: bool = True
    error: TokmagicError | None = None


class Load:
    """Keeps an engine busy with so many requests at once."""

    def __init__(self, engine: Engine, rates: Rates, ended: Callable[[Request], bool], run_id: str = "") -> None:
        """``ended`` is told of each request, one at a time, and says whether to go on.

        ``run_id`` is that of the row which they are all of, if they have one.
        """
        self._engine = engine
        self._rates = rates
        self._run_id = run_id
        self._ended = ended
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._stopped = threading.Event()
        self._streams: set[Stream] = set()

    def run(self, prompts: Iterator[Prompt], concurrency: int) -> None:
        """Send all of ``prompts`` and wait for their ends; returns early after :meth:`stop`."""
        threads = [
            threading.Thread(target=self._work, args=(prompts,), name=f"tokmagic-bench-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in threads:
            thread.start()
        # In short waits: a signal that another thread got would not end a long one.
        for thread in threads:
            while thread.is_alive():
                thread.join(_WAIT_S)

    def stop(self) -> None:
        """Send no more, and end what is under way; any thread."""
        self._stopped.set()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()

    def _work(self, prompts: Iterator[Prompt]) -> None:
        while not self._stopped.is_set():
            with self._taking:
                prompt = next(prompts, None)
            request = None if prompt is None else self._one(prompt)
            if request is None:
                return
            with self._taking:
                go_on = self._ended(request)
            if not go_on:
                self.stop()

    def _submitted(self, prompt: Prompt) -> Stream | None:
        """The stream of a request that was sent; None once all was stopped. Raises TokmagicError."""
        if self._stopped.is_set():  # while this thread waited for its prompt
            return None
        engine, run_id = self._engine, self._run_id
        stream = submit(engine, prompt, run_id, alone=False) if run_id else engine.stream(prompt)
        with self._lock:
            self._streams.add(stream)
            came_late = self._stopped.is_set()
        if came_late:
            stream.close()
        return stream

    def _one(self, prompt: Prompt) -> Request | None:
        """Send a request and read its answer; None where it was not sent."""
        watched = _Watched(Meter(self._rates))
        try:
            stream = self._submitted(prompt)
        except TokmagicError as error:
            return watched.request(error)
        if stream is None:
            return None
        try:
            for event in stream:
                watched.fold(event)
        except TokmagicError as error:
            return watched.request(error)
        except Exception as error:
            return watched.request(ModelError(f"{type(error).__name__}: {' '.join(str(error).split())}"))
        finally:
            with self._lock:
                self._streams.discard(stream)
        return watched.request()


class _Watched:
    """What is kept of one request while it runs."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._submitted_ns: int | None = None
        self._finished: Finished | None = None
        self._arrivals_ns: list[int] = []
        self._by_token = True

    def fold(self, event: Started | Token | Finished) -> None:
        self._meter.fold(event)
        if isinstance(event, Token):
            if event.has_content:
                self._arrivals_ns.append(event.at_ns)
                self._by_token = self._by_token and event.id is not None
        elif isinstance(event, Started):
            self._submitted_ns = event.submitted_ns
        else:
            self._finished = event

    def request(self, error: TokmagicError | None = None) -> Request:
        ended, arrivals = self._finished, self._arrivals_ns
        if error is None and ended is not None and ended.error is not None:
            error = EndpointError(ended.error)
        outcome: Outcome = "ok"
        if error is not None:
            outcome = "failed"
        elif ended is None or "interrupted" in ended.reasons:
            outcome = "stopped"
        elif not arrivals:
            outcome, error = "failed", ModelError("an answer ended without a token; nothing can be measured of it")
        gaps = tuple((later - earlier) / 1e9 for earlier, later in pairwise(arrivals))
        last = arrivals[-1] if arrivals else ended.at_ns if ended is not None else None
        reading = self._meter.reading(final=True)
        return Request(outcome, reading, self._submitted_ns, last, gaps, self._by_token, error)
