"""A ledger that cannot be used: each cause has one clear line, nothing of anybody's is touched, generation goes on."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa

from tests.ledgers.test_store import FULL, ids, run
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import Reading, RunRecord
from tokmagic.core.stream import Usage
from tokmagic.errors import LedgerError, NewerLedgerError
from tokmagic.ledgers import Ledger, backend
from tokmagic.runs import recorder
from tokmagic.runs.recorder import LedgerWarning
from tokmagic.runs.session import Session

ANSWER = "This answer is scripted: it was not written by a model, but it is metered like one that was."
THREADS = 12
BIG = [Message("user", "many pages " * 20_000)]


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "BUSY_S", 0.2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def filled(path: Path) -> bytes:
    """A ledger of several pages with FULL as its first run; returns its bytes."""
    ledger = Ledger(url_of(path))
    ledger.settle(FULL, BIG, "Because.")
    ledger.close()
    return path.read_bytes()


def database(path: Path, *statements: str) -> bytes:
    """Run statements in a database and return its bytes."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path.read_bytes()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text, text
    assert text
    return text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "is not a database URL; give one such as sqlite:////home"),
        ("ledger.sqlite", "'ledger.sqlite' is not a database URL"),
        ("sqlite://", "must be a file; give a URL such as"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///file::memory:?uri=true", "must be a file"),
        ("sqlite:///file:runs?mode=memory&uri=true", "must be a file"),
        ("mysql+pymysql://host/db", "mysql ledgers are not supported"),
        ("nothing://host/db", "nothing ledgers are not supported"),
        ("postgresql://host:port/db", "host:port"),
        ("sqlite://host/ledger.sqlite", "ledger.sqlite"),
        ("sqlite+nothing:///ledger.sqlite", "cannot be used"),
        ("sqlite+aiosqlite:///ledger.sqlite", "aiosqlite"),
        ("sqlite:///~nobody-of-this-name/ledger.sqlite", "nobody-of-this-name"),
        ("sqlite:///ledger.sqlite?timeout=soon", "soon"),
    ],
)
def test_a_url_that_names_no_ledger_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LedgerError) as raised:
        Ledger(url)
    assert expected in one_line(raised.value)
    assert not (tmp_path / ":memory:").exists()
    assert not (tmp_path / "runs").exists()


def test_a_folder_or_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    cases = {
        tmp_path: "cannot be opened",
        tmp_path / "file" / "l.sqlite": "cannot be used",
        Path("/proc/l"): "cannot be",
    }
    for place, expected in cases.items():
        with pytest.raises(LedgerError, match=expected) as raised:
            Ledger(url_of(place))
        assert str(place) in one_line(raised.value)
    assert (tmp_path / "file").read_text() == "mine"


def cut(path: Path, start: int, fill: bytes = b"") -> None:
    data = filled(path)
    path.write_bytes(data[:start] + fill * (len(data) - start))


NEW = "UPDATE alembic_version SET version_num = '9999'"
LETTERS = "CREATE TABLE letters (text)"
MIGRATED = "CREATE TABLE alembic_version AS SELECT 'abc' AS version_num"
NEWER = "was written by a newer tokmagic (revision 9999); upgrade tokmagic"
NO_LEDGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("Dear diary, " * 999), "is damaged (file is not a database); move it away"),
    "garbled": (lambda path: cut(path, 4096, b"\xff"), "is damaged (database disk image is malformed)"),
    "header": (lambda path: cut(path, 50), "is damaged"),
    "half": (lambda path: cut(path, 50_000), "is damaged"),
    "newer": (lambda path: filled(path) and database(path, NEW), NEWER),
    "newer, journal": (lambda path: filled(path) and database(path, NEW, "PRAGMA journal_mode=DELETE"), NEWER),
    "foreign": (lambda path: database(path, LETTERS), "is another program's database; set TOKMAGIC_LEDGER"),
    "foreign, WAL": (lambda path: database(path, "PRAGMA journal_mode=WAL", LETTERS), "another program"),
    "foreign, migrated": (lambda path: database(path, LETTERS, MIGRATED), "set TOKMAGIC_LEDGER to another file"),
}


