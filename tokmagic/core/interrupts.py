"""Interrupts (Ctrl-C, the notebook's ■), held back where one would leave something by halves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
