"""Runs whose ledger could not be reached when they ended: kept on this machine and delivered later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import make_url

from tokmagic.core.files import sqlite_url
from tokmagic.core.prompt import Message
from tokmagic.core.record import RunRecord
from tokmagic.errors import LedgerError
from tokmagic.ledgers.store import Ledger

_PATIENCE_S = 10.0
_PORT = 5432


def files_in(home: Path) -> list[Path]:
    """The files with what is kept for servers' ledgers, whatever their addresses."""
    return sorted(path for path in home.glob("undelivered*.sqlite") if path.is_file())


def kept_in(home: Path, url: str) -> Path:
    """The file for what is kept for a server's ledger: by host, port, database and schema, whoever logs in there."""
    given = make_url(url)
    host, port = (given.query.get(name, "") for name in ("host", "port"))
    place: tuple[object, ...] = (given.host or host, given.port or port or _PORT, given.database or given.username)
    if options := given.query.get("options"):  # they may name a schema
        place = (*place, options)
    return home / f"undelivered-{sha256(repr(tuple(map(str, place))).encode()).hexdigest()[:12]}.sqlite"


class Outbox:
    """A small ledger of its own in a file, emptied into the shared one as soon as that answers again."""

    def __init__(self, path: Path, *, store_text: bool) -> None:
        """Nothing is made before the first run has to be kept."""
        self._path = path
        self._store_text = store_text

    @classmethod
    def of(cls, home: Path, url: str, *, store_text: bool) -> Outbox:
        """What is kept for the ledger at an address: each has a file of its own, and nothing goes to another's.

        A file of earlier versions, which was one for all, goes to the first that is asked for.
        """
        path, before = kept_in(home, url), home / "undelivered.sqlite"
        made = cls(path, store_text=store_text)
        if before.exists() and not path.exists():
            with suppress(OSError, LedgerError), cls(before, store_text=store_text)._locked(), made._locked():
                if not path.exists():
                    before.rename(path)
        return made

    def __bool__(self) -> bool:
        """Whether something waits to be delivered."""
        return self._path.exists()

    def count(self) -> int:
        """How many runs wait. Raises LedgerError."""
        with self._locked():
            if not self:
                return 0
            with closing(self._box()) as box:
                return len(box.runs())

    def keep(self, record: RunRecord, prompt: Sequence[Message], answer: str | None) -> None:
        """Keep a settled run. Raises LedgerError."""
        with self._locked(), closing(self._box()) as box:
            box.settle(record, prompt, answer)

    def deliver(self, ledger: Ledger) -> int:
        """Settle what was kept in ``ledger``; return how many. Delivered twice it counts once. Raises LedgerError.

        While another process or thread delivers, this does nothing. What is kept meanwhile is delivered too: a run
        that ends has to wait for nobody's ledger.
        """
        delivered: set[str] = set()
        if not self:
            return 0
        with suppress(Timeout), self._lock("delivering", patience_s=0):
            while kept := self._undelivered(delivered):
                for record, prompt, answer in kept:
                    ledger.settle(record, prompt, answer)
                    delivered.add(record.run_id)
        return len(delivered)

    def _undelivered(self, delivered: Set[str]) -> list[tuple[RunRecord, Sequence[Message], str | None]]:
        """What is kept beside these; the file goes where that is nothing."""
        with self._locked():
            if not self:
                return []
            with closing(self._box()) as box:
                left = [record for record in box.runs() if record.run_id not in delivered]
                kept = [(record, *(box.texts(record.run_id) or ((), None))) for record in left]
            if not kept:
                for path in self._path.parent.glob(f"{self._path.name}*"):
                    if path.is_file() and path.suffix != ".lock":
                        path.unlink()
            return kept

    def _box(self) -> Ledger:
        return Ledger(sqlite_url(self._path), store_text=self._store_text)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else reads or writes the file meanwhile, which is never for long."""
        try:
            with self._lock("", patience_s=_PATIENCE_S):
                yield
        except Timeout:
            busy = f"another program has been busy with it for {_PATIENCE_S:.0f} s"
            raise LedgerError(f"{self._path} cannot be used: {busy}; end that program") from None

    @contextmanager
    def _lock(self, purpose: str, *, patience_s: float) -> Iterator[None]:
        """Raises Timeout, and LedgerError where there can be no lock."""
        name = ".".join(filter(None, (str(self._path), purpose, "lock")))
        lock = FileLock(name, mode=0o600)  # each block its own: no child may use its parent's
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.acquire(timeout=patience_s)
        except Timeout:  # an OSError too
            raise
        except OSError as error:
            raise LedgerError(f"{self._path} cannot be used: {error}; make its folder writable") from error
        try:
            yield
        finally:
            lock.release()
