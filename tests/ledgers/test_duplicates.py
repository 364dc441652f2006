"""A run that both its client and a server recorded counts once, in whatever order the rows were written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers.test_store import run
from tokmagic.core.budget import Budget, Hold
from tokmagic.core.keys import Key
from tokmagic.core.record import RunRecord, Selection, Sum
from tokmagic.ledgers import Ledger, Outbox
from tokmagic.ledgers.move import move
from tokmagic.reports import cell_runs, repriced, table, waste

EVERYTHING = Selection()
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAY = Budget("day", Decimal("0.25"), user="ada")
DIME = Hold(tokens=10, usd=Decimal("0.10"))


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with closing(Ledger(database_url)) as opened:
        yield opened


def client(run_id: str = "c", **changes: Any) -> RunRecord:
    given = {"cost": "0.10", "user": "ada", "started_at": NOW, "notebook": "/n", "cell_id": "1", **changes}
    return run(run_id, **given)


def server(run_id: str = "s", of: str | None = "c", key: Key | None = None, **changes: Any) -> RunRecord:
    given = {"cost": "0.10", "user": "ada", "started_at": NOW, **changes}
    return run(run_id, client_run_id=of, key=None if key is None else key.key_id, **given)


def begun(record: RunRecord) -> RunRecord:
    return replace(
        record, status="running", reading=replace(record.reading, cost=replace(record.reading.cost, usd=None))
    )


def duplicates(books: Ledger) -> dict[str, bool]:
    return {record.run_id: record.duplicate for record in books.runs()}


# When a row is found to be a duplicate


def client_first(books: Ledger) -> None:
    books.begin(begun(client()))
    books.begin(begun(server(duplicate=books.run("c") is not None)))
    books.settle(server(duplicate=True))
    books.settle(client())


def client_last(books: Ledger) -> None:
    """Its ledger could not be reached when it began."""
    books.begin(begun(server(duplicate=books.run("c") is not None)))
    books.settle(server())
    books.settle(client())


def client_between(books: Ledger) -> None:
    books.begin(begun(server()))
    books.settle(client())
    books.progress(begun(server()))
    books.settle(server())


def neither_begun(books: Ledger) -> None:
    books.settle(client())
    books.settle(server())


def client_begun_in_between(books: Ledger) -> None:
    """What begins does not look who asks for it: the server's end does."""
    books.begin(begun(server()))
    books.begin(begun(client()))
    books.settle(client())
    books.settle(server())


def settled_again(books: Ledger) -> None:
    client_last(books)
    books.settle(server())


@pytest.mark.parametrize(
    "write", [client_first, client_last, client_between, neither_begun, client_begun_in_between, settled_again]
)
def test_whoever_writes_first_the_servers_row_is_the_duplicate(books: Ledger, write: Callable[[Ledger], None]) -> None:
    write(books)
    assert duplicates(books) == {"c": False, "s": True}
    assert books.totals(EVERYTHING).cost_usd == Decimal("0.10")


FIRST, SECOND = server("s1", cost="0.04", status="failed"), server("s2", cost="0.10")
REFUSED = server("s0", cost="0", status="refused")
TOOK_OVER = client(env={"server_run_id": "s2"})
ORDERS: dict[str, list[RunRecord]] = {
    "as they end": [REFUSED, FIRST, SECOND, TOOK_OVER],
    "one that was left ends last": [REFUSED, SECOND, TOOK_OVER, FIRST],
    "the client's is delivered first": [TOOK_OVER, REFUSED, FIRST, SECOND],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("begins", [True, False])
def test_of_several_requests_for_one_run_those_that_it_did_not_take_over_count(
    books: Ledger, order: str, begins: bool
) -> None:
    """Both were worked on, and the client's row knows the cost of one."""
    books.set_budget(DAY)
    if begins:
        books.begin(begun(client()))
        for record in (FIRST, SECOND):
            books.begin(begun(replace(record, duplicate=True)))
    for record in ORDERS[order]:
        books.settle(record)
    assert duplicates(books) == {"c": False, "s0": True, "s1": False, "s2": True}
    assert books.totals(EVERYTHING).cost_usd == Decimal("0.14")
    (day,) = books.standings([DAY], "ada", NOW.astimezone().replace(tzinfo=None))
    assert day.spent_usd == Decimal("0.14")


def test_moved_requests_for_one_run_are_told_apart(books: Ledger, tmp_path: Path) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path}/source.sqlite")) as source:
        for record in ORDERS["as they end"]:
            source.settle(record)
        move(source, books)
    assert duplicates(books) == {"c": False, "s0": True, "s1": False, "s2": True}


