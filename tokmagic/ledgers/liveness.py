"""Which processes still live, and what becomes of the runs of those that do not.

Each holds a lock that the operating system or the database releases at its death.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from tokmagic.core.forks import in_child, let_forks_wait, whole
from tokmagic.core.interrupts import uninterrupted
from tokmagic.core.record import REMOTE
from tokmagic.ledgers.schema import LIVE, RELEASED, runs, to_record
from tokmagic.prices import bill

let_forks_wait()
_DIED = {"status": "interrupted", "finish_reason": "interrupted", "error": "the kernel ended during the run"}


class Liveness(Protocol):
    """Owners of running rows."""

    def owner(self) -> str:
        """This process's owner id; its lock is taken at the first call. Raises OSError or SQLAlchemyError."""
        ...

    def is_dead(self, owner: str, connection: sa.Connection) -> bool:
        """Whether the process that wrote ``owner`` has ended; asked within a transaction of the ledger."""
        ...

    def close(self) -> None:
        """Let go of this process's lock."""
        ...


class FileLocks:
    """Owners as locked files in ``folder``: for a ledger that is a file on one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = ""
        self._lock: FileLock | None = None
        self._guard = threading.Lock()
        in_child(self._renew)

    def _renew(self) -> None:
        # A forked child is a process of its own. Its parent's lock must not be let go of: both have it in one file.
        self._parents = self._lock
        self._owner, self._lock, self._guard = "", None, threading.Lock()

    def owner(self) -> str:
        with self._guard:
            if self._lock is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._owner, self._lock = self._locked()
                self._sweep(self._owner)
            return self._owner

    def _locked(self) -> tuple[str, FileLock]:
        """A new owner, whose file is locked."""
        while True:
            owner = uuid.uuid4().hex
            lock = FileLock(self._path(owner), thread_local=False, mode=0o600)
            # Another process that looks for the dead may find the file before it is locked, and take it away.
            with suppress(Timeout):
                lock.acquire(blocking=False)
                if self._path(owner).exists():
                    return owner, lock

    def is_dead(self, owner: str, connection: sa.Connection | None = None) -> bool:
        del connection  # files tell
        if owner == self._owner:
            return False
        path = self._path(owner)
        if not path.exists():
            return True
        try:
            with FileLock(path, thread_local=False, blocking=False):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def close(self) -> None:
        """The lock stays until the process ends: its rows may be written by another opening of the same file."""

    def _sweep(self, but: str) -> None:
        """Remove what ended processes left behind; a missing file means a dead owner."""
        for path in self._folder.glob("*.lock"):
            if path.stem != but:
                self.is_dead(path.stem)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"


class AdvisoryLocks:
    """Owners as advisory locks, each held by a connection of its process: for a PostgreSQL server."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._owner = ""
        self._connection: sa.Connection | None = None
        self._guard = threading.Lock()
        in_child(self._renew)

    def _renew(self) -> None:
        self._parents = self._connection
        self._owner, self._connection, self._guard = "", None, threading.Lock()

    def owner(self) -> str:
        # An interrupt would close the connection, and with it this process would pass for dead while its runs go on.
        with uninterrupted(), whole(), self._guard:
            if not self._holds():
                owner = uuid.uuid4().hex
                # Never given back: a lock of the session lives as long as its connection.
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(sa.select(sa.func.pg_advisory_lock(_key(owner))))
                self._owner, self._connection = owner, connection
            return self._owner

    def is_dead(self, owner: str, connection: sa.Connection) -> bool:
        # By the connection that is at hand: where many threads wait for each other's transactions, another one may
        # never be free. Shared, so that two processes that look at once do not take each other for the owner.
        free = sa.func.pg_try_advisory_xact_lock_shared(_key(owner))
        return bool(connection.execute(sa.select(free)).scalar_one())

    def close(self) -> None:
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.invalidate()
                self._connection.close()
            self._connection = None

    def _holds(self) -> bool:
        """Whether the connection lives that holds the lock: a server that was started anew has forgotten it."""
        try:
            return self._connection is not None and bool(self._connection.execute(sa.select(1)).scalar_one())
        except SQLAlchemyError:
            return False


def _key(owner: str) -> int:
    """An owner id as the 64-bit signed integer that names an advisory lock."""
    return int.from_bytes(bytes.fromhex(owner)[:8], "big", signed=True)


def dead_owners(connection: sa.Connection, liveness: Liveness) -> list[str]:
    """Processes that have ended and left running rows."""
    owners = connection.execute(sa.select(runs.c.owner).where(LIVE).distinct()).scalars()
    return [owner for owner in owners.all() if owner is not None and liveness.is_dead(owner, connection)]


def reap(connection: sa.Connection, liveness: Liveness) -> int:
    """Settle the runs of dead processes with the counts of their last moments; return how many there were.

    It releases their holds.
    """
    dead = dead_owners(connection, liveness)
    if not dead:
        return 0
    theirs = (LIVE, runs.c.owner.in_(dead))
    # A server may have gone on after the last thing that was heard of it: it may bill more than the row says.
    billed = sa.select(runs).where(*theirs, runs.c.engine.in_(REMOTE), runs.c.cost_pico.is_not(None))
    for row in connection.execute(billed).mappings().all():
        record = to_record(dict(row))
        cut = bill(record.reading.usage, record.reading.device_s, record.rates, cut=True)
        marks = {"cost_source": cut.source, "cost_bound": cut.bound}
        connection.execute(runs.update().where(runs.c.id == row["id"]).values(**marks))
    return connection.execute(runs.update().where(*theirs).values(**_DIED, **RELEASED)).rowcount
