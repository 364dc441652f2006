"""What one kernel, or one command, works with: its settings, models, prices, budgets, the ledger, the live channel.

How a single run goes is in :mod:`tokmagic.runs.run`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.config import TokMagic
from tokmagic.core.forks import in_child
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import EngineInfo, RunRecord, Selection, is_place, source_sha256
from tokmagic.engines.base import PREFILL, Engine, Progress
from tokmagic.engines.registry import Models
from tokmagic.errors import BudgetError, LedgerError, TokmagicError
from tokmagic.prices import PriceBook, budgets
from tokmagic.prompts.options import check_prompt
from tokmagic.runs import totals
from tokmagic.runs.alerts import Alerts
from tokmagic.runs.budget_guard import BudgetWarning, Confirm
from tokmagic.runs.budgets_here import BudgetsHere
from tokmagic.runs.cache import Cache, Place
from tokmagic.runs.channel import Channel
from tokmagic.runs.comparing import ComparisonRow, Comparisons, alone
from tokmagic.runs.details.service import DetailService
from tokmagic.runs.drafts.service import DraftService
from tokmagic.runs.environment import user_name
from tokmagic.runs.generation import Generation
from tokmagic.runs.head import Head
from tokmagic.runs.live import ModelView, View
from tokmagic.runs.lump import Lump
from tokmagic.runs.pace import Line
from tokmagic.runs.panel import Panels
from tokmagic.runs.readying import Readying
from tokmagic.runs.recorder import Recorder, Teller
from tokmagic.runs.records import new_record
from tokmagic.runs.run import Run, RunContext, Watcher, replay
from tokmagic.runs.sums import Sums, with_runs
from tokmagic.runs.token_times import KeptTimes
from tokmagic.runs.under_way import UnderWay
from tokmagic.runs.whereabouts import Whereabouts

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger
    from tokmagic.runs.many import Others


class Session:
    """One kernel's or command's tokmagic."""

    def __init__(self, settings: TokMagic | None = None, channel: Channel | None = None) -> None:
        self.settings = settings or TokMagic()
        self.channel = channel or Channel(uuid.uuid4().hex, lambda: self)
        self.session_id = self.channel.session_id
        self.panels = Panels(self.channel)
        self.models = Models(self.settings)
        self.readying = Readying(self.channel)
        self.prices = PriceBook(lambda: self.settings.prices, self.models.told_rates)
        self.chats: dict[str, list[Message]] = {}
        self.user = user_name()
        self.whereabouts = Whereabouts(self.session_id, self.user)
        self.widgets = False
        self.cell_id: Callable[[], str | None] = lambda: None
        """Tells the id of the cell that runs now; the magics set it."""
        self.execution: Callable[[], str | None] = lambda: None
        """Tells cells' executions apart: the runs of a loop belong to one, those of a second run to another."""
        self.execution_count: Callable[[], int | None] = lambda: None
        """The number that the notebook will show for that execution."""
        self.source: Callable[[], str | None] = lambda: None
        """The whole text of the cell that runs now."""
        self.variables: Callable[[], Mapping[str, Any]] = dict
        """Gives the notebook's variables; the magics set it."""
        self.import_lock = threading.Lock()
        """Entered by whatever imports in the background, so that no cell runs meanwhile; the magics set it."""
        self.parts: Callable[[str, Prompt], Sequence[tuple[str, int]] | None] = lambda _model, _prompt: None
        """Tells what a prompt consists of for a model, with each part's tokens; the magics set it."""
        self.line: Callable[[], Line | None] = lambda: None
        """Gives a line in the output of the cell that runs now; the magics set it."""
        self._drafts = DraftService(self)
        self._token_times = KeptTimes()
        self._details = DetailService(self, self._token_times)
        self._recorder = Recorder(self.settings)
        self._limits = BudgetsHere(self.settings, self.ledger, lambda: self.user, lambda: self.budget_notebook)
        self.cache = Cache(self.settings, self.ledger)
        self.alerts = Alerts(self.ledger, lambda: self.settings.alert_webhook, self._limits.own, logs=False)
        """Of budgets that are used up. Here a run looks for some only where a webhook is set: its person is warned."""
        self._prices_warnings, self._place_warnings = Teller(BudgetWarning), Teller(BudgetWarning)
        self._last_run: str | None = None
        self._under_way = UnderWay()
        self.comparisons = Comparisons(self.channel.touch)
        self._head = Head(self.models, self.readying, self.channel.touch)
        self._sums = Sums(self, self._under_way, self._limits, self._head)
        self._shown_model: str | None = None
        self._loaded_at: dict[str, float] = {}
        in_child(self._renew)

    def _renew(self) -> None:
        self._sums.renew()
        self._under_way.renew()
        self.comparisons.renew()

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
        check_prompt(prompt)
        own = self._limits.own()
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
        held = self._limits.held(own)
        context = self._context(place, watcher)
        if answer is not None:
            self._shown_model = info.name
            return replay(prompt, record, answer, context)
        if others is not None:
            context = others.watching(context)
        run = Run(engine, prompt, record, self._limits.guard(held, own, of_run, confirm, others), context)
        try:
            return run.execute()
        finally:
            if others is not None:
                others.ended(run)

    def _context(self, place: Place, watcher: Watcher | None) -> RunContext:
        told = self._on_begin, self.channel.touch, self._on_end
        return RunContext(
            self._recorder,
            place,
            watcher,
            *told,
            self.prices.at_tier,
            as_metered=self.prices.as_metered,
            settling=self._under_way.settling,
        )

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
        check_prompt(prompt)
        own, of_run = self._limits.own(), [] if cap is None else [cap]
        self._check()
        record = self._new_record(engine.info, prompt, tags, None)
        record = replace(record, params={**record.params, **params})
        guard = self._limits.guard(self._limits.held(own), own, of_run)
        return Lump(record, guard, self._recorder, self.alerts.after)

    def _check(self) -> None:
        self.prices.check()
        self.settings.check()

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
        """Seconds since each model that is in memory here was loaded, idle time included; a server's are not known."""
        now, held = time.monotonic(), [name for name in self.models.loaded() if self.info(name).server is None]
        return {name: now - since for name, since in self._loaded_at.items() if name in held}

    def use(self, model: str) -> None:
        """Make a model the current one, here and in the sidebar. Raises UsageError."""
        self.models.use(model)
        self._shown_model = None
        self.channel.touch()

    def _new_record(self, info: EngineInfo, prompt: Prompt, tags: Sequence[str], cell_id: str | None) -> RunRecord:
        record = new_record(
            info,
            prompt,
            self.rates(info),
            session=self.session_id,
            user=self.user,
            notebook=self.notebook,
            cell_id=cell_id or self.cell_id(),
            tags=tags,
        )
        if execution := self.execution():
            record.env["execution"] = execution
        if (count := self.execution_count()) is not None:
            record.env["execution_count"] = count
        if (source := self.source()) is not None:
            record.env["source_sha256"] = source_sha256(source)
        return record

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
        with self._sums.lock:
            self.whereabouts.was(self.ledger(), earlier)

    def _settle_place(self) -> None:
        # Where the ledger cannot be asked nothing is recorded either, and a warning says so.
        with self._sums.lock, suppress(LedgerError):
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
        return self._limits.standings(with_uncertainty=with_uncertainty)

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
        with self._sums.lock:
            with suppress(LedgerError, BudgetError):
                self._limits.read()
            self._sums.read()

    # What the live channel asks (it calls from its own threads)

    def changes(self) -> View:
        """The view with running rows and those that ended since the last call."""
        self._sums.catch_up()
        return self._view(None, self.comparisons.changes())

    def everything(self, path: str | None, widgets: bool) -> View:
        """The view with each cell's latest run, for a sidebar that said hello."""
        self.widgets = widgets
        if path is not None:
            with self._sums.lock:
                self.whereabouts.told(path)
        # In this order: the look at the rows also settles those whose process died.
        latest = [it for it in self.ledger().latest_by_cell(self.selection) if self._means_a_cell(it)]
        previous = alone(it for it in self.ledger().previous_by_cell(self.selection) if self._means_a_cell(it))
        self.refresh_totals()
        compared = self.comparisons.with_earlier(self.ledger(), self.selection, latest)
        return replace(self._view(latest, compared), previous=tuple(previous))

    def _means_a_cell(self, record: RunRecord) -> bool:
        # An id that is only a place meant another cell to another kernel.
        return record.session == self.session_id or not is_place(record.cell_id or "")

    def _view(self, rows: Sequence[RunRecord] | None, compared: Sequence[ComparisonRow]) -> View:
        """The running rows after ``rows``; None: after those that ended since such a view was made."""
        running, rows, sums = self._under_way.look(rows)
        now, (notebook, day) = {record.run_id for record in running}, with_runs(sums, running)
        shown = tuple(alone((*(record for record in rows if record.run_id not in now), *running)))
        return View(self.notebook, self._model_view(), notebook, day, shown, sums.budgets, comparisons=tuple(compared))

    def stop(self, run_id: str) -> None:
        """Stop a run of this session, or a comparison; an ended one is left alone."""
        if not self.comparisons.stop(run_id):
            self._under_way.stop(run_id)

    def draft(self, page: str, request: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        """Count a cell that is being written. Raises UsageError."""
        self._drafts.take(page, request, send)

    def forecast(self, page: str, request: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        """Forecast what a notebook's cells will cost. Raises UsageError."""
        self._drafts.forecast(page, request, send)

    def totals(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What this notebook's ended runs add up to by some key, as a message. Raises UsageError, LedgerError."""
        return totals.answer(self, request)

    def detail(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A cell's runs, and one of them in full, as a message. Raises UsageError, LedgerError."""
        return self._details.answer(request)

    @property
    def shown_model(self) -> str:
        """The model in the sidebar's head: the current one, or the one that ran last. Raises UsageError."""
        return self._shown_model or self.models.current

    def _model_view(self) -> ModelView | None:
        with suppress(TokmagicError):
            return self._head.view(self.shown_model, self.info(self.shown_model))
        return None

    # What a run does to its session

    def _on_begin(self, run: Run) -> None:
        self._sums.follow()
        self._under_way.begin(run)
        if run.record.cell_id is not None:
            self._token_times.keep(run.record.run_id, run.token_times)
        self.channel.touch()

    def _on_end(self, record: RunRecord) -> None:
        self._head.ended(self.ledger, record)
        self.alerts.after(record)
        self._last_run = record.run_id
        self._sums.follow(record)
        self.channel.touch()

    def close(self) -> None:
        """Stop what runs, send the last message, free the models and let go of the ledger."""
        self._under_way.stop()
        # Panels are left open: what they show stays in the notebook when its kernel ends.
        self.channel.close()
        self.models.close()
        self.alerts.close()
        self._recorder.close()
