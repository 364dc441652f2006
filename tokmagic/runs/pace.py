"""How far many runs are, for whoever waits for them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from tokmagic.core.record import NO_RUNS, Sum
from tokmagic.formatting import numbers, terminal

UPDATE_S = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """Of ``prompts`` so many are ``done``; ``sum`` is what these took, within ``elapsed_s`` seconds.

    ``at_once`` is how many run at the same time. Before the first that was generated so many were ``replayed``: where
    a call goes on, the cache has all answers until then and none after, so that these say nothing of the others.
    """

    done: int
    prompts: int
    sum: Sum = NO_RUNS
    elapsed_s: float = 0.0
    at_once: int = 1
    replayed: int = 0

    @property
    def usd_to_come(self) -> Decimal | None:
        """What the others cost if they cost as much as these in the mean; None where that is not known.

        Runs whose cost is not known, such as failed ones, say nothing of that, and neither do those that were refused.
        """
        known = self.done - self.replayed - self.sum.unpriced_runs - self.sum.refused_runs
        so_far = self.sum.cost_usd
        return so_far * (self.prompts - self.done) / known if known > 0 and so_far is not None else None

    @property
    def left_s(self) -> float | None:
        """How long the others take at the same pace, in seconds; None before as many are done as run at once.

        Until then most of what was done is in those that run, which end soon after the first.
        """
        ran = self.done - self.replayed
        return self.elapsed_s * (self.prompts - self.done) / ran if ran >= max(1, self.at_once) else None

    def __str__(self) -> str:
        tokens = f"{numbers.tokens(self.sum.input_tokens)} in, {numbers.tokens(self.sum.output_tokens)} out"
        so_far = f"{self.done:,} of {numbers.counted(self.prompts, 'prompt')}, {tokens}"
        if self.sum.cost_usd is not None:
            so_far += f", {numbers.usd_marked(self.sum.cost_usd, self.sum.precision)} so far"
        if self.done >= self.prompts:
            return so_far
        usd, left_s = self.usd_to_come, self.left_s
        rest = [] if usd is None else [f"about {numbers.usd(usd)}"]
        rest += [] if left_s is None else [f"about {numbers.duration(left_s)}"]
        return f"{so_far}; to come: {', '.join(rest)}" if rest else so_far


class Line(Protocol):
    """Where a line can be shown in place of the one before, and taken away."""

    def progress(self, doing: str, share: float | None) -> None:
        """Show it; with a share of 1.0 as it is."""

    def clear(self) -> None:
        """Take it away."""


class Paced:
    """Tells on a line how far it is, twice a second at most; of what takes less than that, nothing."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._due = time.monotonic() + UPDATE_S

    def __call__(self, stand: object) -> None:
        """Show ``stand`` as text."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + UPDATE_S
            self._line.progress(str(stand), 1.0)


class Terminal:
    """Standard error, where it is a terminal."""

    def progress(self, doing: str, _share: float | None) -> None:
        """Show it in place of what was there."""
        terminal.progress(doing)

    def clear(self) -> None:
        """Leave the line empty."""
        terminal.progress("", 1.0)
