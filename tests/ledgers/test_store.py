"""The ledger: one row a run whatever happens, exact money, several processes at once, and killed ones found out."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.reports import test_tables as test_report
from tokmagic.core.money import Cost, Rates
from tokmagic.core.prompt import Message
from tokmagic.core.record import EngineInfo, Reading, RunRecord, Selection, Status, Sum
from tokmagic.core.stream import Usage
from tokmagic.ledgers import Ledger
from tokmagic.ledgers.schema import metadata

NEWEST = max(path.name[:4] for path in (ROOT / "tokmagic/ledgers/migrations/versions").glob("0*.py"))
START = datetime(2026, 11, 24, 9, 15, 2, 120000, tzinfo=UTC)
EVERYTHING = Selection()
CHAT = (Message("system", "Be brief. é\r\n"), Message("user", "Why?\x00 \U0001f600"))
TINY = Decimal("0.000000000001")
FULL = replace(
    test_report.FULL,
    info=EngineInfo("gpt π", "org/model", "local", "abc", "cuda:0", "bfloat16", "nf4", None, "9" * 64),
    error="none, 'really'",
    reading=replace(
        test_report.FULL.reading,
        cost=Cost(Decimal("123.456789012345"), "reported", "at_least", TINY, Decimal("0.0001"), Decimal("7"), "odd"),
    ),
    rates=Rates(Decimal("0.15"), Decimal("0.60"), Decimal(0), Decimal("0.19"), Decimal("2.5"), "%price", "v1"),
    env={"torch": "2.13.0", "note": 'say "hi"', "tokenizer_sha256": "9" * 64},
)


def run(run_id: str | None = None, *, cost: str | None = None, status: Status = "ok", **more: Any) -> RunRecord:
    usage = Usage(input_tokens=10, output_tokens=4, input_source="measured", output_source="measured")
    reading = Reading(usage if status != "refused" else Usage(), Cost(None if cost is None else Decimal(cost)))
    more = {"started_at": START, "reading": reading, **more}
    return RunRecord(
        run_id=run_id or uuid.uuid4().hex,
        status=status,
        info=EngineInfo("m", "id", "scripted"),
        prompt_sha256="",
        params={},
        **more,
    )


def ids(records: list[RunRecord]) -> list[str]:
    return [record.run_id for record in records]


def asked(url: str, query: str) -> list[Any]:
    """The first column of a query's rows, asked past the ledger's own code."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = list(connection.execute(sa.text(query)).scalars())
    engine.dispose()
    return found


def rows_in(url: str, table: str = "runs") -> int:
    return int(asked(url, f"SELECT count(*) FROM {table}")[0])


@pytest.fixture
def ledger_url(database_url: str) -> str:
    """Everything here holds for each database."""
    return database_url


def test_a_run_is_one_row_from_its_beginning_to_its_end(ledger: Ledger, ledger_url: str) -> None:
    begun = run("r", status="running", reading=Reading())
    begun = replace(begun, notebook=FULL.notebook)
    ledger.begin(begun, CHAT)
    assert (ledger.runs(), ledger.texts("r")) == ([begun], (list(CHAT), None))
    later = replace(begun, reading=Reading(Usage(output_tokens=2)))
    ledger.progress(later)
    assert ledger.runs() == [later]
    ended = replace(FULL, run_id="r")
    ledger.settle(ended, CHAT, "Because.")
    assert (ledger.runs(), ledger.texts("r")) == ([ended], (list(CHAT), "Because."))
    assert rows_in(ledger_url) == rows_in(ledger_url, "texts") == 1


def test_an_end_without_a_beginning_writes_the_whole_row(ledger: Ledger) -> None:
    ledger.settle(FULL, CHAT, "Because.")
    assert ledger.runs() == [FULL]
    assert ledger.texts(FULL.run_id) == (list(CHAT), "Because.")


