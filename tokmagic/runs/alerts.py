"""Alerts when budgets of keys, days and months are used up to 50, 80 and 100 %: a line in the log, and a webhook.

They are looked for when a run has been settled, on a thread of their own, so that no run waits for one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.config import REPRODUCING
from tokmagic.core.forks import in_child, whole
from tokmagic.core.keys import Key
from tokmagic.core.money import plain
from tokmagic.core.record import RunRecord
from tokmagic.errors import EndpointError
from tokmagic.formatting import numbers
from tokmagic.prices.budgets import this_month, title, today

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger

LOG = logging.getLogger("tokmagic.alerts")
PERCENTS = (50, 80, 100)
"""Of a cap, what is spent when an alert is sent: what active runs hold may be given back."""
# Between two looks, however many runs end meanwhile.
_PAUSE_S = 1.0
# Before a webhook that failed is tried again.
_AGAIN_S = (1.0, 5.0)
_LAST_WAIT_S = 15.0
_MOST_TOLD = 10_000

_Whose = tuple[str | None, str | None, bool, datetime]


class Alerts:
    """The alerts of a process: ``after`` each run it is looked whether any is due. For any thread."""

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        webhook: Callable[[], str],
        own: Callable[[], Sequence[Budget]] = tuple,
        *,
        logs: bool = True,
    ) -> None:
        """``webhook`` gives the address to post to, or an empty text; ``own`` gives budgets that stand in no ledger.

        Without ``logs`` nothing is looked for where there is no address.
        """
        self._ledger = ledger
        self._webhook = webhook
        self._own = own
        self._logs = logs
        self._begin_anew()
        in_child(self._begin_anew)

    def _begin_anew(self) -> None:
        # What was due in the parent is the parent's to send.
        self._due: dict[_Whose, RunRecord] = {}
        self._told: set[tuple[Budget, str | None, str, int]] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def after(self, record: RunRecord) -> None:
        """Look, soon and elsewhere, whether a settled run brought a budget over a threshold. Returns at once."""
        # What a reproduction spends counts in nobody's day or month.
        if os.environ.get(REPRODUCING) or not (self._logs or self._webhook()):
            return
        with self._lock:
            # Of many runs with the same budgets, of the same day, the last one will do.
            self._due[record.user, record.key, record.duplicate, today(record.started_at)] = record
            if self._thread is None:
                self._closing.clear()
                self._thread = threading.Thread(target=self._work, name="tokmagic-alerts", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Send what is due, for as long as that may take at a process's end."""
        self._closing.set()
        thread = self._thread
        if thread is not None:
            thread.join(_LAST_WAIT_S)

    def _work(self) -> None:
        while True:
            with self._lock:
                due, self._due = self._due, {}
                if not due:
                    self._thread = None
                    return
            for record in due.values():
                try:
                    self._look(record)
                except Exception as error:
                    # The next run's look finds what this one could not.
                    LOG.error("budgets could not be looked at for alerts: %s", error)
            self._closing.wait(_PAUSE_S)

    def _look(self, record: RunRecord) -> None:
        ledger, now, began = self._ledger(), datetime.now(), record.started_at
        kept = ledger.budgets(record.user, None, record.key, duplicate=record.duplicate)
        own = [] if record.duplicate else self._own()
        held = [budget for budget in (*kept, *own) if budget.scope in ("key", "day", "month")]
        for it in ledger.standings(held, record.user, now, began):
            # It counts in the one in which it began, which may be over.
            period = _period(it.budget, min(began, now.astimezone()))
            for percent in PERCENTS:
                told = (it.budget, record.user, period, percent)
                if not _reached(it, percent) or told in self._told:
                    continue
                mine = ledger.take_alert(it.budget, record.user, period, percent)
                # By this process or another one: either way it is not asked again.
                if len(self._told) >= _MOST_TOLD:
                    self._told.clear()
                self._told.add(told)
                if mine:
                    (sure,) = ledger.with_uncertainty([it], record.user, now, began)
                    self._send(_alert(ledger, sure, record, period, percent))

    def _send(self, alert: dict[str, Any]) -> None:
        LOG.warning("%s", alert["text"])
        webhook = self._webhook()
        if not webhook:
            return
        with whole():
            # start-up: the HTTP client, which most sessions never need.
            from tokmagic.engines.endpoint.webhook import post
        for again_s in (*_AGAIN_S, None):
            try:
                post(webhook, alert)
                return
            except EndpointError as error:
                if again_s is None:
                    LOG.error("the alert was not posted: %s; check TOKMAGIC_ALERT_WEBHOOK", error)
                else:
                    self._closing.wait(again_s)


def _reached(it: Standing, percent: int) -> bool:
    """Whether so much of a cap is spent, in USD or in tokens; exactly, since a float may lie below it."""
    usd, tokens = it.budget.usd, it.budget.tokens
    in_usd = usd is not None and it.spent_usd * 100 >= usd * percent
    return in_usd or (tokens is not None and it.spent_tokens * 100 >= tokens * percent)


def _period(budget: Budget, now: datetime) -> str:
    """The local day or month that a budget counts at ``now``; ``total`` for one that counts all."""
    if budget.scope == "key":
        return "total"
    return f"{today(now):%Y-%m-%d}" if budget.scope == "day" else f"{this_month(now):%Y-%m}"


def _alert(ledger: Ledger, it: Standing, record: RunRecord, period: str, percent: int) -> dict[str, Any]:
    """What a webhook gets: money as decimal strings, unknown and no cap as null; ``text`` is for people."""
    budget = it.budget
    key = next((key for key in ledger.keys.all() if key.key_id == budget.key), None)
    return {
        "text": _text(it, key, record, period, percent),
        "budget": budget.scope,
        "period": period,
        "percent": percent,
        "share": float(_share(it)),
        "key": None if key is None else key.name,
        "user": record.user if key is None else key.user,
        "team": None if key is None else key.team,
        "spent_usd": plain(it.spent_usd),
        "cap_usd": plain(budget.usd),
        "spent_tokens": it.spent_tokens,
        "cap_tokens": budget.tokens,
    }


def _share(it: Standing) -> Decimal:
    shares = [it.spent_usd / it.budget.usd] if it.budget.usd else []
    if it.budget.tokens:
        shares.append(Decimal(it.spent_tokens) / it.budget.tokens)
    return max(shares)


def _text(it: Standing, key: Key | None, record: RunRecord, period: str, percent: int) -> str:
    budget, used = it.budget, []
    if budget.usd is not None:
        used.append(f"{numbers.usd_marked(it.spent_usd, it.precision)} of {numbers.usd(budget.usd)}")
    if budget.tokens is not None:
        used.append(f"{it.spent_tokens:,} of {numbers.counted(budget.tokens, 'token')}")
    whose = f"key {key.name}" if key is not None else record.user or "runs without a user"
    return f"{percent} % of {title(budget)} is spent ({whose}, {period}): {', '.join(used)}"
