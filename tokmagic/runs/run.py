"""One run from its first row to its last: hold, engine, meter, what is shown, and a row settled whatever happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import Reading, RunRecord, Status
from tokmagic.core.stream import Event, Finished, FinishReason, Logprob, Token
from tokmagic.engines.base import Engine, Stream
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
from tokmagic.runs.budget_guard import BudgetGuard
from tokmagic.runs.cache import Place
from tokmagic.runs.channel import Channel
from tokmagic.runs.generation import Choice, Generation, answers_sha256
from tokmagic.runs.meter import Meter

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger

CHECKPOINT_S = 1.0
"""How often a running row is brought up to date: what a killed process can lose."""
_RETRY_S = 30.0


class Watcher(Protocol):
    """Shows a run while it streams. Called on the thread that waits for the answer."""

    def token(self, text: str) -> None:
        """More of the first choice's text arrived."""
        ...


class _Silent:
    def token(self, text: str) -> None:
        """Show nothing."""


SILENT: Watcher = _Silent()


class Host(Protocol):
    """What a run needs of the session that it belongs to."""

    @property
    def channel(self) -> Channel:
        """What is told that something changed."""
        ...

    def ledger(self) -> Ledger:
        """Where budgets are asked. Raises LedgerError."""
        ...

    def record(self, write: Callable[[Ledger], None]) -> bool:
        """Write to the ledger, and say whether it was written."""
        ...

    def settle(self, record: RunRecord, prompt: Sequence[Message], answer: str, *, begun: bool) -> bool:
        """Write a run's end, now or later, and say whether it is in the ledger now."""
        ...

    def warn(self, room: str, told: Mapping[str, str]) -> None:
        """Tell of what stands ill with budgets, each key once."""
        ...

    def began(self, run: Run) -> None:
        """The run is under way."""
        ...

    def ended(self, record: RunRecord) -> None:
        """The run is settled."""
        ...