def test_settling_twice_keeps_one_row_and_progress_alone_makes_none(ledger: Ledger) -> None:
    ledger.settle(FULL, CHAT, "one")
    ledger.settle(replace(FULL, status="failed"), CHAT, "two")
    assert [record.status for record in ledger.runs()] == ["failed"]
    assert ledger.texts(FULL.run_id) == (list(CHAT), "two")
    ledger.progress(run("never begun", status="running"))
    assert ids(ledger.runs()) == [FULL.run_id]


@pytest.mark.parametrize("status", ["ok", "cached", "interrupted", "failed", "refused"])
def test_every_field_survives(ledger: Ledger, status: Status) -> None:
    record = replace(FULL, status=status, duplicate=True)
    ledger.settle(record)
    ledger.close()
    (kept,) = ledger.runs()
    for name in (field.name for field in fields(RunRecord)):
        assert getattr(kept, name) == getattr(record, name), name
    assert all(getattr(record, field.name) not in (None, (), {}, False) for field in fields(RunRecord)), (
        "FULL has a gap"
    )


def test_unknown_comes_back_as_unknown_and_zero_as_zero(ledger: Ledger) -> None:
    empty = RunRecord("r", START, "ok", EngineInfo("m", "id", "local"), "", {})
    ledger.settle(empty)
    zero = replace(empty, run_id="z", reading=Reading(Usage(input_tokens=0, output_tokens=0), Cost(Decimal(0))))
    ledger.settle(zero)
    elsewhere = replace(empty, run_id="e", started_at=START.astimezone(timezone(timedelta(hours=9))))
    ledger.settle(elsewhere)
    assert ledger.runs() == [empty, zero, elsewhere]


MONEY = st.decimals(0, 9_000_000, places=12) | st.integers(0, 9_000_000).map(Decimal)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MONEY, min_size=1, max_size=4))
@example([Decimal("9000000"), Decimal("9000000")])
@example([Decimal("9223372.036854775807"), TINY])
@example([Decimal("1E+6"), Decimal("1E-12")])
def test_money_survives_and_adds_up_exactly(ledger: Ledger, amounts: list[Decimal]) -> None:
    session = uuid.uuid4().hex  # marks an example's runs, since the ledger is one for all
    for usd in amounts:
        cost = Cost(usd, "measured", "exact", usd, usd, usd)
        ledger.settle(run(reading=Reading(Usage(), cost), session=session))
    kept = [record.reading.cost for record in ledger.runs(Selection(session=session))]
    assert [cost.usd for cost in kept] == amounts
    for cost in kept:
        assert cost.token_usd == cost.compute_usd == cost.saved_usd == cost.usd
        assert "E" not in str(cost.usd) or cost.usd < 1, "a bill is printed in plain digits"
    assert ledger.totals(Selection(session=session)).cost_usd == sum(amounts)


def test_totals_count_what_has_no_price_and_leave_out_what_runs(ledger: Ledger) -> None:
    assert ledger.totals(EVERYTHING) == Sum()
    ledger.begin(run("running", cost="5", status="running"))
    ledger.settle(run("refused", status="refused"))
    assert ledger.totals(EVERYTHING) == Sum(1, refused_runs=1)
    ledger.settle(run("unpriced"))
    assert ledger.totals(EVERYTHING) == Sum(2, 10, 4, None, 1, refused_runs=1)
    ledger.settle(run("free", cost="0"))
    assert ledger.totals(EVERYTHING) == Sum(3, 20, 8, Decimal(0), 1, refused_runs=1)
    for status, cost in (("ok", "0.1"), ("cached", "0.2"), ("interrupted", "0.000000000001"), ("failed", None)):
        ledger.settle(run(status=status, cost=cost))  # type: ignore[arg-type]
    expected = Sum(7, 60, 24, Decimal("0.300000000001"), 2, unpriced_hits=1, refused_runs=1)
    assert ledger.totals(EVERYTHING) == expected


