"""How far a comparison is, for whoever shows it: counts as runs end, what is still to come, the sidebar's row."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from tokmagic.comparisons.forecasts import NO_COSTS, Costs, Forecast, forecast
from tokmagic.comparisons.outcome import Answer, Outcome
from tokmagic.comparisons.plan import Arm, Plan
from tokmagic.core.record import NO_RUNS, RunRecord, Status, Sum
from tokmagic.errors import BudgetError, TokmagicError
from tokmagic.formatting import numbers
from tokmagic.runs.comparing import ComparisonRow, Part, ToCome, told


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a comparison is: runs that ended of all that are wanted, what they ``spent``, seconds since the first.

    ``failed`` of those that are done failed or were refused. ``fresh`` of them were run just now, not read from the
    ledger. ``costs`` are those of complete items, of which ``left`` are still to come; some of these have begun and
    cost ``begun_usd`` so far. ``at_once`` run at the same time.
    """

    done: int
    runs: int
    spent: Sum = NO_RUNS
    failed: int = 0
    fresh: int = 0
    elapsed_s: float = 0.0
    costs: Costs = NO_COSTS
    left: int = 0
    begun_usd: Decimal = Decimal(0)
    at_once: int = 1

    @property
    def usd(self) -> Decimal:
        """What is known of what they cost."""
        return self.spent.cost_usd or Decimal(0)

    @property
    def forecast(self) -> Forecast:
        """What is still to come will cost, from what was measured so far."""
        return forecast(self.costs, self.left, self.begun_usd)

    @property
    def left_s(self) -> float | None:
        """How long it will still take at the pace so far, in seconds; None before as many have run as run at once.

        Until then most of what was done is in those that go on, which end soon after the first.
        """
        return self.elapsed_s / self.fresh * (self.runs - self.done) if self.fresh >= max(1, self.at_once) else None

    @property
    def to_come(self) -> ToCome | None:
        """Both, as the sidebar is told; None where all is done."""
        if self.done >= self.runs:
            return None
        found = self.forecast
        return ToCome(found.usd, found.low_usd, found.high_usd, self.left_s)

    def __str__(self) -> str:
        wrong = f" ({self.failed:,} without an answer)" if self.failed else ""
        so_far = f"{self.done:,} of {self.runs:,} runs{wrong}"
        if self.spent.cost_usd is not None or not self.spent.runs:
            so_far += f", {numbers.usd_marked(self.spent.cost_usd or Decimal(0), self.spent.precision)} so far"
        rest = self.to_come
        if rest is None:
            return so_far
        parts = []
        if rest.usd is not None:
            spread = f" (95 %: {numbers.usd(rest.low_usd)} to {numbers.usd(rest.high_usd)})"
            parts.append(f"about {numbers.usd(rest.usd)}{'' if rest.low_usd is None else spread}")
        if rest.seconds is not None:
            parts.append(f"about {numbers.duration(rest.seconds)}")
        return f"{so_far}; to come: {', '.join(parts)}" if parts else so_far


@dataclass(slots=True)
class _Arm:
    arm: Arm
    runs: int
    done: int = 0
    failed: int = 0
    refused: int = 0
    sum: Sum = NO_RUNS
    latency_s: float = 0.0
    timed: int = 0
    score: float = 0.0
    scored: int = 0

    @property
    def part(self) -> Part:
        return Part(
            self.arm.label,
            self.arm.variant.name,
            self.arm.model,
            self.runs,
            self.done,
            self.failed,
            self.refused,
            self.sum,
            self.latency_s / self.timed if self.timed else None,
            self.score / self.scored if self.scored else None,
        )


@dataclass(frozen=True, slots=True)
class Here:
    """The cell that compares. ``beside``: the comparison there of whose winner parts are left out now."""

    cell_id: str | None = None
    source_sha256: str | None = None
    execution: str | None = None
    execution_count: int | None = None
    beside: ComparisonRow | None = None


NOWHERE = Here()
"""No cell compares, but Python outside of one."""


