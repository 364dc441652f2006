"""What one kernel, or one command, works with: its settings, models, prices, budgets, the ledger, the live channel.

How a single run goes is in :mod:`tokmagic.runs.run`.
"""

from __future__ import annotations

import getpass
import os
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.config import REPRODUCING_USD, TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import INFO_IN_ENV, EngineInfo, RunRecord
from tokmagic.core.sums import Selection, Sum
from tokmagic.engines.base import Engine, Progress
from tokmagic.engines.registry import Models
from tokmagic.errors import BudgetError, GenerationInterrupted, LedgerError, NotBuiltError, TokmagicError
from tokmagic.prices import PriceBook
from tokmagic.prices import budgets as budgets
from tokmagic.prices.periods import start_of_day
from tokmagic.prompts.template import check_sampling, sha256
from tokmagic.runs.budget_guard import BudgetGuard, BudgetWarning, Confirm
from tokmagic.runs.cache import Answer, Cache, Place, replayed
from tokmagic.runs.drafts import DraftContext, DraftService
from tokmagic.runs.environment import environment
from tokmagic.runs.generation import Generation
from tokmagic.runs.live import Channel, ModelView, View
from tokmagic.runs.run import SILENT, Run, Watcher, uninterrupted
from tokmagic.tokens.reconciliation import disagreement

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger, Outbox


class LedgerWarning(UserWarning):
    """Runs are not being recorded."""


