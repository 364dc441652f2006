"""One run from its first row to its last: hold, engine, meter, what is shown, and a row settled whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from tokmagic.core.interrupts import FirstInterrupt, Held, at_first_interrupt, uninterrupted
from tokmagic.core.metered import Metered
from tokmagic.core.money import Rates, plain
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import INFO_IN_ENV, USAGE_IN_ENV, EngineInfo, Reading, RunRecord, Status
from tokmagic.core.stream import Energy, Event, Finished, FinishReason, ServerTimes, Started, Token, Usage
from tokmagic.engines.base import Engine, Relaxable, Stream, submit
from tokmagic.errors import (
    BudgetError,
    EndpointError,
    GenerationInterrupted,
    LedgerError,
    ModelError,
    PromptError,
    TokmagicError,
    UsageError,
)
from tokmagic.formatting import numbers
from tokmagic.runs.arrived import Arrived
from tokmagic.runs.budget_guard import BudgetGuard
from tokmagic.runs.cache import Answer, Place, replayed
from tokmagic.runs.energy import ACCOUNTS, Window, metered_energy, told_of
from tokmagic.runs.generation import Choice, Generation, answers_sha256
from tokmagic.runs.meter import Meter
from tokmagic.runs.recorder import Recorder
from tokmagic.runs.token_times import TokenTimes


class Watcher(Protocol):
    """Shows a run while it streams. Called on the thread that waits for the answer."""

    def token(self, text: str) -> None:
        """More of the first choice's text arrived."""
        ...


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run works with beside its engine and prompt: where it is kept, and who is told how it goes."""

    recorder: Recorder
    place: Place
    watcher: Watcher | None
    began: Callable[[Run], None]
    changed: Callable[[], None]
    ended: Callable[[RunRecord], None]
    at_tier: Callable[[Rates, EngineInfo, datetime], tuple[Rates, str | None]]
    heard: Callable[[Event, Usage], None] | None = None
    """Told of each event and of the counts after it, on the thread that waits for the answer."""
    as_metered: Callable[[Rates, str, Rates], Rates] | None = None
    """Which rates hold for a run that a shared engine metered: of its own, the model's name, and what it was told."""
    only_recorded: bool = False
    """Nothing runs whose row cannot be written: somebody else is to pay for it."""
    settling: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered while the row's end is written and told to ``ended``."""
    turn: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered for as long as the engine answers: only so many runs may ask it at once."""
    in_lumps: bool = False
    """Many run beside each other and nobody reads along: to be woken for each token would hold up all of them."""


class Run:
    """One run from its first row to its last."""

    def __init__(
        self, engine: Engine, prompt: Prompt, record: RunRecord, guard: BudgetGuard, context: RunContext
    ) -> None:
        self.record = record
        self.token_times = TokenTimes()
        self._engine = engine
        self._prompt = prompt
        self._guard = guard
        self._context = context
        self._watcher = context.watcher
        self._meter = Meter(record.rates)
        self._listed = record.rates
        self._stream: Stream | None = None
        self._energy: Window | None = None
        self._begun = self._stopped = self._broke = False
        self._held, self._interrupt = Held(None), FirstInterrupt()
        self._error: TokmagicError | KeyboardInterrupt | None = None
        self._finished: Finished | None = None
        self._ended_at: datetime | None = None
        self._arrived = Arrived(prompt.sampling.n)

    def execute(self) -> Generation:
        """Drive the run to its end, whatever that is."""
        status: Status = "failed"
        with uninterrupted() as self._held:
            try:
                with self._held.let_in():
                    self._begin()
                    self._context.began(self)
                    with self._context.turn():
                        self._answer()
                    status = self._ended_as()
            except KeyboardInterrupt:
                if not self._interrupt.came:  # else it is the second, and what was seen has to do
                    self._drain()
                status = self._as_interrupted()
            except (PromptError, UsageError, BudgetError, LedgerError) as error:
                status, self._error = "refused", error
            except Exception as error:
                # What shows the run may be what failed.
                self._watcher = None
                self._drain()
                self._error = error if isinstance(error, TokmagicError) else _unforeseen(error)
                if self._interrupt.came:
                    status = self._as_interrupted()
            finally:
                generation = self._settle(status)
        return generation

    def _answer(self) -> None:
        """Ask the engine, and take in what it answers. A run that was stopped before, as it waited, asks nothing."""
        if self._stopped:
            nothing = Usage.measured(0, 0, 0)
            reasons: list[FinishReason] = ["interrupted"] * self._prompt.sampling.n
            self._keep(Finished(time.perf_counter_ns(), tuple(reasons), nothing, device_s=0.0))
            return
        with uninterrupted():  # what is followed is also let go
            self._energy = ACCOUNTS.open(self._engine.info)
        with at_first_interrupt(self.stop) as self._interrupt:  # from the sending on: a stream that is lost is paid for
            self._stream = submit(self._engine, self._prompt, self.record.run_id)
            if self._stopped:
                self._stream.close()
            if self._context.in_lumps and not self._guard.watches and isinstance(self._stream, Relaxable):
                self._stream.relax()
            with self._context.recorder.checkpoints.of(self.record.run_id, self.snapshot):
                self._consume(self._stream)
        self._ended_at = datetime.now(UTC)

    def _begin(self) -> None:
        """Insert the row as running, if the budgets let the run in."""
        # True until the contrary is known: an interrupt may come when the row is written and nobody has heard of it.
        self._begun = True
        try:
            begun = self._guard.admit(self.record, self._prompt, self._engine)
        except TokmagicError:
            self._begun = False
            raise
        messages, hold = self._prompt.messages, self._guard.hold
        self._begun = begun or self._context.recorder.write(lambda ledger: ledger.begin(self.record, messages, hold))
        if self._context.only_recorded and not self._begun:
            raise LedgerError("the run cannot be recorded, nothing was run; the server's log says why")

    def withhold(self) -> None:
        """Ask nothing any more where nothing was asked yet; any thread."""
        self._stopped = True

    def stop(self) -> None:
        """Stop as the sidebar asks to; any thread."""
        self.withhold()
        if self._stream is not None:
            self._stream.close()

    @property
    def held_usd(self) -> Decimal:
        """What it may cost at most, as set aside; 0 where nothing is, or its price is not known. Any thread."""
        hold = self._guard.hold
        return Decimal(0) if hold is None or hold.usd is None else hold.usd

    def snapshot(self) -> RunRecord:
        """The row as it is now; any thread."""
        return replace(self.record, reading=self._meter.reading(now_ns=time.perf_counter_ns()))

    def _consume(self, stream: Stream) -> None:
        for event in stream:
            with uninterrupted():  # what is counted is also kept
                self._keep(event)
            if self._context.heard is not None:
                self._context.heard(event, self._meter.usage)
            if isinstance(event, Token):
                if event.choice == 0:
                    self._show(event.text)
                if not self._broke and not self._guard.covers(self._meter.used, self.record):
                    self._broke = True
                    stream.close()
                self._context.recorder.checkpoints.offer()
            elif isinstance(event, Finished):
                self._show(event.tails[0] if event.tails else "")
            self._context.changed()

    def _keep(self, event: Event) -> None:
        if isinstance(event, Token | Finished) and event.service_tier is not None:
            self._price_at(event.service_tier)
        if isinstance(event, Finished) and event.metered is not None and self._priced_here(event.metered):
            # Whoever has rates of their own need not be told that the server's come to something else.
            self._meter.fold(replace(event, reported_usd=None))
        else:
            self._meter.fold(event)
        if isinstance(event, Started):
            if self._energy is not None:
                self._energy.begin(event.prefill_ns)
        else:
            self.token_times.add(event)
        if isinstance(event, Token):
            self._arrived.add(event)
        elif isinstance(event, Finished):
            self._finished = event
            self._arrived.end(event)

    def _price_at(self, service_tier: str) -> None:
        """The server says at which service tier it answers: from now on that one's price holds."""
        record = self.record
        if service_tier == record.info.service_tier:
            return
        info = replace(record.info, service_tier=service_tier)
        rates, missing = self._context.at_tier(self._listed, info, record.started_at)
        self.record = replace(record, info=info, rates=rates)
        self._meter.reprice(rates, missing)

    def _priced_here(self, metered: Metered) -> bool:
        """Take the rates of a shared engine that metered the run, and say whether the person's own hold instead."""
        told, choose = metered.rates, self._context.as_metered
        if told is None or choose is None:
            return False
        rates = choose(self.record.rates, self.record.info.name, told)
        if rates is self.record.rates:
            return True
        self.record = replace(self.record, rates=rates)
        self._meter.reprice(rates, None)
        return False

    def _show(self, text: str) -> None:
        if text and self._watcher is not None:
            self._watcher.token(text)

    def _drain(self) -> None:
        """Stop the engine and take in what it had generated before it stopped."""
        if self._stream is None:
            return
        self._stream.close()
        # A second interrupt gives up waiting, and so does a failure; the row is settled with what was seen.
        with suppress(KeyboardInterrupt, Exception), self._held.let_in():
            self._consume(self._stream)

    def _as_interrupted(self) -> Status:
        self._error = GenerationInterrupted(
            f"the generation was interrupted after {self._tokens()}; its text and its cost are kept"
        )
        return "interrupted"

    def _ended_as(self) -> Status:
        if self._interrupt.came:
            return self._as_interrupted()
        finished = self._finished
        if finished is not None and finished.error is not None:
            self._error = EndpointError(finished.error)
            return "failed"
        if finished is not None and finished.metered is not None and finished.metered.stopped is not None:
            self._broke, self._error = True, BudgetError(finished.metered.stopped)
            return "interrupted"
        if finished is None or "interrupted" not in finished.reasons:
            return "ok"
        if self._broke:
            self._error = self._guard.stopped(self._meter.reading().cost)
        else:
            self._error = GenerationInterrupted(
                f"the generation was stopped after {self._tokens()}; its text and its cost are kept"
            )
        return "interrupted"

    def _tokens(self) -> str:
        usage = self._meter.reading().usage
        noun = "token" if usage.output_tokens == 1 else "tokens"
        return f"{numbers.tokens(usage.output_tokens, usage.output_source)} {noun}"

    def _settle(self, status: Status) -> Generation:
        reason, refused = self._finish_reason(status), status == "refused"
        choices = self._arrived.choices(self._finished, reason)
        reading = Reading() if refused else self._meter.reading(final=True)
        taken, told = self._taken(reading.device_s), self._finished
        info = replace(self._engine.info, service_tier=self.record.info.service_tier)
        if told is not None and told.metered is not None:
            # How the model ran for this answer: the server may have been started anew meanwhile.
            known: dict[str, Any] = {name: text for name, text in told.metered.info.items() if text is not None}
            info = replace(info, **known)
            taken = metered_energy(told.metered)
        self.record = replace(
            self.record,
            status=status,
            info=info,
            finished_at=self._ended_at or datetime.now(UTC),
            finish_reason=reason,
            error=str(self._error) if self._error and (self._broke or status == "failed" or refused) else None,
            reading=reading,
            local_input_tokens=told.local_input_tokens if told is not None else None,
            energy_j=taken.joules if taken is not None else None,
            energy_source=taken.source if taken is not None else None,
            energy_bound=taken.bound if taken is not None else None,
            env=self.record.env if refused else self._env(info, choices, taken),
        )
        generation = Generation(self._prompt, self.record, choices, error=self._error)
        with self._context.settling():
            if not self._is_unrecorded and self._context.recorder.settle(
                self.record, self._prompt.messages, generation.text, begun=self._begun
            ):
                self._context.place.keep(generation)
            self._context.ended(self.record)
        return generation

    @property
    def _is_unrecorded(self) -> bool:
        """Whether nothing ran because the ledger cannot be written: to try it once more would only take longer."""
        error = self._error
        away = isinstance(error, LedgerError) or (error is not None and isinstance(error.__cause__, LedgerError))
        return self._context.only_recorded and not self._begun and away

    def _taken(self, device_s: float | None) -> Energy | None:
        """What the device took for the run, if it came to it."""
        window, told = self._energy, self._finished
        if window is None:
            return told.energy if told is not None else None
        if device_s is None:
            window.drop()
            return None
        return window.end(told.at_ns if told is not None else None, device_s)

    def _env(self, info: EngineInfo, choices: Iterable[Choice], energy: Energy | None) -> dict[str, Any]:
        """What the row keeps beside its columns, now that the run has ended."""
        told, usage = self._finished, self._meter.reading().usage
        known = {
            **{name: getattr(usage, name) for name in USAGE_IN_ENV},
            # Of the answers that there are, as a replay has them: an engine may give fewer than asked for.
            "answer_sha256": answers_sha256(choice.text for choice in choices),
            **({name: getattr(info, name) for name in INFO_IN_ENV} if told is not None and told.metered else {}),
            "service_tier": info.service_tier,
            "server_run_id": told.metered.run_id if told is not None and told.metered else None,
            "reported_cost_usd": plain(told.reported_usd) if told is not None else None,
            "ignored_options": list(told.ignored) or None if told is not None else None,
            "server_times": _known(told.server_times) if told is not None else None,
            "energy": told_of(energy, usage.output_tokens) if energy is not None else None,
        }
        return self.record.env | {name: value for name, value in known.items() if value is not None}

    def _finish_reason(self, status: Status) -> FinishReason | None:
        if self._broke and status == "interrupted":
            return "budget"
        if self._finished is not None and status != "failed":
            return self._finished.reasons[0]
        # A stream that stopped without an end told nothing, not even that the answer is whole.
        reasons: dict[Status, FinishReason] = {"interrupted": "interrupted", "failed": "error", "ok": "other"}
        return reasons.get(status)


def stop_all(runs: Sequence[Run]) -> None:
    """Stop runs; any thread. One that ends gives its turn to another of them, which must not begin to ask then."""
    for run in runs:
        run.withhold()
    for run in runs:
        run.stop()


def replay(prompt: Prompt, record: RunRecord, answer: Answer, context: RunContext) -> Generation:
    """Show an answer of the cache, at once, as a run of its own that no budget is asked for."""
    generation = Generation(prompt, replayed(record, answer), answer.choices)
    with uninterrupted(), context.settling():
        if context.recorder.settle(generation.record, prompt.messages, generation.text, begun=False):
            context.place.touch()
        context.ended(generation.record)
    if generation.text and context.watcher is not None:
        context.watcher.token(generation.text)
    return generation


def _known(times: ServerTimes | None) -> dict[str, float] | None:
    if times is None:
        return None
    return {name: seconds for name, seconds in asdict(times).items() if seconds is not None}


def _unforeseen(error: Exception) -> ModelError:
    """The row is settled all the same, and the stack is kept for a report."""
    told = ModelError(f"{type(error).__name__}: {' '.join(str(error).split())}")
    told.__cause__ = error
    return told
