"""When each piece of an answer came: kept in memory for the latest runs, for whoever opens a run in the sidebar.

The ledger keeps what a run adds up to; a row for each of its tokens would be many times as large as all the rest.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from tokmagic.core.stream import Finished, Logprob, Token

MOST_RUNS = 64
"""How many runs' times are kept; the one that began first leaves first."""


class Piece(NamedTuple):
    """Text that became certain at one moment, and the milliseconds that each token of it took: None if unknown."""

    text: str
    ms: float | None


class TokenTimes:
    """The pieces of one run's first answer as they came. Written by the run's thread, read by any."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        # int64 nanoseconds; a stamp follows its text, so that there are never more stamps than texts.
        self._stamps = array("q")
        self._tail = ""
        self.by_token = True
        """Whether each piece is one token; else it is what a server sent at once."""
        self.logprobs: list[Logprob] = []

    def add(self, event: Token | Finished) -> None:
        """Take an event in: of the first choice, and what has content."""
        if isinstance(event, Finished):
            self._tail = event.tails[0] if event.tails else ""
        elif event.choice == 0 and event.has_content:
            self.by_token = self.by_token and event.id is not None
            self._texts.append(event.text)
            self._stamps.append(event.at_ns)
            self.logprobs += event.logprobs

    def pieces(self) -> list[Piece]:
        """The answer so far. A token without a text of its own belongs to the piece that it is a part of.

        The first piece has no time: what came before it is the TTFT.
        """
        found: list[Piece] = []
        first = 0
        # As many as have a stamp: another thread goes on adding.
        for last in range(len(self._stamps)):
            if not self._texts[last]:
                continue
            before = max(first - 1, 0)
            steps = last - before
            ms = (self._stamps[last] - self._stamps[before]) / 1e6 / steps if steps else None
            found.append(Piece(self._texts[last], ms))
            first = last + 1
        if self._tail:
            found.append(Piece(self._tail, None))
        return found


class KeptTimes:
    """The times of the latest runs, by run. For any thread."""

    def __init__(self) -> None:
        self._runs: dict[str, TokenTimes] = {}

    def keep(self, run_id: str, times: TokenTimes) -> None:
        """Keep a run's times, which may still grow."""
        self._runs[run_id] = times
        while len(self._runs) > MOST_RUNS:
            self._runs.pop(next(iter(self._runs)), None)

    def of(self, run_id: str) -> TokenTimes | None:
        """A run's times; None where they are not kept any more, or never were here."""
        return self._runs.get(run_id)
