"""Many requests that are one row of the ledger: let in by the budgets together, and settled with their sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from tokmagic.core.budget import Hold, Used
from tokmagic.core.interrupts import uninterrupted
from tokmagic.core.record import Reading, RunRecord, Status
from tokmagic.runs.budget_guard import BudgetGuard
from tokmagic.runs.recorder import Recorder


class Lump:
    """One row for requests whose own rows nobody would read: what they use together, never their texts."""

    def __init__(
        self, record: RunRecord, guard: BudgetGuard, recorder: Recorder, ended: Callable[[RunRecord], None]
    ) -> None:
        """``ended`` is told of the settled row."""
        self.record = record
        self._ended = ended
        self._guard = guard
        self._recorder = recorder
        self._begun = False

    def begin(self, hold: Hold) -> None:
        """Insert the row as running, with the most that all of it can use set aside. Raises BudgetError."""
        begun = self._guard.admit_hold(self.record, (), hold)
        self._begun = begun or self._recorder.write(lambda ledger: ledger.begin(self.record, (), hold))

    def covers(self, used: Callable[[], Used]) -> bool:
        """Whether the budgets let it go on, now that it has used so much."""
        return self._guard.covers(used, self.record)

    def settle(
        self, status: Status, reading: Reading, *, energy_j: float | None = None, error: str | None = None
    ) -> None:
        """Write the row's end with the sums of what was used."""
        now = datetime.now(UTC)
        ended = replace(self.record, status=status, reading=reading, finished_at=now, energy_j=energy_j, error=error)
        if energy_j is not None:
            # The whole device's, whoever else uses it.
            ended = replace(ended, energy_source="measured", energy_bound="at_most")
        self.record = ended
        with uninterrupted():
            self._recorder.settle(ended, (), "", begun=self._begun)
            self._ended(ended)