@pytest.mark.parametrize("name", NO_LEDGERS)
def test_a_file_that_is_no_ledger_is_left_as_it_was(path: Path, name: str) -> None:
    make, expected = NO_LEDGERS[name]
    make(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(NewerLedgerError if expected is NEWER else LedgerError) as raised:
            Ledger(url_of(path))
        assert expected in one_line(raised.value)
        assert str(path) in str(raised.value)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.touch()
    ledger = Ledger(url_of(path))
    ledger.settle(FULL)
    assert ledger.runs() == [FULL]
    ledger.close()


def test_a_file_that_is_being_made_by_another_program_is_waited_for_and_then_told(path: Path) -> None:
    path.touch()
    with locked(path), pytest.raises(LedgerError, match=r"is locked by another program \(0.2 s waited\); end that"):
        Ledger(url_of(path))
    Ledger(url_of(path)).close()


def test_a_read_only_ledger_can_be_read(path: Path) -> None:
    before = filled(path)
    ledger = Ledger(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert ledger.runs() == [FULL]
    for write in (lambda: ledger.begin(run()), lambda: ledger.settle(run()), lambda: ledger.progress(FULL)):
        with pytest.raises(LedgerError, match="is read-only; make it writable, or set TOKMAGIC_LEDGER") as raised:
            write()
        assert one_line(raised.value).startswith(str(path))
    assert ledger.runs() == [FULL]
    ledger.close()
    assert path.read_bytes() == before


class Full:
    """Every new connection to a database may hold no more pages than the file has: SQLite's own "disk full"."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []
        sa.event.listen(sa.Engine, "connect", self.limit)

    def limit(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")
        self.connections.append(connection)

    def free(self) -> None:
        sa.event.remove(sa.Engine, "connect", self.limit)
        for connection in self.connections:
            connection.execute("PRAGMA max_page_count = 1000000")
        self.connections.clear()


@pytest.fixture
def full(path: Path) -> Iterator[Full]:
    filled(path)
    disk = Full()
    yield disk
    if disk.connections:
        disk.free()


def test_a_full_disk_is_told_and_nothing_is_written_by_halves(path: Path, full: Full) -> None:
    ledger = Ledger(url_of(path))
    for write in (lambda: ledger.begin(run("r"), BIG), lambda: ledger.settle(run("r"), BIG, "answer")):
        with pytest.raises(LedgerError, match="cannot grow, the disk is full; free some space"):
            write()
    assert ids(ledger.runs()) == [FULL.run_id], "neither a row without its text nor a text without its row"
    full.free()
    ledger.settle(run("r"), BIG, "answer")
    assert ids(ledger.runs()) == [FULL.run_id, "r"]
    ledger.close()


@pytest.mark.parametrize(
    "record",
    [run(cost="9223373"), run(reading=Reading(Usage(input_tokens=2**63)))],
    ids=["a cost", "a count"],
)
def test_numbers_beyond_the_database_are_refused_not_bent(ledger: Ledger, record: RunRecord) -> None:
    with pytest.raises(LedgerError, match="cannot store this run: a count or a cost exceeds 64 bits"):
        ledger.settle(record)
    assert ledger.runs() == []


ASK = Prompt(tuple(BIG))


@contextmanager
def warned(action: Literal["always", "default"] = "always") -> Iterator[list[str]]:
    """What is warned of that nothing is recorded; ``default`` is how a kernel filters warnings."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        yield texts
    for warning in seen:
        assert warning.category is LedgerWarning, warning
        assert "not being recorded" in str(warning.message).lower()
        texts.append(str(warning.message))


@contextmanager
def in_the_way(path: Path, make: Callable[[], object]) -> Iterator[None]:
    make()
    yield
    path.unlink()


@contextmanager
def newer(path: Path) -> Iterator[None]:
    filled(path)
    with closing(sqlite3.connect(path)) as connection:
        ((ours,),) = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    database(path, NEW)
    yield
    database(path, f"UPDATE alembic_version SET version_num = '{ours}'")


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    filled(path)
    disk = Full()
    yield
    disk.free()


@contextmanager
def read_only(path: Path, session: Session) -> Iterator[None]:
    filled(path)
    session.settings.ledger = f"sqlite:///file:{path}?mode=ro&uri=true"
    yield
    session.settings.ledger = url_of(path)


def fault(name: str, path: Path, session: Session) -> AbstractContextManager[None]:
    faults: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "locked": lambda: locked(path) if filled(path) else nullcontext(),
        "folder": lambda: in_the_way(path.parent, lambda: path.parent.rmdir() or path.parent.touch()),
        "damaged": lambda: in_the_way(path, lambda: path.write_text("Dear diary, " * 1000)),
        "foreign": lambda: in_the_way(path, lambda: database(path, LETTERS)),
        "newer": lambda: newer(path),
        "full": lambda: no_space(path),
        "read-only": lambda: read_only(path, session),
    }
    return faults[name]()


@pytest.mark.parametrize("name", ["locked", "folder", "damaged", "foreign", "newer", "full", "read-only"])
def test_generation_goes_on_and_recording_resumes(
    tmp_path: Path, make_session: Callable[..., Session], name: str
) -> None:
    path = tmp_path / "folder" / "ledger.sqlite"
    path.parent.mkdir()
    session = make_session(model="scripted", ledger=url_of(path))
    with fault(name, path, session), warned() as warnings_seen:
        lost = [session.generate(ASK) for _ in range(2)]
    assert len(warnings_seen) == 1, "once for one cause"
    assert str(path) in warnings_seen[0]
    for generation in lost:
        assert (generation.text, generation.status, generation.error) == (ANSWER, "ok", None)
        assert generation.usage.output_tokens == len(ANSWER.split())
    with warned() as warnings_seen:
        kept = session.generate(ASK)
    assert warnings_seen == []
    assert session.ledger().runs()[-1] == kept.record
    assert not {generation.run_id for generation in lost} & set(ids(session.ledger().runs()))


def test_each_new_cause_is_told(path: Path, make_session: Callable[..., Session]) -> None:
    session = make_session(model="scripted")
    with warned() as seen:
        for make in (lambda: path.write_text("Dear diary, " * 1000), lambda: database(path, LETTERS)):
            with in_the_way(path, make):
                session.generate(ASK)
                session.generate(ASK)
    assert ["damaged" in seen[0], "another program" in seen[1], len(seen)] == [True, True, 2]


@pytest.mark.slow
def test_a_cause_that_comes_back_is_told_again(path: Path, make_session: Callable[..., Session]) -> None:
    session = make_session(model="scripted")
    session.generate(ASK)
    with warned("default") as seen:
        for _ in range(2):
            with locked(path):
                session.generate(ASK)
                session.generate(ASK)
            session.generate(ASK)
    assert len(seen) == 2
    assert len(session.ledger().runs()) == 3


def test_a_ledger_that_is_locked_in_mid_run_gets_the_run_when_it_is_free(
    path: Path, make_session: Callable[..., Session]
) -> None:
    class Watcher:
        lock: ExitStack | None = None

        def token(self, _text: str) -> None:
            if self.lock is None:
                self.lock = ExitStack()
                self.lock.enter_context(locked(path))

    session, watcher = make_session(model="scripted"), Watcher()
    with warned() as seen:
        lost = session.generate(ASK, watcher=watcher)
    assert (lost.status, len(seen)) == ("ok", 1)
    assert watcher.lock is not None
    watcher.lock.close()
    session.generate(ASK)
    assert [record.status for record in session.ledger().runs()] == ["ok", "ok"], "no run goes on for ever"


@pytest.mark.slow
@pytest.mark.parametrize("runs_go_on", [True, False], ids=["other runs", "an idle kernel"])
def test_what_many_threads_owe_is_paid_once_the_ledger_is_free(
    path: Path, make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, runs_go_on: bool
) -> None:
    monkeypatch.setattr(recorder, "PAY_AGAIN_S", 0.05)
    monkeypatch.setattr(backend, "BUSY_S", 2.5)  # threads also wait for each other
    session = make_session(model="scripted", budget_day="5")
    session.prices.set("scripted", Rates(input=Decimal(1), output=Decimal(2), source="%price"))
    begun, lock = threading.Barrier(THREADS + 1, timeout=60), threading.Event()

    class Watcher:
        waited = False

        def token(self, _text: str) -> None:
            if not self.waited:
                self.waited = True
                begun.wait()
                lock.wait(60)

    # Warnings are the process's own: threads cannot each catch theirs.
    with warned(), ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(session.generate, ASK, watcher=Watcher()) for _ in range(THREADS)]
        begun.wait()
        with locked(path):
            lock.set()
            lost = [job.result() for job in jobs]
        if runs_go_on:
            lost += pool.map(lambda _: session.generate(ASK), range(THREADS))
    assert {generation.status for generation in lost} == {"ok"}
    deadline = time.monotonic() + 60
    while any(record.status == "running" for record in session.ledger().runs()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Counter(record.status for record in session.ledger().runs()) == {"ok": len(lost)}
    (standing,) = session.standings()
    assert (standing.held_usd, standing.held_tokens) == (0, 0)
    assert standing.spent_usd == sum(generation.cost.usd or 0 for generation in lost)


def moved(path: Path) -> None:
    path.rename(path.with_name("kept.sqlite"))


def folder_gone(path: Path) -> None:
    shutil.rmtree(path.parent)


def replaced(path: Path) -> None:
    filled(path.with_name("other.sqlite"))
    path.with_name("other.sqlite").replace(path)


def restored(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.sqlite"))
    path.unlink()
    path.with_name("copy.sqlite").rename(path)


@pytest.mark.parametrize("go", [Path.unlink, moved, folder_gone, replaced, restored])
def test_a_file_that_goes_away_under_a_kernel_is_noticed_and_no_run_lost(
    tmp_path: Path, make_session: Callable[..., Session], go: Callable[[Path], None]
) -> None:
    path = tmp_path / "folder" / "ledger.sqlite"
    session = make_session(model="scripted", ledger=url_of(path))
    session.generate(ASK)

    class Watcher:
        went = False

        def token(self, _text: str) -> None:
            if not self.went:
                self.went = True
                go(path)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        during = session.generate(ASK, watcher=Watcher())
        after = session.generate(ASK)
    (told,) = [str(it.message) for it in seen]
    assert told.startswith(f"{path} was deleted, moved or replaced; ")
    assert issubclass(seen[0].category, LedgerWarning)
    opened = Ledger(url_of(path))
    assert ids(opened.runs())[-2:] == [during.run_id, after.run_id]
    assert opened.damage() is None
    opened.close()
    assert path.stat().st_mode & 0o077 == 0, "prompts stay private"
