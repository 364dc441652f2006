"""Runs a bench: the device's limits, a warm-up, then one level after another, each let in by the budgets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice

from tokmagic.bench.figures import Level
from tokmagic.bench.load import Load, Request
from tokmagic.bench.plan import Plan
from tokmagic.bench.prompts import Prompts
from tokmagic.core.budget import Budget, Hold, Used
from tokmagic.core.interrupts import FirstInterrupt, at_first_interrupt
from tokmagic.core.money import Rates, known_sum
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo, Status
from tokmagic.engines.base import Engine, Progress, no_progress
from tokmagic.engines.energy import energy_meter
from tokmagic.engines.roof import Measurable, Roof, Work
from tokmagic.errors import BudgetError, LedgerError, TokmagicError
from tokmagic.formatting import numbers
from tokmagic.prices import bound_usd
from tokmagic.runs.session import Session

TAG = "bench"
"""What a bench's rows in the ledger are tagged with."""
GIVEN_UP = 5
"""So many failures in a row end a bench."""
# Where no tokenizer is known here a prompt may come to more tokens than it has words.
_TOKENS_A_WORD = 3
_TEMPLATE_TOKENS = 64

Energy = Callable[[], float | None]
"""Reads a device's energy counter, in joules since any fixed instant; None where there is none."""


def counter_of(info: EngineInfo) -> Energy | None:
    """What reads the energy counter of the device that a model is on; None where there is none to read.

    Power that has to be added up all the while is no counter.
    """
    if not info.traits.has_weights or info.device is None:
        return None
    meter = energy_meter(info.device)
    return None if meter is None or meter.source != "measured" else meter.joules


def unknown_energy() -> None:
    """For devices without a counter."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a bench may use at most, told before it runs. ``usd`` is None where that cannot be known.

    ``estimated``: not a bound, since the prompts' tokens are not known here, or since the device's time is billed.
    """

    requests: int
    tokens: int
    usd: Decimal | None
    device_hour: Decimal | None
    estimated: bool


@dataclass(slots=True)
class Bench:
    """What was measured. ``failure`` is what ended it before all was; ``interrupted``: the person did."""

    plan: Plan
    info: EngineInfo
    rates: Rates
    exact_prompts: bool
    roof: Roof | None = None
    work: Work | None = None
    levels: list[Level] = field(default_factory=list)
    failure: TokmagicError | None = None
    interrupted: bool = False


def bench(
    session: Session,
    model: str | None,
    plan: Plan,
    *,
    max_usd: Decimal | None = None,
    energy: Energy | None = None,
    announce: Callable[[Forecast], None] = lambda _forecast: None,
    progress: Progress = no_progress,
) -> Bench:
    """Measure a model as the plan says, and record what it used in the ledger, a row for each level.

    ``max_usd`` is the most that all of it may cost. ``announce`` is told what it may cost before anything is sent.
    ``energy`` reads another counter than the device's own.
    What was measured before an interrupt, a failure or the end of a budget is returned.

    Raises UsageError, PromptError, ModelError, PriceError, BudgetError where nothing could be measured, and
    KeyboardInterrupt for an interrupt before the first request.
    """
    engine = session.models.engine(model)
    if engine.state != "ready":
        engine = session.load(engine.info.name, progress)
    plan.check_context(engine.info.context_tokens)
    prompts = Prompts(engine, plan)
    rates = session.rates(engine.info)
    found = Bench(plan, engine.info, rates, prompts.exact)
    energy = energy or counter_of(engine.info) or unknown_energy
    running = _Running(session, engine, found, max_usd, energy, progress)
    announce(running.forecast(plan.total))
    running.check_cap()
    if isinstance(engine, Measurable):
        progress("measuring what the device can do at most", None)
        found.roof, found.work = engine.roof()
    running.execute(prompts)
    found.info = engine.info
    return found