def test_a_servers_run_of_no_recorded_client_is_none(books: Ledger) -> None:
    books.settle(server("s", of="elsewhere"))
    books.settle(server("t", of=None))
    books.settle(client("c"))
    assert duplicates(books) == {"s": False, "t": False, "c": False}
    assert books.totals(EVERYTHING).runs == 3


def test_both_ends_written_at_once_are_found(books: Ledger) -> None:
    for turn in range(10):
        rows = [client(f"c{turn}"), server(f"s{turn}", of=f"c{turn}")]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(books.settle, rows))
    assert duplicates(books) == {f"{who}{turn}": who == "s" for turn in range(10) for who in "cs"}


def test_a_delivered_client_makes_a_duplicate(books: Ledger, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "undelivered.sqlite", store_text=False)
    outbox.keep(client(), (), None)
    books.settle(server())
    assert duplicates(books) == {"s": False}
    assert outbox.deliver(books) == 1
    assert duplicates(books) == {"s": True, "c": False}


@pytest.mark.parametrize("here", ["client", "server"])
def test_moved_rows_are_duplicates_where_their_clients_are(books: Ledger, tmp_path: Path, here: str) -> None:
    rows = {"client": client(), "server": server()}
    with closing(Ledger(f"sqlite:///{tmp_path}/source.sqlite")) as source:
        for name, row in rows.items():
            (books if name == here else source).settle(row)
        move(source, books)
        assert duplicates(books) == {"s": True, "c": False}


def test_a_duplicate_moved_without_its_client_counts_until_that_follows(books: Ledger, tmp_path: Path) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path}/source.sqlite")) as source:
        source.begin(begun(client()))
        source.settle(server(duplicate=True))
        move(source, books)
        assert duplicates(books) == {"s": False}
        source.settle(client())
        move(source, books)
        assert duplicates(books) == {"s": True, "c": False}


# What leaves it out


def test_no_sum_counts_it_and_every_list_has_it(books: Ledger) -> None:
    greedy, joules = {"temperature": 0.0}, {"energy_j": 5.0, "energy_source": "measured"}
    for number in range(2):
        books.settle(replace(client(f"c{number}", **joules), params=greedy))
        same = server(f"s{number}", of=f"c{number}", cell_id="1", notebook="/n", duplicate=True, **joules)
        books.settle(replace(same, params=greedy))
    books.settle(replace(client("hit", cost="0", status="cached"), prompt_sha256="h"))
    books.settle(server("again", of="hit", cost="0", status="cached", notebook="/n", cell_id="1", duplicate=True))
    mine = [record for record in books.runs() if not record.duplicate]
    assert (len(books.runs()), len(list(books.stream())), len(mine)) == (6, 6, 3)
    assert books.runs(Selection(once=True)) == list(books.stream(Selection(once=True))) == mine
    assert books.totals(EVERYTHING) == Sum.of(mine)
    for by in ("cell", "run", "model", "notebook", "tag", "user", "status", "day"):
        assert sum((part for _, part in books.summarise(EVERYTHING, by)), Sum()) == Sum.of(mine), by
        assert sum(part.joules for _, part in books.energies(EVERYTHING, by)) == 10, by
    assert books.cache_status().hits.runs == 1
    assert books.wasted(EVERYTHING)["run again unchanged"].runs == 1
    assert [record.run_id for record in books.latest_by_cell(EVERYTHING)] == ["hit"]
    assert [record.run_id for record in cell_runs(books, EVERYTHING)] == ["c0", "c1"]
    assert table(books, EVERYTHING, "run").exact[-1]["runs"] == 3
    assert waste(books, EVERYTHING).exact[-1]["runs"] == 1


