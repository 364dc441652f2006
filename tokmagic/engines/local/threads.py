"""How many of torch's threads a step runs on.

The threads of a step wait for each other a few hundred times, spinning. Beside another process that computes, one of
them is always kept waiting by the operating system, and a step takes ten to a hundred times as long as on one thread
alone. So now and then a step is tried the other way, and the faster way is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

# A trial costs at most this share of the time: the next one waits until then.
_SHARE = 1 / 30
# The other way has to be that much faster: below, the two differ by chance.
_CLEARLY = 0.8

Result = TypeVar("Result")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on so many of torch's threads in the block."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


class Threads:
    """All of torch's threads, or one. Belongs to the thread that it is used on."""

    def __init__(self) -> None:
        self._all = torch.get_num_threads()
        self._count = self._all
        self._last: tuple[int, float] | None = None
        self._due = 0.0

    def run(self, size: int | None, work: Callable[[], Result]) -> Result:
        """Do ``work`` on as many threads as are fastest now. Steps of the same ``size`` take equally long; None is a
        step like no other."""
        tries = self._all > 1 and size is not None and self._is_due(size)
        count = (1 if self._count == self._all else self._all) if tries else self._count
        if count != torch.get_num_threads():
            torch.set_num_threads(count)
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
        if tries and self._last is not None:
            is_faster = seconds < _CLEARLY * self._last[1]
            if is_faster:
                self._count = count
            # The step before may have been held up by chance: what was given up for it is tried again at once.
            self._due = time.perf_counter() + (0 if is_faster else seconds / _SHARE)
        self._last = None if tries or size is None else (size, seconds)
        return result

    def restore(self) -> None:
        """Give torch the threads back that it had."""
        if torch.get_num_threads() != self._all:
            torch.set_num_threads(self._all)

    def _is_due(self, size: int) -> bool:
        return self._last is not None and self._last[0] == size and time.perf_counter() >= self._due
