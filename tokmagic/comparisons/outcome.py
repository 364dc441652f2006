"""What a comparison brought: its answers, and what a reader has to know about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from tokmagic.comparisons.billed import Billed
from tokmagic.comparisons.came import Got
from tokmagic.comparisons.forecasts import NO_COSTS, Costs
from tokmagic.comparisons.judges import Judged
from tokmagic.core.record import NO_RUNS, Sum
from tokmagic.errors import BudgetError


@dataclass(slots=True)
class Answer:
    """What is kept of one run of an arm; what is unknown is None. ``order`` counts the runs from 1 on."""

    arm: int
    item: int
    repeat: int
    order: int
    run_id: str | None = None
    text: str | None = None
    usd: Decimal | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    latency_s: float | None = None
    score: float | None = None
    problem: str | None = None
    finish_reason: str | None = None
    span: tuple[float, float] | None = None
    """When it began and ended, in seconds since the epoch."""

    @property
    def ran(self) -> bool:
        """Whether the run ended well."""
        return self.run_id is not None

    def take(self, came: Got) -> None:
        """Keep what is needed of a run that ended well."""
        record, reading, usage = came.record, came.record.reading, came.record.reading.usage
        self.run_id, self.text, self.finish_reason = record.run_id, came.text, record.finish_reason
        self.usd, self.latency_s, self.span = reading.cost.usd, reading.latency_s, came.span
        self.input_tokens, self.output_tokens = usage.input_tokens, usage.output_tokens
        self.cached_input_tokens = usage.cached_input_tokens


@dataclass(slots=True)
class Outcome:
    """All answers, and what a reader has to know about them."""

    answers: list[Answer] = field(default_factory=list)
    costs: Costs = NO_COSTS
    """What complete blocks cost, an item and a repeat each, their judge included."""
    blocks: int = 0
    """How many blocks were tried to their end."""
    failed_blocks: int = 0
    """How many of these have a run that failed: the next call tries it again, and pays for it."""
    begun_usd: Decimal = Decimal(0)
    """What was spent on blocks of which something is still to come."""
    spent_usd: Decimal = Decimal(0)
    """What the whole comparison cost so far, runs that did not finish included."""
    billed: Billed = field(default_factory=Billed)
    """At which rates the runs of its arms were billed, and how surely."""
    judge: Sum = NO_RUNS
    """What the judge's replies cost."""
    judged: list[Judged] = field(default_factory=list)
    replies: int = 0
    """How often the judge replied."""
    ended: str | None = None
    """Why it ended before all was run."""
    refused: str | None = None
    """Why the first run was refused, or stopped, that is beyond what each may cost; the others went on."""
    given_up: dict[str, str] = field(default_factory=dict)
    """Models that failed too often, and how they failed last."""

    def check(self) -> None:
        """Raise BudgetError where a budget let nothing come of it."""
        if self.ended is not None and not self.blocks:
            raise BudgetError(f"the budget ended the comparison before one pair was complete: {self.ended}")
        if self.refused is not None and not any(it.ran for it in self.answers):
            raise BudgetError(f"no run of the comparison was let in: {self.refused}")