class _Running:
    """One execution of a plan."""

    def __init__(
        self,
        session: Session,
        engine: Engine,
        found: Bench,
        max_usd: Decimal | None,
        energy: Energy,
        progress: Progress,
    ) -> None:
        self._session = session
        self._engine = engine
        self._found = found
        self._max_usd = max_usd
        self._energy = energy
        self._progress = progress
        self._spent_usd = Decimal(0)
        self._answered = False
        self._itl_s: float | None = None
        with suppress(LedgerError):
            self._itl_s = session.ledger().token_time_s(engine.info)

    def forecast(self, requests: int) -> Forecast:
        """What so many requests may use."""
        plan, rates, exact = self._found.plan, self._found.rates, self._found.exact_prompts
        inputs = plan.prompt_tokens if exact else plan.prompt_tokens * _TOKENS_A_WORD + _TEMPLATE_TOKENS
        usd, guessed = bound_usd(rates, inputs, plan.output_tokens, self._itl_s)
        all_usd = None if usd is None else usd * requests
        device_hour = rates.device_hour if rates.input is None else None
        tokens = (inputs + plan.output_tokens) * requests
        return Forecast(requests, tokens, all_usd, device_hour, guessed or not exact)

    def check_cap(self) -> None:
        """Raise BudgetError where what is wanted cannot be held to the cap, or is sure to cost more."""
        cap, expected = self._max_usd, self.forecast(self._found.plan.total)
        if cap is None:
            return
        name = self._engine.info.name
        if expected.usd is None and expected.device_hour is None:
            raise BudgetError(
                f"the price of {name} is unknown, so --max-cost cannot be kept; give --input and --output, "
                "or --gpu-hour"
            )
        if expected.usd is not None and expected.usd > cap:
            about = "about " if expected.estimated else ""
            raise BudgetError(
                f"the bench may cost up to {about}{numbers.usd(expected.usd)}, more than --max-cost of "
                f"{numbers.usd(cap)}; lower --requests, --output-tokens or --prompt-tokens, or raise it"
            )

    def execute(self, prompts: Prompts) -> None:
        """Warm up, then measure each level. Raises what ended it where nothing was measured."""
        plan, found = self._found.plan, self._found
        making = iter(prompts)
        phases = [(0, plan.warmup)] if plan.warmup else []
        for level, count in (*phases, *((level, plan.requests_at(level)) for level in plan.levels)):
            try:
                found.failure = self._phase(list(islice(making, count)), level)
            except BudgetError as error:
                found.failure = error
            except KeyboardInterrupt:  # between two levels
                found.interrupted = True
            if found.failure is not None and not found.levels:
                raise found.failure
            if found.interrupted or found.failure is not None:
                return

    def _phase(self, prompts: list[Prompt], level: int) -> TokmagicError | None:
        """Send the requests of a level, or for level 0 of the warm-up; return what ended it early.

        Raises BudgetError where it is not let in.
        """
        expected, cap = self.forecast(len(prompts)), None
        if self._max_usd is not None:
            if self._spent_usd >= self._max_usd:
                raise BudgetError(
                    f"all of --max-cost, {numbers.usd(self._max_usd)}, is spent; raise it to measure more"
                )
            cap = Budget("cell", self._max_usd - self._spent_usd, origin="--max-cost")
        told = {"concurrency": max(1, level), "requests": len(prompts), "prompt_tokens": self._found.plan.prompt_tokens}
        lump = self._session.lump(self._engine, prompts[0], params=told, tags=(TAG,), cap=cap)
        by_time = expected.usd is None and expected.device_hour is not None
        lump.begin(Hold(expected.tokens, expected.usd, expected.estimated, by_time))
        phase = _Phase(self, prompts, level)
        before_j, began = self._energy(), datetime.now(UTC)
        interrupt = FirstInterrupt()

        def go_on(request: Request) -> bool:
            return phase.take(request) and lump.covers(phase.used)

        load = Load(self._engine, self._found.rates, go_on, lump.record.run_id)
        try:
            with at_first_interrupt(load.stop) as interrupt:
                load.run(iter(prompts), max(1, level))
        except KeyboardInterrupt:  # the second: what was seen has to do
            interrupt.came = True
        finally:
            after_j = self._energy()
            joules = None if before_j is None or after_j is None else after_j - before_j
            measured = Level(level, len(prompts), tuple(phase.requests), began, datetime.now(UTC), joules)
            self._spent_usd += measured.used.cost.usd or 0
            broke = phase.failure is None and not interrupt.came and not measured.complete
            status = _status(measured, interrupted=interrupt.came or broke)
            failure = None if phase.failure is None else str(phase.failure)
            lump.settle(status, measured.used, energy_j=joules, error=failure)
        self._found.interrupted = interrupt.came
        if level and measured.done:
            self._found.levels.append(measured)
        if interrupt.came:
            return None
        if broke:
            return BudgetError(
                f"a budget is used up after {numbers.cost(measured.used.cost)} of this level; what was measured is kept"
            )
        if phase.failure is None and not measured.done:
            return measured.failed[-1].error
        return phase.failure

    def note(self, request: Request) -> None:
        """Remember whether the engine has ever answered."""
        self._answered = self._answered or request.outcome == "ok"

    @property
    def answered(self) -> bool:
        """Whether any request has ended well."""
        return self._answered

    def tell(self, level: int, done: int, wanted: int) -> None:
        """Say how far it is."""
        doing = f"{level} at once" if level else "warming up"
        self._progress(f"{doing}: {done:,} of {wanted:,} requests", done / wanted)


class _Phase:
    """The requests of one level as they end. Told of one at a time."""

    def __init__(self, running: _Running, prompts: list[Prompt], level: int) -> None:
        self._running = running
        self._wanted = len(prompts)
        self._level = level
        self._in_a_row = 0
        self._used = Used(None, 0)
        self.requests: list[Request] = []
        self.failure: TokmagicError | None = None

    def take(self, request: Request) -> bool:
        """Keep a request and say whether to go on: a server that never answered is not asked again."""
        self.requests.append(request)
        usage = request.reading.usage
        tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        self._used = Used(known_sum(self._used.usd, request.reading.cost.usd), self._used.tokens + tokens)
        self._running.note(request)
        self._running.tell(self._level, len(self.requests), self._wanted)
        self._in_a_row = self._in_a_row + 1 if request.outcome == "failed" else 0
        if self._in_a_row and (not self._running.answered or self._in_a_row >= GIVEN_UP):
            self.failure = self.failure or request.error
            return False
        return True

    def used(self) -> Used:
        """What budgets count of it so far."""
        return self._used


def _status(level: Level, *, interrupted: bool) -> Status:
    if interrupted:
        return "interrupted"
    return "ok" if level.done else "failed"
