"""Runs whose ledger could not be reached when they ended: kept on this machine and delivered later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tokmagic.core.files import sqlite_url
from tokmagic.core.prompt import Message
from tokmagic.core.record import RunRecord
from tokmagic.errors import LedgerError
from tokmagic.ledgers.store import Ledger

_PATIENCE_S = 10.0


class Outbox:
    """A small ledger of its own in a file, emptied into the shared one as soon as that answers again."""

    def __init__(self, path: Path, *, store_text: bool) -> None:
        """Nothing is made before the first run has to be kept."""
        self._path = path
        self._store_text = store_text

    def __bool__(self) -> bool:
        """Whether something waits to be delivered."""
        return self._path.exists()

    def keep(self, record: RunRecord, prompt: Sequence[Message], answer: str | None) -> None:
        """Keep a settled run. Raises LedgerError."""
        with self._locked(), closing(self._box()) as box:
            box.settle(record, prompt, answer)

    def deliver(self, ledger: Ledger) -> int:
        """Settle what was kept in ``ledger``; return how many. Delivered twice it counts once. Raises LedgerError."""
        with self._locked():
            if not self:
                return 0
            with closing(self._box()) as box:
                kept = box.runs()
                for record in kept:
                    prompt, answer = box.texts(record.run_id) or ((), None)
                    ledger.settle(record, prompt, answer)
            for path in self._path.parent.glob(f"{self._path.name}*"):
                if path.is_file() and path.suffix != ".lock":
                    path.unlink()
            return len(kept)

    def _box(self) -> Ledger:
        return Ledger(sqlite_url(self._path), store_text=self._store_text)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(f"{self._path}.lock", mode=0o600)  # each block its own: no child may use its parent's
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE_S)
        except (OSError, Timeout) as error:
            raise LedgerError(f"{self._path} cannot be used: {error}; make its folder writable") from error
        try:
            yield
        finally:
            lock.release()
