"""The line in which this process's writers wait for their turn at the ledger."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

LOCKED = "database is locked"


class Line:
    """So many write at a time; the others wait.

    How long the line is says nothing of the database: as long as it moves, they go on waiting.
    """

    def __init__(self, at_once: int, patience_s: float) -> None:
        self._at_once = at_once
        self._patience_s = patience_s
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: who stands in line, or writes, is a thread of the parent's."""
        self._turns = threading.Semaphore(self._at_once)
        self._moved_s = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Raises TimeoutError where nobody got through for as long as one is patient."""
        began_s = time.monotonic()
        while not self._turns.acquire(timeout=max(0.0, self._until_s(began_s) - time.monotonic())):
            if time.monotonic() >= self._until_s(began_s):
                raise TimeoutError(LOCKED)
        moves = True
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error):
            moves = False
            raise
        finally:
            if moves:
                self._moved_s = time.monotonic()
            self._turns.release()

    def _until_s(self, began_s: float) -> float:
        return max(began_s, self._moved_s) + self._patience_s
