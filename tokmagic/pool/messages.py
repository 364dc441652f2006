"""What a replica tells the gateway of a run.

Stamps are nanoseconds since the replica received the prompt: a clock of ``perf_counter_ns`` means nothing in another
process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Event, Started
from tokmagic.errors import TokmagicError


@dataclass(frozen=True, slots=True)
class Described:
    """What a replica says of its engine."""

    info: EngineInfo
    identity: EngineInfo | None


@dataclass(frozen=True, slots=True)
class Told:
    """Events that came since the last message. ``error`` ended the run.

    ``running`` is how many runs the replica works on, this one included.
    """

    sent_ns: int
    events: tuple[Event, ...] = ()
    error: TokmagicError | None = None
    running: int = 1


@dataclass(frozen=True, slots=True)
class Ending:
    """All of a run whose request was cancelled: what the gateway has not seen of it is at the end."""

    events: tuple[Event, ...]
    error: TokmagicError | None = None


def shifted(event: Event, by_ns: int) -> Event:
    """An event with its stamps moved."""
    if isinstance(event, Started):
        prefill_ns = None if event.prefill_ns is None else event.prefill_ns + by_ns
        return replace(event, submitted_ns=event.submitted_ns + by_ns, prefill_ns=prefill_ns)
    return replace(event, at_ns=event.at_ns + by_ns)
