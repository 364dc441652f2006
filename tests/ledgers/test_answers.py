"""Where cached answers are kept: damage, ledgers that cannot be used, and which answers leave; both databases."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.examples import examples
from tests.runs.test_cache import GREEDY, SMOLLM, ask, kept, many_answers, statuses
from tokmagic.core.record import CacheStatus
from tokmagic.errors import LedgerError
from tokmagic.ledgers import Ledger, answers, backend
from tokmagic.runs import cache
from tokmagic.runs.recorder import LedgerWarning
from tokmagic.runs.session import Session

Make = Callable[..., Session]


@pytest.fixture
def ledger_url(database_url: str) -> str:
    """Everything here holds for each database."""
    return database_url


@pytest.fixture
def session(make_session: Make) -> Session:
    return many_answers(make_session(store_text=True))


# Damage


def damage(url: str, value: Any) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE answers SET answer = :value"), {"value": value})
    engine.dispose()


@pytest.mark.parametrize("value", ["", "null", "[]", "{", '{"choices": []}', "0" * 64 + " {}", "…"])
def test_a_damaged_answer_is_a_miss_and_is_replaced(session: Session, ledger_url: str, value: str) -> None:
    first = session.generate(GREEDY).text
    damage(ledger_url, value)
    again = session.generate(GREEDY)
    assert (again.status, again.text == first) == ("ok", False)
    assert session.generate(GREEDY).text == again.text
    damage(ledger_url, value)
    key = cache.key(session.models.engine().identity() or SMOLLM, GREEDY)
    assert session.cache.find(key) is None
    assert kept(session) == 0, "a damaged answer is removed at the look"


@pytest.mark.parametrize("value", [b"\xff\xfe", 7, b"answer"], ids=repr)
def test_a_column_of_another_type_is_a_miss(make_session: Make, sqlite_url: str, value: Any) -> None:
    session = make_session(ledger=sqlite_url, model="scripted", store_text=True)
    session.generate(GREEDY)
    damage(sqlite_url, value)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE answers SET answer = CAST(answer AS TEXT) WHERE typeof(answer) = 'blob'")
    assert statuses(session, GREEDY, GREEDY) == ["ok", "cached"]


def test_a_ledger_that_cannot_be_read_is_a_miss(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.generate(GREEDY)

    def broken(*_arguments: object) -> Any:
        raise LedgerError("it is gone")

    for method in ("answer", "drop_answer", "keep_answer", "use_answer"):
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, method, broken)
            assert session.generate(GREEDY).error is None
    assert [record.status for record in session.ledger().runs()] == ["ok", "ok", "cached", "cached", "cached"]


def test_a_hit_is_shown_though_its_row_cannot_be_written(
    make_session: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "BUSY_S", 0.1)
    session = make_session(ledger=sqlite_url, model="scripted", store_text=True)
    first = session.generate(GREEDY)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(LedgerWarning, match="NOT being recorded") as warned:
            again = session.generate(GREEDY)
    assert len(warned) == 1
    assert (again.status, again.text) == ("cached", first.text)
    assert len(session.ledger().runs()) == 1


def test_a_broken_ledger_costs_no_answer(make_session: Make, tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("Dear diary")
    session = make_session(ledger=f"sqlite:///{tmp_path}/letters", model="scripted", store_text=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LedgerWarning)
        assert statuses(session, GREEDY, GREEDY) == ["ok", "ok"]


# What is kept, and what leaves


def test_an_answer_that_does_not_fit_is_not_kept(ledger: Ledger) -> None:
    assert ledger.keep_answer("k", "r", "é" * 50, 100)
    assert ledger.answer("k") == ("r", "é" * 50)
    assert not ledger.keep_answer("k", "r2", "é" * 51, 101)
    assert ledger.answer("k") is None, "what was renewed is not there any more"
    assert not ledger.keep_answer("k", "r", "x", 0)
    assert ledger.cache_status() == CacheStatus()


def test_the_limit_holds_at_the_next_answer(session: Session) -> None:
    statuses(session, *[ask(seed=seed) for seed in range(4)])
    one = session.ledger().cache_status().size_bytes // 4
    session.settings.cache_bytes = 2 * one + one // 2
    session.generate(ask(seed=0))
    session.generate(ask(seed=4))
    assert kept(session) == 2
    assert statuses(session, ask(seed=0), ask(seed=4), ask(seed=3), cache=True) == ["cached", "cached", "ok"]


STEPS = st.lists(st.tuples(st.sampled_from(["keep", "use"]), st.integers(0, 6), st.integers(1, 60)), max_size=25)


@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(STEPS)
def test_the_least_recently_used_leave_first(ledger: Ledger, steps: list[tuple[str, int, int]]) -> None:
    ledger.clear_answers()
    held: OrderedDict[str, int] = OrderedDict()
    for what, number, size in steps:
        key = f"k{number}"
        if what == "use":
            ledger.use_answer(key)
            if key in held:
                held.move_to_end(key)
            continue
        ledger.keep_answer(key, "r", "x" * size, 100)
        held.pop(key, None)
        held[key] = size
        while sum(held.values()) > 100:
            held.popitem(last=False)
    assert {f"k{number}" for number in range(7) if ledger.answer(f"k{number}")} == set(held)
    assert ledger.cache_status() == CacheStatus(len(held), sum(held.values()))


def test_many_small_ones_leave_for_a_large_one(ledger: Ledger) -> None:
    for number in range(250):
        ledger.keep_answer(f"k{number}", "r", "x", 250)
    assert ledger.keep_answer("big", "r", "x" * 240, 250)
    assert [number for number in range(250) if ledger.answer(f"k{number}")] == list(range(240, 250))


def test_the_order_of_use_survives_a_clock_that_jumps_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        moment = datetime(2026, 11, 24, 12, tzinfo=UTC)

        @classmethod
        def now(cls, _zone: Any = None) -> datetime:  # type: ignore[override]
            return cls.moment

    monkeypatch.setattr(answers, "datetime", Clock)
    ledger.keep_answer("a", "r", "x", 3)
    Clock.moment = datetime(2020, 1, 1, tzinfo=UTC)
    for key in "bc":
        ledger.keep_answer(key, "r", "x", 3)
    ledger.use_answer("a")
    ledger.keep_answer("d", "r", "x", 3)
    assert [key for key in "abcd" if ledger.answer(key)] == ["a", "c", "d"]


WORKER = """
import sys
from tokmagic.ledgers import Ledger
ledger = Ledger(sys.argv[1], store_text=True)
sys.stdin.readline()
for number in range(40):
    ledger.keep_answer(f"k{number % 13}", sys.argv[2], sys.argv[2] * 10, 100)
    ledger.use_answer(f"k{(number * 7) % 13}")
    assert ledger.cache_status().size_bytes <= 100
"""


@pytest.mark.slow
def test_several_processes_keep_use_and_evict_at_once(ledger: Ledger, ledger_url: str) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, ledger_url, name], stdin=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.close()
    assert [worker.wait(60) for worker in workers] == [0] * 4
    status = ledger.cache_status()
    found = [it for number in range(13) if (it := ledger.answer(f"k{number}"))]
    assert (status.answers, status.size_bytes) == (10, 100)
    assert all(text == run_id * 10 for run_id, text in found)
    assert len(found) == 10


def test_all_of_it_can_be_removed(session: Session) -> None:
    statuses(session, ask(seed=1), ask(seed=2))
    assert session.ledger().clear_answers() == 2
    assert session.ledger().clear_answers() == 0
    assert statuses(session, ask(seed=1)) == ["ok"]
