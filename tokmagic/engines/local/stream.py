"""The local engine's events, handed from the thread that generates to the one that runs the cell."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from tokmagic.core.interrupts import taken
from tokmagic.core.prompt import Prompt
from tokmagic.core.stream import Event, Finished
from tokmagic.errors import TokmagicError

_LUMP_S = 0.25


class Cancelled(Exception):
    """Raised inside generate() to leave it before the next forward pass."""


class LocalStream:
    """Events of one run, handed from the inference thread to whoever iterates."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event | TokmagicError] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._ended = threading.Event()
        self._done = self._relaxed = False

    def __iter__(self) -> LocalStream:
        return self

    def __next__(self) -> Event:
        if self._done:
            raise StopIteration
        if self._relaxed and self._events.empty():
            self._ended.wait(_LUMP_S)
        item = taken(self._events)
        if isinstance(item, TokmagicError):
            self._done = True
            raise item
        self._done = isinstance(item, Finished)
        return item

    def relax(self) -> None:
        self._relaxed = True

    def close(self) -> None:
        self._closed.set()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def raise_if_closed(self) -> None:
        if self._closed.is_set():
            raise Cancelled

    def put(self, event: Event) -> None:
        self._events.put(event)
        if isinstance(event, Finished):
            self._ended.set()

    def fail(self, error: TokmagicError) -> None:
        """End the run with an error; it is the last thing that is told."""
        # A traceback would keep the frames, and with them the tensors, alive in the notebook.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        self._events.put(error)
        self._ended.set()


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt on its way to the inference thread, submitted at ``submitted_ns``."""

    prompt: Prompt
    stream: LocalStream
    submitted_ns: int
