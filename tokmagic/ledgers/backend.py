"""What differs between SQLite and PostgreSQL: connecting, transactions, liveness and what their errors mean."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tokmagic.core.files import expanded
from tokmagic.core.forks import before_fork, in_child, whole
from tokmagic.core.interrupts import uninterrupted
from tokmagic.errors import LedgerError, UsageError
from tokmagic.ledgers.line import LOCKED, Line
from tokmagic.ledgers.liveness import AdvisoryLocks, FileLocks, Liveness
from tokmagic.ledgers.way import POOLED, Way

BUSY_S = 10.0
"""How long to wait for other programs that write, where nobody says."""
# Everything that is decided under one lock for all of a user's runs; the number is tokmagic's own.
_ADMISSIONS = 0x746F6B6D
# What one process has under way at once at a server; more would only wait there, each with a connection.
_WRITERS = 4
_PATH = re.compile(r"[^:]+:///([^?]*)")


Execute = Callable[[str, Any], object]
"""Executes a driver's statement with its parameters."""


class Database(Protocol):
    """What a ledger gives its own modules."""

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that only reads."""
        ...

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that writes."""
        ...


class Backend:
    """One database."""

    name: str
    """What to call it in messages; never with a password."""
    engine: sa.Engine
    liveness: Liveness
    patience_s: float
    """How long to wait for others that write: for the database, and before that for this process's own threads."""

    def prepare(self) -> None:
        """Make ready what only an own database may be given, before its first migration."""

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with whole(), self.engine.connect() as connection:
            yield connection.execution_options(tokmagic_reading=True)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes."""
        with whole(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def quickly(self) -> Iterator[Execute]:
        """A transaction that writes statements as the driver takes them, for what every run does."""
        with self.writing() as connection:
            yield connection.exec_driver_sql

    def serialise(self, connection: sa.Connection, key: str) -> None:
        """Let no other transaction that asks for ``key`` go on before this one has ended."""

    def gone(self) -> bool:
        """Whether what was opened is there no more."""
        return False

    def damage(self) -> str | None:
        """What is wrong with how the database is kept, looked for in all of it; None where nothing is."""
        return None

    def explain(self, reason: str) -> str:
        """What an error of the database's driver means, and how to fix it."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def open_backend(url: str, patience_s: float | None = None) -> Backend:
    """Return the backend for a SQLAlchemy URL; nothing is connected yet. Raises LedgerError.

    ``patience_s`` is how long it waits for others that write, in seconds.
    """
    parsed, patience_s = _parsed(url), BUSY_S if patience_s is None else patience_s
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        return SqliteBackend(parsed, patience_s)
    if kind == "postgresql":
        return PostgresBackend(parsed, patience_s)
    raise LedgerError(f"{kind} ledgers are not supported; use a sqlite:/// or postgresql+psycopg:// URL")


