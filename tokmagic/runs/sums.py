"""The sums of a session's ended runs and how its budgets stand, as its ledger tells them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from tokmagic.core.record import RunRecord, Selection, Sum
from tokmagic.errors import LedgerError
from tokmagic.prices.budgets import today
from tokmagic.runs.budgets_here import BudgetsHere
from tokmagic.runs.head import Head
from tokmagic.runs.live import View
from tokmagic.runs.under_way import UnderWay

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

PAUSE = 9.0
"""So many times as long as reading the sums took, they are not read again: a tenth of the time at most."""


class Sums:
    """For any thread. They are kept in ``under_way``, beside the runs that are not in them yet."""

    def __init__(self, session: Session, under_way: UnderWay, limits: BudgetsHere, head: Head) -> None:
        self._session = session
        self._under_way = under_way
        self._limits = limits
        self._head = head
        self._stale, self._due = False, 0.0
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child."""
        self.lock = threading.RLock()  # one at a time: what was read last must be kept last

    def follow(self, ended: RunRecord | None = None) -> None:
        """A run began or ended: bring the sums up to date, for whoever listens.

        Reading them takes longer the more runs there are, so of many runs in short order most are added here, and the
        next look at the rows reads them anew.
        """
        listens = self._session.channel.listens
        with self.lock:
            sums = self._under_way.sums
            if listens and time.monotonic() >= self._due:
                self.read(ended)
                return
            self._stale = True
            self._under_way.add_up(_with(sums, ended), ended, kept=listens)

    def catch_up(self) -> None:
        """Somebody looks: read what was only added, if that is due or nothing runs any more; and on another day all."""
        due = self._stale and (time.monotonic() >= self._due or not self._under_way.ids())
        if due or self._under_way.sums.day_began not in (None, today()):
            self.read()

    def read(self, ended: RunRecord | None = None) -> None:
        """Read sums and budgets; where the ledger does not tell those of before stay."""
        session = self._session
        with self.lock:
            began_s, self._stale = time.monotonic(), False
            sums, before = self._under_way.sums, self._under_way.settlings(own=ended is not None)
            with suppress(LedgerError):
                ledger, day = session.ledger(), Selection(since=today(), user=session.user)
                standings = tuple(ledger.standings(self._limits.known, session.user, datetime.now()))
                notebook = session.selection
                totals = ledger.totals(notebook), ledger.totals(day)
                alone = before is not None and before == self._under_way.settlings(own=ended is not None)
                if alone:
                    sums = View(None, None, *totals, (), standings, day_began=day.since)
                elif sums.day_began != day.since:
                    # There are none of before, and what counts as running here may have ended there.
                    going, self._stale = self._under_way.ids(), True
                    totals = ledger.totals(notebook, going), ledger.totals(day, going)
                    sums = _with(View(None, None, *totals, (), standings, day_began=day.since), ended)
                else:  # it may have a run in it that is still to be added up, and would then count twice
                    sums, self._stale = _with(replace(sums, budgets=standings), ended), True
                if session.channel.listens:
                    self._head.read_energy(ledger, notebook)
            # Where nobody listens nobody would ever take it from there.
            self._under_way.add_up(sums, ended, kept=session.channel.listens)
            self._due = time.monotonic() + PAUSE * (time.monotonic() - began_s)


def _with(sums: View, ended: RunRecord | None) -> View:
    """Sums with a run that has ended since they were read."""
    notebook, day = with_runs(sums, [] if ended is None else [ended])
    return replace(sums, notebook_totals=notebook, day_totals=day)


def with_runs(sums: View, runs: Sequence[RunRecord]) -> tuple[Sum | None, Sum | None]:
    """The sums of the notebook and of the day with runs that are in neither; a day has those that began in it."""
    began = sums.day_began
    of_day = [it for it in runs if began is None or it.started_at >= began]
    notebook, day = sums.notebook_totals, sums.day_totals
    return (
        None if notebook is None else notebook + Sum.of(runs),
        None if day is None else day + Sum.of(of_day),
    )
