"""The gateway: who asks, whether a budget lets them, the engine's answer, and a row that is settled whatever happens.

It knows nothing of HTTP. Requests run on threads of their own, by the same :class:`Run` as a cell's.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TypeVar, cast

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.config import TokMagic
from tokmagic.core.keys import Key
from tokmagic.core.metered import RUN_ID_HEADER
from tokmagic.core.money import Rates
from tokmagic.core.record import RunRecord
from tokmagic.engines.base import Engine, Progress
from tokmagic.engines.registry import Models
from tokmagic.errors import TokmagicError
from tokmagic.ledgers import Ledger
from tokmagic.prices import PriceBook
from tokmagic.runs.alerts import Alerts
from tokmagic.runs.budget_guard import BudgetGuard, BudgetWarning, HoldBy
from tokmagic.runs.cache import Cache
from tokmagic.runs.generation import Generation
from tokmagic.runs.recorder import Recorder, Teller
from tokmagic.runs.records import new_record
from tokmagic.runs.run import Run, RunContext
from tokmagic.serve import spans
from tokmagic.serve.asking import Asked
from tokmagic.serve.calls import Call, Caller
from tokmagic.serve.failures import ApiError, invalid_key, stopping, unknown_model
from tokmagic.serve.turns import Turns

_log = logging.getLogger("tokmagic.serve")
LEAST_ROOM = 1
"""Output tokens that are asked for where the prompt leaves no room: the engine then says that it does not fit."""

_APART = 4
# How long ago a key may have been checked when its request gets its turn: most get theirs at once.
_FRESH_S = 1.0
_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the gateway takes on. Bytes, tokens and requests."""

    at_once: int = 32
    """Requests at the engine at the same time: what a batch of the local engine holds."""
    waiting: int = 256
    max_tokens: int = 4096
    """What an answer may have where the request does not say."""
    body_bytes: int = 4 * 2**20
    body_timeout_s: float = 60.0
    """How long a client may take to send its body."""
    send_timeout_s: float = 60.0
    """How long a client may take to accept a piece of its answer."""
    ledger_s: float = 3.0
    """How long the ledger is waited for while others write there: a client can try again sooner than it gives up."""


