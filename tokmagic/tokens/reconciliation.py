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


def disagreement(compared: Sequence[Compared]) -> str | None:
    """Return in one line by how much the counts of runs differ, how often, and since when; None where they agree."""
    differing = [it for it in compared if it.local != it.reported]
    if not differing:
        return None
    apart = [it.reported - it.local for it in differing]
    least, most = min(apart), max(apart)
    low, high = sorted((abs(least), abs(most)))
    if least < 0 < most:
        by = f"up to {counted(-least, 'token')} fewer and {most:,} more"
    else:
        many = f"{low:,} to " if low != high else ""
        by = f"{many}{counted(high, 'token')} {'more' if most > 0 else 'fewer'}"
    often = "in each run"
    if len(differing) < len(compared):
        often = f"in {len(differing)} of {counted(len(compared), 'run')}"
    since = min(it.at for it in differing).astimezone()
    return f"its server counts {by} than the tokenizer here, {often} since {since:%Y-%m-%d %H:%M}"
