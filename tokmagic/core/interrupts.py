"""Interrupts (Ctrl-C, the notebook's ■), held back where one would leave something by halves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty
from typing import Any, Protocol, TypeVar

_SLICE_S = 0.2
_Item_co = TypeVar("_Item_co", covariant=True)


class Items(Protocol[_Item_co]):
    """A queue."""

    def get(self, *, timeout: float) -> _Item_co:
        """Take the next item. Raises queue.Empty after so many seconds."""
        ...


def taken(items: Items[_Item_co], timeout_s: float | None = None) -> _Item_co:
    """Wait for the next item of a queue and take it. Raises queue.Empty after ``timeout_s`` seconds.

    In slices: an interrupt may come in the moment before the wait begins, or wake another thread than the main one,
    which has to see it, and would then be seen at the wait's end.
    """
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left_s = _SLICE_S if until_s is None else max(0.0, until_s - time.monotonic())
        try:
            return items.get(timeout=min(left_s, _SLICE_S))
        except Empty:
            if until_s is not None and time.monotonic() >= until_s:
                raise


class Held:
    """The interrupts that come in a block of :func:`uninterrupted`."""

    __slots__ = ("_before", "_let_in", "first")

    def __init__(self, before: Any) -> None:
        self.first: tuple[int, Any] | None = None
        """What the handler is told of the first that was held back."""
        self._before = before
        self._let_in = False

    @contextmanager
    def let_in(self) -> Iterator[None]:
        """Hold none back in this block, up to the first that is raised: who catches it is in no such block any more.

        So there is no moment between this block and what follows it at which one could come that nobody expects.
        """
        self._let_in = True
        try:
            yield
        finally:
            self._let_in = False

    def handle(self, number: int, frame: Any) -> None:
        """The handler of the block."""
        if not self._let_in:
            self.first = self.first or (number, frame)
        elif callable(self._before):
            try:
                self._before(number, frame)
            except BaseException:
                self._let_in = False
                raise
        elif self._before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def uninterrupted(*, later_s: float = 0.0) -> Iterator[Held]:
    """Hold interrupts back until the end of the block; with ``later_s`` until so many seconds after it."""
    # Only the main thread is interrupted, and others come here for every token; and a handler that is not Python's own
    # could not be put back.
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    held = Held(before)
    if before is None:
        yield held
        return
    signal.signal(signal.SIGINT, held.handle)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)
        if held.first and later_s:
            threading.Timer(later_s, signal.raise_signal, (signal.SIGINT,)).start()
        elif held.first and callable(before):
            before(*held.first)


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
