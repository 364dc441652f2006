"""The runs of a session that go on, those that ended since somebody last looked, and the sums of all before them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tokmagic.core.record import RunRecord
from tokmagic.runs.live import View
from tokmagic.runs.run import Run, stop_all


class UnderWay:
    """For any thread. What ended is in the sums at once: a look in between would count it twice, or not at all."""

    def __init__(self) -> None:
        self._ended: list[RunRecord] = []
        # Of ended runs alone: each look adds what runs.
        self.sums = View(None, None, None, None, ())
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: what runs is the parent's, and stopping it would break its connections."""
        self._lock = threading.Lock()
        self._running: dict[str, Run] = {}
        self._settling = self._settlings = 0

    def begin(self, run: Run) -> None:
        """A run was let in."""
        with self._lock:
            self._running[run.record.run_id] = run

    def add_up(self, sums: View, ended: RunRecord | None, *, kept: bool) -> None:
        """Take new sums, with a run that has ended in them; it is ``kept`` for the next look if one may come."""
        with self._lock:
            self.sums = sums
            if ended is not None:
                self._running.pop(ended.run_id, None)
                if kept:
                    self._ended.append(ended)

    @contextmanager
    def settling(self) -> Iterator[None]:
        """A run's row is written meanwhile, and then the run is added up."""
        with self._lock:
            self._settling += 1
            self._settlings += 1
        try:
            yield
        finally:
            with self._lock:
                self._settling -= 1

    def settlings(self, *, own: bool) -> int | None:
        """How often runs have been settled; None while one is, besides one's ``own``.

        Sums that are read while this stays the same have no run that counts as running here.
        """
        with self._lock:
            return self._settlings if self._settling <= own else None

    def look(self, rows: Sequence[RunRecord] | None) -> tuple[list[RunRecord], Sequence[RunRecord], View]:
        """Snapshots of what runs, ``rows`` or those that ended since the last look without any, and the sums."""
        with self._lock:
            running = [run.snapshot() for run in self._running.values()]
            if rows is None:
                rows, self._ended = self._ended, []
            return running, rows, self.sums

    def ids(self) -> list[str]:
        """The ids of the runs that go on."""
        with self._lock:
            return list(self._running)

    def stop(self, run_id: str | None = None) -> None:
        """Stop a run, or all; one that has ended is left alone."""
        with self._lock:
            chosen = [run for name, run in self._running.items() if run_id in (None, name)]
        stop_all(chosen)
