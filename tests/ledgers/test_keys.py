"""Keys: their secrets are shown once and kept nowhere, and each has a budget of its own that holds for all its runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.ledgers.test_store import run
from tokmagic.core.budget import Budget, Hold, Standing
from tokmagic.core.keys import Key
from tokmagic.core.record import RunRecord
from tokmagic.errors import BudgetError, UsageError
from tokmagic.ledgers import Ledger
from tokmagic.ledgers.move import move

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DIME = Hold(tokens=10, usd=Decimal("0.10"))
DOLLAR = Decimal(1)


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with closing(Ledger(database_url)) as opened:
        yield opened


def made(run_id: str, key: Key | None = None, **changes: Any) -> RunRecord:
    record = run(run_id, status="running", user="ada", started_at=NOW)
    return replace(record, key=None if key is None else key.key_id, **changes)


def admit(books: Ledger, record: RunRecord, hold: Hold = DIME, now: datetime = NOW) -> str | None:
    held = books.budgets(record.user, record.notebook, record.key, duplicate=record.duplicate)
    return books.admit(record, (), hold, held, now).refused


def ended(record: RunRecord, cost: str) -> RunRecord:
    return replace(run(record.run_id, cost=cost), **{name: getattr(record, name) for name in KEPT})


KEPT = ("user", "key", "team", "client_run_id", "duplicate", "started_at", "notebook", "session")


def stands(books: Ledger, budget: Budget | None) -> Standing:
    assert budget is not None
    return books.standings([budget], "ada", NOW)[0]


# Secrets


def test_a_secret_finds_its_key_and_is_kept_nowhere(books: Ledger, tmp_path: Path) -> None:
    key, secret = books.keys.add("Ada's laptop", "ada", "physics", DOLLAR, 500, "month")
    other, another = books.keys.add("other")
    assert re.fullmatch(r"tm-[A-Za-z0-9_-]{43}", secret)
    assert re.fullmatch(r"[0-9a-f]{12}", key.key_id)
    budget = Budget("month", DOLLAR, 500, strict=True, origin="key Ada's laptop", key=key.key_id)
    assert (key.name, key.user, key.team, key.budget) == ("Ada's laptop", "ada", "physics", budget)
    assert (other.user, other.team, other.budget, other.revoked_at) == (None, None, None, None)
    assert (books.keys.find(secret), books.keys.find(another)) == (key, other)
    assert books.keys.all() == [key, other]
    for unknown in ("", "tm-", secret[:-1], secret + "x", secret.upper(), key.key_id, key.name, "\udce9", "a\0b"):
        assert books.keys.find(unknown) is None
    with books.reading() as connection:
        for name in sa.inspect(connection).get_table_names():
            kept = connection.exec_driver_sql(f"SELECT * FROM {name}").all()
            assert not any(secret in str(value) or secret[3:] in str(value) for row in kept for value in row)
    books.close()
    assert not any(secret[3:].encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_revoked_key_is_found_no_more_and_its_name_stays_taken(books: Ledger) -> None:
    (first, secret), (second, other) = books.keys.add("first"), books.keys.add("second")
    assert books.keys.find(secret) == first
    revoked = books.keys.revoke("first")
    assert revoked.revoked_at is not None
    assert replace(revoked, revoked_at=None) == first
    assert books.keys.find(secret) is None
    assert books.keys.revoke(first.key_id) == revoked, "it stays as it was"
    assert books.keys.all() == [revoked, second]
    assert books.keys.find(other) == second
    with pytest.raises(UsageError, match="there is, or was, a key 'first'; choose another name"):
        books.keys.add("first")
    with pytest.raises(UsageError, match=r"there is no key 'frist' \(did you mean first\?\); tokmagic key list"):
        books.keys.revoke("frist")
    with pytest.raises(UsageError) as told:
        books.keys.revoke(other)
    assert other not in str(told.value)


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"name": ""}, UsageError, "cannot be a key's name"),
        ({"name": "  "}, UsageError, "cannot be a key's name"),
        ({"name": "a\nb"}, UsageError, "cannot be a key's name"),
        ({"name": "x" * 101}, UsageError, "at most 100 printable characters"),
        ({"name": "tm-mine"}, UsageError, "cannot begin with tm-"),
        ({"period": "week"}, UsageError, "'week' is no period of a key's budget; use total, month, day"),
        ({"usd": Decimal(0)}, BudgetError, "the key's budget is 0"),
        ({"usd": Decimal("-1")}, BudgetError, "the key's budget"),
        ({"usd": Decimal("NaN")}, BudgetError, "the key's budget"),
        ({"usd": Decimal("0.0000000000001")}, BudgetError, "finer than a picodollar"),
        ({"tokens": 0}, BudgetError, "the key's cap in tokens is 0"),
        ({"tokens": 2**62}, BudgetError, "the key's cap in tokens"),
    ],
)
def test_what_cannot_be_a_key_is_refused_in_one_line(ledger: Ledger, given: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=re.escape(told)) as raised:
        ledger.keys.add(**{"name": "n", **given})
    assert "\n" not in str(raised.value)
    assert ledger.keys.all() == []


def test_a_name_is_given_once_however_many_ask_at_once(books: Ledger) -> None:
    def add(_number: int) -> bool:
        try:
            books.keys.add("one")
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1
    assert [key.name for key in books.keys.all()] == ["one"]


def test_a_key_is_found_by_one_question_that_an_index_answers(ledger: Ledger, sqlite_url: str) -> None:
    _, secret = ledger.keys.add("n")
    asked = _plans(ledger, lambda: ledger.keys.find(secret))
    assert len(asked) == 1
    assert "USING INDEX sqlite_autoindex_keys" in asked[0]
    (plan,) = _plans(ledger, lambda: ledger.run("r"))
    assert "USING INDEX sqlite_autoindex_runs" in plan


# Budgets


@pytest.mark.parametrize("period", ["total", "month", "day"])
def test_a_keys_budget_bounds_its_own_runs_alone(books: Ledger, period: Any) -> None:
    key, _ = books.keys.add("capped", "ada", None, Decimal("0.25"), None, period)
    free, _ = books.keys.add("free", "ada")
    assert books.budgets("ada", None) == []
    assert books.budgets("ada", None, free.key_id) == []
    assert books.budgets("ada", None, "unknown") == []
    assert books.budgets("ada", "/n", key.key_id) == [key.budget]
    for number in range(3):
        assert admit(books, made(f"free{number}", free)) is None
        assert admit(books, made(f"none{number}")) is None
    assert admit(books, made("a", key)) is None
    assert admit(books, made("b", key, user="bob")) is None, "whoever runs it"
    refused = admit(books, made("c", key))
    its = "the key's budget" if period == "total" else f"the key's budget for the {period}"
    assert refused == (
        f"this run may cost up to $0.1000, {its} of $0.2500 has $0.0500 left ($0 spent, $0.2000 held by active runs); "
        "set a lower max_tokens, or have the budget raised (tokmagic key change)"
    )
    books.settle(ended(made("a", key), "0.01"))
    assert stands(books, key.budget) == Standing(key.budget, Decimal("0.01"), Decimal("0.10"), 14, 14)  # type: ignore[arg-type]
    assert admit(books, made("c", key)) is None
    assert admit(books, made("d", key)) is not None


def test_a_period_begins_anew_and_a_total_never(books: Ledger) -> None:
    keys = {period: books.keys.add(period, None, None, DOLLAR, None, period)[0] for period in ("total", "month", "day")}  # type: ignore[arg-type]
    for days in (0, 2, 40):
        for period, key in keys.items():
            books.settle(ended(made(f"{period}{days}", key, started_at=NOW - timedelta(days=days)), "1"))
    assert [int(stands(books, key.budget).spent_usd) for key in keys.values()] == [3, 2, 1]


def test_a_raised_cap_lets_in_what_the_earlier_one_refused(books: Ledger) -> None:
    key, secret = books.keys.add("ci", "ada", "search", Decimal("0.10"), None, "month")
    assert admit(books, made("first", key)) is None
    assert "the key's budget for the month of $0.1000" in (admit(books, made("second", key)) or "")
    raised = books.keys.change("ci", Decimal("0.20"))
    assert books.keys.find(secret) == raised == replace(key, budget=raised.budget)
    assert admit(books, made("third", key)) is None
    assert "$0.2000" in (admit(books, made("fourth", key)) or "")
    lowered = books.keys.change(key.key_id, Decimal("0.05"), 100)
    assert lowered.budget is not None
    assert (lowered.budget.usd, lowered.budget.tokens, lowered.budget.scope) == (Decimal("0.05"), 100, "month")
    assert "$0.0500" in (admit(books, made("fifth", key)) or "")


def test_all_budgets_hold_at_once_and_the_first_that_refuses_is_told(books: Ledger) -> None:
    books.set_budget(Budget("day", Decimal("0.15"), user="ada"))
    key, _ = books.keys.add("k", "ada", None, Decimal("0.25"))
    assert [it.scope for it in books.budgets("ada", None, key.key_id)] == ["day", "key"]
    assert admit(books, made("a", key)) is None
    assert "the day's budget of $0.1500" in (admit(books, made("b", key)) or "")
    assert admit(books, made("b", key, user="bob")) is None
    assert "the key's budget of $0.2500" in (admit(books, made("c", key, user="bob")) or "")


def test_a_keys_tokens_are_capped_too(books: Ledger) -> None:
    key, _ = books.keys.add("k", None, None, None, 25)
    assert admit(books, made("a", key), Hold(20)) is None
    assert admit(books, made("b", key), Hold(6)) == (
        "this run may use up to 6 tokens, the key's budget of 25 has 5 left; "
        "set a lower max_tokens, or have the budget raised (tokmagic key change)"
    )


def test_a_hold_grows_as_far_as_its_keys_budget_allows(books: Ledger) -> None:
    key, _ = books.keys.add("k", "ada", None, DOLLAR)
    assert admit(books, made("a", key)) is None
    assert admit(books, made("b", key, user="bob"), Hold(10, Decimal("0.5"))) is None
    assert books.extend(made("a", key), Hold(10, Decimal("0.8")), [], NOW).usd == Decimal("0.5")
    books.settle(ended(made("b", key, user="bob"), "0.1"))
    assert books.extend(made("a", key), Hold(10, Decimal("0.8")), [], NOW).usd == Decimal("0.8")


@pytest.mark.parametrize(
    ("caps", "spent", "held", "hold", "passing"),
    [
        ((DOLLAR, None), "0.5", Hold(1, Decimal("0.45")), Hold(1, Decimal("0.5")), True),
        ((DOLLAR, None), "0.5", Hold(1, Decimal("0.45")), Hold(1, Decimal("0.51")), False),
        ((DOLLAR, None), "0.5", Hold(1, Decimal("0.5")), Hold(1), False),
        ((None, 100), "0", Hold(80), Hold(86), True),
        ((None, 100), "0", Hold(80), Hold(87), False),
        ((DOLLAR, 100), "0.5", Hold(80, Decimal("0.5")), Hold(86, Decimal("0.5")), True),
        ((DOLLAR, 100), "0.5", Hold(80, Decimal("0.5")), Hold(87, Decimal("0.5")), False),
        ((DOLLAR, 100), "0.5", Hold(80, Decimal("0.5")), Hold(86, Decimal("0.6")), False),
    ],
)
def test_a_refusal_tells_whether_it_passes(
    books: Ledger, caps: Any, spent: str, held: Hold, hold: Hold, passing: bool
) -> None:
    key, _ = books.keys.add("k", "ada", None, *caps)
    books.settle(ended(made("before", key), spent))  # and 14 tokens
    assert admit(books, made("holding", key), held) is None
    admission = books.admit(made("asks", key), (), hold, books.budgets("ada", None, key.key_id), NOW)
    assert admission.refused is not None
    assert admission.passing is passing


@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_of_many_at_once_by_several_users_exactly_as_many_as_fit_are_let_in(books: Ledger, number: int) -> None:
    """The locks of users and of keys are taken in one order, so that nobody waits for ever."""
    books.set_budget(Budget("day", Decimal("1.5"), user="bob"))
    keys = [books.keys.add(name, None, None, Decimal(2))[0] for name in ("one", "two")]
    users = ("ada", "bob", "eve")

    def ask(place: int) -> tuple[str, str] | None:
        key, user = keys[place % 2], users[place % 3]
        record = made(f"r{place}", key, user=user)
        if admit(books, record) is not None:
            return None
        if place % 5 == 0:
            books.extend(record, DIME, [], NOW)
        books.settle(ended(record, "0.10"))
        return key.name, user

    with ThreadPoolExecutor(8) as pool:
        served = [it for it in pool.map(ask, range(number)) if it is not None]
    assert [sum(name == key.name for name, _ in served) for key in keys] == [20, 20]
    assert sum(user == "bob" for _, user in served) <= 15
    assert [stands(books, key.budget).available_usd for key in keys] == [0, 0]
    assert [stands(books, key.budget).held_usd for key in keys] == [0, 0]


def test_a_keys_sum_is_answered_by_the_index_of_keys_alone(ledger: Ledger, sqlite_url: str) -> None:
    total, _ = ledger.keys.add("k", "ada", None, DOLLAR)
    day, _ = ledger.keys.add("d", "ada", None, DOLLAR, None, "day")
    users = Budget("month", DOLLAR, user="ada")
    for budget, index in ((total.budget, "runs_by_key"), (day.budget, "runs_by_key"), (users, "runs_by_user")):
        assert budget is not None
        plans = _plans(ledger, partial(ledger.standings, [budget], "ada", NOW))
        assert any(f"USING COVERING INDEX {index}" in plan for plan in plans), plans


def test_keys_move_with_their_ledger(books: Ledger, tmp_path: Path) -> None:
    key, secret = books.keys.add("k", "ada", "team", DOLLAR, 9, "day")
    taken, _ = books.keys.add("taken")
    with closing(Ledger(f"sqlite:///{tmp_path}/target.sqlite")) as target:
        theirs, _ = target.keys.add("taken")
        moved = move(books, target)
        assert (moved.keys, moved.keys_left) == (1, 1)
        assert target.keys.find(secret) == key
        assert sorted(it.name for it in target.keys.all()) == ["k", "taken"]
        assert taken.key_id != theirs.key_id
        again = move(books, target)
        assert (again.keys, again.keys_left) == (0, 1)


def _plans(ledger: Ledger, ask: Any) -> list[str]:
    """How SQLite answers the questions that a call asks."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    with ledger.reading() as connection:
        told = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", given).all() for query, given in asked]
    return [" / ".join(str(step[-1]) for step in steps) for steps in told]
