"""How a model stands at its shared engine, for the sidebar's head: asked while runs go on, and once after them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from tokmagic.core.forks import in_child
from tokmagic.engines.base import Share, Shared
from tokmagic.engines.registry import Models
from tokmagic.errors import TokmagicError

EVERY_S = 2.0
"""A server is not asked more often, and only where a message goes to the sidebar anyway or a run has ended."""


@dataclass(frozen=True, slots=True)
class SharedReading:
    """What the server said at ``at`` (UTC)."""

    share: Share
    at: datetime


class SharedReadings:
    """The latest reading of the model that is shown. A look never waits: a thread asks, and then says so."""

    def __init__(
        self,
        models: Models,
        changed: Callable[[], None],
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``changed`` is called when there is a new reading, from the thread that asked."""
        self._models = models
        self._changed = changed
        self._clock_s = clock_s
        self._sleep = sleep
        self._asked: tuple[str, float] | None = None
        self._last: SharedReading | None = None
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._asking = False
        self._outdated = False

    def of(self, name: str) -> SharedReading | None:
        """The latest reading of a model; None where it is at no shared engine, or nothing was heard of it yet."""
        engine = self._models.engine(name) if name in self._models.opened() else None
        if not isinstance(engine, Shared):
            return None
        with self._lock:
            now_s = self._clock_s()
            if self._asked is None or self._asked[0] != name:
                self._asked, self._last = None, None
            if not self._asking and (self._asked is None or now_s - self._asked[1] >= EVERY_S):
                self._asked = (name, now_s)
                self._begin(name, engine, 0.0)
            return self._last

    def ended(self, name: str) -> None:
        """A run of the model is over: what was read of it before is asked once more, when the server may be."""
        engine = self._models.engine(name) if name in self._models.opened() else None
        with self._lock:
            if not isinstance(engine, Shared) or self._asked is None or self._asked[0] != name:
                return
            self._outdated = True
            if not self._asking:
                self._begin(name, engine, self._asked[1] + EVERY_S - self._clock_s())

    def _begin(self, name: str, engine: Shared, wait_s: float) -> None:
        self._asking = True
        asking = threading.Thread(target=self._ask, args=(name, engine, wait_s), name="tokmagic-shared", daemon=True)
        asking.start()

    def _ask(self, name: str, engine: Shared, wait_s: float) -> None:
        if wait_s > 0:
            self._sleep(wait_s)
        with self._lock:
            self._outdated = False
        heard = False
        try:
            # One that does not answer is told of by the run that fails there.
            with suppress(TokmagicError):
                reading = SharedReading(engine.share(), datetime.now(UTC))
                with self._lock:
                    heard = self._asked is not None and self._asked[0] == name
                    if heard:
                        # From here on, or the message with a slow server's answer would ask for the next one.
                        self._asked, self._last = (name, self._clock_s()), reading
        finally:
            with self._lock:
                self._asking = False
                if heard and self._outdated:  # a run ended while the server was asked
                    self._begin(name, engine, EVERY_S)
        if heard:
            self._changed()
