"""The rows of runs that go on are brought up to date together, and none is forgotten."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import Reading, RunRecord
from tokmagic.engines.base import ModelSpec
from tokmagic.ledgers import Ledger
from tokmagic.runs import checkpoints
from tokmagic.runs.checkpoints import Checkpoints
from tokmagic.runs.many import run_all
from tokmagic.runs.session import Session


class Clock:
    """The time as a test sets it."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(checkpoints, "time", clock)
    return clock


def row(name: str) -> Callable[[], RunRecord]:
    return lambda: name  # type: ignore[return-value]  # nothing here reads it


def test_all_that_run_are_written_once_a_second_by_whoever_hears_of_a_token(clock: Clock) -> None:
    written: list[tuple[float, list[object]]] = []
    rows = Checkpoints(lambda records: bool(written.append((clock.now_s, list(records)))) or True)
    rows.offer()
    with rows.of("1", row("one")):
        for tenth in range(25):
            clock.now_s = 100 + tenth / 10
            if tenth == 5:
                with rows.of("2", row("two")):
                    rows.offer()
            elif tenth == 15:
                second = rows.of("3", row("three"))
                second.__enter__()
            rows.offer()
        second.__exit__(None, None, None)
    assert written == [(101.0, ["one"]), (102.0, ["one", "three"])]
    clock.now_s = 200
    with rows.of("4", row("four")):
        rows.offer()
        assert len(written) == 2, "what has just begun is in the ledger as it is"
        clock.now_s = 201
        rows.offer()
    assert written[2:] == [(201.0, ["four"])]


@pytest.mark.parametrize(
    ("outcome", "again_s"), [("written", 1.0), ("not written", 30.0), ("interrupted", 1.0)], ids=str
)
def test_a_ledger_that_is_away_is_asked_again_later(clock: Clock, outcome: str, again_s: float) -> None:
    asked: list[float] = []

    def write(_records: list[RunRecord]) -> bool:
        asked.append(clock.now_s)
        rows.offer()  # another thread, while this one waits
        clock.now_s += 5
        if outcome == "interrupted" and len(asked) == 1:
            raise KeyboardInterrupt
        return outcome != "not written"

    rows = Checkpoints(write)
    with rows.of("1", row("one")):
        clock.now_s = 101.0
        if outcome == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                rows.offer()
        else:
            rows.offer()
        for at_s in (106 + again_s - 0.1, 106 + again_s):
            clock.now_s = at_s
            rows.offer()
    assert asked == [101.0, 106 + again_s]


def test_runs_beside_each_other_share_a_transaction_and_each_is_up_to_date(
    make_session: Callable[..., Session], tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_S", 0.1)
    script = {"pieces": ["word "] * 100, "ttft_s": 0.05, "itl_s": 0.02, "pace": 1.0}
    (tmp_path / "slow.json").write_text(json.dumps(script), encoding="utf-8")
    session, written = make_session(), []
    session.models.add("slow", ModelSpec(f"scripted:{tmp_path}/slow.json"))
    progress = Ledger.progress
    monkeypatch.setattr(
        Ledger, "progress", lambda self, *records: (written.append(len(records)), progress(self, *records))
    )
    prompts = [Prompt((Message("user", f"Question {it}"),)) for it in range(8)]
    work = threading.Thread(
        target=run_all,
        args=(session, prompts, lambda prompt, *, others: session.generate(prompt, "slow", others=others), "slow", 8),
    )
    work.start()
    try:
        deadline, seen = time.monotonic() + 60, []
        while time.monotonic() < deadline and not (len(seen) == 8 and all(seen)):
            time.sleep(0.02)
            seen = [it.reading.usage.output_tokens for it in ledger.runs() if it.status == "running"]
        assert [bool(it) for it in seen] == [True] * 8, seen
    finally:
        for it in ledger.runs():
            session.stop(it.run_id)
        work.join(60)
    assert max(written) == 8
    assert {it.status for it in ledger.runs()} == {"interrupted"}


def test_a_run_that_is_over_is_written_no_more(tmp_path: Path, sqlite_url: str) -> None:
    session = Session(TokMagic(home=str(tmp_path), ledger=sqlite_url))
    ended = session.generate(Prompt((Message("user", "hi"),)), "scripted").record
    session.ledger().progress(replace(ended, status="running", reading=Reading()))
    assert session.ledger().runs() == [ended]
    session.close()
