"""Sums made by the database are the sums of its rows, on each database."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from tests.examples import examples
from tests.reports.test_tables import run
from tokmagic.core.money import Bound, Cost
from tokmagic.core.prompt import spelled
from tokmagic.core.record import EnergySum, EngineInfo, RunRecord, Selection, Status, Sum
from tokmagic.ledgers import Ledger, store, summaries
from tokmagic.ledgers.schema import storable
from tokmagic.reports import table

EVERYTHING = Selection()
KEYS = ("cell", "run", "model", "notebook", "tag", "user", "status", "day", "key", "team")


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with closing(Ledger(database_url)) as opened:
        yield opened


def key_of(record: RunRecord, by: str) -> Any:
    keys = {
        "cell": (record.notebook, record.session, record.cell_id),
        "run": (record.run_id,),
        "model": (record.info.name,),
        "notebook": (record.notebook,),
        "user": (record.user,),
        "status": (record.status,),
        "day": (f"{record.started_at.astimezone():%Y-%m-%d}",),
        "key": (record.key,),
        "team": (record.team,),
    }
    return keys[by]


def added(records: list[RunRecord], by: str) -> list[RunRecord]:
    """Those of some runs that are in the sums of a grouping: a duplicate only in those of its key and team."""
    if by in ("key", "team"):
        return [record for record in records if record.key is not None]
    return [record for record in records if not record.duplicate]


def same(one: Sum, other: Sum) -> bool:
    """Counts and money to the last digit; sums of seconds as exact as floats are in any order."""
    seconds = [(one.ttft_total_s, other.ttft_total_s), (one.itl_total_s, other.itl_total_s)]
    exact = replace(one, ttft_total_s=0.0, itl_total_s=0.0) == replace(other, ttft_total_s=0.0, itl_total_s=0.0)
    return exact and all(left == pytest.approx(right) for left, right in seconds)


STATUS: st.SearchStrategy[Status] = st.sampled_from(["ok", "ok", "cached", "interrupted", "failed", "refused"])

COUNTS: st.SearchStrategy[tuple[int | None, int | None]] = st.sampled_from([(10, 4), (10, 0), (10, None), (None, None)])


@st.composite
def records(draw: st.DrawFn) -> RunRecord:
    status = draw(STATUS)
    cost = draw(st.none() | st.decimals(0, 9_000_000, places=12))
    made = run(
        uuid.uuid4().hex,
        status=status,
        at=datetime(2026, 3, 28, tzinfo=UTC) + timedelta(minutes=draw(st.integers(0, 4_000))),
        notebook=draw(st.sampled_from([None, "/a", "/b"])),
        session=draw(st.sampled_from(["s", "t"])),
        cell_id=draw(st.sampled_from([None, "1", "2"])),
        model=draw(st.sampled_from(["m", "n"])),
        user=draw(st.sampled_from([None, "ada"])),
        tags=draw(st.sampled_from([(), ("x",), ("x", "y")])),
        key=draw(st.sampled_from([None, "k", "l"])),
        team=draw(st.sampled_from([None, "t"])),
        duplicate=draw(st.booleans()),
        ttft_s=draw(st.none() | st.floats(0, 9)) if status not in ("refused", "cached") else None,
        itl_mean_s=draw(st.none() | st.floats(0, 1)) if status not in ("refused", "cached") else None,
    )
    if status in ("ok", "interrupted") and draw(st.booleans()):
        source, bound = draw(st.sampled_from(["measured", "estimated"])), draw(st.sampled_from(get_args(Bound)))
        made = replace(made, energy_j=draw(st.floats(0.001, 1e6)), energy_source=source, energy_bound=bound)
    saved = draw(st.none() | st.decimals(0, 9, places=12)) if status == "cached" else None
    usd = None if status == "refused" else cost
    source, bound = draw(st.sampled_from(["measured", "estimated"])), draw(st.sampled_from(get_args(Bound)))
    asked, answered = (None, None) if status == "refused" else draw(COUNTS)
    usage = replace(made.reading.usage, input_tokens=asked, output_tokens=answered)
    return replace(made, reading=replace(made.reading, usage=usage, cost=Cost(usd, source, bound, saved_usd=saved)))


@examples(20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records(), max_size=25))
def test_each_grouping_is_the_fold_over_its_rows(books: Ledger, made: list[RunRecord]) -> None:
    for record in books.runs():
        books.settle(replace(record, status="running"))  # out of every sum
    for record in made:
        books.settle(record)
    ended = [record for record in books.runs() if record.status != "running"]
    assert same(books.totals(EVERYTHING), Sum.of(added(ended, "")))
    for by in KEYS:
        groups, kept = books.summarise(EVERYTHING, by), added(ended, by)
        assert same(sum((group for _, group in groups), Sum()), Sum.of(kept))
        if by == "tag":
            continue
        for key, group in groups:
            assert same(group, Sum.of(record for record in kept if key_of(record, by) == key)), (by, key)


def alike(one: EnergySum, other: EnergySum) -> bool:
    """Counts and marks exactly, joules as exact as floats are in any order."""
    joules = [(one.joules, other.joules), (one.counted_joules, other.counted_joules)]
    bare = [replace(it, joules=0.0, counted_joules=0.0) for it in (one, other)]
    return bare[0] == bare[1] and all(left == pytest.approx(right) for left, right in joules)


@examples(20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records(), max_size=25))
def test_each_grouping_of_energy_is_the_fold_over_its_rows(books: Ledger, made: list[RunRecord]) -> None:
    for record in books.runs():
        books.settle(replace(record, status="running"))
    for record in made:
        books.settle(record)
    metered = [record for record in books.runs() if record.status != "running" and record.energy_j is not None]
    for by in KEYS:
        groups, kept = dict(books.energies(EVERYTHING, by)), added(metered, by)
        assert alike(sum(groups.values(), EnergySum()), EnergySum.of(kept)), by
        if by != "tag":
            assert set(groups) == {key_of(record, by) for record in kept}
        for key, group in groups.items() if by != "tag" else ():
            assert alike(group, EnergySum.of(record for record in kept if key_of(record, by) == key)), (by, key)


def test_sums_of_energy_look_at_metered_runs_alone(sqlite_url: str) -> None:
    """Where there are none, in an index that has nothing in it."""
    asked = sa.create_engine(sqlite_url)
    with asked.connect() as connection:
        plans: list[Any] = []
        sa.event.listen(connection, "before_cursor_execute", lambda *told: plans.append(told[2:4]))
        assert summaries.energies(connection, EVERYTHING, "model") == []
        query, given = plans[0]
        steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", given).all()
    asked.dispose()
    assert any("runs_metered" in str(step) for step in steps), steps


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"])
def test_a_day_is_the_persons_own(books: Ledger, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        midnight = datetime(2026, 3, 29).astimezone()  # in Berlin a day of 23 hours
        moments = [midnight - timedelta(minutes=1), midnight, midnight + timedelta(hours=22, minutes=59)]
        for number, moment in enumerate(moments):
            books.settle(run(str(number), at=moment.astimezone(UTC), cost="1"))
        days = [(key[0], group.runs) for key, group in books.summarise(EVERYTHING, "day")]
        assert days == [("2026-03-28", 1), ("2026-03-29", 2)]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Selection(user="ada"), "a"),
        (Selection(model="other"), "b"),
        (Selection(since=datetime(2026, 11, 25, tzinfo=UTC)), "c"),
        (Selection(until=datetime(2026, 11, 24, tzinfo=UTC)), "d"),
        (Selection(cell_id="7"), "e"),
        (Selection(tags=("x",)), "f"),
        (Selection(tags=("x", "w")), "f"),
        (Selection(status="failed"), "g"),
    ],
)
def test_runs_are_selected_alike_for_sums_rows_and_streams(books: Ledger, where: Selection, expected: str) -> None:
    day = timedelta(days=1)
    base = run("base")
    for record in (
        base,
        replace(base, run_id="a", user="ada"),
        run("b", model="other"),
        run("c", at=base.started_at + day),
        run("d", at=base.started_at - day),
        run("e", cell_id="7"),
        run("f", tags=("w", "x")),
        run("g", status="failed", tags=("w", "xx", "X")),
    ):
        books.settle(record)
    assert [record.run_id for record in books.runs(where)] == [expected]
    assert [record.run_id for record in books.stream(where)] == [expected]
    assert books.totals(where).runs == 1
    assert table(books, where, "run").rows[0][0] == expected


@pytest.mark.parametrize("name", ["caf\udce9", "n\0l"])
def test_runs_are_selected_by_names_that_no_database_takes(books: Ledger, name: str) -> None:
    """Such as a word of the command line that is not UTF-8."""
    theirs = replace(run("theirs", model=name, cell_id=name), user=storable(name), session=name, notebook=name)
    theirs = replace(theirs, info=replace(theirs.info, model_id=name), reading=replace(theirs.reading, itl_p95_s=0.5))
    books.settle(theirs)
    books.settle(run("other"))
    for where in (
        *(Selection(user=name), Selection(model=name), Selection(notebook=name)),
        *(Selection(session=name), Selection(cell_id=name)),
    ):
        assert [record.run_id for record in books.runs(where)] == ["theirs"], where
    assert (books.token_time_s(theirs.info), books.output_tokens_p95(theirs.info)) == (0.5, 4)


def test_a_stream_reads_in_portions_and_misses_none(books: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PORTION", 100)
    for number in range(230):
        books.settle(run(f"{number:04}"))
    assert [record.run_id for record in books.stream()] == [f"{number:04}" for number in range(230)]


def test_more_than_nine_million_dollars_add_up_exactly(books: Ledger) -> None:
    for number in range(3):
        books.settle(run(str(number), cost="9223372.036854775807"))
    assert books.totals(EVERYTHING).cost_usd == 3 * Decimal("9223372.036854775807")


TAGS = st.lists(st.text(alphabet='aA,"\\[]{}%_ é\0\ud800', max_size=3), max_size=3, unique=True)


@examples(25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TAGS, min_size=1, max_size=8))
@example(
    [['",', ""], ["\\", '\\"'], ["a,", ","], ["[", "a"], ['x,"a"'], ["x,", "y"], ['z",', "y"], ["ab"], ["A"], ["%"]]
)
def test_a_tag_selects_the_runs_that_have_exactly_it(books: Ledger, tagged: list[list[str]]) -> None:
    # Each example marks its runs, since the ledger is one for all.
    user = uuid.uuid4().hex
    for tags in tagged:
        books.settle(run(uuid.uuid4().hex, tags=tuple(tags), user=user, cost="1"))
    known = {tag for tags in tagged for tag in tags}
    for wanted in [*((tag,) for tag in known | {"a", ",", "", "%"}), *map(tuple, tagged)]:
        where = Selection(user=user, tags=wanted)
        expected = [tuple(map(spelled, tags)) for tags in tagged if set(wanted) <= set(tags)]
        assert [record.tags for record in books.stream(where)] == expected, wanted
        assert books.totals(where).runs == len(expected)


PARAMS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"max_tokens": 9, "temperature": 0.0, "n": 1},
    {"seed": 1},
    {"temperature": 0.7},
    {"temperature": 0.05, "stop": ['"temperature":0,', '"seed":1']},
    {},
]


@examples(25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["p", "q"]),
            st.sampled_from(PARAMS),
            st.sampled_from([None, "nf4"]),
            st.sampled_from(["ok", "ok", "ok", "ok", "cached", "failed", "interrupted", "refused"]),
            st.none() | st.decimals(0, 9_000_000, places=12),
            st.sampled_from(["measured", "estimated"]),
            st.sampled_from(get_args(Bound)),
            COUNTS,
        ),
        max_size=20,
    )
)
def test_waste_is_the_fold_over_the_rows(books: Ledger, drawn: list[Any]) -> None:
    user = uuid.uuid4().hex
    seen: set[Any] = set()
    expected: dict[str, list[RunRecord]] = {"interrupted": [], "failed": [], "run again unchanged": []}
    for prompt, params, quant, status, cost, source, bound, (asked, answered) in drawn:
        record = run(uuid.uuid4().hex, status=status, user=user)
        usage = replace(record.reading.usage, input_tokens=asked, output_tokens=answered)
        reading = replace(record.reading, usage=usage, cost=Cost(cost, source, bound))
        info = replace(record.info, quant=quant)
        record = replace(record, prompt_sha256=prompt, params=params, info=info, reading=reading)
        books.settle(record)
        key = (prompt, str(params), quant)
        if status in expected:
            expected[status].append(record)
        elif status == "ok" and (params.get("temperature") == 0 or "seed" in params):
            expected["run again unchanged"] += [record] if key in seen else []
            seen.add(key)
    found = books.wasted(Selection(user=user))
    wanted = {kind: Sum.of(records) for kind, records in expected.items() if records}
    assert list(found) == list(wanted)
    for kind, total in wanted.items():
        assert found[kind] == replace(total, ttft_total_s=0.0, ttft_runs=0, itl_total_s=0.0, itl_steps=0), kind


def test_waste_counts_the_same_runs_of_the_selection_alone(books: Ledger) -> None:
    greedy = {"temperature": 0.0}
    for number, notebook in enumerate(["/a", "/b", "/b"]):
        books.settle(replace(run(str(number), cost="1", notebook=notebook), params=greedy))
    again = {
        where: books.wasted(where).get("run again unchanged", Sum()).runs for where in (EVERYTHING, Selection("/b"))
    }
    assert list(again.values()) == [2, 1]


def test_the_same_prompt_at_two_servers_is_no_repetition(books: Ledger) -> None:
    servers = ["http://one/v1", "http://two/v1", "http://one/v1", 'http://one/v1?"é', None, None]
    for number, server in enumerate(servers):
        made = run(str(number), cost="1")
        info = EngineInfo("m", "id", "endpoint", server=server)
        # What else is known of a process, such as its packages, makes no other run of it.
        env = {"note": '"server":"x"\ud800', "python": f"3.{number}", **({"server": server} if server else {})}
        env["answer_sha256"] = str(number)
        books.settle(replace(made, info=info, params={"temperature": 0.0}, env=env))
    assert books.wasted(EVERYTHING)["run again unchanged"].runs == 2
    for number in range(2):
        local = replace(run(f"local {number}", cost="1"), params={"temperature": 0.0})
        books.settle(replace(local, env={"server": f"http://{number}"}))
    assert books.wasted(EVERYTHING)["run again unchanged"].runs == 3, "what runs here has no server"


def test_a_period_is_added_up_from_the_index_of_times_alone(books: Ledger, database_url: str) -> None:
    """So that its table by model does not read a month's rows; PostgreSQL decides by what the table holds."""
    if not database_url.startswith("sqlite"):
        pytest.skip("only SQLite says what it will read, whatever is in the table")
    asked: list[tuple[str, Any]] = []
    where = Selection(since=datetime(2026, 6, 1, tzinfo=UTC), until=datetime(2026, 7, 1, tzinfo=UTC))
    with books.reading() as connection:

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if statement.startswith("SELECT"):
                asked.append((statement, parameters))

        sa.event.listen(connection, "before_cursor_execute", note)
        summaries.summarise(connection, where, "model")
        summaries.add_up(connection, *summaries.conditions(where))
        assert len(asked) == 2
        for statement, parameters in list(asked):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert "USING COVERING INDEX runs_by_time" in plan[0][-1]