def test_each_cell_shows_its_latest_run_oldest_first(ledger: Ledger) -> None:
    for number, cell in enumerate(["a", "b", "a", "c", None, "b", None]):
        ledger.settle(run(f"{cell}{number}", cell_id=cell, notebook="n"))
    ledger.settle(run("elsewhere", cell_id="a", notebook="other"))
    ledger.begin(run("c7", cell_id="c", notebook="n", status="running"))
    assert ids(ledger.latest_by_cell(Selection(notebook="n"))) == ["a2", "b5", "None6", "c7"]
    assert ids(ledger.latest_by_cell(Selection(notebook="none"))) == []


def test_runs_are_selected_by_notebook_session_and_time(ledger: Ledger) -> None:
    second = timedelta(seconds=1)
    for number, (notebook, session) in enumerate([("n", "s"), ("n", "t"), ("m", "s"), (None, "s")]):
        ledger.settle(run(str(number), notebook=notebook, session=session, started_at=START + number * second))
    cases: list[tuple[Selection, list[str]]] = [
        (Selection(), ["0", "1", "2", "3"]),
        (Selection(notebook="n"), ["0", "1"]),
        (Selection(session="s"), ["0", "2", "3"]),
        (Selection(notebook="n", session="s"), ["0"]),
        (Selection(since=START + second), ["1", "2", "3"]),
        (Selection(since=START + second + timedelta(microseconds=1)), ["2", "3"]),
        (Selection(notebook="n", since=START + second), ["1"]),
        (Selection(notebook="N"), []),
        (Selection(notebook=""), []),
    ]
    for where, expected in cases:
        assert ids(ledger.runs(where)) == expected, where
        assert ledger.totals(where).runs == len(expected), where
    assert ids(ledger.runs(limit=2)) == ["2", "3"], "the newest ones, in their order"
    assert ids(ledger.runs(Selection(notebook="n"), limit=1)) == ["1"]


@pytest.mark.parametrize("kept", [True, False])
def test_texts_are_kept_or_not(tmp_path: Path, kept: bool) -> None:
    secret = "the-word-that-must-not-be-on-disk"
    ledger = Ledger(f"sqlite:///{tmp_path}/l.sqlite", store_text=kept)
    ledger.begin(run("r", status="running"), [Message("user", secret)])
    ledger.settle(run("r"), [Message("user", secret)], f"answer: {secret}")
    ledger.settle(run("late"), [Message("user", secret)], secret)
    expected = ([Message("user", secret)], f"answer: {secret}")
    assert ledger.texts("r") == (expected if kept else None)
    assert ledger.texts("unknown") is None
    assert len(ledger.runs()) == 2
    on_disk = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert (secret.encode() in on_disk) is kept
    ledger.close()


def test_only_its_owner_may_read_the_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there yet"
    ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
    ledger.begin(FULL, CHAT)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((folder / "ledger.sqlite").stat().st_mode) == 0o600
    ledger.close()


