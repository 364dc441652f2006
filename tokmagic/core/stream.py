"""What an engine's stream is made of. Times ending in ``_ns`` are readings of ``time.perf_counter_ns``,
comparable within one process only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from tokmagic.core.metered import Metered
    from tokmagic.core.money import Bound

# Of the classes below the newer fields are not in the repr: cached answers of scripts are known by a digest of it.
Source = Literal["measured", "reported", "counted", "estimated", "unknown"]
"""Where a count or a cost came from; see docs/metrics.md, "Provenance"."""
_STRENGTH: tuple[Source, ...] = ("measured", "reported", "counted", "estimated", "unknown")


def weakest(sources: Iterable[Source]) -> Source:
    """What a figure made of several is worth; ``unknown`` for none."""
    return max(sources, key=_STRENGTH.index, default="unknown")


FinishReason = Literal["stop", "length", "content_filter", "other", "interrupted", "error", "budget"]
"""Why an answer ended. Of a whole answer whose server gave no reason that is unknown: None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of a run. Cached, cache-write and reasoning tokens are subsets of the totals.

    ``None`` is unknown, never zero. Of the cache-write tokens ``cache_write_1h_input_tokens`` are kept for an hour.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    cache_write_1h_input_tokens: int | None = field(default=None, repr=False)
    reasoning_tokens: int | None = None
    input_source: Source = "unknown"
    output_source: Source = "unknown"

    @classmethod
    def measured(
        cls, input_tokens: int, output_tokens: int | None = None, reasoning_tokens: int | None = None
    ) -> Usage:
        """Counts of ids that this process saw itself, none of them from a cache."""
        return cls(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=0,
            cache_write_input_tokens=0,
            reasoning_tokens=reasoning_tokens,
            input_source="measured",
            output_source="measured",
        )


@dataclass(frozen=True, slots=True)
class Started:
    """The engine took the request.

    ``submitted_ns`` is t0, before tokenisation and queueing; at an endpoint when all is ready to be sent.
    ``prefill_ns`` is the start of the prefill where the engine knows it, else ``None``; queue time is the difference.
    """

    submitted_ns: int
    usage: Usage
    prefill_ns: int | None = None


class Logprob(NamedTuple):
    """A token's text, as far as it has one of its own, and the natural logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer, stamped where it was produced.

    With an ``id`` it is exactly one output token of choice ``choice`` and ``text`` is what became
    certain with it: often empty, since a character may span several tokens. Without an ``id`` it is
    a network piece that carries an unknown number of tokens; ``usage`` then says how the counts stand after it.
    ``reasoning`` is text that is generated, but is not the answer's. ``logprobs`` are those of the tokens that it
    carries, where they were asked for. ``service_tier`` is the one at which the server says that it answers.
    ``held``: it carries text that is held back, or left out at a stop text.
    """

    at_ns: int
    text: str
    id: int | None = None
    choice: int = 0
    reasoning: str = ""
    usage: Usage | None = None
    logprobs: tuple[Logprob, ...] = ()
    service_tier: str | None = field(default=None, repr=False)
    held: bool = field(default=False, repr=False)

    @property
    def has_content(self) -> bool:
        """Whether it stops a clock and is counted: a role alone, or log probabilities alone, are no content."""
        return self.id is not None or self.held or bool(self.text or self.reasoning)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """What a server says of its own times, in seconds: until it began, for the prompt, between two tokens.

    A shared engine also tells how long a request waited there until the engine was asked (``waited_s``), which is part
    of ``queue_s``, the percentiles of its ITL, and what it measured from then on: ``ttft_s`` and ``latency_s``.
    """

    queue_s: float | None = None
    prefill_s: float | None = None
    itl_mean_s: float | None = None
    itl_p50_s: float | None = None
    itl_p95_s: float | None = None
    waited_s: float | None = None
    ttft_s: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Energy:
    """What a run took, in joules, with its marks as a cost has them, and the meter's name."""

    joules: float
    source: Source
    bound: Bound
    meter: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The stream ended; nothing comes after it.

    ``reasons`` holds one finish reason for each choice, None where the server gave none. ``tails`` holds, for each
    choice, text that was held back until the end. ``device_s`` is the run's share of the device's busy time.
    ``error`` says why the answer is not whole, or not there. ``cut``: a server may have gone on after the last
    thing that was heard of it, so it may bill more than was counted. ``local_input_tokens`` is this process' own
    count of what a server counted, and ``anomaly`` what is wrong with the server's. ``service_tier`` and
    ``reported_usd`` are what the server says of its tier and its cost, ``ignored`` the options that it did not
    follow, though it took them, ``server_times`` its own, and ``metered`` what a shared engine recorded of the run.
    ``energy`` was measured where the answer was generated, if that is another machine.
    """

    at_ns: int
    reasons: tuple[FinishReason | None, ...]
    usage: Usage
    tails: tuple[str, ...] = ()
    device_s: float | None = None
    peak_bytes: int | None = None
    attempts: int = 1
    error: str | None = None
    cut: bool = False
    anomaly: str | None = None
    local_input_tokens: int | None = None
    service_tier: str | None = field(default=None, repr=False)
    reported_usd: Decimal | None = field(default=None, repr=False)
    ignored: tuple[str, ...] = field(default=(), repr=False)
    server_times: ServerTimes | None = field(default=None, repr=False)
    metered: Metered | None = field(default=None, repr=False)
    energy: Energy | None = field(default=None, repr=False)


Event = Started | Token | Finished
