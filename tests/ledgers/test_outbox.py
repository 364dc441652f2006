"""Runs that are kept on this machine until their ledger answers: by several kernels, beside a ledger that is slow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from tests.ledgers.test_store import ids, run
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import RunRecord
from tokmagic.errors import LedgerError
from tokmagic.ledgers import Ledger, Outbox
from tokmagic.ledgers.outbox import kept_in
from tokmagic.runs.recorder import LedgerWarning, Recorder
from tokmagic.runs.session import Session

PATIENCE_S = 30.0
AWAY = "postgresql://127.0.0.1:9/away"
ASK = Prompt((Message("user", "Hi"),))


class Slow(Ledger):
    """A ledger that lets a run be settled when it is told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def settle(self, record: RunRecord, prompt: Sequence[Message] = (), answer: str | None = None) -> None:
        self.asked.release()
        assert self.go_on.acquire(timeout=PATIENCE_S)
        super().settle(record, prompt, answer)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "undelivered.sqlite", store_text=True)


@pytest.fixture
def slow(ledger_url: str) -> Iterator[Slow]:
    with closing(Slow(ledger_url)) as made:
        yield made


def test_a_run_is_kept_at_once_while_others_are_delivered_to_a_slow_ledger(outbox: Outbox, slow: Slow) -> None:
    outbox.keep(run("a"), (), "one")
    with ThreadPoolExecutor(1) as pool:
        delivered = pool.submit(outbox.deliver, slow)
        assert slow.asked.acquire(timeout=PATIENCE_S)
        outbox.keep(run("b"), (), "two")  # would wait for the ledger, and after ten seconds be lost
        assert outbox.deliver(slow) == 0, "one is enough"
        slow.go_on.release(2)
        assert delivered.result(PATIENCE_S) == 2, "what came meanwhile is delivered too"
    assert sorted(ids(slow.runs())) == ["a", "b"]
    assert slow.texts("b") == ([], "two")
    assert not outbox


