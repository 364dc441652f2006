"""``tokmagic ledger move`` takes remembered answers and budgets along, on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.ledgers.test_store import run
from tests.runs.test_cache import GREEDY, many_answers
from tokmagic.cli import main
from tokmagic.core.budget import Budget
from tokmagic.ledgers import Ledger, budgets
from tokmagic.ledgers.move import Moved, move
from tokmagic.ledgers.schema import answers
from tokmagic.runs import api
from tokmagic.runs.session import Session

Make = Callable[..., Session]
LIMIT = 10**6


@pytest.fixture
def target(database_url: str) -> Iterator[Ledger]:
    with closing(Ledger(database_url)) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(f"sqlite:///{tmp_path}/source.sqlite")) as opened:
        yield opened


def by_use(ledger: Ledger) -> list[tuple[str, str, str, str]]:
    """Answers, the least recently used first."""
    query = sa.select(answers.c.key, answers.c.run_id, answers.c.answer, answers.c.used_at).order_by(answers.c.used_at)
    with ledger.reading() as connection:
        return [tuple(row) for row in connection.execute(query)]  # type: ignore[misc]


def test_answers_are_moved_once_and_keep_the_order_of_their_use(source: Ledger, target: Ledger) -> None:
    for number in range(120):
        source.keep_answer(f"{number:064}", f"run-{number}", f"answer {number} é", LIMIT)
    source.use_answer(f"{7:064}")
    assert move(source, target) == Moved(answers=120)
    assert by_use(target) == by_use(source)
    assert by_use(target)[-1][0] == f"{7:064}"
    assert move(source, target) == Moved()
    assert by_use(target) == by_use(source)
    assert target.cache_status() == source.cache_status()
    source.use_answer(f"{3:064}")
    assert move(source, target) == Moved()
    assert by_use(target) == by_use(source), "a later use counts, without the answer being copied again"


def test_an_answer_that_is_there_stays_as_it_is(source: Ledger, target: Ledger) -> None:
    key = "k" * 64
    source.keep_answer(key, "there", "theirs", LIMIT)
    target.keep_answer(key, "here", "ours", LIMIT)
    before = by_use(target)
    assert move(source, target).answers == 0
    assert by_use(target) == before


def test_what_was_moved_leaves_by_its_use_when_room_is_needed(source: Ledger, target: Ledger) -> None:
    for key in "abc":
        source.keep_answer(key, "r", "x" * 100, LIMIT)
    source.use_answer("a")
    move(source, target)
    target.keep_answer("d", "r", "x" * 100, 200)
    assert [row[0] for row in by_use(target)] == ["a", "d"]


def test_a_ledger_without_texts_takes_no_answers(source: Ledger, database_url: str) -> None:
    source.keep_answer("k", "r", "text", LIMIT)
    with closing(Ledger(database_url, store_text=False)) as target:
        assert move(source, target) == Moved()
        assert target.cache_status().answers == 0


def test_an_answer_is_replayed_where_it_was_moved_to(make_session: Make, tmp_path: Path, database_url: str) -> None:
    first = many_answers(make_session(ledger=f"sqlite:///{tmp_path}/source.sqlite", store_text=True))
    text = first.generate(GREEDY).text
    with closing(Ledger(database_url)) as target:
        assert move(first.ledger(), target).answers == 1
    again = many_answers(make_session(ledger=database_url, store_text=True)).generate(GREEDY)
    assert (again.status, again.text) == ("cached", text)


def test_budgets_of_the_target_are_never_replaced(source: Ledger, target: Ledger) -> None:
    day, month = Budget("day", Decimal(5), user="ada"), Budget("month", Decimal(50))
    here, theirs = Budget("notebook", Decimal(1), notebook="/n"), Budget("day", Decimal(2), user="ada", strict=True)
    for budget in (day, month, here):
        source.set_budget(budget)
    target.set_budget(theirs)
    target.set_budget(here)
    assert move(source, target) == Moved(budgets_left=1), "a budget that is the same is not one that was left"
    assert everything(target) == {theirs, month, here}
    assert move(source, target) == Moved(budgets_left=1)
    target.set_budget(replace(month, usd=Decimal(9)))
    assert move(source, target) == Moved(budgets_left=2)
    assert everything(target) == {theirs, replace(month, usd=Decimal(9)), here}
    assert everything(source) == {day, month, here}


def test_the_command_says_which_budgets_were_left(
    source: Ledger,
    target: Ledger,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(api, "ledger", lambda: source)
    source.set_budget(Budget("day", Decimal(5)))
    target.set_budget(Budget("day", Decimal(2)))
    assert main(["ledger", "move", database_url]) == 0
    assert f"; 1 budget of {target.name} left unchanged" in capsys.readouterr().out


def everything(ledger: Ledger) -> set[Budget]:
    with ledger.reading() as connection:
        return set(budgets.read_all(connection))


def test_a_run_that_ends_when_its_turn_has_passed_is_copied_too(source: Ledger, target: Ledger) -> None:
    """One that was running then, and one that even began later; a third goes on and is counted."""
    for name in "abc":
        source.begin(run(name, status="running"))
    source.settle(run("d"))

    def told(_done: int) -> None:
        if not source.run("e"):
            source.begin(run("e", status="running"))
            source.settle(run("f"))
            for name in "abe":
                source.settle(run(name))

    moved = move(source, target, told)
    assert sorted(it.run_id for it in target.runs()) == ["a", "b", "d", "e", "f"]
    assert (moved.runs, moved.present, moved.running) == (5, 0, 1)


def test_an_alert_that_was_sent_is_not_sent_again_from_where_its_budget_was_moved_to(
    source: Ledger, target: Ledger
) -> None:
    month, of_key = Budget("month", Decimal(20), user="ada"), Budget("key", Decimal(5), key="k")
    for percent in (50, 80):
        assert source.take_alert(month, "ada", "2026-11", percent)
    assert source.take_alert(of_key, None, "total", 50)
    assert target.take_alert(month, "ada", "2026-11", 50)
    for _ in range(2):
        move(source, target)
        assert not source.take_alert(month, "ada", "2026-11", 80)
    takes = [(month, "2026-11", 50), (month, "2026-11", 80), (of_key, "total", 50), (month, "2026-11", 100)]
    assert [target.take_alert(budget, "ada", *its) for budget, *its in takes] == [False, False, False, True]