class Gateway:
    """Models behind keys. Made once in a process; :meth:`load` before the first request."""

    def __init__(
        self,
        settings: TokMagic,
        served: Sequence[str] = (),
        *,
        models: Models | None = None,
        prices: PriceBook | None = None,
        bounds: Bounds | None = None,
        ended: Callable[[RunRecord, float], None] | None = None,
    ) -> None:
        """``served`` are names of models, the settings' own by default; ``ended`` is told of settled rows.

        It is also told how long each had waited until the engine was asked, in seconds.
        """
        self.settings = settings
        self.bounds = bounds or Bounds()
        self.models = models or Models(settings)
        self.served = tuple(dict.fromkeys(map(self.models.resolve, served or (self.models.current,))))
        self.prices = prices or PriceBook(lambda: settings.prices)
        self.turns = Turns(self.bounds.at_once, self.bounds.waiting)
        self.waiting: Counter[str] = Counter()
        """How many requests wait for a turn, by the model that they ask."""
        self.running: Counter[str] = Counter()
        """How many have one."""
        self.session_id = uuid.uuid4().hex
        self.stopping = False
        self._stopped = False
        self._recorder = Recorder(settings, self.bounds.ledger_s)
        self._cache = Cache(settings, self.ledger)
        self._teller = Teller(BudgetWarning)
        self._alerts = Alerts(self.ledger, lambda: settings.alert_webhook)
        self._told_ended = ended
        self._pool = ThreadPoolExecutor(self.bounds.at_once, "tokmagic-serve")
        self._apart = ThreadPoolExecutor(_APART, "tokmagic-serve-apart")
        self._calls: set[Call] = set()
        self._reading: set[asyncio.Timeout] = set()

    @property
    def held_usd(self) -> Decimal:
        """What running requests hold of budgets; those whose price is not known hold nothing."""
        return sum((call.held_usd for call in list(self._calls)), Decimal(0))

    def ledger(self) -> Ledger:
        """The ledger. Raises LedgerError."""
        return self._recorder.ledger()

    def load(self, progress: Progress) -> None:
        """Make all models ready, and look that prices and ledger can be used. Raises TokmagicError."""
        self.prices.check()
        self.ledger()
        for name in self.served:
            self.models.load(name, progress, keep_others=True)

    def key(self, secret: str | None) -> Key:
        """Whose key it is. Raises ApiError for none and for one that is unknown or revoked; LedgerError."""
        if not secret:
            raise ApiError(
                401,
                "no key was given; send Authorization: Bearer KEY (tokmagic key add makes one)",
                kind="authentication_error",
                code="missing_api_key",
            )
        key = self.ledger().keys.find(secret)
        if key is None:
            raise invalid_key()
        return key

    def engine(self, model: str | None) -> Engine:
        """The engine of a model that is served; of none is named, the first. Raises ApiError."""
        name = self.served[0] if model is None else model
        if name not in self.served:
            raise unknown_model(name, list(self.served))
        return self.models.engine(name)

    def rates(self) -> dict[str, Rates]:
        """What is charged for each model that is served. Raises PriceError."""
        return {name: self.prices.rates(self.models.engine(name).info) for name in self.served}

    def users(self, model: str) -> dict[str, int]:
        """How many requests of which user are at a model now; of keys without a user under an empty name."""
        return dict(Counter(call.user or "" for call in list(self._calls) if call.model == model))

    def standing(self, key: Key) -> Standing | None:
        """How a key's own budget stands; None where it has none. Raises LedgerError."""
        ledger = self.ledger()
        held = [it for it in ledger.budgets(key.user, None, key.key_id) if it.key == key.key_id]
        return next(iter(ledger.standings(held, key.user, datetime.now())), None)

    def run(self, key: Key, run_id: str) -> RunRecord:
        """A run of a key, by its id or by that of its client's row. Raises ApiError for none, LedgerError."""
        ledger = self.ledger()
        row = ledger.keys.run(key.key_id, run_id)
        if row is not None and row.status == "running":
            here = any(call.run_id == row.run_id for call in list(self._calls))
            if not here and ledger.reap():  # one that a killed server left
                row = ledger.keys.run(key.key_id, run_id)
        if row is None:
            raise ApiError(404, f"this key has no run {run_id}", param="run_id", code="run_not_found")
        return row

    async def turn(self, model: str, key_id: str) -> Callable[[float | None], None]:
        """Wait for a turn at the engine, and return what gives it back, as ``Turns.leave``. Raises ApiError."""
        self.waiting[model] += 1
        try:
            await self.turns.enter(key_id)
        finally:
            self.waiting[model] -= 1
        self.running[model] += 1

        def leave(took_s: float | None) -> None:
            self.running[model] -= 1
            self.turns.leave(key_id, took_s)

        return leave

    def begin(self, asked: Asked, caller: Caller) -> Call:
        """Work on a request that has its turn; returns at once. Raises ApiError once all was stopped."""
        if self._stopped:  # it has waited, and its turn came because those before it were stopped
            raise stopping()
        model = self.engine(asked.model).info.name
        call = Call(asyncio.get_running_loop(), uuid.uuid4().hex, model, caller)
        self._calls.add(call)
        work = self._pool.submit(self._work, call, asked, caller)
        work.add_done_callback(call.ended)
        call.settled.add_done_callback(lambda _settled: self._calls.discard(call))
        return call

    def _work(self, call: Call, asked: Asked, caller: Caller) -> Generation:
        try:
            generation = self._generate(call, asked, caller)
        except (TokmagicError, ApiError):
            raise
        except Exception:
            _log.exception("a request failed", extra={"run_id": call.run_id})
            raise
        if self._told_ended is not None:
            self._told_ended(generation.record, call.waited_s)
        spans.ended(generation.record, caller.carried)
        self._alerts.after(generation.record)
        return generation

    def _generate(self, call: Call, asked: Asked, caller: Caller) -> Generation:
        key, client_run_id = caller.key, caller.client_run_id
        engine = self.engine(asked.model)
        if engine.state != "ready":  # it was unloaded, or failed
            engine = self.models.load(engine.info.name, _silent, keep_others=True)
        prompt = asked.with_limit(self._most(engine, asked))
        ledger = self.ledger()
        if call.waited_s > _FRESH_S and not ledger.keys.is_valid(key.key_id):  # revoked as it waited for its turn
            raise invalid_key()
        record = replace(
            new_record(engine.info, prompt, self.prices.rates(engine.info), session=self.session_id, user=key.user),
            run_id=call.run_id,
            key=key.key_id,
            team=key.team,
            client_run_id=client_run_id,
            duplicate=client_run_id is not None and self._has_a_row(ledger, client_run_id),
        )
        held = self._held(ledger, record)
        place = self._cache.place(engine, prompt, False, refresh=False)
        context = RunContext(
            self._recorder,
            place,
            None,
            call.began,
            _nothing,
            _nothing_of,
            self.prices.at_tier,
            call.heard,
            only_recorded=True,
        )
        hold_by = cast(HoldBy, self.settings.hold)  # what reads the setting takes no other
        guard = BudgetGuard(self.ledger, held, (), teller=self._teller, hold_by=hold_by)
        return Run(engine, prompt, record, guard, context).execute()

    def _has_a_row(self, ledger: Ledger, client_run_id: str) -> bool:
        """Whether the client's own row is in this ledger. Raises ApiError where that run cannot be the one that asks.

        With the id of any other run a key's holder could leave its user's budgets: that of one that has ended or whose
        process has died, or of one that is answered here, whose id its client is told.
        """
        row = ledger.run(client_run_id)
        if row is None:
            return False
        if row.status == "running" and ledger.reap():
            row = ledger.run(client_run_id) or row
        # What asks another gateway may be a gateway's run, but then its model is at a server.
        here = row.key is not None and (row.session == self.session_id or row.info.server is None)
        if row.status == "running" and not here:
            return True
        why = "is one of this server's own" if here else "has ended"
        told = f"{RUN_ID_HEADER}: the run {client_run_id} {why}; send the id of the run that asks"
        raise ApiError(400, told, param=RUN_ID_HEADER, code="invalid_value")

    def _held(self, ledger: Ledger, record: RunRecord) -> list[Budget]:
        # Of a run that its client has a row of, too, the other budgets have let that one in.
        held = ledger.budgets(record.user, None, record.key)
        return [it for it in held if it.key is not None or not record.duplicate]

    def _most(self, engine: Engine, asked: Asked) -> int:
        """How many tokens an answer may have."""
        if asked.max_tokens is not None:
            return asked.max_tokens
        context = engine.info.context_tokens
        if context is None:
            return self.bounds.max_tokens
        tokens, _ = engine.estimate(asked.prompt)
        return max(LEAST_ROOM, min(self.bounds.max_tokens, (context - tokens) // asked.prompt.sampling.n))

    async def apart(self, work: Callable[[_Given], _Found], given: _Given) -> _Found:
        """Do what may take long on one of a few threads, so that no look-up of a key waits for it."""
        return await asyncio.get_running_loop().run_in_executor(self._apart, work, given)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """A body is read meanwhile. Raises ApiError where it takes too long, and when no more requests are taken."""
        seconds = self.bounds.body_timeout_s
        try:
            async with asyncio.timeout(seconds) as limit:
                self._reading.add(limit)
                try:
                    yield
                finally:
                    self._reading.discard(limit)
        except TimeoutError:
            if self.stopping:
                raise stopping() from None
            raise ApiError(408, f"the body did not come within {seconds:g} s", code="body_timeout") from None

    def drain(self) -> None:
        """Take no more requests; those that run go on. In the event loop of the calls."""
        self.stopping = True
        for limit in self._reading:
            if not limit.expired():
                limit.reschedule(0)

    def stop_all(self) -> None:
        """Stop what runs and let nothing more begin; each client is told, with what it has cost. Any thread."""
        self._stopped = True
        for call in list(self._calls):
            call.stop()

    def close(self) -> None:
        """Wait until all rows are settled, free the models, and let go of the ledger."""
        self.drain()
        self.stop_all()
        self._apart.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True)
        self.models.close()
        self._alerts.close()
        self._recorder.close()


def _silent(_doing: str, _share: float | None) -> None:
    """Loading is told by the state that /health shows."""


def _nothing() -> None:
    """Nobody watches but the client."""


def _nothing_of(_record: RunRecord) -> None:
    """The same."""
