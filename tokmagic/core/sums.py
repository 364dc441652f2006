"""Which runs are meant, and what sums over them hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from tokmagic.core.money import CERTAIN, Precision, Uncertainty, _known_sum
from tokmagic.core.record import RunRecord, Status


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs are meant; what is None does not select. ``until`` is the first instant that does not belong.

    Of several ``tags`` a run must have all.
    """

    notebook: str | None = None
    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None
    model: str | None = None
    cell_id: str | None = None
    status: Status | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sum:
    """Sums over runs: a group of ended ones, or all of a notebook with those that go on.

    ``cost_usd`` is None where none has a price, ``saved_usd`` where no cache hit has one. Refused runs count as runs,
    but neither as priced nor as unpriced. Cache hits are left out of the latencies; ``unpriced_hits`` saved what is not
    known.
    """

    runs: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    unpriced_runs: int = 0
    saved_usd: Decimal | None = None
    ttft_total_s: float = 0.0
    ttft_runs: int = 0
    itl_total_s: float = 0.0
    itl_steps: int = 0
    uncertainty: Uncertainty = CERTAIN
    unpriced_hits: int = 0
    saved_uncertainty: Uncertainty = CERTAIN

    @property
    def precision(self) -> Precision:
        """Whether ``cost_usd`` is only an estimate, and what it bounds."""
        return self.uncertainty.precision(self.unpriced_runs)

    @property
    def saved_precision(self) -> Precision:
        """The same of ``saved_usd``."""
        return self.saved_uncertainty.precision(self.unpriced_hits)

    @property
    def ttft_s(self) -> float | None:
        """The mean TTFT of the runs that have one."""
        return self.ttft_total_s / self.ttft_runs if self.ttft_runs else None

    @property
    def itl_mean_s(self) -> float | None:
        """Seconds a token, over all tokens after the first of each run: each run weighs as much as it generated."""
        return self.itl_total_s / self.itl_steps if self.itl_steps else None

    @classmethod
    def of(cls, records: Iterable[RunRecord]) -> Sum:
        """Add runs up that are at hand."""
        return sum(map(cls._of, records), cls())

    @classmethod
    def _of(cls, record: RunRecord) -> Sum:
        reading, usage, cost = record.reading, record.reading.usage, record.reading.cost
        timed = record.status != "cached"
        steps = (usage.output_tokens or 1) - 1 if timed and reading.itl_mean_s is not None else 0
        ttft = reading.ttft_s if timed else None
        return cls(
            runs=1,
            input_tokens=usage.input_tokens or 0,
            output_tokens=usage.output_tokens or 0,
            cost_usd=cost.usd,
            unpriced_runs=int(cost.usd is None and record.status != "refused"),
            saved_usd=cost.saved_usd,
            ttft_total_s=ttft or 0.0,
            ttft_runs=int(ttft is not None),
            itl_total_s=(reading.itl_mean_s or 0.0) * steps,
            itl_steps=steps,
            uncertainty=Uncertainty.of(cost),
            unpriced_hits=int(cost.saved_usd is None and record.status == "cached"),
            saved_uncertainty=Uncertainty.of_saved(cost),
        )

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.runs + other.runs,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            _known_sum(self.cost_usd, other.cost_usd),
            self.unpriced_runs + other.unpriced_runs,
            _known_sum(self.saved_usd, other.saved_usd),
            self.ttft_total_s + other.ttft_total_s,
            self.ttft_runs + other.ttft_runs,
            self.itl_total_s + other.itl_total_s,
            self.itl_steps + other.itl_steps,
            self.uncertainty + other.uncertainty,
            self.unpriced_hits + other.unpriced_hits,
            self.saved_uncertainty + other.saved_uncertainty,
        )


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What the answer cache holds and what it was good for: ``hits`` adds up all replays in the ledger."""

    answers: int = 0
    size_bytes: int = 0
    hits: Sum = Sum()
