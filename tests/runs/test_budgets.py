"""Budgets: exact under concurrency, released by death, refused or stopped with the numbers, warned of once."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers.test_store import run
from tokmagic.core.budget import Budget, Hold, Scope, Standing
from tokmagic.core.money import Bound, Cost, Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo, RunRecord, Selection
from tokmagic.core.stream import Source
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import BudgetError
from tokmagic.ledgers import Ledger
from tokmagic.magics.budget import table
from tokmagic.prices import budgets as budgets
from tokmagic.runs.budget_guard import BudgetWarning
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ASK = (Message("user", "Why?"),)
DAY = Budget("day", Decimal(5), user="ada")
DIME = Hold(tokens=10, usd=Decimal("0.10"))
PRICED = Rates(input=Decimal(1), output=Decimal(2), source="%price")
Make = Callable[..., Session]


def mine(run_id: str, **changes: Any) -> RunRecord:
    return replace(run(run_id, status="running", user="ada", started_at=NOW), **changes)


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with closing(Ledger(database_url)) as opened:
        yield opened


def admit(books: Ledger, run_id: str, hold: Hold = DIME, **changes: Any) -> str | None:
    record = mine(run_id, **changes)
    held = books.budgets(record.user, record.notebook or f"session:{record.session}")
    return books.admit(record, ASK, hold, held, NOW).refused


def stands(books: Ledger, budget: Budget = DAY) -> Standing:
    (found,) = books.standings([budget], "ada", NOW)
    return found


# The ledger


def test_a_run_fits_until_the_cap_is_held_and_its_end_gives_the_rest_back(books: Ledger) -> None:
    books.set_budget(replace(DAY, usd=Decimal("0.25")))
    assert admit(books, "a") is None
    assert admit(books, "b") is None
    assert admit(books, "c") == (
        "this run may cost up to $0.1000, the day's budget of $0.2500 has $0.0500 left ($0 spent, $0.2000 held by "
        "active runs); lower --max-tokens or raise the budget"
    )
    assert [record.run_id for record in books.runs()] == ["a", "b"], "what is refused is not begun"
    books.settle(run("a", user="ada", started_at=NOW, cost="0.01"))
    small = replace(DAY, usd=Decimal("0.25"))
    assert stands(books, small) == Standing(small, Decimal("0.01"), Decimal("0.10"), 14, 14, 0)
    assert stands(books, small).available_usd == Decimal("0.14")
    assert admit(books, "c") is None
    assert admit(books, "d") is not None


@pytest.mark.parametrize(
    ("budget", "own", "others"),
    [
        (DAY, {}, {"started_at": NOW - timedelta(days=2)}),
        (replace(DAY, scope="month"), {}, {"started_at": NOW - timedelta(days=40)}),
        (replace(DAY, scope="notebook", notebook="n"), {"notebook": "n"}, {"notebook": "m"}),
        (replace(DAY, scope="notebook", notebook="session:s"), {"session": "s"}, {"session": "t"}),
        (DAY, {}, {"user": "bob"}),
        (replace(DAY, user=None), {}, {"user": "bob"}),
    ],
    ids=["day", "month", "notebook", "session", "user", "each user"],
)
def test_a_budget_counts_what_it_is_for(books: Ledger, budget: Budget, own: Any, others: Any) -> None:
    books.set_budget(budget)
    for number in range(3):
        books.settle(run(f"other{number}", **{"user": "ada", "started_at": NOW, **others}, cost="100"))
    assert stands(books, budget).spent_usd == 0
    assert admit(books, "a", Hold(10, Decimal(5)), **own) is None
    assert admit(books, "b", Hold(10, Decimal("0.000000000001")), **own) is not None
    if "started_at" not in others:
        assert (admit(books, "c", Hold(10, Decimal(5)), **others) is None) == (budget.user is not None)


def test_days_are_the_local_ones(books: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        books.settle(run("late", user="ada", started_at=datetime(2026, 11, 24, 14, 59, tzinfo=UTC), cost="1"))
        books.settle(run("early", user="ada", started_at=datetime(2026, 11, 24, 15, 0, tzinfo=UTC), cost="2"))
        (one,) = books.standings([DAY], "ada", datetime(2026, 11, 24, 15, 1, tzinfo=UTC))
        assert one.spent_usd == 2
        # A clock that jumps back across midnight forgets nothing.
        (back,) = books.standings([DAY], "ada", datetime(2026, 11, 24, 14, 30, tzinfo=UTC))
        assert back.spent_usd == 3
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_run_that_was_taken_for_dead_is_in_the_sums_while_it_goes_on(
    books: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(cost: str, **changes: Any) -> RunRecord:
        return replace(run("a", user="ada", started_at=NOW, cost=cost), **changes)

    books.set_budget(DAY)
    assert admit(books, "a") is None
    # The server was started anew, say, and has forgotten whose locks were held.
    with closing(Ledger(database_url)) as other:
        monkeypatch.setattr(other._liveness, "is_dead", lambda _owner, _connection: True)
        books.progress(used("0.02", status="running"))
        assert other.reap() == 1
    books.progress(used("0.03", status="running"))
    stood = stands(books)
    assert (stood.spent_usd, stood.held_usd) == (Decimal("0.02"), 0), "what was known then, neither twice nor never"
    assert books.totals(Selection()).cost_usd == Decimal("0.02")
    books.settle(used("0.04"))
    assert (stands(books).spent_usd, books.totals(Selection()).cost_usd) == (Decimal("0.04"), Decimal("0.04"))


MIDNIGHT = budgets.today(NOW + timedelta(days=1))
MONTHS_END = budgets.this_month(NOW + timedelta(days=20))


@pytest.mark.parametrize(("scope", "ends"), [("day", MIDNIGHT), ("month", MONTHS_END)])
@pytest.mark.parametrize(("before", "since", "refused"), [("0.95", "0", True), ("0", "0.95", False)])
def test_a_run_is_held_to_the_period_in_which_it_began(
    books: Ledger, scope: Scope, ends: datetime, before: str, since: str, refused: bool
) -> None:
    budget = Budget(scope, Decimal(1), user="ada")
    books.set_budget(budget)
    books.settle(run("before", user="ada", started_at=ends - timedelta(seconds=9), cost=before))
    books.settle(run("since", user="ada", started_at=ends + timedelta(seconds=1), cost=since))
    now = ends + timedelta(seconds=2)
    # It began before the end, and waited at the door until after it.
    late = mine("late", started_at=ends - timedelta(seconds=1))
    told = books.admit(late, ASK, DIME, books.budgets("ada", None), now).refused
    assert (told is not None) == refused
    if told is not None:
        assert "has $0.0500 left ($0.9500 spent, $0 held by active runs)" in told
    # One that began then is counted with those since.
    assert (books.admit(mine("new", started_at=now), ASK, DIME, [budget], now).refused is None) == refused


def test_a_hold_grows_as_far_as_the_day_allows_in_which_the_run_began(books: Ledger) -> None:
    books.set_budget(replace(DAY, usd=Decimal(1)))
    books.settle(run("before", user="ada", started_at=MIDNIGHT - timedelta(seconds=9), cost="0.8"))
    late = mine("late", started_at=MIDNIGHT - timedelta(seconds=1))
    assert books.admit(late, ASK, DIME, books.budgets("ada", None), MIDNIGHT - timedelta(seconds=1)).refused is None
    granted = books.extend(late, Hold(10, Decimal(1)), (), MIDNIGHT + timedelta(seconds=1))
    assert granted.usd == Decimal("0.2"), "it is counted in the day before, whose cap is 1"


def test_tokens_are_capped_too(books: Ledger) -> None:
    books.set_budget(Budget("day", None, 25, user="ada"))
    assert admit(books, "a", Hold(tokens=20)) is None
    assert admit(books, "b", Hold(tokens=6)) == (
        "this run may use up to 6 tokens, the day's budget of 25 has 5 left; lower --max-tokens or raise the budget"
    )
    assert admit(books, "b", Hold(tokens=5)) is None


def test_what_has_no_price_passes_a_cap_in_usd_unless_it_is_strict_or_used_up(books: Ledger) -> None:
    unknown = Hold(tokens=10)
    books.set_budget(DAY)
    assert admit(books, "a", unknown) is None
    books.set_budget(replace(DAY, strict=True))
    assert admit(books, "b", unknown) == (
        "the price of this run is unknown and the day's budget of $5.00 is strict; set a price with %price"
    )
    books.set_budget(DAY)
    books.settle(run("dear", user="ada", started_at=NOW, cost="5"))
    assert admit(books, "c", unknown) == "the day's budget of $5.00 is used up; raise it with %budget"
    books.settle(
        replace(run("a", user="ada", started_at=NOW), reading=replace(run().reading, cost=type(run().reading.cost)()))
    )
    assert stands(books).unpriced_runs == 1, "the budget says that it cannot count it"


def test_setting_a_budget_replaces_the_one_before(books: Ledger) -> None:
    here = replace(DAY, scope="notebook", notebook="n")
    for budget in (DAY, replace(DAY, usd=Decimal(7)), here, replace(DAY, user=None, warn_at=0.5, strict=True)):
        books.set_budget(budget)
    assert books.budgets("ada", "n") == [
        replace(DAY, usd=Decimal(7)),
        here,
        replace(DAY, user=None, warn_at=0.5, strict=True),
    ]
    assert books.budgets("ada", "m") == [
        replace(DAY, usd=Decimal(7)),
        replace(DAY, user=None, warn_at=0.5, strict=True),
    ]
    assert books.budgets("bob", None) == [replace(DAY, user=None, warn_at=0.5, strict=True)]
    assert books.drop_budget(DAY)
    assert not books.drop_budget(DAY)


def test_a_hold_grows_as_far_as_the_caps_allow(books: Ledger) -> None:
    books.set_budget(replace(DAY, usd=Decimal(1)))
    assert admit(books, "a", Hold(10, Decimal("0.2"), estimated=True)) is None
    assert admit(books, "b", Hold(10, Decimal("0.5"))) is None
    assert books.extend(mine("a"), Hold(10, Decimal("0.4")), [], NOW).usd == Decimal("0.4")
    assert stands(books, replace(DAY, usd=Decimal(1))).held_usd == Decimal("0.9")
    assert books.extend(mine("a"), Hold(10, Decimal("0.8")), [], NOW).usd == Decimal("0.5"), "all that is left"
    assert admit(books, "c", Hold(1, Decimal("0.000001"))) is not None
    assert books.extend(mine("a"), Hold(10, Decimal("9")), [Budget("cell", Decimal("0.3"))], NOW).usd == Decimal("0.3")
    books.set_budget(replace(DAY, tokens=50))
    assert books.extend(mine("a"), Hold(99), [Budget("cell", tokens=5)], NOW) == Hold(36), "a cell's tokens are no cap"


# Processes that have imported what they need: they are forked off one that did.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.runs.test_budgets"])


def admit_many(url: str, name: str, each: int, start: Barrier, admitted: Queue[int], end: Event) -> None:
    """Ask for ``each`` admissions once all have begun, settle every second one, and hold the others until the end."""
    ledger, found = Ledger(url), 0
    start.wait(120)
    for number in range(each):
        run_id = f"{name}-{number}"
        if ledger.admit(mine(run_id), ASK, DIME, ledger.budgets("ada", None), NOW).refused is None:
            found += 1
            if number % 2:
                ledger.settle(run(run_id, user="ada", started_at=NOW, cost="0.10"))
    admitted.put(found)
    end.wait(600)  # what it holds must be held until the last of them has asked
    os._exit(0)  # as a process that is killed: what it holds is not given back


@pytest.mark.parametrize("each", [40, pytest.param(250, marks=pytest.mark.slow)])
def test_of_many_admissions_at_once_exactly_fifty_are_admitted(books: Ledger, database_url: str, each: int) -> None:
    books.set_budget(DAY)
    start, admitted, end = SERVER.Barrier(4), SERVER.Queue(), SERVER.Event()
    children = [
        SERVER.Process(target=admit_many, args=(database_url, str(number), each, start, admitted, end))
        for number in range(4)
    ]
    for child in children:
        child.start()
    try:
        assert sum(admitted.get(timeout=120) for _ in children) == 50
        now = stands(books)
        assert (now.available_usd, now.spent_usd + now.held_usd) == (0, 5)
    finally:
        end.set()
        for child in children:
            child.join(60)
    deadline = time.monotonic() + 30
    while (ended := stands(books)).held_usd and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ended.held_usd == 0, "the processes ended, and with them what they held"
    assert ended.available_usd == 5 - ended.spent_usd
    assert len(books.runs()) == 50


def spend(url: str, name: str, ready: Event) -> None:
    """Begin and settle runs without end."""
    ledger = Ledger(url)
    ready.set()
    for number in itertools.count():
        run_id = f"{name}-{number}"
        if ledger.admit(mine(run_id), ASK, DIME, ledger.budgets("ada", None), NOW).refused is None:
            ledger.progress(mine(run_id, reading=run(cost="0.01").reading))
            ledger.settle(run(run_id, user="ada", started_at=NOW, cost="0.02"))


@pytest.mark.slow
def test_kills_at_random_moments_release_what_was_held(books: Ledger, database_url: str) -> None:
    big = replace(DAY, usd=Decimal(1_000))
    books.set_budget(big)
    dice = random.Random(7)
    for kill in range(50):
        ready = SERVER.Event()
        child = SERVER.Process(target=spend, args=(database_url, str(kill), ready))
        child.start()
        assert ready.wait(60)
        time.sleep(dice.uniform(0.0, 0.05))  # the moment is what is tried out
        child.kill()
        child.join(60)
        # A server notices a little later that a connection is gone.
        deadline = time.monotonic() + 30
        while (now := stands(books, big)).held_usd and time.monotonic() < deadline:
            time.sleep(0.02)
        records = books.runs()
        assert now.held_usd == 0
        assert {record.status for record in records} <= {"ok", "interrupted"}
        spent = sum((record.reading.cost.usd or Decimal(0) for record in records), Decimal(0))
        assert now.available_usd == 1_000 - spent
        assert len({record.run_id for record in records}) == len(records)


# The pipeline


@pytest.fixture
def session(make_session: Make, tmp_path: Path) -> Session:
    made = make_session()
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"pieces": ["a"] * 20, "input_tokens": 100, "ttft_s": 1.0, "itl_s": 1.0}))
    made.models.add("s", replace(made.models.spec(f"scripted:{path}")))
    made.prices.set("s", PRICED)
    made.models.use("s")
    return made


def ask(session: Session, max_tokens: int = 20, **options: Any) -> Generation:
    return session.generate(Prompt(ASK, Sampling(max_tokens=max_tokens)), **options)


def budget_warnings(seen: list[warnings.WarningMessage]) -> list[str]:
    return [str(it.message) for it in seen if issubclass(it.category, BudgetWarning)]


def test_a_run_that_does_not_fit_is_refused_and_recorded_so(session: Session) -> None:
    # 100 × $1 + 20 × $2 per million
    assert ask(session, budget="0.00014").status == "ok"
    generation = ask(session, budget="0.000139")
    with pytest.raises(BudgetError, match=r"this run may cost up to \$0.00014, more than --budget of \$0.000139"):
        generation.raise_for_status()
    assert (generation.status, generation.text, generation.cost.usd) == ("refused", "", None)
    row = session.ledger().runs()[-1]
    assert (row.status, row.error) == ("refused", str(generation.error))
    assert ask(session, max_tokens=10, budget=Decimal("0.000139")).status == "ok"


def test_the_true_cost_counts_after_the_run(session: Session) -> None:
    session.ledger().set_budget(Budget("day", Decimal("0.001"), user=session.user))
    for _ in range(6):  # each 0.00014, though held are 0.00018
        assert ask(session, max_tokens=40).status == "ok"
    (now,) = session.standings()
    assert (now.spent_usd, now.held_usd, now.available_usd) == (Decimal("0.00084"), 0, Decimal("0.00016"))
    assert ask(session, max_tokens=31).status == "refused"
    assert ask(session, max_tokens=30).status == "ok"


def spent(usd: str | None, source: Source = "reported", bound: Bound = "exact") -> RunRecord:
    """A run that cost so much, as surely as it says."""
    made = run(user="me", notebook="/n.ipynb", started_at=NOW)
    cost = Cost(None if usd is None else Decimal(usd), source, bound)
    return replace(made, reading=replace(made.reading, cost=cost))


@pytest.mark.parametrize(
    ("runs", "shown"),
    [
        ([spent("1")], ("$1.00", "$3.00", "25%")),
        ([spent("1"), spent("1", "estimated")], ("~$2.00", "~$2.00", "~50%")),
        ([spent("1", bound="at_least")], ("≥$1.00", "≤$3.00", "≥25%")),
        ([spent("1", bound="at_most")], ("≤$1.00", "≥$3.00", "≤25%")),
        ([spent("1"), spent(None)], ("≥$1.00", "≤$3.00", "≥25%")),
        ([spent("1", bound="at_least"), spent("1", bound="at_most")], ("~$2.00", "~$2.00", "~50%")),
    ],
    ids=["exact", "estimated", "at least", "at most", "unpriced", "both bounds"],
)
@pytest.mark.parametrize("scope", ["notebook", "day"])
def test_what_is_spent_and_left_is_as_sure_as_the_runs_are(
    make_session: Make, scope: Scope, runs: list[RunRecord], shown: tuple[str, str, str]
) -> None:
    session = make_session(model="scripted")
    session.user, session.notebook = "me", "/n.ipynb"
    notebook = session.notebook if scope == "notebook" else None
    session.ledger().set_budget(Budget(scope, Decimal(4), 1_000, user="me", notebook=notebook))
    session.ledger().set_budget(Budget("month", None, 1_000, user="me"))
    others = replace(spent("1", "estimated", "at_least"), user="you", notebook="/m.ipynb")
    for record in [*runs, others]:
        session.ledger().settle(replace(record, started_at=datetime.now(UTC)))
    lines = {line["budget"]: line for line in table(session).as_dicts()}
    line = lines[scope]
    assert (line["spent"].partition(",")[0], line["left"].partition(",")[0], line["used"]) == shown
    assert line["held"] == "$0, 0", "what is set aside is known"
    assert lines["month"]["used"] == f"{len(runs) * 14 // 10}%", "in tokens alone"


def test_who_is_refused_is_told_how_sure_the_sums_are(books: Ledger) -> None:
    books.set_budget(replace(DAY, usd=Decimal("0.25")))
    guessed = replace(spent("0.20", "estimated", "at_least"), user="ada")
    books.settle(guessed)
    assert admit(books, "a") == (
        "this run may cost up to $0.1000, the day's budget of $0.2500 has ~≤$0.0500 left (~≥$0.2000 spent, $0 held by "
        "active runs); lower --max-tokens or raise the budget"
    )
    assert [record.run_id for record in books.runs()] == [guessed.run_id]


def test_a_setting_caps_the_day(session: Session) -> None:
    session.settings.budget_day = "0.0002"
    assert [ask(session).status for _ in range(3)] == ["ok", "refused", "refused"]
    session.settings.budget_day = "5 EUR"
    with pytest.raises(BudgetError, match="TOKMAGIC_BUDGET_DAY is '5 EUR'; give a number in USD"):
        ask(session)


def test_it_warns_once_at_the_share(session: Session) -> None:
    session.ledger().set_budget(Budget("day", Decimal("0.0005"), user=session.user, warn_at=0.5))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            ask(session)
    assert budget_warnings(seen) == ["the day's budget is 56% used: $0.00028 of $0.0005"]


@pytest.mark.parametrize(("spent", "told"), [("0", "0%"), ("0.009", "<1%"), ("0.996", "99%"), ("1", "100%")])
def test_a_budget_is_all_used_when_it_is_and_not_before(session: Session, spent: str, told: str) -> None:
    assert f" is {told} used: " in budgets.near(Standing(Budget("day", Decimal(1)), Decimal(spent)))


def test_the_warning_tells_of_both_caps(session: Session) -> None:
    session.ledger().set_budget(Budget("day", Decimal(5), 150, user=session.user))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        ask(session)
    assert budget_warnings(seen) == ["the day's budget is 80% used: $0.00014 of $5.00, 120 of 150 tokens"]


def test_an_unknown_price_warns_once(session: Session) -> None:
    session.ledger().set_budget(Budget("day", Decimal(5), user=session.user))
    session.prices.set("s", Rates())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        assert [ask(session).status for _ in range(2)] == ["ok", "ok"]
    assert ["the price of s is unknown, so no budget" in text for text in budget_warnings(seen)] == [True]
    session.ledger().set_budget(Budget("day", Decimal(5), user=session.user, strict=True))
    assert ask(session).status == "refused"


def test_device_time_is_stopped_in_mid_stream_when_the_cap_is_reached(session: Session) -> None:
    # A token a second at $3.60 an hour: $0.001 a token, the first after one second.
    session.prices.set("s", Rates(device_hour=Decimal("3.60"), source="%price"))
    generation = ask(session, budget="0.005")
    with pytest.raises(BudgetError, match=r"stopped at \$0.0050: a budget is used up \(cell \$0.0050\)"):
        generation.raise_for_status()
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    assert generation.cost.usd == Decimal("0.005")
    assert len(generation.tokens) == 5
    row = session.ledger().runs()[-1]
    assert (row.status, row.error, row.reading.cost.usd) == ("interrupted", str(generation.error), Decimal("0.005"))


def test_what_device_time_may_cost_is_guessed_from_the_runs_before(session: Session) -> None:
    session.prices.set("s", Rates(device_hour=Decimal("3.60"), source="%price"))
    ask(session)
    generation = ask(session, budget="0.0199")  # 20 tokens at the one second that each took
    assert generation.status == "refused"
    assert "may cost up to about $0.0200" in str(generation.error)
    assert ask(session, budget="0.03").status == "ok"


def test_a_long_prompt_asks_first(session: Session) -> None:
    session.ledger().set_budget(Budget("cell", None, 99, notebook=session.budget_notebook, user=session.user))
    asked: list[str] = []

    def answer(reply: bool | None) -> Callable[[str], bool | None]:
        return lambda question: asked.append(question) or reply

    assert ask(session, confirm=answer(True)).status == "ok"
    assert asked == ["the prompt has 100 tokens, more than the 99 allowed without confirmation. Run it?"]
    declined = ask(session, confirm=answer(False))
    assert (declined.status, "it was not confirmed" in str(declined.error)) == ("refused", True)
    for confirm in (answer(None), None):
        unasked = ask(session, confirm=confirm)
        assert (unasked.status, "--yes confirms it" in str(unasked.error)) == ("refused", True)
    session.ledger().set_budget(Budget("cell", None, 100, notebook=session.budget_notebook, user=session.user))
    assert ask(session).status == "ok"


def test_without_a_ledger_a_sum_cannot_be_held_but_a_run_can(session: Session, tmp_path: Path) -> None:
    session.settings.ledger = f"sqlite:///{tmp_path}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ask(session).status == "ok"
        assert ask(session, budget="0.00014").status == "ok"
        assert ask(session, budget="0.00013").status == "refused"
        session.settings.budget_day = "5"
        refused = ask(session)
    assert (refused.status, "the day's budget cannot be enforced" in str(refused.error)) == ("refused", True)


@pytest.mark.parametrize(
    "text", ["0", "-1", "nan", "inf", "-inf", "five", "", "5 EUR", "€5", "1e30", "1e-13", "0x5", "5,00", "1/2"]
)
def test_a_cap_that_is_none_is_told_in_one_line(text: str) -> None:
    with pytest.raises(BudgetError) as raised:
        budgets.usd(text, what="%budget day")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("%budget day is ")


@pytest.mark.parametrize(("text", "amount"), [("5", "5"), ("$0.25", "0.25"), ("5 USD", "5"), (" 1e-3 ", "0.001")])
def test_a_cap_is_an_exact_amount(text: str, amount: str) -> None:
    assert budgets.usd(text, what="--budget") == Decimal(amount)


def test_a_model_that_counts_nothing_is_held_on_its_bytes(make_session: Make) -> None:
    from tokmagic.errors import ModelError
    from tokmagic.runs.budget_guard import BudgetGuard
    from tokmagic.runs.recorder import Teller

    class Deaf(ScriptedEngine):
        def count(self, _prompt: Prompt) -> int:
            raise ModelError("no tokenizer")

    session = make_session()
    engine = Deaf("deaf", [Script.of_text(["x"])])
    cap = [Budget("cell", Decimal(1))]
    guard = BudgetGuard(session.ledger, cap, cap, teller=Teller(BudgetWarning))
    record = mine("r", info=EngineInfo("deaf", "deaf", "scripted"), rates=PRICED)
    guard.admit(record, Prompt((Message("user", "Ä" * 50),), Sampling(max_tokens=10)), engine)
    assert guard.hold is not None
    assert guard.hold.estimated
    assert guard.hold.tokens == 100 + 16 + 64 + 10


@pytest.mark.model
def test_the_real_model_is_stopped_within_a_forward_pass_of_the_cap(make_session: Make, model_home: Path) -> None:
    session = make_session(home=str(model_home))
    session.load("smollm2")
    session.prices.set("smollm2", Rates(device_hour=Decimal(3_600), source="%price"))  # a dollar a second
    story = Prompt((Message("user", "Write a very long story about the sea."),), Sampling(max_tokens=2000))
    stopped = session.generate(story, budget="0.50")
    assert (stopped.status, stopped.finish_reason) == ("interrupted", "budget")
    reading = stopped.reading
    assert len(stopped.tokens) == len(reading.spark_ms) + 1 == reading.usage.output_tokens
    assert reading.ttft_s is not None
    # What each token brought the cost to, in seconds and so in dollars.
    first = reading.ttft_s - (reading.queue_s or 0)
    costs = [first + sum(reading.spark_ms[:later]) / 1e3 for later in range(len(stopped.tokens))]
    reached = next(number for number, cost in enumerate(costs, 1) if cost >= 0.5)
    assert len(stopped.tokens) <= reached + 1
    assert stopped.text
