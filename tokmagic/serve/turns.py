"""Whose request goes next: so many at once, the others wait, and no key's many requests starve another's few."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from tokmagic.serve.failures import ApiError

# How much of the mean is the newest request's.
_NEWEST = 0.2
_LONGEST_RETRY_S = 60


@dataclass(slots=True)
class _Line:
    """One key's requests: how many run, who waits, and when one of them last began."""

    running: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    last: int = 0


class Turns:
    """Turns at the engine. All methods belong to one event loop.

    A free place goes to the key with the fewest running requests, among equals to the one that has waited for a turn
    the longest; within a key to the oldest request.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self.at_once = at_once
        self.most_waiting = waiting
        self.running = 0
        self._lines: dict[str, _Line] = {}
        self._order = itertools.count(1)
        self._mean_s = 1.0

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def retry_after_s(self) -> int:
        """When a place is likely to be free for one more, in whole seconds."""
        rounds = (self.waiting + 1) / self.at_once
        return min(_LONGEST_RETRY_S, max(1, math.ceil(rounds * self._mean_s)))

    async def enter(self, key: str) -> None:
        """Wait for a turn; :meth:`leave` must follow. Raises ApiError where too many wait already."""
        line = self._lines.setdefault(key, _Line())
        if self.running < self.at_once and not self.waiting:
            self._begin(line)
            return
        if self.waiting >= self.most_waiting:
            self._forget(key, line)
            raise ApiError(
                429,
                f"{self.running} requests run and {self.waiting} wait already; try again in {self.retry_after_s} s",
                kind="rate_limit_error",
                code="queue_full",
                retry_after_s=self.retry_after_s,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given the turn just then
                self.leave(key, None)
            else:
                with suppress(ValueError):  # passed over already, by a turn that was given just then
                    line.waiting.remove(turn)
                self._forget(key, line)
            raise

    def leave(self, key: str, took_s: float | None) -> None:
        """Give a turn back; ``took_s`` is how long it was used."""
        if took_s is not None:
            self._mean_s += _NEWEST * (took_s - self._mean_s)
        line = self._lines[key]
        line.running -= 1
        self.running -= 1
        self._forget(key, line)
        self._next()

    def _next(self) -> None:
        while self.running < self.at_once:
            lines = [line for line in self._lines.values() if line.waiting]
            if not lines:
                return
            line = min(lines, key=lambda it: (it.running, it.last))
            turn = line.waiting.popleft()
            if not turn.done():
                self._begin(line)
                turn.set_result(None)

    def _begin(self, line: _Line) -> None:
        line.running += 1
        line.last = next(self._order)
        self.running += 1

    def _forget(self, key: str, line: _Line) -> None:
        if not line.running and not line.waiting and self._lines.get(key) is line:
            del self._lines[key]