class Tally:
    """Counts what a comparison comes to. One thread adds; any may look."""

    def __init__(
        self, plan: Plan, spent: Sum, here: Here, *, blocks: int, passes: bool | None = False, at_once: int = 1
    ) -> None:
        """``spent`` is what earlier parts cost; ``blocks`` of the plan, an item and a repeat each, are wanted.

        ``passes``: whether scores are pass or fail; None: what they are will tell.
        """
        self._tags = (plan.question_tag, plan.data_tag)
        self._items, self._repeat = len(plan.items.rows), plan.repeat
        self._here = here
        self._lock = threading.Lock()
        self._arms = [_Arm(it, blocks) for it in plan.arms]
        self._spent = spent
        self._left, self._at_once = blocks, at_once
        self._costs, self._begun_usd = NO_COSTS, Decimal(0)
        self._judge = NO_RUNS
        self._passes, self._numbers = passes, False
        self._fresh = 0
        self._problem: str | None = None
        self._row_id, self._began_at = uuid.uuid4().hex, datetime.now(UTC)
        self._began_s = time.monotonic()

    def begin(self) -> None:
        """The first run is next: from here on time counts."""
        with self._lock:
            self._began_s = time.monotonic()

    def spent(self, record: RunRecord, *, judge: bool) -> None:
        """A run was paid for, whatever it came to."""
        one = Sum.of([record])
        with self._lock:
            self._spent += one
            self._fresh += not judge

    def judged(self, record: RunRecord) -> None:
        """The judge replied, just now or earlier."""
        with self._lock:
            self._judge += Sum.of([record])
            self._begun_usd += record.reading.cost.usd or Decimal(0)

    def took(self, answer: Answer, came: RunRecord | TokmagicError, *, failed: bool) -> None:
        """A run of an arm ended, just now or earlier. Of those without an answer ``failed`` tells from refused ones."""
        with self._lock:
            it = self._arms[answer.arm]
            if isinstance(came, TokmagicError):
                it.failed += failed
                it.refused += not failed
                self._problem = self._problem or answer.problem
                return
            it.done += 1
            it.sum += Sum.of([came])
            if answer.latency_s is not None:
                it.latency_s += answer.latency_s
                it.timed += 1
            self._begun_usd += answer.usd or 0

    def scored(self, answer: Answer) -> None:
        """An answer has its score, if it could be scored."""
        if answer.score is not None:
            with self._lock:
                self._arms[answer.arm].score += answer.score
                self._arms[answer.arm].scored += 1
                self._numbers |= answer.score not in (0.0, 1.0)

    def closed(self, usd: Decimal, *, whole: bool, priced: bool) -> None:
        """A block cost ``usd`` and has all that it gets; ``priced``: every run of it ended well and has a price."""
        with self._lock:
            self._begun_usd -= usd
            if whole:
                self._left -= 1
            if priced:
                self._costs = self._costs.plus(usd)

    @property
    def stand(self) -> Stand:
        """How far it is."""
        with self._lock:
            failed = sum(it.failed + it.refused for it in self._arms)
            return Stand(
                sum(it.done for it in self._arms) + failed,
                sum(it.runs for it in self._arms),
                self._spent,
                failed,
                self._fresh,
                time.monotonic() - self._began_s,
                self._costs,
                self._left,
                self._begun_usd,
                self._at_once,
            )

    def row(self) -> ComparisonRow:
        """It as it goes on."""
        return self._row("running", self.stand.to_come, None)

    def ended(self, outcome: Outcome) -> ComparisonRow:
        """It after its end."""
        if outcome.ended is not None:
            return self._row("interrupted", None, f"it ended early: {outcome.ended}", "budget")
        given_up = [f"{model} was given up: {problem}" for model, problem in outcome.given_up.items()]
        status: Status = "ok" if any(it.ran for it in outcome.answers) else "failed"
        return self._row(status, None, "; ".join(given_up) or self._wrong())

    def broke(self, error: BaseException) -> ComparisonRow:
        """It after an end that has no result: interrupted, refused by a budget, or failed."""
        if isinstance(error, KeyboardInterrupt):
            return self._row("interrupted", None, self._wrong(), "interrupted")
        says = " ".join(str(error).split()) or type(error).__name__
        return self._row("refused" if isinstance(error, BudgetError) else "failed", None, says, "error")

    def _wrong(self) -> str | None:
        with self._lock:
            return told(sum(it.failed for it in self._arms), sum(it.refused for it in self._arms), self._problem)

    def _row(
        self, status: Status, to_come: ToCome | None, note: str | None, finish_reason: str | None = None
    ) -> ComparisonRow:
        wrong = self._wrong() if note is None else note
        with self._lock:
            parts = tuple(it.part for it in self._arms)
            row = ComparisonRow(
                row_id=self._row_id,
                tags=self._tags,
                cell_id=self._here.cell_id,
                status=status,
                started_at=self._began_at,
                parts=parts,
                runs=sum(it.runs for it in self._arms),
                items=self._items,
                repeat=self._repeat,
                spent=self._spent,
                to_come=to_come,
                passes=not self._numbers if self._passes is None else self._passes,
                judge=self._judge,
                note=wrong,
                finish_reason=finish_reason,
                source_sha256=self._here.source_sha256,
                execution=self._here.execution,
                execution_count=self._here.execution_count,
            )
        whole = self._here.beside
        return row if whole is None else _beside(whole, row)


def _beside(whole: ComparisonRow, row: ComparisonRow) -> ComparisonRow:
    """A comparison with the parts that are left out of its winner."""
    return replace(
        whole,
        row_id=row.row_id,
        status=row.status,
        beside=row.parts,
        runs=whole.runs + row.runs,
        spent=whole.spent + row.spent,
        to_come=row.to_come,
        note=row.note if row.note is not None else whole.note,
        finish_reason=row.finish_reason,
    )
