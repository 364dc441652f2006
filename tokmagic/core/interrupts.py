"""Interrupts (Ctrl-C, the notebook's ■), held back where one would leave something by halves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@contextmanager
def uninterrupted(*, later_s: float = 0.0) -> Iterator[None]:
    """Hold interrupts back until the end of the block; with ``later_s`` until so many seconds after it."""
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread is interrupted; and a handler that is not Python's own could not be put back.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    held: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held and later_s:
            threading.Timer(later_s, signal.raise_signal, (signal.SIGINT,)).start()
        elif held and callable(before):
            before(*held[0])


@dataclass(slots=True)
class FirstInterrupt:
    """Whether one came."""

    came: bool = False


@contextmanager
def at_first_interrupt(then: Callable[[], None]) -> Iterator[FirstInterrupt]:
    """Call ``then`` on a thread of its own when the first interrupt comes in the block; only a second one is raised.

    An exception could come between taking something from a queue and keeping it, and lose it. ``then`` is to end what
    the block waits for.
    """
    first = FirstInterrupt()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield first
        return

    def handle(_number: int, _frame: Any) -> None:
        first.came = True
        signal.signal(signal.SIGINT, before)
        # Not here: the thread that is interrupted may hold a lock that ``then`` needs.
        threading.Thread(target=then, name="tokmagic-interrupt", daemon=True).start()

    signal.signal(signal.SIGINT, handle)
    try:
        yield first
    finally:
        signal.signal(signal.SIGINT, before)
