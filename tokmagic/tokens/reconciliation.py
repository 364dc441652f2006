"""Do this machine and a server count the same input tokens? A tokenizer or a template that differs is a wrong bill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tokmagic.formatting.numbers import counted

COMPARED = 100
"""The runs looked at, newest first: after so many that agree, a difference is over."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One run's input tokens, counted here and reported by the server."""

    at: datetime
    local: int
    reported: int


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far a server's counts are from ours: ``least`` and ``most`` are its tokens less ours, where they differ."""

    runs: int
    differing: int
    least: int
    most: int
    since: datetime

    def __str__(self) -> str:
        """In one line: by how much, how often, since when."""
        low, high = sorted((abs(self.least), abs(self.most)))
        if self.least < 0 < self.most:
            by = f"up to {counted(-self.least, 'token')} fewer and {self.most:,} more"
        else:
            many = f"{low:,} to " if low != high else ""
            by = f"{many}{counted(high, 'token')} {'more' if self.most > 0 else 'fewer'}"
        often = "in each run" if self.differing == self.runs else f"in {self.differing} of {counted(self.runs, 'run')}"
        return f"its server counts {by} than the tokenizer here, {often} since {self.since.astimezone():%Y-%m-%d %H:%M}"


def disagreement(compared: Sequence[Compared]) -> Disagreement | None:
    """Return how the counts of runs differ; None where they agree."""
    differing = [it for it in compared if it.local != it.reported]
    if not differing:
        return None
    apart = [it.reported - it.local for it in differing]
    return Disagreement(len(compared), len(differing), min(apart), max(apart), min(it.at for it in differing))
