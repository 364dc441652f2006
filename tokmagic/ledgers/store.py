"""Opening, writing and asking the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from tokmagic.core.budget import Admission, Budget, Hold, Standing
from tokmagic.core.prompt import Message
from tokmagic.core.record import CacheStatus, EngineInfo, Group, Histories, RunRecord, Selection, Sum
from tokmagic.errors import LedgerError
from tokmagic.ledgers import alerts, answers, budgets, duplicates, histories, summaries, typical, waste
from tokmagic.ledgers.backend import Execute, mapped, open_backend
from tokmagic.ledgers.keys import Keys
from tokmagic.ledgers.liveness import dead_owners, reap
from tokmagic.ledgers.migrating import migrate
from tokmagic.ledgers.notebooks import Notebooks
from tokmagic.ledgers.schema import (
    ENDED,
    LIVE,
    RELEASED,
    Insert,
    chat_of,
    chat_text,
    row_update,
    runs,
    storable,
    texts,
    to_record,
    to_row,
)
from tokmagic.prices import to_picodollars
from tokmagic.prices.budgets import passing, refusal, within
from tokmagic.tokens.reconciliation import Compared

ALL = Selection()
# Statements that every run executes: made once, since making them takes longer than running them.
_INSERT_RUN, _INSERT_TEXT = runs.insert(), texts.insert()
_RUN_COLUMNS = [column.name for column in runs.c if column.name != "id"]
_TEXT_COLUMNS = [column.name for column in texts.c]
_UPDATE_RUN = runs.update().where(runs.c.run_id == sa.bindparam("its_run_id"))
_UPDATE_TEXT = texts.update().where(texts.c.run_id == sa.bindparam("its_run_id"))
# Runs read at once where all of them are asked for.
_PORTION = 1_000


class Ledger:
    """One database of runs, safe to use from several threads and processes at once.

    Every method raises LedgerError where the database cannot do its part.
    """

    name: str
    """What to call this ledger in messages: its file, or its server and database."""
    store_text: bool
    """Whether prompts and answers are kept."""
    notebooks: Notebooks
    """What is kept of which notebook."""
    keys: Keys
    """By which programs ask a shared engine."""

    def __init__(self, url: str, *, store_text: bool = True, patience_s: float | None = None) -> None:
        """Open the ledger at a SQLAlchemy URL, creating or migrating it as needed.

        Whoever writes waits ``patience_s`` seconds for other writers, by default ten. A ledger written by a newer
        tokmagic raises NewerLedgerError and is left untouched, as is a file that is no ledger.
        """
        self.store_text = store_text
        self._backend = open_backend(url, patience_s)
        self.name = self._backend.name
        self.notebooks, self.keys = Notebooks(self), Keys(self)
        self._liveness, dialect = self._backend.liveness, self._backend.engine.dialect
        self._insert_run = Insert(_INSERT_RUN, _RUN_COLUMNS, dialect)
        self._insert_text = Insert(_INSERT_TEXT, _TEXT_COLUMNS, dialect)
        migrate(self._backend)

    def begin(self, record: RunRecord, prompt: Sequence[Message] = (), hold: Hold | None = None) -> None:
        """Insert a run as running, with what it may use at most."""
        owner = self._owner()
        with mapped(self._backend), self._backend.quickly() as execute:
            self._begin(execute, owner, record, prompt, hold)

    def admit(
        self, record: RunRecord, prompt: Sequence[Message], hold: Hold, held: Sequence[Budget], now: datetime
    ) -> Admission:
        """Insert a run as running if its hold fits every budget of ``held``, as one step for all processes.

        What is refused is not written: :meth:`settle` does that.
        """
        user, held, owner = record.user, budgets.binding(held, duplicate=record.duplicate), self._owner()
        with self._deciding(record) as connection:
            before = [budgets.standing(connection, it, user, now, began=record.started_at) for it in held]
            if (refused := refusal(before, hold)) is None:
                self._begin(connection.exec_driver_sql, owner, record, prompt, hold)
        if refused is not None:
            # Told anew, with marks: only who is refused waits for these, and the ledger is free meanwhile.
            told = refusal(self.with_uncertainty(before, user, now, record.started_at), hold)
            return Admission(told, tuple(before), passing(before, hold))
        usd, tokens = hold.usd or Decimal(0), hold.tokens
        after = [replace(it, held_usd=it.held_usd + usd, held_tokens=it.held_tokens + tokens) for it in before]
        return Admission(None, tuple(after))

    def extend(self, record: RunRecord, wanted: Hold, own: Sequence[Budget], now: datetime) -> Hold:
        """Raise a running run's hold to what is ``wanted``, or to what its budgets have left; return what it holds now.

        ``own`` are budgets that stand in no ledger: of settings and of the run itself. The others are read anew, since
        a person may have raised one meanwhile.
        """
        user, began = record.user, record.started_at
        with self._deciding(record) as connection:
            # Asked of the row: since the run began the notebook may have been renamed, or its client's row delivered.
            asked = sa.select(runs.c.notebook, runs.c.duplicate).where(runs.c.run_id == record.run_id)
            kept = connection.execute(asked).one_or_none()
            notebook = (kept and kept.notebook) or record.notebook or f"{budgets.SESSION}{record.session}"
            duplicate = record.duplicate if kept is None else bool(kept.duplicate)
            here = budgets.read(connection, user, notebook, record.key, duplicate=duplicate)
            held = [*here, *budgets.binding(own, duplicate=duplicate)]
            others = [budgets.standing(connection, it, user, now, began=began, but=record.run_id) for it in held]
            granted = within(others, wanted)
            row = {"hold_pico": to_picodollars(granted.usd), "hold_tokens": granted.tokens}
            connection.execute(_UPDATE_RUN, {"its_run_id": record.run_id, **row})
        return granted

    def set_budget(self, budget: Budget) -> None:
        """Set a budget in place of the one of the same scope, notebook and user."""
        with self.writing() as connection:
            budgets.write(connection, budget)

    def drop_budget(self, budget: Budget) -> bool:
        """Remove the budget of the same scope, notebook and user; return whether there was one."""
        with self.writing() as connection:
            return budgets.drop(connection, budget) > 0

    def budgets(
        self, user: str | None, notebook: str | None, key: str | None = None, *, duplicate: bool = False
    ) -> list[Budget]:
        """Return the budgets that hold for a user's run in a notebook, made with the key of this id.

        For a ``duplicate`` it is the key's alone: the others let the client's row of the same run in.
        """
        with self.reading() as connection:
            return budgets.read(connection, user, notebook, key, duplicate=duplicate)

    def standings(
        self, held: Sequence[Budget], user: str | None, now: datetime, began: datetime | None = None
    ) -> list[Standing]:
        """How budgets stand for a user's runs, or stood when one ``began``; holds of the dead are released first."""
        if held:
            self.reap()
        with self.reading() as connection:
            return [budgets.standing(connection, budget, user, now, began=began) for budget in held]

    def with_uncertainty(
        self, standings: Sequence[Standing], user: str | None, now: datetime, began: datetime | None = None
    ) -> list[Standing]:
        """The same with how sure what was spent is, for who is told of it: too slow to be asked at each admission."""
        with self.reading() as connection:
            return budgets.with_uncertainty(connection, standings, user, now, began)

    def take_alert(self, budget: Budget, user: str | None, period: str, percent: int) -> bool:
        """Whether nobody has sent this alert of a user's budget yet; it is the caller's to send then, and only his."""
        with self.writing() as connection:
            self._backend.serialise(connection, "alerts")
            return alerts.take(connection, budget, user, period, percent)

    def token_time_s(self, info: EngineInfo) -> float | None:
        """What nearly no token of a model takes longer than, in seconds; see :func:`typical.token_time_s`."""
        with self.reading() as connection:
            return typical.token_time_s(connection, info)

    def output_tokens_p95(self, info: EngineInfo) -> int | None:
        """What nearly no answer of a model is longer than, in tokens; see :func:`typical.output_tokens`."""
        with self.reading() as connection:
            return typical.output_tokens(connection, info)

    def progress(self, *records: RunRecord) -> None:
        """Write what runs that go on have used, in case their process dies; one taken for dead stays ended."""
        with self.writing() as connection:
            connection.execute(_UPDATE_RUN.where(LIVE), [row_update(record) for record in records])

    def settle(self, record: RunRecord, prompt: Sequence[Message] = (), answer: str | None = None) -> None:
        """Write a run's end. Where its beginning could not be written the whole row is written now."""
        with self.writing() as connection:
            # Between two looks of an admission it would be in neither: no longer held, and not spent yet.
            self._serialise(connection, record)
            updated = connection.execute(_UPDATE_RUN, row_update(record) | RELEASED)
            if updated.rowcount == 0:
                connection.execute(_INSERT_RUN, to_row(record) | RELEASED)
            if duplicates.concerns(record, is_new=updated.rowcount == 0):
                # The client's row and the server's may be written in any order, also at the same time.
                self._backend.serialise(connection, f"run {record.client_run_id or record.run_id}")
                duplicates.mark(connection, [record.run_id])
            if not self.store_text:
                return
            text = None if answer is None else storable(answer)
            if connection.execute(_UPDATE_TEXT, {"its_run_id": record.run_id, "answer": text}).rowcount == 0:
                connection.execute(_INSERT_TEXT, {"run_id": record.run_id, "prompt": chat_text(prompt), "answer": text})

    def reap(self) -> int:
        """Mark runs whose process died as interrupted; return how many. Called before each look."""
        with self.reading() as connection:
            if not dead_owners(connection, self._liveness):
                return 0
        with self.writing() as connection:
            return reap(connection, self._liveness)

    def runs(self, where: Selection = ALL, *, limit: int | None = None) -> list[RunRecord]:
        """Return runs in the order in which they started, the newest ``limit`` of them."""
        self.reap()
        query = sa.select(runs).where(*summaries.conditions(where)).order_by(runs.c.id.desc()).limit(limit)
        return self._records(query)[::-1]

    def run(self, run_id: str) -> RunRecord | None:
        """Return one run; None where it is not here."""
        return next(iter(self._records(sa.select(runs).where(runs.c.run_id == run_id))), None)

    def latest_by_cell(self, where: Selection) -> list[RunRecord]:
        """Return each cell's latest run, oldest first."""
        self.reap()
        return self._records(sa.select(runs).where(runs.c.id.in_(histories.latest(where))).order_by(runs.c.id))

    def previous_by_cell(self, where: Selection) -> list[RunRecord]:
        """Return of each cell the last complete run before its latest run, oldest first."""
        return self._records(sa.select(runs).where(runs.c.id.in_(histories.previous(where))).order_by(runs.c.id))

    def histories(self, where: Selection, each: int) -> Histories:
        """Return the newest ``each`` complete runs of every cell, and replays; see :mod:`histories`."""
        with self.reading() as connection:
            return histories.read(connection, where, each)

    def stream(self, where: Selection = ALL) -> Iterator[RunRecord]:
        """Yield runs in the order in which they started, a portion in memory at a time."""
        self.reap()
        # Their keys once: asked for in portions the whole selection would be sorted anew for each of them.
        with self.reading() as connection:
            these = sa.select(runs.c.id).where(*summaries.conditions(where))
            keys = list(connection.scalars(these.order_by(runs.c.id)))
        for start in range(0, len(keys), _PORTION):
            portion = keys[start : start + _PORTION]
            yield from self._records(sa.select(runs).where(runs.c.id.in_(portion)).order_by(runs.c.id))

    def summarise(self, where: Selection, by: str) -> summaries.Grouped:
        """Add ended runs up by a key, in the order in which the groups first ran; see :mod:`summaries`."""
        self.reap()
        with self.reading() as connection:
            return summaries.summarise(connection, where, by)

    def parts(self, where: Selection) -> list[Group]:
        """Add ended runs up by tags, model and status, in the order in which they first ran."""
        with self.reading() as connection:
            return summaries.parts(connection, where)

    def energies(self, where: Selection, by: str) -> summaries.Metered:
        """Add up what the energy of runs is known to be; see :func:`summaries.energies`."""
        with self.reading() as connection:
            return summaries.energies(connection, where, by)

    def wasted(self, where: Selection) -> dict[str, Sum]:
        """Add up the runs that gave nothing new, by why; see :func:`waste.wasted`."""
        self.reap()
        with self.reading() as connection:
            return waste.wasted(connection, where)

    def compared(self, model_id: str) -> list[Compared]:
        """Return the newest runs of a model at an endpoint whose input was counted here and by the server."""
        with self.reading() as connection:
            return summaries.compared(connection, model_id)

    def endpoint_models(self) -> list[str]:
        """Return the ids of the models at endpoints that ran, in the order of their names."""
        with self.reading() as connection:
            return summaries.endpoint_models(connection)

    def totals(self, where: Selection, but: Sequence[str] = ()) -> Sum:
        """Return the sums over ended runs, ``but`` some; one that client and server recorded counts once."""
        with self.reading() as connection:
            return summaries.add_up(connection, ENDED, *summaries.conditions(where, but))

    def texts(self, run_id: str) -> tuple[list[Message], str | None] | None:
        """Return a run's prompt and answer, or ``None`` where they were not kept."""
        with self.reading() as connection:
            row = connection.execute(sa.select(texts).where(texts.c.run_id == run_id)).mappings().one_or_none()
        return None if row is None else (chat_of(row["prompt"]), row["answer"])

    def answer(self, key: str) -> tuple[str, str] | None:
        """Return a remembered answer: the id of the run that gave it, and its text; None where there is none."""
        with self.reading() as connection:
            return answers.find(connection, key)

    def keep_answer(self, key: str, run_id: str, answer: str, limit_bytes: int) -> bool:
        """Remember an answer, if texts are kept and it fits, and return whether it was; see :func:`answers.keep`."""
        if not self.store_text:
            return False
        with self._remembering() as connection:
            return answers.keep(connection, key, run_id, answer, limit_bytes)

    def use_answer(self, key: str) -> None:
        """Note that a remembered answer was used just now."""
        with self._remembering() as connection:
            answers.use(connection, key)

    def drop_answer(self, key: str) -> None:
        """Remove a remembered answer, if it is there."""
        with self._remembering() as connection:
            answers.drop(connection, key)

    def clear_answers(self) -> int:
        """Remove all remembered answers and return how many there were."""
        with self._remembering() as connection:
            return answers.clear(connection)

    def cache_status(self) -> CacheStatus:
        """What is remembered, and what it was good for."""
        with self.reading() as connection:
            return answers.status(connection)

    @property
    def gone(self) -> bool:
        """Whether the file was deleted, moved or replaced since it was opened: what is written now would be lost."""
        return self._backend.gone()

    def damage(self) -> str | None:
        """What is wrong with the file, looked for in all of it, which takes a while; None where nothing is."""
        try:
            with mapped(self._backend):
                found = self._backend.damage()
        except LedgerError as error:
            return str(error)
        return None if found is None else f"{self.name} {found}"

    def close(self) -> None:
        """Let go of the database."""
        self._liveness.close()
        self._backend.close()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads; for the ledger's own modules."""
        with mapped(self._backend), self._backend.reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; for the ledger's own modules."""
        with mapped(self._backend), self._backend.writing() as connection:
            yield connection

    def take_answers(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Remember another ledger's answers, as its rows; return how many were new here. For :mod:`move`."""
        with self._remembering() as connection:
            return answers.take(connection, rows)

    @contextmanager
    def _remembering(self) -> Iterator[sa.Connection]:
        with self.writing() as connection:
            self._backend.serialise(connection, "answers")
            yield connection

    @contextmanager
    def _deciding(self, record: RunRecord) -> Iterator[sa.Connection]:
        """A transaction beside which nothing else is decided about a run's budgets; no hold of the dead is left."""
        with self.writing() as connection:
            self._serialise(connection, record)
            reap(connection, self._liveness)
            yield connection

    def _serialise(self, connection: sa.Connection, record: RunRecord) -> None:
        """Decide about the budgets of a run's user and of its key one at a time."""
        # Always in this order, and before any row is written: so no two transactions wait for each other.
        self._backend.serialise(connection, f"budgets of {record.user}")
        if record.key is not None:
            self._backend.serialise(connection, f"budgets of key {record.key}")

    def _owner(self) -> str:
        # Before a transaction begins: on a server it may take a connection, and all may wait for that transaction.
        with mapped(self._backend):
            return self._liveness.owner()

    def _begin(
        self, execute: Execute, owner: str, record: RunRecord, prompt: Sequence[Message], hold: Hold | None
    ) -> None:
        row = to_row(record) | RELEASED | {"owner": owner}
        if hold is not None:
            row |= {"hold_pico": to_picodollars(hold.usd), "hold_tokens": hold.tokens}
        self._insert_run(execute, row)
        if self.store_text:
            self._insert_text(execute, {"run_id": record.run_id, "prompt": chat_text(prompt), "answer": None})

    def _records(self, query: sa.Select[Any]) -> list[RunRecord]:
        with self.reading() as connection:
            found = connection.execute(query)
            # Zipped, since a row as a mapping takes five times as long to read.
            names, rows = list(found.keys()), found.all()
        return [to_record(dict(zip(names, row, strict=True))) for row in rows]
