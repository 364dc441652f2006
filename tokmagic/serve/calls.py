"""A request at the engine: who asks, its events as they come, and how long it waited."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from tokmagic.core.keys import Key
from tokmagic.core.stream import Event, Started, Usage
from tokmagic.runs.generation import Generation
from tokmagic.runs.run import Run


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: by which key, with which id of a row of its own, and in which trace (headers).

    ``arrived_ns`` is when the request came, by ``time.perf_counter_ns()``; what it took to send its body lies before.
    """

    key: Key
    arrived_ns: int
    client_run_id: str | None = None
    carried: Mapping[str, str] = field(default_factory=dict)


Item = tuple[Event, Usage]


class Call:
    """One request at the engine: its events as they come, then the Generation. It belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_id: str, model: str, caller: Caller) -> None:
        self.run_id = run_id
        self.model = model
        self.user = caller.key.user
        self._arrived_ns = caller.arrived_ns
        self._asked_ns = time.perf_counter_ns()
        self.settled: asyncio.Future[Generation] = loop.create_future()
        self._loop = loop
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._run: Run | None = None
        self._stopped = False
        self._lock = threading.Lock()

    async def next(self) -> Item | None:
        """Return the next event with the counts after it; None after the last."""
        return await self._items.get()

    @property
    def held_usd(self) -> Decimal:
        """What it holds of budgets."""
        run = self._run
        return run.held_usd if run is not None and not self.settled.done() else Decimal(0)

    @property
    def waited_s(self) -> float:
        """Seconds from its arrival until the engine was asked; where that never came to be, until its turn."""
        return max(0, self._asked_ns - self._arrived_ns) / 1e9

    def stop(self) -> None:
        """Stop generating: what was generated is counted, and the row is settled. Any thread."""
        with self._lock:
            self._stopped = True
            run = self._run
        if run is not None:
            run.stop()

    # What the thread that works on it calls

    def began(self, run: Run) -> None:
        """The budgets let it in."""
        with self._lock:
            self._run = run
            stopped = self._stopped
        if stopped:
            run.stop()

    def heard(self, event: Event, usage: Usage) -> None:
        """An event came."""
        if isinstance(event, Started):
            self._asked_ns = event.submitted_ns
        self._tell(self._items.put_nowait, (event, usage))

    def ended(self, work: Future[Generation]) -> None:
        """The row is settled, or no run could begin."""
        self._tell(self._end, work)

    def _end(self, work: Future[Generation]) -> None:
        self._items.put_nowait(None)
        if self.settled.done():
            return
        error = work.exception()
        if error is None:
            self.settled.set_result(work.result())
        else:
            self.settled.set_exception(error)
            self.settled.exception()  # whoever asked may have gone

    def _tell(self, what: Callable[..., object], *told: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(what, *told)