def by_migrations(url: str) -> None:
    """Make a ledger by all of the migrations, one after the other: one of no version is there already."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        MigrationContext.configure(connection)._ensure_version_table()
    engine.dispose()
    Ledger(url).close()


@pytest.mark.parametrize("make", [by_migrations, lambda url: Ledger(url).close()], ids=["by migrations", "at once"])
def test_a_ledger_has_the_tables_of_the_schema(make: Callable[[str], None], database_url: str) -> None:
    make(database_url)
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == NEWEST
        inspected = sa.inspect(connection)
        (version,) = inspected.get_columns("alembic_version")
        assert (str(version["type"]), version["nullable"]) == ("VARCHAR(32)", False)
        assert inspected.get_pk_constraint("alembic_version")["name"] == "alembic_version_pkc"
    engine.dispose()


def test_the_migrations_make_the_indexes_of_a_new_ledger(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.sqlite" for name in ("migrated", "made")]
    by_migrations(urls[0])
    Ledger(urls[1]).close()
    # Conditions of indexes, which alembic does not compare, as SQLite keeps them.
    indexes = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name")
    found = []
    for url in urls:
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            found.append(connection.execute(indexes).all())
        engine.dispose()
    assert found[0] == found[1]
    assert found[0]


def test_a_ledger_of_an_earlier_revision_is_brought_up_to_date(ledger: Ledger, ledger_url: str) -> None:
    ledger.settle(FULL, CHAT, "Because.")
    ledger.close()
    engine = sa.create_engine(ledger_url)
    indexes = ("runs_by_time", "runs_by_user", "runs_by_key", "runs_by_client", "runs_cached", "runs_metered")
    columns = ("energy_source", "energy_bound", "key", "team", "client_run_id", "duplicate")
    user = '"user"'  # a word of PostgreSQL's own
    earlier = (
        *(f"DROP INDEX {name}" for name in indexes),
        "CREATE INDEX runs_by_time ON runs (started_at, model, status, cost_pico, saved_pico)",
        f"CREATE INDEX runs_by_user ON runs ({user}, started_at, status, cost_pico, input_tokens, output_tokens)",
        "CREATE INDEX runs_cached ON runs (status, saved_pico) WHERE status = 'cached'",
        *(f"ALTER TABLE runs DROP COLUMN {name}" for name in columns),
        *(f"DROP TABLE {name}" for name in ("keys", "alerts")),
        "UPDATE alembic_version SET version_num = '0002'",
    )
    with engine.begin() as connection:
        for statement in earlier:
            connection.exec_driver_sql(statement)
    with closing(Ledger(ledger_url)) as opened:
        assert opened.runs() == [replace(FULL, **dict.fromkeys(columns[:-1]), duplicate=False)]
        assert opened.keys.all() == []
    found = {str(it["name"]): it["column_names"] for it in sa.inspect(engine).get_indexes("runs")}
    assert set(indexes) <= set(found)
    assert {"cost_source", "cost_bound", "duplicate"} <= set(found["runs_by_time"])
    engine.dispose()


# Several processes

WRITER = """
import sys
from tests.ledgers.test_store import run
from tokmagic.ledgers import Ledger

print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger(sys.argv[1])
for number in range(500):
    run_id = f"{sys.argv[2]}-{number}"
    ledger.begin(run(run_id, status="running", session=sys.argv[2]))
    ledger.settle(run(run_id, session=sys.argv[2], cost="0.000000000001"))
"""

GENERATOR = """
import sys
from decimal import Decimal
from tokmagic.core.config import TokMagic
from tokmagic.events import Message, Prompt, Rates
from tokmagic.runs import checkpoints
from tokmagic.runs.session import Session

class Watcher:
    seen = 0
    def token(self, text):
        self.seen += 1
        if self.seen == 5:
            print("generating", flush=True)
            sys.stdin.read()