def test_what_was_delivered_before_the_ledger_went_away_again_counts_once(
    outbox: Outbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        outbox.keep(run(name, cost="0.1"), (), name)
    settle, left = ledger.settle, iter([True, True, False])

    def some(record: RunRecord, prompt: Sequence[Message] = (), answer: str | None = None) -> None:
        if not next(left):
            raise LedgerError("it is away")
        settle(record, prompt, answer)

    monkeypatch.setattr(ledger, "settle", some)
    with pytest.raises(LedgerError, match="it is away"):
        outbox.deliver(ledger)
    assert outbox, "nothing is let go of before all of it is there"
    monkeypatch.undo()
    assert outbox.deliver(ledger) == 3
    assert sorted(ids(ledger.runs())) == ["a", "b", "c"]
    assert not outbox


@contextmanager
def busy(path: Path) -> Iterator[None]:
    with FileLock(f"{path}.lock"):
        yield


def test_a_file_that_another_program_keeps_busy_is_told_in_one_line(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokmagic.ledgers.outbox._PATIENCE_S", 0.1)
    with (
        busy(tmp_path / "undelivered.sqlite"),
        pytest.raises(LedgerError, match="another program has been busy with it"),
    ):
        outbox.keep(run("a"), (), "one")
    outbox.keep(run("a"), (), "one")
    assert outbox


def test_what_cannot_be_delivered_keeps_no_other_run_out_of_the_ledger(
    tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(TokMagic(home=str(tmp_path), ledger=ledger_url))
    ledger = recorder.ledger()
    monkeypatch.setattr("tokmagic.ledgers.outbox._PATIENCE_S", 0.1)
    monkeypatch.setattr(recorder, "_outbox", Outbox(tmp_path / "undelivered.sqlite", store_text=True))
    Outbox(tmp_path / "undelivered.sqlite", store_text=True).keep(run("kept"), (), "one")
    with busy(tmp_path / "undelivered.sqlite"), pytest.warns(LedgerWarning) as told:
        assert all(recorder.settle(run(name), (), "two", begun=False) for name in ("now", "soon"))
    (says,) = told  # once, until it has gone away
    assert "are not delivered yet" in str(says.message)
    assert sorted(ids(ledger.runs())) == ["now", "soon"]
    assert recorder.settle(run("then"), (), "three", begun=False)
    assert sorted(ids(ledger.runs())) == ["kept", "now", "soon", "then"]
    recorder.close()


@pytest.mark.filterwarnings("ignore::tokmagic.runs.recorder.LedgerWarning")
def test_a_run_that_outlasts_its_session_is_kept_too(tmp_path: Path, ledger: Ledger) -> None:
    """Another thread's: the session is closed, or its settings are changed, while that one goes on."""
    recorder = Recorder(TokMagic(home=str(tmp_path), ledger=AWAY), patience_s=0.1)
    recorder.write(lambda it: it.begin(run("a")))
    recorder.close()
    assert not recorder.settle(run("a", cost="0.1"), (), "one", begun=False)
    assert Outbox.of(tmp_path, AWAY, store_text=True).deliver(ledger) == 1
    assert ids(ledger.runs()) == ["a"]
    recorder.close()


@pytest.mark.filterwarnings("ignore::tokmagic.runs.recorder.LedgerWarning")
@pytest.mark.postgres
def test_what_is_kept_for_one_teams_ledger_is_not_delivered_to_anothers(tmp_path: Path, postgres_url: str) -> None:
    """Of one person, in one data folder: a setting that is changed, or two kernels with their own."""
    settings = TokMagic(home=str(tmp_path), ledger=AWAY)
    recorder = Recorder(settings, patience_s=0.1)
    assert not recorder.settle(run("theirs"), (), "one", begun=False)
    settings.ledger = postgres_url
    assert recorder.settle(run("ours"), (), "two", begun=False)
    assert ids(recorder.ledger().runs()) == ["ours"]
    assert Outbox.of(tmp_path, AWAY, store_text=True)
    recorder.close()


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ("postgresql://127.0.0.1:9/away", True),
        ("postgresql+psycopg://ann:secret@127.0.0.1:9/away?sslmode=require", True),
        ("postgresql:///away?host=127.0.0.1&port=9", True),
        ("postgresql://127.0.0.1:9/home", False),
        ("postgresql://127.0.0.1:10/away", False),
        ("postgresql://127.0.0.2:9/away", False),
        ("postgresql://127.0.0.1/away", False),
    ],
)
def test_each_server_and_database_has_its_own_file(tmp_path: Path, ledger: Ledger, other: str, is_same: bool) -> None:
    Outbox.of(tmp_path, AWAY, store_text=True).keep(run("a"), (), "one")
    assert Outbox.of(tmp_path, other, store_text=True).deliver(ledger) == is_same
    assert kept_in(tmp_path, "postgresql://h/d") == kept_in(tmp_path, "postgresql://h:5432/d")


def test_what_an_earlier_version_kept_is_delivered_where_it_would_have_been(tmp_path: Path, ledger: Ledger) -> None:
    Outbox(tmp_path / "undelivered.sqlite", store_text=True).keep(run("a"), (), "one")
    outbox = Outbox.of(tmp_path, AWAY, store_text=True)
    assert outbox.deliver(ledger) == 1
    assert ids(ledger.runs()) == ["a"]
    assert not (tmp_path / "undelivered.sqlite").exists()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nonsense", "NOT being recorded"),
        ("/home/me/ledger.sqlite", "NOT being recorded"),
        ("postgresql://127.0.0.1:port/team", "NOT being recorded"),
        ("postgres://127.0.0.1:9/team", "NOT being recorded"),
        ("mysql://127.0.0.1/team", "NOT being recorded"),
        (AWAY, "kept on this machine"),
        ("postgresql+nosuchdriver://127.0.0.1:9/away", "kept on this machine"),
    ],
)
def test_only_what_a_server_may_get_later_is_kept_and_one_warning_says_which(
    make_session: Callable[..., Session], tmp_path: Path, address: str, told: str
) -> None:
    session = make_session(ledger=address, model="scripted")
    with pytest.warns(LedgerWarning) as warned:
        [session.generate(ASK) for _ in range(2)]
    assert [told in str(it.message) for it in warned] == [True]
    assert bool(list(tmp_path.glob("**/undelivered-*.sqlite"))) == ("kept" in told)
