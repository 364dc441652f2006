"""Interrupts at any moment of a write: nothing stays locked, and each run ends in the ledger once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa

from tests.ledgers.test_store import asked, run
from tokmagic.core.budget import Budget, Hold
from tokmagic.core.prompt import Message, Prompt
from tokmagic.ledgers import Ledger
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Hi"),))
NOW = datetime(2026, 11, 24, 12)
DAY = Budget("day", usd=Decimal(10))


@contextmanager
def locked(url: str) -> Iterator[sa.Connection]:
    """Another program holds the ledger: it can be read and not written."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if sqlite else "BEGIN")
        if not sqlite:
            connection.exec_driver_sql("LOCK TABLE runs, texts, budgets, answers IN EXCLUSIVE MODE")
        yield connection
    engine.dispose()


@contextmanager
def interrupted_while_locked(url: str, *, after_s: float = 0.1) -> Iterator[threading.Event]:
    """Lock the ledger, interrupt this thread once it has said that it comes to it, and free the ledger a moment later.

    Before it says so it may be kept from going on for any time, and nothing there awaits an interrupt.
    """
    main = threading.get_ident()
    held, comes, over = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with locked(url) as connection:
            held.set()
            comes.wait()
            time.sleep(after_s)
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.05)
            connection.exec_driver_sql("COMMIT")
        over.set()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        yield comes
    finally:
        with suppress(KeyboardInterrupt):  # where the write ended before it came
            comes.set()
            over.wait()
        holder.join()


def writable(url: str) -> bool:
    """Whether another program can write; a thread that just pays what is owed is waited for."""
    waits = {"timeout": 10} if url.startswith("sqlite") else {"options": "-c lock_timeout=10000"}
    engine = sa.create_engine(url, connect_args=waits, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "BEGIN")
        connection.exec_driver_sql("UPDATE runs SET status = status")
        connection.exec_driver_sql("COMMIT")
    engine.dispose()
    return True


STANDING = run("standing", status="running")
WRITES: dict[str, Callable[[Ledger], object]] = {
    "begin": lambda it: it.begin(run(status="running")),
    "admit": lambda it: it.admit(run(status="running"), ASK.messages, Hold(1, Decimal(1)), [DAY], NOW),
    "extend": lambda it: it.extend(STANDING, Hold(9, Decimal(2)), [], NOW),
    "progress": lambda it: it.progress(STANDING),
    "settle": lambda it: it.settle(run("standing"), ASK.messages, "answer"),
    "budget": lambda it: it.set_budget(DAY),
    "answer": lambda it: it.keep_answer("key", "standing", "answer", 999),
    "use": lambda it: it.use_answer("key"),
}


@pytest.mark.parametrize("write", WRITES)
def test_an_interrupted_wait_leaves_nothing_locked(database_url: str, write: str) -> None:
    with closing(Ledger(database_url)) as ledger:
        ledger.begin(STANDING)
        with interrupted_while_locked(database_url) as comes:
            try:
                comes.set()
                WRITES[write](ledger)
            except KeyboardInterrupt as error:
                kept = error  # as a notebook keeps the last one, with its frames
                assert kept is not None
        assert writable(database_url)
        ledger.settle(run("standing"))
        assert asked(database_url, "SELECT status FROM runs WHERE run_id = 'standing'") == ["ok"]


@pytest.mark.parametrize("budget_day", ["", "5"], ids=["no budget", "a budget"])
def test_a_run_that_is_interrupted_while_it_waits_ends_once(
    database_url: str, make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, budget_day: str
) -> None:
    session = make_session(model="scripted", ledger=database_url, budget_day=budget_day)
    session.generate(ASK)  # what it imports takes its time
    with interrupted_while_locked(database_url) as comes:
        let_in = "admit" if budget_day else "begin"
        write = getattr(Ledger, let_in)
        monkeypatch.setattr(Ledger, let_in, lambda *given: (comes.set(), write(*given))[1])
        generation = session.generate(ASK)
    assert generation.status == "interrupted"
    assert writable(database_url)
    assert asked(database_url, "SELECT status FROM runs ORDER BY id") == ["ok", "interrupted"]
    assert asked(database_url, "SELECT count(*) FROM runs WHERE owner IS NOT NULL OR hold_pico IS NOT NULL") == [0]