checkpoints.CHECKPOINT_S = 0.0
session = Session(TokMagic(home="/nonexistent", ledger=sys.argv[1], model="scripted", store_text=True))
session.prices.set("scripted", Rates(Decimal(1), Decimal(2)))
session.generate(Prompt((Message("user", "first"),)), cell_id="whole")
session.generate(Prompt((Message("user", "second"),)), cell_id="cut", watcher=Watcher())
"""


def wait_reaped(ledger: Ledger, runs: int = 1) -> None:
    """Look until the death of a process shows: a server notices a little after it that a connection is gone."""
    deadline = time.monotonic() + 30
    reaped = ledger.reap()
    while reaped < runs and time.monotonic() < deadline:
        time.sleep(0.02)
        reaped += ledger.reap()
    assert reaped == runs


@contextmanager
def process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed its first line, and is ended at the end."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline(), "it ended before it was ready"
            yield child
        finally:
            child.kill()


@pytest.mark.slow
def test_two_processes_that_write_at_once_lose_no_run(ledger_url: str) -> None:
    with process(WRITER, ledger_url, "a") as first, process(WRITER, ledger_url, "b") as second:
        for child in (first, second):
            assert child.stdin is not None
            print("go", file=child.stdin, flush=True)
        assert (first.wait(300), second.wait(300)) == (0, 0)
    with closing(Ledger(ledger_url)) as ledger:
        for name in ("a", "b"):
            found = ledger.runs(Selection(session=name))
            assert ids(found) == [f"{name}-{number}" for number in range(500)]
            assert {record.status for record in found} == {"ok"}
        assert ledger.totals(EVERYTHING) == Sum(1_000, 10_000, 4_000, Decimal("0.000000001"))
    assert rows_in(ledger_url, "texts") == 1_000


def test_a_killed_process_leaves_its_run_interrupted_with_its_counts(ledger: Ledger, ledger_url: str) -> None:
    ledger.settle(FULL)
    with process(GENERATOR, ledger_url) as child:
        _, whole, alive = ledger.runs()
        assert (alive.status, alive.reading.usage.output_tokens, alive.finished_at) == ("running", 4, None)
        assert ledger.latest_by_cell(Selection(session=alive.session)) == [whole, alive]
        assert ledger.reap() == 0, "a process that lives keeps its run"
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    wait_reaped(ledger)
    found = ledger.runs()
    assert found[:2] == [FULL, whole]
    killed = replace(alive, status="interrupted", finish_reason="interrupted", error="the kernel ended during the run")
    assert found[2] == killed
    assert killed.reading.usage.input_tokens == 12
    assert killed.reading.cost.usd == Decimal("0.00002")
    assert ledger.totals(Selection(session=alive.session)).runs == 2
    assert ledger.texts(killed.run_id) == ([Message("user", "second")], None)
    assert ledger.reap() == 0, "found out once"


ABANDON = """
import sys
from dataclasses import replace
from decimal import Decimal
from tests.ledgers.test_store import run
from tokmagic.events import EngineInfo, Rates, Reading, Usage
from tokmagic.ledgers import Ledger
from tokmagic.prices import bill

ledger = Ledger(sys.argv[1])
counts = {"input_tokens": 10, "output_tokens": 4, "input_source": "counted", "output_source": "counted"}
whole = {"cached_input_tokens": 0, "cache_write_input_tokens": 0}
plain, cheaper = Rates(Decimal(1), Decimal(2)), Rates(Decimal(1), Decimal(2), cached=Decimal("0.1"))
for name, engine, usage, rates in (
    ("exact", "endpoint", Usage(**counts, **whole), cheaper),
    ("at most", "endpoint", Usage(**counts), cheaper),
    ("unknown", "endpoint", Usage(), cheaper),
    ("local", "local", Usage(**counts, **whole), plain),
):
    reading = Reading(usage, bill(usage, None, rates))
    begun = run(name, status="running", rates=rates, reading=reading)
    ledger.begin(replace(begun, info=EngineInfo("m", "id", engine)))
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_server_may_bill_more_than_a_killed_process_knew(ledger: Ledger, ledger_url: str) -> None:
    with process(ABANDON, ledger_url) as child:
        before = {record.run_id: record.reading.cost for record in ledger.runs()}
        child.kill()
        child.wait(60)
    wait_reaped(ledger, 4)
    after = {record.run_id: record.reading.cost for record in ledger.runs()}
    assert [(before[name].bound, before[name].source) for name in ("exact", "at most")] == [
        ("exact", "counted"),
        ("at_most", "counted"),
    ]
    assert after["exact"] == replace(before["exact"], bound="at_least")
    assert after["at most"] == replace(before["at most"], bound="exact", source="estimated")
    assert after["unknown"] == before["unknown"]
    assert after["local"] == before["local"], "what runs here ends with its process"


LATEST = "SELECT status FROM runs ORDER BY id DESC LIMIT 1"


