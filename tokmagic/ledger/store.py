"""Opening, writing and asking the ledger."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from tokmagic.errors import LedgerError, NewerLedgerError
from tokmagic.events import Message, RunRecord, Selection, Totals
from tokmagic.ledger.liveness import Liveness
from tokmagic.ledger.schema import HEAD, runs, storable, texts, to_record, to_row, utc_text
from tokmagic.prices import from_picodollars

_BUSY_S = 10.0
_MIGRATIONS = Path(__file__).parent / "migrations"
# Dollars are summed in two parts, since a sum of picodollars alone leaves 64 bits at nine million dollars.
_CHUNK = 1_000_000
ALL = Selection()


class Ledger:
    """One database of runs, safe to use from several threads and processes at once.

    Every method raises LedgerError where the database cannot do its part.
    """

    def __init__(self, url: str, *, store_text: bool = True) -> None:
        """Open the ledger at a SQLAlchemy URL, creating or migrating it as needed.

        A ledger written by a newer tokmagic raises NewerLedgerError and is left untouched, as is a file
        that is no ledger.
        """
        self._store_text = store_text
        parsed = _parsed(url)
        self._path = _file_of(parsed)
        self._name = str(self._path)
        self._liveness = Liveness(self._path.with_name(self._path.name + ".live"))
        with self._mapped():
            self._create_file()
            self._engine = _engine(parsed)
            self._migrate()

    @property
    def name(self) -> str:
        """What to call this ledger in messages: its file."""
        return self._name

    def begin(self, record: RunRecord, prompt: Sequence[Message] = ()) -> None:
        """Insert a run as running."""
        with self._writing() as connection:
            connection.execute(runs.insert().values(**to_row(record), owner=self._liveness.owner()))
            if self._store_text:
                connection.execute(texts.insert().values(run_id=record.run_id, prompt=_chat(prompt)))

    def progress(self, record: RunRecord) -> None:
        """Write a running run's counts so far, so that a killed process loses at most the last moments."""
        with self._writing() as connection:
            connection.execute(runs.update().where(runs.c.run_id == record.run_id).values(**to_row(record)))

    def settle(self, record: RunRecord, prompt: Sequence[Message] = (), answer: str | None = None) -> None:
        """Write a run's end. Where its beginning could not be written the whole row is written now."""
        with self._writing() as connection:
            row = to_row(record)
            updated = connection.execute(runs.update().where(runs.c.run_id == record.run_id).values(**row, owner=None))
            if updated.rowcount == 0:
                connection.execute(runs.insert().values(**row))
            if not self._store_text:
                return
            answer = None if answer is None else storable(answer)
            changed = connection.execute(texts.update().where(texts.c.run_id == record.run_id).values(answer=answer))
            if changed.rowcount == 0:
                connection.execute(texts.insert().values(run_id=record.run_id, prompt=_chat(prompt), answer=answer))

    def reap(self) -> int:
        """Mark runs whose process died as interrupted; return how many. Called before each look."""
        running = runs.c.status == "running"
        with self._reading() as connection:
            owners = connection.execute(sa.select(runs.c.owner).where(running).distinct()).scalars().all()
        with self._mapped():
            dead = [owner for owner in owners if owner is not None and self._liveness.is_dead(owner)]
        if not dead:
            return 0
        with self._writing() as connection:
            ended = (
                runs.update()
                .where(running, runs.c.owner.in_(dead))
                .values(
                    status="interrupted",
                    finish_reason="interrupted",
                    error="the kernel ended during the run",
                    owner=None,
                )
            )
            return connection.execute(ended).rowcount

    def runs(self, where: Selection = ALL, *, limit: int | None = None) -> list[RunRecord]:
        """Return runs in the order in which they started, the newest ``limit`` of them."""
        self.reap()
        query = sa.select(runs).where(*_where(where)).order_by(runs.c.id.desc())
        with self._reading() as connection:
            found = connection.execute(query if limit is None else query.limit(limit)).mappings().all()
        return [to_record(row) for row in reversed(found)]

    def latest_by_cell(self, where: Selection) -> list[RunRecord]:
        """Return each cell's latest run, oldest first."""
        self.reap()
        newest = sa.select(sa.func.max(runs.c.id)).where(*_where(where)).group_by(runs.c.cell_id)
        query = sa.select(runs).where(runs.c.id.in_(newest)).order_by(runs.c.id)
        with self._reading() as connection:
            return [to_record(row) for row in connection.execute(query).mappings().all()]

    def totals(self, where: Selection) -> Totals:
        """Return the sums over runs that are no longer running."""
        unpriced = sa.and_(runs.c.cost_pico.is_(None), runs.c.status != "refused")
        query = sa.select(
            sa.func.count(),
            sa.func.sum(runs.c.cost_pico.op("/")(_CHUNK)),
            sa.func.sum(runs.c.cost_pico.op("%")(_CHUNK)),
            sa.func.coalesce(sa.func.sum(runs.c.input_tokens), 0),
            sa.func.coalesce(sa.func.sum(runs.c.output_tokens), 0),
            sa.func.coalesce(sa.func.sum(sa.case((unpriced, 1), else_=0)), 0),
        ).where(runs.c.status != "running", *_where(where))
        with self._reading() as connection:
            count, high, low, input_tokens, output_tokens, without = connection.execute(query).one()
        cost = None if high is None else from_picodollars(int(high) * _CHUNK + int(low))
        return Totals(cost, int(input_tokens), int(output_tokens), int(count), int(without))

    def texts(self, run_id: str) -> tuple[list[Message], str | None] | None:
        """Return a run's prompt and answer, or ``None`` where they were not kept."""
        with self._reading() as connection:
            row = connection.execute(sa.select(texts).where(texts.c.run_id == run_id)).mappings().one_or_none()
        if row is None:
            return None
        chat = json.loads(row["prompt"]) if row["prompt"] else []
        return [Message(role, content) for role, content in chat], row["answer"]

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _create_file(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._path.exists():
            # Prompts are private: the mode must be right before the first byte is written.
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))

    def _migrate(self) -> None:
        with self._reading() as connection:
            if self._revision(connection) == HEAD:
                return
        from alembic import command
        from alembic.config import Config

        with self._mapped(), closing(self._engine.raw_connection()) as raw:
            # Only now: a file that turned out to be somebody else's keeps its journal as it was.
            raw.cursor().execute("PRAGMA journal_mode=WAL")
        with self._writing() as connection:
            if self._revision(connection) == HEAD:  # another process was quicker
                return
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _revision(self, connection: sa.Connection) -> str | None:
        tables = set(sa.inspect(connection).get_table_names())
        if "alembic_version" not in tables:
            if tables:
                raise LedgerError(f"{self._name} is a database of something else; set TOKMAGIC_LEDGER to another file")
            return None
        revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
        known = {path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")}
        if revision is not None and revision not in known:
            raise NewerLedgerError(
                f"{self._name} was written by a newer tokmagic (revision {revision}); "
                "upgrade tokmagic, or set TOKMAGIC_LEDGER to another file"
            )
        return str(revision) if revision is not None else None

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._mapped(), self._engine.connect() as connection:
            yield connection.execution_options(tokmagic_reading=True)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._mapped(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise LedgerError(f"{self._name} {_explain(str(error.orig))}") from error
        except sqlite3.Error as error:
            raise LedgerError(f"{self._name} {_explain(str(error))}") from error
        except OverflowError as error:
            raise LedgerError(f"{self._name} cannot hold this run: a count or a cost is beyond 64 bits") from error
        except (SQLAlchemyError, OSError) as error:
            raise LedgerError(f"{self._name} cannot be used: {error}; set TOKMAGIC_LEDGER to another file") from error


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        why = f" ({error})" if isinstance(error, ValueError) and url else ""
        raise LedgerError(
            f"{url!r} is no database URL{why}; give one such as sqlite:////home/me/ledger.sqlite"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        raise LedgerError(f"{parsed.get_backend_name()} ledgers are not built yet; use a sqlite:/// URL")
    return parsed


def _file_of(url: sa.URL) -> Path:
    name = url.database or ""
    if not name or ":memory:" in name or "memory" in url.query.get("mode", ""):
        raise LedgerError("the ledger must be a file; give a URL such as sqlite:////home/me/ledger.sqlite")
    try:
        return Path(name.removeprefix("file:")).expanduser()
    except RuntimeError as error:
        raise LedgerError(f"{name} cannot be found: {error}; set TOKMAGIC_LEDGER to another file") from None


def _engine(url: sa.URL) -> sa.Engine:
    try:
        engine = sa.create_engine(url, connect_args={"timeout": _BUSY_S})
    except (ArgumentError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise LedgerError(f"the ledger {url!r} cannot be used: {reason}; mend TOKMAGIC_LEDGER") from error
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def _chat(prompt: Sequence[Message]) -> str:
    return storable(json.dumps([[message.role, message.content] for message in prompt], ensure_ascii=False))


def _where(where: Selection) -> list[Any]:
    conditions = []
    if where.notebook is not None:
        conditions.append(runs.c.notebook == storable(where.notebook))
    if where.session is not None:
        conditions.append(runs.c.session == where.session)
    if where.since is not None:
        conditions.append(runs.c.started_at >= utc_text(where.since))
    return conditions


def _on_connect(connection: Any, _record: Any) -> None:
    # The driver must not open transactions of its own: _on_begin says which kind it is to be.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=NORMAL")


def _on_begin(connection: sa.Connection) -> None:
    # A deferred transaction that reads and then writes fails with "locked" at once, whatever the timeout.
    reading = connection.get_execution_options().get("tokmagic_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _explain(reason: str) -> str:
    if "readonly" in reason or "read-only" in reason:
        return "is read-only; make it writable, or set TOKMAGIC_LEDGER to another file"
    if "locked" in reason:
        return f"is locked by another program ({_BUSY_S:g} s waited); end that program, or set TOKMAGIC_LEDGER"
    if "not a database" in reason or "malformed" in reason or "corrupt" in reason:
        return f"is damaged ({reason}); move it away to start a new one, its runs may be saved with sqlite3 .recover"
    if "unable to open" in reason:
        return "cannot be opened; check its folder's permissions, or set TOKMAGIC_LEDGER to another file"
    if "full" in reason:
        return "cannot grow, the disk is full; free some space"
    return f"cannot be used: {reason}; set TOKMAGIC_LEDGER to another file"
