"""How a model stands at its shared engine, as the sidebar's head shows it: asked while runs go on, not between them."""

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
"""A server is not asked more often, and by each kernel only where a message is sent to its sidebar anyway."""


@dataclass(frozen=True, slots=True)
class SharedReading:
    """What the server said at ``at`` (UTC)."""

    share: Share
    at: datetime


class SharedReadings:
    """The latest reading of the model that is shown. A look never waits: a thread asks, and then says so."""

    def __init__(
        self, models: Models, changed: Callable[[], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """``changed`` is called when there is a new reading, from the thread that asked."""
        self._models = models
        self._changed = changed
        self._clock_s = clock_s
        self._asked: tuple[str, float] | None = None
        self._last: SharedReading | None = None
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._asking = False

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
                self._asked, self._asking = (name, now_s), True
                threading.Thread(target=self._ask, args=(name, engine), name="tokmagic-shared", daemon=True).start()
            return self._last

    def _ask(self, name: str, engine: Shared) -> None:
        heard = False
        # One that does not answer is told of by the run that fails there.
        with suppress(TokmagicError):
            reading = SharedReading(engine.share(), datetime.now(UTC))
            with self._lock:
                heard = self._asked is not None and self._asked[0] == name
                if heard:
                    # From here on, or the message with a slow server's answer would ask for the next one.
                    self._asked, self._last = (name, self._clock_s()), reading
        with self._lock:
            self._asking = False
        if heard:
            self._changed()