@pytest.mark.parametrize("look", ["runs", "latest_by_cell", "reap"])
def test_every_look_finds_out_who_died(ledger: Ledger, ledger_url: str, tmp_path: Path, look: str) -> None:
    ledger.begin(run("mine", status="running"))
    with process(GENERATOR, ledger_url) as child:
        child.kill()
        child.wait(60)
    looks: dict[str, Callable[[], object]] = {
        "runs": ledger.runs,
        "latest_by_cell": lambda: ledger.latest_by_cell(EVERYTHING),
        "reap": ledger.reap,
    }
    deadline = time.monotonic() + 30
    while "running" in asked(ledger_url, LATEST) and time.monotonic() < deadline:
        looks[look]()
    assert asked(ledger_url, "SELECT status FROM runs ORDER BY id") == ["running", "ok", "interrupted"]
    left = list((tmp_path / "ledger.sqlite.live").glob("*"))
    assert len(left) == ledger_url.startswith("sqlite"), "of the dead nothing is left behind"
    with closing(Ledger(ledger_url)) as another:
        assert another.runs()[0].status == "running", "seen from another opening of the same process"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_writes_by_itself(sqlite_url: str) -> None:
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.begin(run("before", status="running"))
        child = os.fork()
        if child == 0:
            try:
                ledger.begin(run("child", status="running"))
                ledger.settle(run("child"))
            finally:
                os._exit(0)
        ledger.begin(run("beside", status="running"))
        os.waitpid(child, 0)
        for name in ("before", "beside"):
            ledger.settle(run(name))
        assert {record.run_id: record.status for record in ledger.runs()} == dict.fromkeys(
            ("before", "child", "beside"), "ok"
        )


def test_many_threads_write_at_once(sqlite_url: str) -> None:
    with closing(Ledger(sqlite_url)) as ledger, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: ledger.begin(run(f"run-{number}", status="running")), range(200)))
        assert {record.run_id for record in ledger.runs()} == {f"run-{number}" for number in range(200)}


def test_the_run_before_a_cells_latest_is_its_last_complete_one(ledger: Ledger) -> None:
    for run_id, cell, status in (
        *(("a1", "a", "ok"), ("a2", "a", "ok"), ("a3", "a", "failed"), ("a4", "a", "ok")),
        *(("b1", "b", "ok"), ("c1", "c", "cached"), ("c2", "c", "ok")),
    ):
        ledger.settle(run(run_id, cell_id=cell, status=status))  # type: ignore[arg-type]
    ledger.settle(run("elsewhere", cell_id="a", notebook="/other.ipynb"))
    ledger.settle(run("of no cell"))
    assert ids(ledger.previous_by_cell(Selection())) == ["a4"]
    ledger.settle(run("b2", cell_id="b", status="running"))
    assert ids(ledger.previous_by_cell(Selection())) == ["a4", "b1"]
    assert ledger.previous_by_cell(Selection(notebook="/other.ipynb")) == []


def test_the_ledger_tells_the_newest_complete_runs_of_each_cell(ledger: Ledger) -> None:
    for number in range(4):
        for cell in ("a", "b"):
            usage = Usage(input_tokens=10, output_tokens=number)
            ledger.settle(
                run(f"{cell}{number}", cell_id=cell, reading=Reading(usage), env={"source_sha256": f"{cell}{number}"})
            )
    ledger.settle(run("replayed", cell_id="a", status="cached"))
    ledger.settle(run("compared", cell_id="a", tags=("compare:q", "data:d/2", "variant:v@c")))
    ledger.settle(run("stopped", cell_id="a", status="interrupted"))
    ledger.settle(run("of no cell"))
    ledger.settle(run("elsewhere", cell_id="c", notebook="/other.ipynb"))
    found = ledger.histories(Selection(), 2)
    assert [(it.output_tokens, it.source_sha256) for it in found["b"]] == [(3, "b3"), (2, "b2")]
    assert set(found) == {"a", "b", "c"}
    assert set(ledger.histories(Selection(notebook="/other.ipynb"), 2)) == {"c"}
    assert [it.replayed for it in found["a"]] == [True, False, False]
    assert len(found["b"]) == 2
