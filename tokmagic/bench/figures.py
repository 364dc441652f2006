"""What was measured at one level, as figures: each defined in docs/metrics.md, "Benches"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from statistics import fmean, pstdev

from tokmagic.bench.load import Request
from tokmagic.core.money import CERTAIN, Cost, Uncertainty, known_sum
from tokmagic.core.percentiles import percentile
from tokmagic.core.record import Reading
from tokmagic.core.stream import Usage, weakest


@dataclass(frozen=True, slots=True)
class Spread:
    """How one quantity is spread over requests, or over gaps between tokens. The standard deviation is theirs alone."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def deviation(self) -> float:
        return pstdev(self.values)

    def at(self, share: float) -> float:
        """The value below which such a share of the values lies, interpolated linearly."""
        found = percentile(self.values, share)
        assert found is not None
        return found


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of those values that are known; None for none."""
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known else None


@dataclass(frozen=True)
class Level:
    """What was measured with so many requests at once. Seconds, tokens, joules.

    ``wanted`` are the requests that were to be measured. ``energy_j`` is the device's over the level, with whatever
    else ran on it; None is unknown.
    """

    concurrency: int
    wanted: int
    requests: tuple[Request, ...]
    began: datetime
    ended: datetime
    energy_j: float | None = None

    @cached_property
    def done(self) -> tuple[Request, ...]:
        """The requests that ended well: figures are over these."""
        return tuple(it for it in self.requests if it.outcome == "ok")

    @property
    def failed(self) -> tuple[Request, ...]:
        return tuple(it for it in self.requests if it.outcome == "failed")

    @property
    def complete(self) -> bool:
        """Whether all requests were sent and none was stopped."""
        return len(self.done) + len(self.failed) == self.wanted

    @cached_property
    def duration_s(self) -> float:
        """From the first submission to the last token."""
        begins = [it.submitted_ns for it in self.done if it.submitted_ns is not None]
        ends = [it.ended_ns for it in self.done if it.ended_ns is not None]
        return (max(ends) - min(begins)) / 1e9 if begins and ends else 0.0

    @cached_property
    def ttft_s(self) -> Spread | None:
        return spread(it.reading.ttft_s for it in self.done)

    @cached_property
    def prefill_s(self) -> Spread | None:
        """TTFT without the time in the queue, where that is known."""
        return spread(
            it.reading.ttft_s - it.reading.queue_s
            for it in self.done
            if it.reading.ttft_s is not None and it.reading.queue_s is not None
        )

    @cached_property
    def latency_s(self) -> Spread | None:
        return spread(it.reading.latency_s for it in self.done)

    @cached_property
    def itl_s(self) -> Spread | None:
        """The gaps between tokens, or between network chunks, of all requests together."""
        return spread(gap for it in self.done for gap in it.gaps_s)

    @cached_property
    def tpot_s(self) -> Spread | None:
        """The mean gap of each request."""
        return spread(it.reading.itl_mean_s for it in self.done)

    @cached_property
    def speed(self) -> Spread | None:
        """Output tokens a second of each request, after its first."""
        return spread(it.reading.output_tokens_per_s for it in self.done)

    @property
    def by_token(self) -> bool:
        """Whether each gap is between two tokens."""
        return all(it.by_token for it in self.done)

    @property
    def arrivals(self) -> int:
        """How many pieces the answers came in."""
        return sum(len(it.gaps_s) + 1 for it in self.done)

    @cached_property
    def usage(self) -> Usage:
        """The tokens of the requests that ended well."""
        return usage_of([it.reading.usage for it in self.done])

    def per_s(self, count: int | None) -> float | None:
        """So many of the level, a second."""
        return count / self.duration_s if count is not None and self.duration_s > 0 else None

    @property
    def output_per_s(self) -> float | None:
        """Throughput: output tokens a second of all requests together."""
        return self.per_s(self.usage.output_tokens)

    @property
    def total_tokens(self) -> int | None:
        """Input and output together."""
        usage = self.usage
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        return usage.input_tokens + usage.output_tokens

    @cached_property
    def cost(self) -> Cost:
        """What the requests that ended well cost together."""
        return cost_of([it.reading.cost for it in self.done])

    @cached_property
    def used(self) -> Reading:
        """What all requests used, failed and stopped ones too: for the ledger."""
        readings = [it.reading for it in self.requests if it.submitted_ns is not None]
        device = [it.device_s for it in readings]
        return Reading(
            usage=usage_of([it.usage for it in readings]),
            cost=cost_of([it.cost for it in readings]),
            device_s=sum(it or 0.0 for it in device) if any(it is not None for it in device) else None,
            peak_bytes=max((it.peak_bytes for it in readings if it.peak_bytes is not None), default=None),
            attempts=sum(it.attempts for it in readings),
        )


def usage_of(usages: Sequence[Usage]) -> Usage:
    """Sums of counts; one that is unknown of a request is unknown, and a sum has the weakest of its sources."""

    def total(name: str) -> int | None:
        values = [getattr(usage, name) for usage in usages]
        return sum(values) if values and None not in values else None

    return Usage(
        input_tokens=total("input_tokens"),
        output_tokens=total("output_tokens"),
        cached_input_tokens=total("cached_input_tokens"),
        cache_write_input_tokens=total("cache_write_input_tokens"),
        reasoning_tokens=total("reasoning_tokens"),
        input_source=weakest(usage.input_source for usage in usages),
        output_source=weakest(usage.output_source for usage in usages),
    )


def cost_of(costs: Sequence[Cost]) -> Cost:
    """The sum of what has a price, with the marks that follow from its parts."""
    usd: Decimal | None = None
    token_usd: Decimal | None = None
    compute_usd: Decimal | None = None
    for cost in costs:
        usd = known_sum(usd, cost.usd)
        token_usd, compute_usd = known_sum(token_usd, cost.token_usd), known_sum(compute_usd, cost.compute_usd)
    if usd is None:
        return Cost()
    unpriced = sum(cost.usd is None for cost in costs)
    precision = sum(map(Uncertainty.of, costs), CERTAIN).precision(unpriced)
    source = "estimated" if precision.estimated else weakest(cost.source for cost in costs if cost.usd is not None)
    return Cost(usd, source, precision.bound, token_usd, compute_usd)
