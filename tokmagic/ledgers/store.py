"""Opening, writing and asking the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tokmagic.core.budget import Admission, Budget, Hold, Standing
from tokmagic.core.prompt import Message
from tokmagic.core.record import REMOTE, CacheStatus, EngineInfo, RunRecord, Selection, Sum
from tokmagic.errors import LedgerError, NewerLedgerError
from tokmagic.ledgers import answers, budgets, summaries, waste
from tokmagic.ledgers.backend import Execute, mapped, open_backend
from tokmagic.ledgers.liveness import dead_owners, reap
from tokmagic.ledgers.notebooks import Notebooks
from tokmagic.ledgers.schema import (
    ENDED,
    RELEASED,
    Insert,
    chat_text,
    json_value,
    row_update,
    runs,
    storable,
    texts,
    to_record,
    to_row,
)
from tokmagic.ledgers.summaries import conditions
from tokmagic.prices import to_picodollars
from tokmagic.prices.budgets import refusal, within
from tokmagic.tokens.reconciliation import Compared

_MIGRATIONS = Path(__file__).parent / "migrations"
_REVISIONS = sorted(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
ALL = Selection()
# Statements that every run executes: made once, since making them takes longer than running them.
_INSERT_RUN, _INSERT_TEXT = runs.insert(), texts.insert()
_RUN_COLUMNS = [column.name for column in runs.c if column.name != "id"]
_TEXT_COLUMNS = [column.name for column in texts.c]
_UPDATE_RUN = runs.update().where(runs.c.run_id == sa.bindparam("key"))
_UPDATE_TEXT = texts.update().where(texts.c.run_id == sa.bindparam("key"))
# Runs read at once where all of them are asked for.
_PORTION = 1_000
# Runs looked through for how long a token takes.
_LOOK_BACK = 2000


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

    def __init__(self, url: str, *, store_text: bool = True) -> None:
        """Open the ledger at a SQLAlchemy URL, creating or migrating it as needed.

        A ledger written by a newer tokmagic raises NewerLedgerError and is left untouched, as is a file
        that is no ledger.
        """
        self.store_text = store_text
        self._backend = open_backend(url)
        self.name = self._backend.name
        self.notebooks = Notebooks(self)
        self._liveness = self._backend.liveness
        dialect = self._backend.engine.dialect
        self._insert_run = Insert(_INSERT_RUN, _RUN_COLUMNS, dialect)
        self._insert_text = Insert(_INSERT_TEXT, _TEXT_COLUMNS, dialect)
        self._migrate()

    def begin(self, record: RunRecord, prompt: Sequence[Message] = (), hold: Hold | None = None) -> None:
        """Insert a run as running, with what it may use at most."""
        with mapped(self._backend), self._backend.quickly() as execute:
            self._begin(execute, record, prompt, hold)

    def admit(
        self, record: RunRecord, prompt: Sequence[Message], hold: Hold, held: Sequence[Budget], now: datetime
    ) -> Admission:
        """Insert a run as running if its hold fits every budget of ``held``, as one step for all processes.

        What is refused is not written: :meth:`settle` does that.
        """
        user = record.user
        with self._deciding(user) as connection:
            before = [budgets.standing(connection, budget, user, now) for budget in held]
            refused = refusal(before, hold)
            if refused is None:
                self._begin(connection.exec_driver_sql, record, prompt, hold)
        if refused is not None:
            # Told anew, with marks: only who is refused waits for these, and the ledger is free meanwhile.
            return Admission(refusal(self.with_uncertainty(before, user, now), hold), tuple(before))
        usd, tokens = hold.usd or Decimal(0), hold.tokens
        return Admission(
            None,
            tuple(replace(it, held_usd=it.held_usd + usd, held_tokens=it.held_tokens + tokens) for it in before),
        )

    def extend(self, record: RunRecord, wanted: Hold, own: Sequence[Budget], now: datetime) -> Hold:
        """Raise a running run's hold to what is ``wanted``, or to what its budgets have left; return what it holds now.

        ``own`` are budgets that stand in no ledger: of settings and of the run itself. The others are read anew, since
        a person may have raised one meanwhile.
        """
        user = record.user
        with self._deciding(user) as connection:
            # Asked of the row: the notebook may have been renamed since the run began.
            asked = sa.select(runs.c.notebook).where(runs.c.run_id == record.run_id)
            notebook = connection.execute(asked).scalar() or record.notebook or f"{budgets.SESSION}{record.session}"
            held = [*budgets.read(connection, user, notebook), *own]
            others = [budgets.standing(connection, budget, user, now, but=record.run_id) for budget in held]
            granted = within(others, wanted)
            row = {"hold_pico": to_picodollars(granted.usd), "hold_tokens": granted.tokens}
            connection.execute(_UPDATE_RUN, {"key": record.run_id, **row})
        return granted

    def set_budget(self, budget: Budget) -> None:
        """Set a budget in place of the one of the same scope, notebook and user."""
        with self.writing() as connection:
            budgets.write(connection, budget)

    def drop_budget(self, budget: Budget) -> bool:
        """Remove the budget of the same scope, notebook and user; return whether there was one."""
        with self.writing() as connection:
            return budgets.drop(connection, budget) > 0

    def budgets(self, user: str | None, notebook: str | None) -> list[Budget]:
        """Return the budgets that hold for a user's run in a notebook."""
        with self.reading() as connection:
            return budgets.read(connection, user, notebook)

    def standings(self, held: Sequence[Budget], user: str | None, now: datetime) -> list[Standing]:
        """How budgets stand for a user's runs; holds of processes that died are released first."""
        if held:
            self.reap()
        with self.reading() as connection:
            return [budgets.standing(connection, budget, user, now) for budget in held]

    def with_uncertainty(self, standings: Sequence[Standing], user: str | None, now: datetime) -> list[Standing]:
        """The same with how sure what was spent is, for who is told of it: too slow to be asked at each admission."""
        with self.reading() as connection:
            return [replace(it, uncertainty=budgets.uncertainty(connection, it.budget, user, now)) for it in standings]

    def token_time_s(self, info: EngineInfo) -> float | None:
        """The 95th percentile of the seconds a token took in this model's latest runs; None where none was measured."""
        newest = sa.select(sa.func.max(runs.c.id)).scalar_subquery()
        same = (runs.c.model_id == info.model_id, runs.c.device == info.device, runs.c.quant == info.quant)
        query = (
            sa.select(runs.c.itl_p95_s)
            .where(runs.c.id > newest - _LOOK_BACK, *same, runs.c.itl_p95_s.is_not(None))
            .order_by(runs.c.id.desc())
            .limit(100)
        )
        with self.reading() as connection:
            times = sorted(connection.execute(query).scalars())
        return times[max(0, -(-len(times) * 95 // 100) - 1)] if times else None

    def progress(self, record: RunRecord) -> None:
        """Write a running run's counts so far, so that a killed process loses at most the last moments."""
        with self.writing() as connection:
            connection.execute(_UPDATE_RUN, row_update(record))

    def settle(self, record: RunRecord, prompt: Sequence[Message] = (), answer: str | None = None) -> None:
        """Write a run's end. Where its beginning could not be written the whole row is written now."""
        with self.writing() as connection:
            # Between two looks of an admission it would be in neither: no longer held, and not spent yet.
            self._backend.serialise(connection, f"budgets of {record.user}")
            updated = connection.execute(_UPDATE_RUN, row_update(record) | RELEASED)
            if updated.rowcount == 0:
                connection.execute(_INSERT_RUN, to_row(record) | RELEASED)
            if not self.store_text:
                return
            text = None if answer is None else storable(answer)
            changed = connection.execute(_UPDATE_TEXT, {"key": record.run_id, "answer": text})
            if changed.rowcount == 0:
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
        query = sa.select(runs).where(*conditions(where)).order_by(runs.c.id.desc()).limit(limit)
        return self._records(query)[::-1]

    def run(self, run_id: str) -> RunRecord | None:
        """Return one run; None where it is not here."""
        found = self._records(sa.select(runs).where(runs.c.run_id == run_id))
        return found[0] if found else None

    def latest_by_cell(self, where: Selection) -> list[RunRecord]:
        """Return each cell's latest run, oldest first."""
        self.reap()
        newest = sa.select(sa.func.max(runs.c.id)).where(*conditions(where)).group_by(runs.c.cell_id)
        return self._records(sa.select(runs).where(runs.c.id.in_(newest)).order_by(runs.c.id))

    def stream(self, where: Selection = ALL) -> Iterator[RunRecord]:
        """Yield runs in the order in which they started, a portion in memory at a time."""
        self.reap()
        # Their keys once: asked for in portions the whole selection would be sorted anew for each of them.
        with self.reading() as connection:
            chosen = sa.select(runs.c.id).where(*conditions(where)).order_by(runs.c.id)
            keys = list(connection.execute(chosen).scalars())
        for start in range(0, len(keys), _PORTION):
            portion = keys[start : start + _PORTION]
            yield from self._records(sa.select(runs).where(runs.c.id.in_(portion)).order_by(runs.c.id))

    def summarise(self, where: Selection, by: str) -> summaries.Grouped:
        """Add ended runs up by a key, in the order in which the groups first ran; see :mod:`summaries`."""
        self.reap()
        with self.reading() as connection:
            return summaries.summarise(connection, where, by)

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
        query = sa.select(runs.c.model_id).where(runs.c.engine.in_(REMOTE)).distinct().order_by(runs.c.model_id)
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def totals(self, where: Selection) -> Sum:
        """Return the sums over runs that are no longer running."""
        with self.reading() as connection:
            return summaries.add_up(connection, ENDED, *conditions(where))

    def texts(self, run_id: str) -> tuple[list[Message], str | None] | None:
        """Return a run's prompt and answer, or ``None`` where they were not kept."""
        with self.reading() as connection:
            row = connection.execute(sa.select(texts).where(texts.c.run_id == run_id)).mappings().one_or_none()
        if row is None:
            return None
        chat = json_value(row["prompt"]) if row["prompt"] else []
        return [Message(role, content) for role, content in chat], row["answer"]

    def answer(self, key: str) -> tuple[str, str] | None:
        """Return a remembered answer: the id of the run that gave it, and its text; None where there is none."""
        with self.reading() as connection:
            return answers.find(connection, key)

    def keep_answer(self, key: str, run_id: str, answer: str, limit_bytes: int) -> bool:
        """Remember an answer, if texts are kept and it fits; the least recently used others leave where all do not.

        Returns whether it was kept.
        """
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
    def _deciding(self, user: str | None) -> Iterator[sa.Connection]:
        """A transaction beside which nothing else is decided about a user's budgets; no hold of the dead is left."""
        with self.writing() as connection:
            self._backend.serialise(connection, f"budgets of {user}")
            reap(connection, self._liveness)
            yield connection

    def _begin(self, execute: Execute, record: RunRecord, prompt: Sequence[Message], hold: Hold | None) -> None:
        row = to_row(record) | RELEASED | {"owner": self._liveness.owner()}
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

    def _migrate(self) -> None:
        with self.reading() as connection:
            if self._revision(connection) == _REVISIONS[-1]:
                return
        from alembic import command
        from alembic.config import Config

        with mapped(self._backend):
            self._backend.prepare()
        with self.writing() as connection:
            self._backend.serialise(connection, "migrations")
            if self._revision(connection) == _REVISIONS[-1]:  # another process was quicker
                return
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _revision(self, connection: sa.Connection) -> str | None:
        tables = set(sa.inspect(connection).get_table_names())
        if "alembic_version" not in tables:
            if tables:
                raise LedgerError(f"{self.name} is another program's database; set TOKMAGIC_LEDGER to another file")
            return None
        revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
        if revision is not None and revision not in _REVISIONS:
            raise NewerLedgerError(
                f"{self.name} was written by a newer tokmagic (revision {revision}); "
                "upgrade tokmagic, or set TOKMAGIC_LEDGER to another file"
            )
        return str(revision) if revision is not None else None