class SqliteBackend(Backend):
    """A file in WAL mode, with one writer at a time: a transaction that writes has it for itself."""

    def __init__(self, url: sa.URL, patience_s: float) -> None:
        self.patience_s = patience_s
        # One file has one name here, however it is written: who lives is told by a folder beside it.
        self._path = _file_of(url)
        self.name = str(self._path)
        url = url.set(database=f"file:{quote(self.name)}" if _is_uri(url) else self.name)
        self.liveness = FileLocks(self._path.with_name(self._path.name + ".live"))
        self.engine = _create_engine(
            url, self.name, connect_args={"timeout": patience_s}, pool_timeout=patience_s, poolclass=sa.QueuePool
        )
        sa.event.listen(self.engine, "connect", _on_connect)
        sa.event.listen(self.engine, "begin", _on_begin)
        # One after another: SQLite lets those that wait try again now and then, and some of them never get through.
        self._line = Line(1, patience_s)
        self._connection: Any = None
        # SQLite keeps for the whole process what its connections have locked, which in a child is not locked at all.
        before_fork(self.close)
        in_child(self._renew)
        with mapped(self):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._path.exists():
                # Prompts are private: the mode must be right before the first byte is written.
                os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
            found = self._path.stat()
        self._opened = found.st_dev, found.st_ino
        if self._path.is_file() and found.st_nlink > 1:
            # Under each name SQLite would keep another journal, and neither would know of the other's runs.
            raise LedgerError(
                f"{self.name} has {found.st_nlink} names (hard links), and its runs would get lost; copy the file, or "
                "use a symbolic link"
            )

    def prepare(self) -> None:
        # Only now: a file that turned out to be somebody else's keeps its journal as it was.
        with whole(), closing(self.engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA journal_mode=WAL")

    def _renew(self) -> None:
        self._line.renew()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        # No interrupt reaches SQLite's wait for its lock, and one after it would leave that taken.
        with uninterrupted(), whole(), self._line.turn(), super().writing() as connection:
            yield connection

    @contextmanager
    def quickly(self) -> Iterator[Execute]:
        # By a connection of its own: asking SQLAlchemy's pool takes longer than SQLite's own work.
        with uninterrupted(), whole(), self._line.turn():
            if self._connection is None:
                raw = self.engine.raw_connection()
                raw.detach()
                self._connection = raw.dbapi_connection
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()  # does nothing where SQLite has done so itself
                raise

    def gone(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return (found.st_dev, found.st_ino) != self._opened

    def damage(self) -> str | None:
        with self.reading() as connection:
            said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalars().first()
        return None if said == "ok" else self.explain(f"malformed: {' '.join(str(said).split())}")

    def explain(self, reason: str) -> str:
        if "readonly" in reason or "read-only" in reason:
            return "is read-only; make it writable, or set TOKMAGIC_LEDGER to another file"
        if "locked" in reason:
            waited_s = self.patience_s
            return f"is locked by another program ({waited_s:g} s waited); end that program, or set TOKMAGIC_LEDGER"
        if "not a database" in reason or "malformed" in reason or "corrupt" in reason:
            return (
                f"is damaged ({reason}); move it away to start a new one, its runs may be saved with sqlite3 .recover"
            )
        if "unable to open" in reason:
            return "cannot be opened; check its folder's permissions, or set TOKMAGIC_LEDGER to another file"
        if "full" in reason:
            return "cannot grow, the disk is full; free some space"
        return f"cannot be used: {reason}; set TOKMAGIC_LEDGER to another file"

    def close(self) -> None:
        # Closing takes a lock of SQLite's own, too, which a child that is forked meanwhile would wait for for ever.
        with whole():
            with suppress(TimeoutError), self._line.turn():  # else it is written to, just now
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            super().close()


class PostgresBackend(Backend):
    """A server, shared by a team."""

    def __init__(self, url: sa.URL, patience_s: float) -> None:
        self.patience_s = patience_s
        if url.get_driver_name() == "psycopg2" and "+" not in url.drivername:
            url = url.set(drivername="postgresql+psycopg")
        self._way = Way(url, patience_s)
        self.name = self._way.name
        try:
            # Asked before use: a server that was started anew must not cost a run its row.
            self.engine = _create_engine(
                url, self.name, connect_args=self._way.arguments, pool_pre_ping=True, pool_timeout=patience_s
            )
        except ModuleNotFoundError as error:
            raise LedgerError(
                f"a PostgreSQL ledger needs the package {error.name}; run: pip install 'tokmagic[postgres]'"
            ) from error
        self.liveness = AdvisoryLocks(self.engine)
        self._line = Line(_WRITERS, patience_s)
        sa.event.listen(self.engine, "do_connect", self._way.connect)
        in_child(self._renew)

    def _renew(self) -> None:
        # A child may not use its parent's connections, nor say good-bye on them, nor keep them open.
        self._way.renew()
        self.engine.dispose(close=False)
        self._line.renew()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        # An interrupt may come between any two steps of the main thread, which is one writer more.
        alone = threading.current_thread() is threading.main_thread()
        with nullcontext() if alone else self._line.turn(), super().writing() as connection:
            yield connection

    def serialise(self, connection: sa.Connection, key: str) -> None:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADMISSIONS, sa.func.hashtext(key))))

    def explain(self, reason: str) -> str:
        if "password authentication" in reason or "no password" in reason or "role" in reason:
            return "refuses this user or password; fix TOKMAGIC_LEDGER"
        if "startup parameter" in reason:
            return POOLED
        if "lock timeout" in reason or reason == LOCKED:
            return f"is locked by another program ({self.patience_s:g} s waited); end that program"
        if "read-only" in reason or "permission denied" in reason:
            return "does not allow this user to write; ask its owner for permission"
        return f"cannot be used: {reason}; check that the server runs, or set TOKMAGIC_LEDGER"