def test_a_reprice_counts_it_once(books: Ledger, make_session: Any) -> None:
    books.settle(client())
    books.settle(server(duplicate=True))
    told = repriced(books, EVERYTHING, make_session().prices).exact[-1]
    assert told["runs"] + told["left_out_runs"] == 1


# Budgets


def test_its_key_counts_it_and_its_users_and_notebooks_budgets_do_not(books: Ledger) -> None:
    key, _ = books.keys.add("k", "ada", None, Decimal("0.30"))
    there = Budget("notebook", Decimal("0.25"), user="ada", notebook="/n")
    books.set_budget(DAY)
    books.set_budget(there)
    for number in range(2):
        asks, answers = client(f"c{number}"), server(f"s{number}", f"c{number}", key, notebook="/n", duplicate=True)
        admitted = books.admit(begun(asks), (), DIME, books.budgets("ada", "/n"), NOW)
        assert admitted.refused is None
        held = books.budgets("ada", "/n", key.key_id, duplicate=True)
        assert held == [key.budget], "its client's row was let in by the others"
        assert books.admit(begun(answers), (), DIME, held, NOW).refused is None
        if number == 0:
            books.settle(answers)
            books.settle(asks)
    assert key.budget is not None
    for budget in (key.budget, DAY, there):
        (stands,) = books.standings([budget], "ada", NOW)
        assert (stands.spent_usd, stands.held_usd) == (Decimal("0.10"), Decimal("0.10")), budget.scope
    # One that is none is counted, and bounded, by all of them.
    alone = books.budgets("ada", "/n", key.key_id)
    assert alone == [DAY, there, key.budget]
    refused = books.admit(begun(server("t", None, key, notebook="/n")), (), DIME, alone, NOW).refused
    assert "the day's budget of $0.2500 has $0.0500 left" in (refused or "")


def test_a_duplicate_keeps_to_its_keys_budget_whatever_it_is_admitted_with(books: Ledger) -> None:
    key, _ = books.keys.add("k", "ada", None, Decimal("0.15"))
    used_up = replace(DAY, usd=Decimal("0.01"))
    held = [used_up, *books.budgets("ada", None, key.key_id)]
    first = begun(server("s", "c", key, duplicate=True))
    assert books.admit(first, (), DIME, held, NOW).refused is None
    assert "the key's budget" in str(books.admit(replace(first, run_id="t"), (), DIME, held, NOW).refused)
    cap = Budget("cell", Decimal("0.04"))
    assert "more than the cell's budget" in str(books.admit(first, (), DIME, [cap], NOW).refused)
    assert books.extend(first, Hold(10, Decimal(1)), [used_up], NOW).usd == Decimal("0.15")


def test_what_becomes_a_duplicate_while_it_runs_grows_by_its_keys_budget(books: Ledger) -> None:
    key, _ = books.keys.add("k", "ada", None, Decimal(1))
    books.set_budget(DAY)
    going = begun(server("s", "c", key))
    assert books.admit(going, (), DIME, books.budgets("ada", None, key.key_id), NOW).refused is None
    assert books.extend(going, Hold(10, Decimal("0.5")), [], NOW).usd == Decimal("0.25")
    books.settle(client())  # delivered late
    assert books.extend(going, Hold(10, Decimal("0.5")), [], NOW).usd == Decimal("0.5")
    (day,) = books.standings([DAY], "ada", NOW)
    assert (day.spent_usd, day.held_usd) == (Decimal("0.10"), 0)