class Session:
    """One kernel's or command's tokmagic."""

    def __init__(self, settings: TokMagic | None = None) -> None:
        self.settings = settings or TokMagic()
        self.session_id = uuid.uuid4().hex
        self.models = Models(self.settings)
        self.prices = PriceBook(lambda: self.settings.prices)
        self.chats: dict[str, list[Message]] = {}
        self.notebook: str | None = None
        self.widgets = False
        self.cell_id: Callable[[], str | None] = lambda: None
        """Tells the id of the cell that runs now; the magics set it."""
        self.execution: Callable[[], str | None] = lambda: None
        """Tells cells' executions apart: the runs of a loop belong to one, those of a second run to another."""
        self.variables: Callable[[], Mapping[str, Any]] = dict
        """Gives the notebook's variables; the magics set it."""
        self.turns: AbstractContextManager[object] = nullcontext()
        """Entered by whatever imports in the background, so that no cell runs meanwhile; the magics set it."""
        self._drafts = DraftService(
            DraftContext(
                self.models,
                self.settings,
                self.info,
                self.prices.rates,
                self.chats,
                lambda: self.variables(),
                lambda: self.turns,
            )
        )
        self.channel = Channel(self.session_id, self)
        self.cache = Cache(self.settings, self.ledger)
        self._ledger: Ledger | None = None
        self._ledger_lock = threading.Lock()
        self._warned: str | None = None
        self._outbox: Outbox | None = None
        self._owed: deque[Callable[[Ledger], None]] = deque()
        self._running: dict[str, Run] = {}
        self._ended: list[RunRecord] = []
        self._lock = threading.Lock()
        self._bases: tuple[Sum | None, Sum | None] = (None, None)
        self._loading: tuple[str, float | None] | None = None
        self._shown_model: str | None = None
        self.user = _user()
        self._loaded_at: dict[str, float] = {}
        self._told: dict[str, set[str]] = {}
        self._standings: tuple[Standing, ...] = ()
        self._notices: dict[str, str | None] = {}
        self.settings.observe(self._reopen_ledger, ["ledger", "store_text"])

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
        watcher: Watcher = SILENT,
        progress: Progress | None = None,
    ) -> Generation:
        """Run a prompt and return its Generation, settled in the ledger under ``cell_id``, else the cell that runs now.

        ``budget`` is the most this run may cost, in USD. ``confirm`` asks the person about a long prompt; without it
        there is nobody to ask. ``cache`` says whether the answer may come from the cache and go into it; None: where
        the same prompt gets the same answer. ``refresh`` generates and renews what is cached.

        An interrupt, a failure and a refusal end in a Generation too, with its ``error`` set:
        ``raise_for_status`` raises it. Raises UsageError, BudgetError (for a cap that is none) and ModelError
        where no run could begin.
        """
        check_sampling(prompt.sampling)
        own = self._own_budgets(budget)
        self._refuse_unbuilt()
        self.prices.check()
        engine = self.models.engine(model)
        place = self.cache.place(engine, prompt, cache, refresh=refresh)
        answer = place.find()
        if answer is None:
            engine = self.load(model, progress)
            answer = place.find()
        info = engine.info if answer is None else replace(answer.info, name=engine.info.name)
        record = replace(self._new_record(info, prompt, tags), cell_id=cell_id or self.cell_id())
        if execution := self.execution():
            record.env["execution"] = execution
        if answer is not None:
            return self._replay(prompt, replayed(record, answer), answer, place, watcher)
        guard = BudgetGuard([*self._stored_budgets(), *own], own, confirm)
        return Run(self, engine, prompt, record, watcher, guard, place).execute()

    def _replay(self, prompt: Prompt, record: RunRecord, answer: Answer, place: Place, watcher: Watcher) -> Generation:
        """Show an answer of the cache, at once, as a run of its own that no budget is asked for."""
        self._shown_model = record.info.name
        text = answer.choices[0].text
        with uninterrupted():
            if self.settle(record, prompt.messages, text, begun=False):
                place.touch()
            self.ended(record)
        if text:
            watcher.token(text)
        return Generation(prompt, record, answer.choices)

    def load(self, model: str | None = None, progress: Progress | None = None, *, keep_others: bool = False) -> Engine:
        """Make a model ready, telling the sidebar meanwhile. Raises UsageError, ModelError."""
        engine = self.models.engine(model)
        self._shown_model = engine.info.name
        if engine.state == "ready":
            return engine

        def report(doing: str, share: float | None) -> None:
            self._loading = (doing, share)
            self.channel.touch()
            if progress is not None:
                progress(doing, share)

        try:
            loaded = self.models.load(model, report, keep_others=keep_others)
            self._loaded_at[loaded.info.name] = time.monotonic()
            return loaded
        except KeyboardInterrupt:
            raise GenerationInterrupted("loading the model was interrupted; nothing was generated") from None
        finally:
            self._loading = None
            self.channel.touch()

    def loaded_s(self) -> dict[str, float]:
        """Seconds since each model that is in memory now was loaded, idle time included."""
        now, held = time.monotonic(), self.models.loaded()
        return {name: now - since for name, since in self._loaded_at.items() if name in held}

    def use(self, model: str) -> None:
        """Make a model the current one, here and in the sidebar. Raises UsageError."""
        self.models.use(model)
        self._shown_model = None
        self.channel.touch()

    def _refuse_unbuilt(self) -> None:
        if self.settings.engine_url:
            raise NotBuiltError("TOKMAGIC_ENGINE_URL is set, but shared engines are not built yet; unset it")

    def _new_record(self, info: EngineInfo, prompt: Prompt, tags: Sequence[str]) -> RunRecord:
        env = dict(environment())
        env |= {name: value for name in INFO_IN_ENV if (value := getattr(info, name)) is not None}
        params = {
            key: value
            for key, value in asdict(prompt.sampling).items()
            if value is not None and value is not False and value != ()
        }
        if prompt.completion:
            params["completion"] = True
        return RunRecord(
            run_id=uuid.uuid4().hex,
            started_at=datetime.now(UTC),
            status="running",
            info=info,
            prompt_sha256=sha256(prompt),
            params=params,
            notebook=self.notebook,
            session=self.session_id,
            user=self.user,
            rates=self.rates(info),
            tags=tuple(tags),
            env=env,
        )

    def info(self, name: str) -> EngineInfo:
        """What is known of a model, without opening its engine for it. Raises UsageError."""
        if name in self.models.opened():
            return self.models.engine(name).info
        spec = self.models.spec(name)
        return EngineInfo(name, spec.source, spec.kind)

    # Prices and budgets

    def rates(self, info: EngineInfo) -> Rates:
        """The rates in force for a model, with where they came from. Raises PriceError."""
        rates = self.prices.rates(info)
        self.warn("prices", {"file": self.prices.problem} if self.prices.problem else {})
        return rates

    @property
    def budget_notebook(self) -> str:
        """What stands for this notebook in a budget: its path, or this session where the path is unknown."""
        return self.notebook or f"session:{self.session_id}"

    def standings(self, *, with_uncertainty: bool = False) -> list[Standing]:
        """How the budgets that apply here stand now; ``with_uncertainty``: how sure what was spent is, too (slower).

        Raises LedgerError, BudgetError.
        """
        held, now = [*self.ledger().budgets(self.user, self.budget_notebook), *self._own_budgets(None)], datetime.now()
        found = self.ledger().standings(held, self.user, now)
        return self.ledger().with_uncertainty(found, self.user, now) if with_uncertainty else found

    def _own_budgets(self, usd: Decimal | str | None) -> list[Budget]:
        own = [budgets.of_day(self.settings.budget_day, self.user)] if self.settings.budget_day else []
        if cap := os.environ.get(REPRODUCING_USD):
            own.append(budgets.of_reproduction(cap, self.budget_notebook))
        return [*own, budgets.of_run(usd)] if usd is not None else own

    def _stored_budgets(self) -> list[Budget]:
        # Where the ledger cannot be read the run is not recorded either, and a warning says so.
        with suppress(LedgerError):
            return self.ledger().budgets(self.user, self.budget_notebook)
        return []

    def warn(self, room: str, told: Mapping[str, str]) -> None:
        """Tell of what stands ill with prices or budgets; each key once, until it has gone away."""
        for key, text in told.items():
            if key not in self._told.get(room, ()):
                warnings.warn_explicit(text, BudgetWarning, "tokmagic", 0, registry={})
        self._told[room] = set(told)

    # The ledger

    def ledger(self) -> Ledger:
        """Return this session's ledger, opened at the first call. Raises LedgerError."""
        # Imported here: SQLAlchemy takes 0.2 s, and loading the extension should not pay for it.
        from tokmagic.ledgers import Ledger, Outbox

        with self._ledger_lock:
            if self._ledger is None:
                if not self.settings.ledger.startswith("sqlite"):
                    path = self.settings.home_path / "undelivered.sqlite"
                    self._outbox = Outbox(path, store_text=self.settings.store_text)
                self._ledger = Ledger(self.settings.ledger, store_text=self.settings.store_text)
            return self._ledger

    def _reopen_ledger(self, _change: object) -> None:
        with self._ledger_lock:
            if self._ledger is not None:
                self._ledger.close()
            self._ledger = self._outbox = None

    def record(self, write: Callable[[Ledger], None]) -> bool:
        """Write to the ledger and say whether it was written; where not, a warning says so once and nothing stops."""
        return self._written(write, "this run is NOT being recorded")

    def settle(self, record: RunRecord, prompt: Sequence[Message], answer: str, *, begun: bool) -> bool:
        """Write a run's end and say whether it is in the ledger now; where that cannot be reached it will be later.

        A server's runs are kept in a file meanwhile. A file's are owed in memory, and only where their beginning is in
        the ledger, so that no run goes on for ever.
        """

        def write(ledger: Ledger) -> None:
            ledger.settle(record, prompt, answer)

        if self._outbox is None:
            written = self.record(write)
            if not written and begun:
                self._owed.append(write)
            return written
        if self._written(write, "this run is kept on this machine and delivered when its ledger can be reached again"):
            return True
        try:
            self._outbox.keep(record, prompt, answer)
        except LedgerError as error:
            self._tell(f"this run is NOT being recorded: {error}")
        return False

    def _written(self, write: Callable[[Ledger], None], otherwise: str) -> bool:
        try:
            ledger = self.ledger()
            while self._owed:
                self._owed[0](ledger)
                self._owed.popleft()
            if self._outbox:
                self._outbox.deliver(ledger)
            write(ledger)
        except LedgerError as error:
            self._tell(f"{otherwise}: {error}")
            return False
        self._warned = None
        return True

    def _tell(self, text: str) -> None:
        if self._warned != text:
            self._warned = text
            # With a registry of its own each cause is told again when it comes back.
            warnings.warn_explicit(text, LedgerWarning, "tokmagic", 0, registry={})

    @property
    def selection(self) -> Selection:
        """What selects this notebook's runs: its path, or this session where the path is unknown."""
        return Selection(notebook=self.notebook) if self.notebook else Selection(session=self.session_id)

    def refresh_totals(self) -> None:
        """Read the sums of finished runs anew."""
        sums = self._sums()
        with self._lock:
            self._bases, self._standings = sums

    def _sums(self) -> tuple[tuple[Sum | None, Sum | None], tuple[Standing, ...]]:
        """The sums of ended runs and how budgets stand; those of before where the ledger does not tell."""
        bases, standings = self._bases, self._standings
        with suppress(LedgerError, BudgetError):
            ledger = self.ledger()
            today = Selection(since=start_of_day(), user=self.user)
            bases = ledger.totals(self.selection), ledger.totals(today)
            standings = tuple(self.standings())
        return bases, standings

    # What the live channel asks (it calls from its own threads)

    def changes(self) -> View:
        """The view with running rows and those that ended since the last call."""
        with self._lock:
            running = [run.snapshot() for run in self._running.values()]
            ended, self._ended = self._ended, []
            bases, standings = self._bases, self._standings
        return self._view([*ended, *running], running, bases, standings)

    def everything(self, path: str | None, widgets: bool) -> View:
        """The view with each cell's latest run, for a sidebar that said hello."""
        self.widgets = widgets
        if path is not None:
            self.notebook = resolve_notebook(self.notebook, path)
        # In this order: the look at the rows also settles those whose process died.
        latest = self.ledger().latest_by_cell(self.selection)
        self.refresh_totals()
        with self._lock:
            running = [run.snapshot() for run in self._running.values()]
            bases, standings = self._bases, self._standings
        now = {record.run_id for record in running}
        return self._view(
            [*(record for record in latest if record.run_id not in now), *running], running, bases, standings
        )

    def stop(self, run_id: str) -> None:
        """Stop a run of this session; an ended one is left alone."""
        with self._lock:
            run = self._running.get(run_id)
        if run is not None:
            run.stop()

    def draft(self, page: str, request: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        """Count a cell that is being written. Raises UsageError."""
        self._drafts.take(page, request, send)

    def _view(
        self,
        rows: Sequence[RunRecord],
        running: Sequence[RunRecord],
        bases: tuple[Sum | None, Sum | None],
        standings: tuple[Standing, ...],
    ) -> View:
        under_way = Sum.of(running)
        notebook, day = (None if base is None else base + under_way for base in bases)
        return View(self.notebook, self._model_view(), notebook, day, tuple(rows), standings)

    def _model_view(self) -> ModelView | None:
        try:
            name = self._shown_model or self.models.current
            info = self.info(name)
        except TokmagicError:
            return None
        if name not in self.models.opened():
            return ModelView(info, "unloaded")
        engine = self.models.engine(name)
        detail, share = self._loading or (None, None)
        state = "loading" if self._loading else engine.state
        return ModelView(info, state, detail, share, self._notices.get(info.model_id))

    # What a run does to its session

    def began(self, run: Run) -> None:
        """A run is under way."""
        self.refresh_totals()
        with self._lock:
            self._running[run.record.run_id] = run
        self.channel.touch()

    def _reconcile(self, record: RunRecord) -> None:
        """See whether this machine and the server that ran it count the same."""
        if record.local_input_tokens is None or record.reading.usage.input_source != "reported":
            return
        with suppress(LedgerError):
            found = disagreement(self.ledger().compared(record.info.model_id))
            self._notices[record.info.model_id] = None if found is None else str(found)

    def ended(self, record: RunRecord) -> None:
        """A run is settled."""
        self._reconcile(record)
        sums = self._sums()
        with self._lock:
            # At once: a view in between would count the run twice, or not at all.
            self._bases, self._standings = sums
            self._running.pop(record.run_id, None)
            self._ended.append(record)
        self.channel.touch()

    def close(self) -> None:
        """Stop what runs, send the last message, free the models and let go of the ledger."""
        with self._lock:
            running = list(self._running.values())
        for run in running:
            run.stop()
        self.channel.close()
        self.models.close()
        if self._ledger is not None:
            self._ledger.close()


def resolve_notebook(known: str | None, server_path: str) -> str:
    """Join what the kernel knew of its notebook's path with the path the sidebar sees.

    The kernel's name is fixed at its start and absolute; the sidebar's follows renames and is
    relative to the server's root. Where the folders agree the absolute form is kept.
    """
    if known is None:
        return server_path
    if known.endswith(f"/{server_path}") or known == server_path:
        return known
    folder, _, name = server_path.rpartition("/")
    known_folder = known.rpartition("/")[0]
    if not folder or known_folder == folder or known_folder.endswith(f"/{folder}"):
        return f"{known_folder}/{name}" if known_folder else name
    return server_path


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid without a name
        return str(os.getuid())