@contextmanager
def mapped(backend: Backend) -> Iterator[None]:
    """Turn what the database's driver raises into LedgerError, in one line and without credentials."""
    try:
        yield
    except OverflowError as error:
        raise LedgerError(f"{backend.name} cannot store this run: a count or a cost exceeds 64 bits") from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        told: object = error.orig if isinstance(error, DBAPIError) and error.orig else error
        if isinstance(error, PoolTimeoutError):  # all connections wait
            told = LOCKED
        raise LedgerError(f"{backend.name} {backend.explain(' '.join(str(told).split()))}") from error


def file_of(url: str) -> Path | None:
    """The file of a ledger, without links; None for one on a server. Raises LedgerError."""
    parsed = _parsed(url)
    return _file_of(parsed) if parsed.get_backend_name() == "sqlite" else None


def is_on_a_server(url: str) -> bool:
    """Whether an address is that of a server, which may be away for a while; one that is no ledger's never answers."""
    try:
        return _parsed(url).get_backend_name() == "postgresql"
    except LedgerError:
        return False


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        # SQLAlchemy before 2.1 leaves what is written out as it is.
        path = _PATH.match(url) if parsed.get_backend_name() == "sqlite" else None
        return parsed if path is None else parsed.set(database=unquote(path[1]))
    except (ArgumentError, ValueError) as error:
        # A password that stands in the URL must not be shown.
        shown = re.sub(r"//[^/@]*@", "//…@", url)
        why = f" ({error})" if isinstance(error, ValueError) and url else ""
        raise LedgerError(
            f"{shown!r} is not a database URL{why}; give one such as sqlite:////home/me/ledger.sqlite"
        ) from None


def _file_of(url: sa.URL) -> Path:
    name = url.database or ""
    if not name or ":memory:" in name or "memory" in url.query.get("mode", ""):
        raise LedgerError("the ledger must be a file; give a URL such as sqlite:////home/me/ledger.sqlite")
    name = unquote(name.removeprefix("file:")) if _is_uri(url) else name.removeprefix("file:")
    try:
        return Path(os.path.realpath(expanded(name)))
    except (UsageError, OSError, ValueError) as error:  # a loop of links, a NUL
        raise LedgerError(f"{name} cannot be found: {error}; set TOKMAGIC_LEDGER to another file") from None


def _is_uri(url: sa.URL) -> bool:
    """Whether SQLite itself reads the name as a URI, with its own options."""
    return url.query.get("uri") == "true" and (url.database or "").startswith("file:")


def _create_engine(url: sa.URL, name: str, **options: Any) -> sa.Engine:
    try:
        return sa.create_engine(url, **options)
    except (ArgumentError, ValueError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "psycopg":
            raise
        reason = str(error).splitlines()[0]
        raise LedgerError(f"the ledger {name} cannot be used: {reason}; fix TOKMAGIC_LEDGER") from error


def _on_connect(connection: Any, _record: Any) -> None:
    # The driver must not open transactions of its own: _on_begin says which kind it is to be.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=NORMAL")


def _on_begin(connection: sa.Connection) -> None:
    # A deferred transaction that reads and then writes fails with "locked" at once, whatever the timeout.
    reading = connection.get_execution_options().get("tokmagic_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