class Run:
    """One run from its first row to its last."""

    def __init__(
        self,
        session: Host,
        engine: Engine,
        prompt: Prompt,
        record: RunRecord,
        watcher: Watcher,
        guard: BudgetGuard,
        place: Place,
    ) -> None:
        self.record = record
        self._session = session
        self._engine = engine
        self._prompt = prompt
        self._watcher = watcher
        self._guard = guard
        self._place = place
        self._broke = False
        self._meter = Meter(record.rates)
        self._stream: Stream | None = None
        self._begun = self._stopped = False
        self._error: TokmagicError | KeyboardInterrupt | None = None
        self._finished: Finished | None = None
        self._texts: list[list[str]] = [[] for _ in range(prompt.sampling.n)]
        self._ids: list[list[int]] = [[] for _ in range(prompt.sampling.n)]
        self._logprobs: list[list[Logprob]] = [[] for _ in range(prompt.sampling.n)]
        self._checkpoint_due = time.monotonic() + CHECKPOINT_S

    def execute(self) -> Generation:
        """Drive the run to its end, whatever that is."""
        status: Status = "failed"
        try:
            self._begin()
            self._session.began(self)
            self._stream = self._engine.stream(self._prompt)
            if self._stopped:
                self._stream.close()
            self._consume(self._stream)
            status = self._ended_as()
        except KeyboardInterrupt:
            status = "interrupted"
            self._drain()
            self._error = GenerationInterrupted(
                f"the generation was interrupted after {self._tokens()}; its text and its cost are kept"
            )
        except (PromptError, UsageError, BudgetError) as error:
            status, self._error = "refused", error
        except TokmagicError as error:
            # What shows the run may be what failed.
            self._watcher = SILENT
            self._drain()
            self._error = error
        except Exception as error:
            self._watcher = SILENT
            self._drain()
            # Not foreseen: the row is settled all the same, and the stack is kept for a report.
            self._error = ModelError(f"{type(error).__name__}: {' '.join(str(error).split())}")
            self._error.__cause__ = error
        finally:
            with uninterrupted():
                self._settle(status)
        return self._generation()

    def _begin(self) -> None:
        """Insert the row as running, if the budgets let the run in."""
        if self._guard.held:
            try:
                self._guard.open(self._session.ledger, self.record, self._prompt, self._engine)
                self._begun = True
            except LedgerError:
                self._guard.let_go()
            self._session.warn("budgets", dict(self._guard.warnings(self.record)))
        if not self._begun:
            hold = self._guard.hold
            self._begun = self._session.record(lambda ledger: ledger.begin(self.record, self._prompt.messages, hold))

    def stop(self) -> None:
        """Stop as the sidebar asks to; any thread."""
        self._stopped = True
        if self._stream is not None:
            self._stream.close()

    def snapshot(self) -> RunRecord:
        """The row as it is now; any thread."""
        return replace(self.record, reading=self._meter.reading())

    def _consume(self, stream: Stream) -> None:
        for event in stream:
            self._take(event)

    def _take(self, event: Event) -> None:
        self._meter.fold(event)
        if isinstance(event, Token):
            self._texts[event.choice].append(event.text)
            if event.id is not None:
                self._ids[event.choice].append(event.id)
            self._logprobs[event.choice] += event.logprobs
            if event.choice == 0 and event.text:
                self._watcher.token(event.text)
            if not self._broke and not self._guard.covers(self._meter.cost_usd, self._session.ledger, self.record):
                self._broke = True
                if self._stream is not None:
                    self._stream.close()
            if time.monotonic() >= self._checkpoint_due:
                self._checkpoint()
        elif isinstance(event, Finished):
            self._finished = event
            for texts, tail in zip(self._texts, event.tails, strict=False):
                texts.append(tail)
            if event.tails and event.tails[0]:
                self._watcher.token(event.tails[0])
        self._session.channel.touch()

    def _checkpoint(self) -> None:
        snapshot = self.snapshot()
        written = self._session.record(lambda ledger: ledger.progress(snapshot))
        # A ledger that does not answer may take long to say so.
        self._checkpoint_due = time.monotonic() + (CHECKPOINT_S if written else _RETRY_S)

    def _drain(self) -> None:
        """Stop the engine and take in what it had generated before it stopped."""
        if self._stream is None:
            return
        self._stream.close()
        # A second interrupt gives up waiting, and so does a failure; the row is settled with what was seen.
        with suppress(KeyboardInterrupt, Exception):
            self._consume(self._stream)

    def _ended_as(self) -> Status:
        reasons = self._finished.reasons if self._finished else ()
        if self._finished is not None and self._finished.error is not None:
            self._error = EndpointError(self._finished.error)
            return "failed"
        if "interrupted" not in reasons:
            return "ok"
        if self._broke:
            self._error = self._guard.stopped(self._meter.reading().cost)
            return "interrupted"
        self._error = GenerationInterrupted(
            f"the generation was stopped after {self._tokens()}; its text and its cost are kept"
        )
        return "interrupted"

    def _tokens(self) -> str:
        usage = self._meter.reading().usage
        noun = "token" if usage.output_tokens == 1 else "tokens"
        return f"{numbers.tokens(usage.output_tokens, usage.output_source)} {noun}"

    def _settle(self, status: Status) -> None:
        self.record = replace(
            self.record,
            status=status,
            info=self._engine.info,
            finished_at=datetime.now(UTC),
            finish_reason=self._finish_reason(status),
            error=str(self._error) if self._error and (self._broke or status in ("failed", "refused")) else None,
            reading=self._meter.reading(final=True) if status != "refused" else Reading(),
            local_input_tokens=self._finished.local_input_tokens if self._finished is not None else None,
        )
        if status != "refused":
            # Of the answers that there are, as a replay has them: an engine may give fewer than asked for.
            self.record.env["answer_sha256"] = answers_sha256(it.text for it in self._generation().choices)
        answer = "".join(self._texts[0])
        if self._session.settle(self.record, self._prompt.messages, answer, begun=self._begun):
            self._place.keep(self._generation())
        self._session.ended(self.record)

    def _finish_reason(self, status: Status) -> FinishReason | None:
        if self._broke and status == "interrupted":
            return "budget"
        if self._finished is not None and status != "failed":
            return self._finished.reasons[0]
        reasons: dict[Status, FinishReason] = {"interrupted": "interrupted", "failed": "error"}
        return reasons.get(status)

    def _generation(self) -> Generation:
        reasons: Sequence[str | None] = self._finished.reasons if self._finished else [None] * len(self._texts)
        choices = tuple(
            Choice("".join(texts), tuple(ids), reason, tuple(logprobs))
            for texts, ids, reason, logprobs in zip(self._texts, self._ids, reasons, self._logprobs, strict=False)
        )
        return Generation(self._prompt, self.record, choices, error=self._error)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold interrupts back until the end of the block, so that a row is always settled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held and callable(before):
            before(*held[0])
