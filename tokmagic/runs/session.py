"""What one kernel, or one command, works with: its settings, models, prices, budgets, the ledger, the live channel.

How a single run goes is in :mod:`tokmagic.runs.run`.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.config import REPRODUCING_USD, TokMagic
from tokmagic.core.forks import in_child
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, spelled
from tokmagic.core.record import INFO_IN_ENV, EngineInfo, RunRecord, Selection, Sum, is_place, source_sha256
from tokmagic.engines.base import PREFILL, Engine, Progress
from tokmagic.engines.registry import Models
from tokmagic.errors import BudgetError, LedgerError, NotBuiltError, TokmagicError
from tokmagic.prices import PriceBook, budgets
from tokmagic.prices.budgets import today
from tokmagic.prompts.options import check_sampling
from tokmagic.prompts.template import sha256
from tokmagic.runs.budget_guard import BudgetGuard, BudgetWarning, Confirm
from tokmagic.runs.cache import Cache
from tokmagic.runs.channel import Channel
from tokmagic.runs.drafts.service import DraftService
from tokmagic.runs.environment import environment, user_name
from tokmagic.runs.generation import Generation
from tokmagic.runs.live import ModelView, View
from tokmagic.runs.lump import Lump
from tokmagic.runs.readying import Readying
from tokmagic.runs.recorder import Recorder, Teller
from tokmagic.runs.run import Run, RunContext, Watcher, replay
from tokmagic.runs.whereabouts import Whereabouts
from tokmagic.tokens.reconciliation import disagreement

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger
    from tokmagic.runs.many import Others


class Session:
    """One kernel's or command's tokmagic."""

    def __init__(self, settings: TokMagic | None = None, channel: Channel | None = None) -> None:
        self.settings = settings or TokMagic()
        self.channel = channel or Channel(uuid.uuid4().hex, lambda: self)
        self.session_id = self.channel.session_id
        self.models = Models(self.settings)
        self.readying = Readying(self.channel)
        self.prices = PriceBook(lambda: self.settings.prices)
        self.chats: dict[str, list[Message]] = {}
        self.user = user_name()
        self.whereabouts = Whereabouts(self.session_id, self.user)
        self.widgets = False
        self.cell_id: Callable[[], str | None] = lambda: None
        """Tells the id of the cell that runs now; the magics set it."""
        self.execution: Callable[[], str | None] = lambda: None
        """Tells cells' executions apart: the runs of a loop belong to one, those of a second run to another."""
        self.source: Callable[[], str | None] = lambda: None
        """The whole text of the cell that runs now."""
        self.variables: Callable[[], Mapping[str, Any]] = dict
        """Gives the notebook's variables; the magics set it."""
        self.import_lock = threading.Lock()
        """Entered by whatever imports in the background, so that no cell runs meanwhile; the magics set it."""
        self._drafts = DraftService(self)
        self._recorder = Recorder(self.settings)
        self.cache = Cache(self.settings, self.ledger)
        self._prices_warnings, self._budgets_warnings = Teller(BudgetWarning), Teller(BudgetWarning)
        self._place_warnings = Teller(BudgetWarning)
        self._last_run: str | None = None
        self._running: dict[str, Run] = {}
        self._ended: list[RunRecord] = []
        self._lock = threading.Lock()
        self._reading = threading.RLock()  # one at a time: what was read last must be kept last
        # Of ended runs alone: each view adds what runs.
        self._sums = View(None, None, None, None, ())
        self._shown_model: str | None = None
        self._loaded_at: dict[str, float] = {}
        self._budgets: list[Budget] = []
        self._notices: dict[str, str | None] = {}
        in_child(self._renew)

    def _renew(self) -> None:
        # In a forked child nothing runs: what does is the parent's, and stopping it would break its connections.
        self._lock, self._reading, self._running = threading.Lock(), threading.RLock(), {}

    # Generating

    def generate(
        self,
        prompt: Prompt,
        model: str | None = None,
        *,
        cell_id: str | None = None,
        tags: Sequence[str] = (),
        budget: Decimal | str | None = None,
        confirm: Confirm | None = None,
        cache: bool | None = None,
        refresh: bool = False,
        watcher: Watcher | None = None,
        progress: Progress | None = None,
        others: Others | None = None,
    ) -> Generation:
        """Run a prompt and return its Generation, settled in the ledger under ``cell_id``, else the cell that runs now.

        ``budget`` is the most this run may cost, in USD. ``confirm`` asks the person about a long prompt; without it
        there is nobody to ask. ``cache`` says whether the answer may come from the cache and go into it; None: where
        the same prompt gets the same answer. ``refresh`` generates and renews what is cached. ``others`` run beside it.

        An interrupt, a failure and a refusal end in a Generation too, with its ``error`` set:
        ``raise_for_status`` raises it. Raises UsageError, BudgetError (for an invalid cap) and ModelError
        where no run could begin.
        """
        check_sampling(prompt.sampling)
        own = self._own_budgets()
        of_run = [budgets.of_run(budget)] if budget is not None else []
        self._check()
        with self.readying.telling(progress) as report:
            engine = self._opened(model, report)
            place = self.cache.place(engine, prompt, cache, refresh=refresh)
            answer = place.find()
            if answer is None and engine.state != "ready":
                engine = self.load(model, progress)
                answer = place.find()
                report(PREFILL, 1.0)
        info = engine.info if answer is None else replace(answer.info, name=engine.info.name)
        self._settle_place()
        notice = self.whereabouts.notice
        self._place_warnings.tell({} if notice is None else {notice: notice})
        record = self._new_record(info, prompt, tags, cell_id)
        held = self._held(own)
        told = self._on_begin, self.channel.touch, self._on_end
        context = RunContext(self._recorder, place, watcher, *told, self.prices.at_tier)
        if answer is not None:
            self._shown_model = info.name
            return replay(prompt, record, answer, context)
        if others is not None:
            context = replace(context, began=_both(others.began, context.began))
        run = Run(engine, prompt, record, self._guard(held, own, of_run, confirm, others), context)
        try:
            return run.execute()
        finally:
            if others is not None:
                others.ended(run)

    def lump(
        self,
        engine: Engine,
        prompt: Prompt,
        *,
        params: Mapping[str, Any],
        tags: Sequence[str] = (),
        cap: Budget | None = None,
    ) -> Lump:
        """A row for many requests at an engine that is ready, of which ``prompt`` is the first. It has no cell.

        ``params`` stand beside the sampling options; ``cap`` is a budget of this row alone. Raises BudgetError,
        PriceError, UsageError.
        """
        check_sampling(prompt.sampling)
        own, of_run = self._own_budgets(), [] if cap is None else [cap]
        self._check()
        record = self._new_record(engine.info, prompt, tags, None)
        record = replace(record, params={**record.params, **params})
        return Lump(record, self._guard(self._held(own), own, of_run), self._recorder)

    def _check(self) -> None:
        if self.settings.engine_url:
            raise NotBuiltError("TOKMAGIC_ENGINE_URL is set, but shared engines are not built yet; unset it")
        self.prices.check()

    def _held(self, own: list[Budget]) -> list[Budget]:
        """The budgets that hold for a run here, ``own`` among them."""
        held = self._budgets = own
        # Where the ledger cannot be read the run is not recorded either, and a warning says so.
        with suppress(LedgerError):
            held = self._read_budgets()
        return held

    def _guard(
        self,
        held: Sequence[Budget],
        own: Sequence[Budget],
        of_run: Sequence[Budget],
        confirm: Confirm | None = None,
        others: Others | None = None,
    ) -> BudgetGuard:
        both = [*held, *of_run], [*own, *of_run]
        return BudgetGuard(self.ledger, *both, teller=self._budgets_warnings, confirm=confirm, others=others)

    def load(self, model: str | None = None, progress: Progress | None = None, *, keep_others: bool = False) -> Engine:
        """Make a model ready, telling the sidebar meanwhile. Raises UsageError, ModelError."""
        with self.readying.telling(progress) as report:
            engine = self._opened(model, report)
            if engine.state == "ready":
                return engine
            loaded = self.models.load(model, report, keep_others=keep_others)
            self._loaded_at[loaded.info.name] = time.monotonic()
            return loaded

    def _opened(self, model: str | None, report: Progress) -> Engine:
        self._shown_model = self.models.current if model is None else self.models.resolve(model)
        return self.readying.open(self.models, self._shown_model, report)

    def loaded_s(self) -> dict[str, float]:
        """Seconds since each model that is in memory now was loaded, idle time included."""
        now, held = time.monotonic(), self.models.loaded()
        return {name: now - since for name, since in self._loaded_at.items() if name in held}

    def use(self, model: str) -> None:
        """Make a model the current one, here and in the sidebar. Raises UsageError."""
        self.models.use(model)
        self._shown_model = None
        self.channel.touch()

    def _new_record(self, info: EngineInfo, prompt: Prompt, tags: Sequence[str], cell_id: str | None) -> RunRecord:
        env = dict(environment())
        env |= {name: value for name in INFO_IN_ENV if (value := getattr(info, name)) is not None}
        if execution := self.execution():
            env["execution"] = execution
        if (source := self.source()) is not None:
            env["source_sha256"] = source_sha256(source)
        params = {
            key: value
            for key, value in asdict(prompt.sampling).items()
            if value is not None and value is not False and value != ()
        }
        if prompt.sampling.stop:
            params["stop"] = tuple(map(spelled, prompt.sampling.stop))
        if prompt.completion:
            params["completion"] = True
        if prompt.ignore_eos:
            params["ignore_eos"] = True
        return RunRecord(
            run_id=uuid.uuid4().hex,
            started_at=datetime.now(UTC),
            status="running",
            info=info,
            prompt_sha256=sha256(prompt),
            params=params,
            notebook=self.notebook,
            cell_id=cell_id or self.cell_id(),
            session=self.session_id,
            user=self.user,
            rates=self.rates(info),
            tags=tuple(map(spelled, tags)),
            env=env,
        )

    def info(self, name: str) -> EngineInfo:
        """What is known of a model, without opening its engine for it. Raises UsageError."""
        return self.models.info(name)

    @property
    def notebook(self) -> str | None:
        """The notebook's path; None where it is not known."""
        return self.whereabouts.path

    @notebook.setter
    def notebook(self, path: str | None) -> None:
        self.whereabouts.path = path

    def notebook_was(self, earlier: str) -> None:
        """Bring along what the ledger keeps of the notebook under an earlier path. Raises UsageError, LedgerError."""
        with self._reading:
            self.whereabouts.was(self.ledger(), earlier)

    def _settle_place(self) -> None:
        # Where the ledger cannot be asked nothing is recorded either, and a warning says so.
        with self._reading, suppress(LedgerError):
            if self.notebook is not None:
                self.whereabouts.settle(self.ledger(), self._last_run)

    # Prices and budgets

    def rates(self, info: EngineInfo) -> Rates:
        """The rates in force for a model, with where they came from. Raises PriceError."""
        rates = self.prices.rates(info)
        self._prices_warnings.tell({"file": self.prices.problem} if self.prices.problem else {})
        return rates

    @property
    def budget_notebook(self) -> str:
        """What stands for this notebook in a budget: its path, or this session where the path is unknown."""
        self._settle_place()
        return self.whereabouts.key

    def standings(self, *, with_uncertainty: bool = False) -> list[Standing]:
        """How the budgets that apply here stand now; ``with_uncertainty``: how sure what was spent is, too (slower).

        Raises LedgerError, BudgetError.
        """
        now = datetime.now()
        found = self.ledger().standings(self._read_budgets(), self.user, now)
        return self.ledger().with_uncertainty(found, self.user, now) if with_uncertainty else found

    def _read_budgets(self) -> list[Budget]:
        """Read the budgets that hold for a run here. Raises LedgerError, BudgetError."""
        self._budgets = [*self.ledger().budgets(self.user, self.budget_notebook), *self._own_budgets()]
        return self._budgets

    def _own_budgets(self) -> list[Budget]:
        """Budgets that stand in no ledger. Raises BudgetError."""
        own = [budgets.of_day(self.settings.budget_day, self.user)] if self.settings.budget_day else []
        if cap := os.environ.get(REPRODUCING_USD):
            own.append(budgets.of_reproduction(cap, self.budget_notebook))
        return own

    # The ledger

    def ledger(self) -> Ledger:
        """Return this session's ledger, opened at the first call. Raises LedgerError."""
        return self._recorder.ledger()

    @property
    def selection(self) -> Selection:
        """What selects this notebook's runs: its path, or this session where the path is unknown."""
        self._settle_place()
        return Selection(notebook=self.notebook) if self.notebook else Selection(session=self.session_id)

    def refresh_totals(self) -> None:
        """Read budgets and the sums of finished runs anew."""
        with self._reading:
            with suppress(LedgerError, BudgetError):
                self._read_budgets()
            self._read_sums()

    def _read_sums(self, ended: RunRecord | None = None) -> None:
        """Read the sums of ended runs and how budgets stand; where the ledger does not tell those of before stay."""
        with self._reading:
            sums = self._sums
            with suppress(LedgerError):
                ledger, day = self.ledger(), Selection(since=today(), user=self.user)
                standings = tuple(ledger.standings(self._budgets, self.user, datetime.now()))
                sums = View(None, None, ledger.totals(self.selection), ledger.totals(day), (), standings)
            with self._lock:
                self._sums = sums
                if ended is not None:
                    # At once: a view in between would count the run twice, or not at all.
                    self._running.pop(ended.run_id, None)
                    if self.channel.listens:  # else nobody would ever take it from here
                        self._ended.append(ended)

    # What the live channel asks (it calls from its own threads)

    def changes(self) -> View:
        """The view with running rows and those that ended since the last call."""
        return self._view(None)

    def everything(self, path: str | None, widgets: bool) -> View:
        """The view with each cell's latest run, for a sidebar that said hello."""
        self.widgets = widgets
        if path is not None:
            with self._reading:
                self.whereabouts.told(path)
        # In this order: the look at the rows also settles those whose process died.
        latest = self.ledger().latest_by_cell(self.selection)
        self.refresh_totals()
        # An id that is only a place meant another cell to another kernel.
        return self._view([it for it in latest if it.session == self.session_id or not is_place(it.cell_id or "")])

    def _view(self, rows: Sequence[RunRecord] | None) -> View:
        """The running rows after ``rows``; None: after those that ended since such a view was made."""
        with self._lock:
            running = [run.snapshot() for run in self._running.values()]
            if rows is None:
                rows, self._ended = self._ended, []
            sums = self._sums
        now, under_way = {record.run_id for record in running}, Sum.of(running)
        notebook, day = (None if it is None else it + under_way for it in (sums.notebook_totals, sums.day_totals))
        shown = (*(record for record in rows if record.run_id not in now), *running)
        return View(self.notebook, self._model_view(), notebook, day, shown, sums.budgets)

    def stop(self, run_id: str) -> None:
        """Stop a run of this session; an ended one is left alone."""
        with self._lock:
            run = self._running.get(run_id)
        if run is not None:
            run.stop()

    def draft(self, page: str, request: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        """Count a cell that is being written. Raises UsageError."""
        self._drafts.take(page, request, send)

    @property
    def shown_model(self) -> str:
        """The model in the sidebar's head: the current one, or the one that ran last. Raises UsageError."""
        return self._shown_model or self.models.current

    def _model_view(self) -> ModelView | None:
        try:
            name = self.shown_model
            info = self.info(name)
        except TokmagicError:
            return None
        if loading := self.readying.stage:
            return ModelView(info, "loading", *loading, self._notices.get(info.model_id))
        state = self.models.engine(name).state if name in self.models.opened() else "unloaded"
        return ModelView(info, state, notice=self._notices.get(info.model_id))

    # What a run does to its session

    def _on_begin(self, run: Run) -> None:
        self._read_sums()
        with self._lock:
            self._running[run.record.run_id] = run
        self.channel.touch()

    def _on_end(self, record: RunRecord) -> None:
        if record.local_input_tokens is not None and record.reading.usage.input_source == "reported":
            # Whether this machine and the server that ran it count the same.
            with suppress(LedgerError):
                compared = self.ledger().compared(record.info.model_id)
                self._notices[record.info.model_id] = disagreement(compared)
        self._last_run = record.run_id
        self._read_sums(record)
        self.channel.touch()

    def close(self) -> None:
        """Stop what runs, send the last message, free the models and let go of the ledger."""
        with self._lock:
            running = list(self._running.values())
        for run in running:
            run.stop()
        self.channel.close()
        self.models.close()
        self._recorder.close()


def _both(one: Callable[[Run], None], other: Callable[[Run], None]) -> Callable[[Run], None]:
    def told(run: Run) -> None:
        one(run)
        other(run)

    return told
