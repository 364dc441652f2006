"""The rows of runs that go on, brought up to date together: what a killed process can lose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tokmagic.core.record import RunRecord

CHECKPOINT_S = 1.0
"""How often the rows are brought up to date."""
_RETRY_S = 30.0

Snapshot = Callable[[], RunRecord]


class Checkpoints:
    """For any thread. Runs beside each other share a transaction: each for itself would hold up what they run on."""

    def __init__(self, write: Callable[[list[RunRecord]], bool]) -> None:
        """``write`` brings these rows up to date, and says whether it could."""
        self._write = write
        self._lock = threading.Lock()
        self._going: dict[str, Snapshot] = {}
        self._due_s = 0.0

    @contextmanager
    def of(self, run_id: str, snapshot: Snapshot) -> Iterator[None]:
        """A run goes on within the block, and ``snapshot`` gives its row on any thread."""
        with self._lock:
            if not self._going:
                self._due_s = time.monotonic() + CHECKPOINT_S
            self._going[run_id] = snapshot
        try:
            yield
        finally:
            with self._lock:
                del self._going[run_id]

    def offer(self) -> None:
        """Bring the rows up to date if that is due; for a thread that has just heard of a token."""
        if time.monotonic() < self._due_s:
            return
        with self._lock:
            going = list(self._going.values())
        # A ledger that does not answer may take long to say so. Meanwhile no other thread waits for it, too.
        self._due_s = time.monotonic() + _RETRY_S
        again_s = CHECKPOINT_S
        try:
            if going and not self._write([snapshot() for snapshot in going]):
                again_s = _RETRY_S
        finally:
            self._due_s = time.monotonic() + again_s
