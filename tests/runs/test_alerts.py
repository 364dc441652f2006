"""Alerts: each threshold once in each period, whoever sees it; no run waits, and a webhook that fails is given up."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers.test_store import run
from tests.servers import Asked, Endpoint, Wire, serve
from tokmagic.core.budget import Budget, Hold, Scope
from tokmagic.core.config import REPRODUCING
from tokmagic.core.days import start_of_day
from tokmagic.core.keys import Key
from tokmagic.core.money import Cost, Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import Reading, RunRecord
from tokmagic.engines.endpoint import webhook
from tokmagic.errors import UsageError
from tokmagic.ledgers import Ledger
from tokmagic.runs import alerts
from tokmagic.runs.alerts import Alerts
from tokmagic.runs.session import Session

DAY = f"{datetime.now():%Y-%m-%d}"
MONTH = f"{datetime.now():%Y-%m}"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_PAUSE_S", 0.0)
    monkeypatch.setattr(alerts, "_AGAIN_S", (0.01, 0.01))
    # A busy machine may take longer than a person's webhook and a kernel's end are given.
    monkeypatch.setattr(alerts, "_LAST_WAIT_S", 120.0)
    monkeypatch.setattr(webhook, "_TIMEOUT_S", 60.0)


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with closing(Ledger(database_url)) as opened:
        yield opened


@pytest.fixture
def hook() -> Iterator[Endpoint]:
    with serve(lambda _asked, wire: wire.answer(204, b"")) as endpoint:
        endpoint.url += "/secret-path?token=secret"
        yield endpoint


def ended(books: Ledger, cost: str, key: Key | None = None, **more: Any) -> RunRecord:
    record = run(cost=cost, user="ada", started_at=datetime.now(UTC), key=None if key is None else key.key_id, **more)
    books.settle(record)
    return record


def after(sender: Alerts, record: RunRecord) -> None:
    """Tell of a run, and wait until all that is due was sent."""
    sender.after(record)
    sender.close()


def told(hook: Endpoint) -> list[tuple[Any, ...]]:
    return [(it.body["budget"], it.body["period"], it.body["percent"]) for it in hook.asked]


def test_each_threshold_is_told_once_and_the_log_and_the_webhook_agree(
    books: Ledger, hook: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    key, secret = books.keys.add("ci", "eve", "search", Decimal(1), 1_000, "month")
    sender = Alerts(lambda: books, lambda: hook.url)
    seen = []
    for cost in ("0.49", "0.01", "0.10", "0.19", "0.01", "0.19", "0.01", "5"):
        after(sender, ended(books, cost, key))
        seen.append(len(hook.asked))
    assert seen == [0, 1, 1, 1, 2, 2, 3, 3], "at 0.50, 0.80 and 1.00, to the cent"
    assert [it.body for it in hook.asked[1:2]] == [
        {
            "text": f"80 % of the key's budget for the month is spent (key ci, {MONTH}): "
            "$0.8000 of $1.00, 70 of 1,000 tokens",
            "budget": "month",
            "period": MONTH,
            "percent": 80,
            "share": 0.8,
            "key": "ci",
            "user": "eve",
            "team": "search",
            "spent_usd": "0.8",
            "cap_usd": "1",
            "spent_tokens": 70,
            "cap_tokens": 1_000,
        }
    ]
    lines = [(it.name, it.levelno, it.getMessage()) for it in caplog.records]
    assert lines == [("tokmagic.alerts", logging.WARNING, it.body["text"]) for it in hook.asked]
    assert secret not in caplog.text
    assert "secret" not in caplog.text


def test_a_share_is_not_rounded_up_to_a_threshold_that_is_not_reached(books: Ledger, hook: Endpoint) -> None:
    books.set_budget(Budget("day", Decimal(1), user="ada"))
    after(Alerts(lambda: books, lambda: hook.url), ended(books, "0.79999"))
    assert [(it.body["percent"], it.body["share"]) for it in hook.asked] == [(50, 0.79999)]


def test_days_months_and_tokens_alert_and_other_budgets_do_not(books: Ledger, hook: Endpoint) -> None:
    total, _ = books.keys.add("k", None, None, None, 28)
    books.set_budget(Budget("day", Decimal(1), user="ada"))
    books.set_budget(Budget("month", None, 28, user=None))
    books.set_budget(Budget("notebook", Decimal("0.01"), user="ada", notebook="/n"))
    books.set_budget(Budget("cell", Decimal("0.01"), user="ada", notebook="/n"))
    after(Alerts(lambda: books, lambda: hook.url), ended(books, "0.8", total, notebook="/n"))
    assert sorted(told(hook)) == [("day", DAY, 50), ("day", DAY, 80), ("key", "total", 50), ("month", MONTH, 50)]
    assert {(it.body["key"], it.body["user"]) for it in hook.asked} == {(None, "ada"), ("k", None)}


def test_a_duplicate_alerts_for_its_key_alone(books: Ledger, hook: Endpoint) -> None:
    key, _ = books.keys.add("k", None, None, Decimal(1))
    books.set_budget(Budget("day", Decimal(1), user="ada"))
    after(Alerts(lambda: books, lambda: hook.url), ended(books, "1", key, duplicate=True))
    assert told(hook) == [("key", "total", 50), ("key", "total", 80), ("key", "total", 100)]


def test_what_is_held_is_not_spent(books: Ledger, hook: Endpoint) -> None:
    key, _ = books.keys.add("k", None, None, Decimal(1))
    books.begin(run(status="running", key=key.key_id), (), Hold(1, Decimal(1)))
    after(Alerts(lambda: books, lambda: hook.url), ended(books, "0.1", key))
    assert told(hook) == []


def test_each_user_of_a_budget_for_everyone_has_alerts(books: Ledger, hook: Endpoint) -> None:
    books.set_budget(Budget("day", Decimal(1)))
    sender = Alerts(lambda: books, lambda: hook.url)
    for user in ("ada", "bob", "ada"):
        record = run(cost="0.6", user=user, started_at=datetime.now(UTC))
        books.settle(record)
        after(sender, record)
    assert [(it.body["user"], it.body["percent"]) for it in hook.asked] == [
        *(("ada", 50), ("bob", 50), ("ada", 80), ("ada", 100)),
    ]


def test_a_raised_cap_alerts_anew(books: Ledger, hook: Endpoint) -> None:
    sender = Alerts(lambda: books, lambda: hook.url)
    for usd, cost in (("1", "0.5"), ("2", "0.5"), ("1", "0.1")):
        books.set_budget(Budget("day", Decimal(usd), user="ada"))
        after(sender, ended(books, cost))
    assert [(it.body["cap_usd"], it.body["percent"]) for it in hook.asked] == [
        *(("1", 50), ("2", 50), ("1", 80), ("1", 100)),
    ]


def test_a_new_period_alerts_anew_and_the_one_before_is_told_once_all_the_same(books: Ledger) -> None:
    budget = Budget("day", Decimal(1))
    takes = [("2026-11-23", 50), ("2026-11-23", 80), ("2026-11-23", 50), ("2026-11-24", 50), ("2026-11-24", 50)]
    assert [books.take_alert(budget, "ada", *it) for it in takes] == [True, True, False, True, False]
    assert books.take_alert(budget, "bob", "2026-11-24", 50)
    assert books.take_alert(replace(budget, key="k"), "ada", "2026-11-24", 50)
    assert not books.take_alert(replace(budget, key="k"), "bob", "2026-11-24", 50), "a key's is nobody's alone"
    # Elsewhere it is still the day before, or a run of that day has ended only now.
    assert not books.take_alert(budget, "ada", "2026-11-23", 50)


def test_alerts_of_long_ago_are_forgotten(books: Ledger) -> None:
    budget = Budget("day", Decimal(1))
    assert books.take_alert(budget, "ada", "2026-08-23", 50)
    assert books.take_alert(replace(budget, scope="key", key="k"), None, "total", 50)
    with books.writing() as connection:
        connection.exec_driver_sql("UPDATE alerts SET taken_at = '2025-08-23T09:00:00.000000Z'")
    assert books.take_alert(budget, "ada", "2026-11-23", 50)
    assert not books.take_alert(replace(budget, scope="key", key="k"), None, "total", 50)
    with books.reading() as connection:
        kept = connection.exec_driver_sql("SELECT period FROM alerts").scalars().all()
    assert set(kept) == {"2026-11-23", "total"}


@pytest.mark.parametrize("scope", ["day", "month"])
def test_a_run_that_ended_in_another_period_alerts_for_its_own(
    books: Ledger, hook: Endpoint, monkeypatch: pytest.MonkeyPatch, scope: Scope
) -> None:
    ends = start_of_day(date(2026, 12, 1))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            late = ends + timedelta(seconds=5)
            return late.astimezone(tz) if tz else late.replace(tzinfo=None)

    monkeypatch.setattr(alerts, "datetime", Clock)
    books.set_budget(Budget(scope, Decimal(1), user="ada"))
    sender = Alerts(lambda: books, lambda: hook.url)
    before = run(cost="0.8", user="ada", started_at=ends - timedelta(seconds=5))
    since = run(cost="0.5", user="ada", started_at=ends + timedelta(seconds=1))
    books.settle(before)
    books.settle(since)
    for record in (before, since, before):
        sender.after(record)
    sender.close()
    after(Alerts(lambda: books, lambda: hook.url), before)
    old, new = ("2026-11-30", "2026-12-01") if scope == "day" else ("2026-11", "2026-12")
    assert sorted(told(hook)) == [(scope, old, 50), (scope, old, 80), (scope, new, 50)]
    assert [it.body["spent_usd"] for it in hook.asked if it.body["period"] == old] == ["0.8", "0.8"]


def test_what_is_spent_is_told_as_sure_as_it_is(books: Ledger, hook: Endpoint) -> None:
    books.set_budget(Budget("day", Decimal(1), user="ada"))
    record = run(user="ada", started_at=datetime.now(UTC))
    cut = replace(record, reading=replace(record.reading, cost=Cost(Decimal("0.6"), "reported", "at_least")))
    books.settle(cut)
    after(Alerts(lambda: books, lambda: hook.url), cut)
    (alert,) = (it.body for it in hook.asked)
    assert alert["text"].endswith(f"is spent (ada, {DAY}): ≥$0.6000 of $1.00")


def _send(url: str, hook_url: str, begin: Any) -> None:
    with closing(Ledger(url)) as books:
        (key,) = books.keys.all()
        begin.wait(120)
        sender = Alerts(lambda: books, lambda: hook_url)
        after(sender, ended(books, "1", key))


def test_of_several_that_see_it_at_once_one_sends_each_alert(books: Ledger, database_url: str, hook: Endpoint) -> None:
    key, _ = books.keys.add("k", None, None, Decimal(1))
    record = ended(books, "1", key)
    ledgers = [Ledger(database_url) for _ in range(4)]
    senders = [Alerts(partial(lambda it: it, ledger), lambda: hook.url) for ledger in ledgers]
    for sender in senders:
        sender.after(record)
    for sender, ledger in zip(senders, ledgers, strict=True):
        sender.close()
        ledger.close()
    assert sorted(told(hook)) == [("key", "total", 50), ("key", "total", 80), ("key", "total", 100)]


@pytest.mark.slow
def test_of_several_processes_one_sends_each_alert(books: Ledger, database_url: str, hook: Endpoint) -> None:
    books.keys.add("k", None, None, Decimal(2))
    fresh = multiprocessing.get_context("spawn")
    begin = fresh.Barrier(2)
    senders = [fresh.Process(target=_send, args=(database_url, hook.url, begin)) for _ in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(300)
    assert [sender.exitcode for sender in senders] == [0, 0]
    assert sorted(told(hook)) == [("key", "total", 50), ("key", "total", 80), ("key", "total", 100)]


FAILURES: dict[str, tuple[Callable[[Asked, Wire], None], str]] = {
    "refuses": (lambda _asked, wire: wire.answer(403, "no"), "127.0.0.1 does not accept it (403)"),
    "fails": (lambda _asked, wire: wire.answer(500, "no"), "127.0.0.1 does not accept it (500)"),
    "redirects": (
        lambda _asked, wire: wire.answer(302, "", location="http://127.0.0.1:1/other"),
        "127.0.0.1 does not accept it (302)",
    ),
    "breaks off": (lambda _asked, wire: wire.drop(), "127.0.0.1 cannot be reached (RemoteProtocolError)"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_webhook_that_fails_is_given_up_and_its_address_is_not_told(
    ledger: Ledger, hook: Endpoint, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    hook.script, why = FAILURES[how]
    key, _ = ledger.keys.add("k", None, None, Decimal(2))
    sender = Alerts(lambda: ledger, lambda: hook.url)
    after(sender, ended(ledger, "1", key))
    assert len(hook.asked) == 3
    after(sender, ended(ledger, "0.1", key))
    after(Alerts(lambda: ledger, lambda: hook.url), ended(ledger, "0.1", key))
    assert len(hook.asked) == 3, "not again"
    failures = [it.getMessage() for it in caplog.records if it.levelno == logging.ERROR]
    assert failures == [f"the alert was not posted: {why}; check TOKMAGIC_ALERT_WEBHOOK"]
    assert "secret" not in caplog.text


def test_a_webhook_that_answers_at_the_second_attempt_has_the_alert(
    ledger: Ledger, hook: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([503, 200])
    hook.script = lambda _asked, wire: wire.answer(next(answers), "")
    key, _ = ledger.keys.add("k", None, None, Decimal(2))
    after(Alerts(lambda: ledger, lambda: hook.url), ended(ledger, "1", key))
    assert len(hook.asked) == 2
    assert [it.levelno for it in caplog.records if it.name == "tokmagic.alerts"] == [logging.WARNING]


def test_nothing_waits_for_a_webhook_and_an_unreachable_ledger_stops_no_later_alert(
    ledger: Ledger, hook: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    answering, answered = threading.Event(), threading.Event()

    def slow(_asked: Asked, wire: Wire) -> None:
        answering.wait(60)
        answered.set()
        wire.answer(200, "")

    hook.script = slow
    key, _ = ledger.keys.add("k", None, None, Decimal(2))
    there = [False]

    def opened() -> Ledger:
        if not there[0]:
            raise RuntimeError("the ledger is away")
        return ledger

    sender = Alerts(opened, lambda: hook.url)
    after(sender, ended(ledger, "1", key))
    assert "budgets could not be looked at for alerts: the ledger is away" in caplog.text
    there[0] = True
    for _ in range(50):
        sender.after(ended(ledger, "0.01", key))  # while the webhook does not answer
    deadline = time.monotonic() + 60
    while not hook.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hook.asked
    assert not answered.is_set(), "all runs have ended, and it has not answered"
    answering.set()
    sender.close()
    assert told(hook) == [("key", "total", 50)]


def test_a_plain_webhook_on_this_machine_needs_no_certificates(
    hook: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    webhook.post(hook.url, {"text": "Hi"})
    assert len(hook.asked) == 1


def test_a_session_alerts_where_a_webhook_is_set(make_session: Callable[..., Session], hook: Endpoint) -> None:
    for number, address in enumerate((hook.url, "")):
        session = make_session(model="scripted", cache=False, alert_webhook=address, budget_day="1000")
        session.prices.set("scripted", Rates(Decimal(1_000_000), Decimal(1_000_000), source="%price"))
        session.user = f"user{number}"
        assert session.generate(Prompt((Message("user", "Hi"),), Sampling(max_tokens=900))).status == "ok"
        session.settings.budget_day = "20"
        assert session.generate(Prompt((Message("user", "Hi"),), Sampling(max_tokens=1))).status == "refused"
        session.close()
    assert told(hook) == [("day", DAY, 50), ("day", DAY, 80), ("day", DAY, 100)]
    assert hook.last.body["cap_usd"] == "20"


def test_a_reproduction_alerts_nobody(
    make_session: Callable[..., Session], hook: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger is its own, and its --budget is no day's: an alert would tell a team what is not so."""
    session = make_session(model="scripted", cache=False, alert_webhook=hook.url)
    monkeypatch.setenv(REPRODUCING, session.settings.ledger)
    session.settings.budget_day = "1000"
    session.prices.set("scripted", Rates(Decimal(1_000_000), Decimal(1_000_000), source="%price"))
    assert session.generate(Prompt((Message("user", "Hi"),), Sampling(max_tokens=900))).status == "ok"
    session.settings.budget_day = "20"
    assert session.generate(Prompt((Message("user", "Hi"),), Sampling(max_tokens=1))).status == "refused"
    session.close()
    assert told(hook) == []


def test_a_benchs_row_alerts_as_a_run_does(make_session: Callable[..., Session], hook: Endpoint) -> None:
    for address in (hook.url, ""):
        session = make_session(model="scripted", alert_webhook=address, budget_day="1")
        session.user = f"user{len(address)}"
        lump = session.lump(session.load(), Prompt((Message("user", "Hi"),)), params={"requests": 9}, tags=("bench",))
        lump.begin(Hold(1, Decimal("0.9")))
        lump.settle("ok", Reading(cost=Cost(Decimal("0.9"), "measured")))
        session.close()
    assert told(hook) == [("day", DAY, 50), ("day", DAY, 80)]


def test_an_address_that_is_none_is_told_before_anything_runs(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("hooks.example.org", "ftp://h/secret", "https://", "http://[secret", "https://h/a\nb"):
        monkeypatch.setenv("TOKMAGIC_ALERT_WEBHOOK", text)
        session = make_session(model="scripted")
        with pytest.raises(UsageError, match="TOKMAGIC_ALERT_WEBHOOK is not a URL; give one such as") as raised:
            session.generate(Prompt((Message("user", "Hi"),)))
        assert "secret" not in str(raised.value)
        assert session.ledger().runs() == []
