"""The sums of a session with many runs: read from the ledger now and then, and right in the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import Selection, Sum
from tokmagic.engines.base import ModelSpec
from tokmagic.runs import sums
from tokmagic.runs.session import Session

RUNS = 30


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows whenever sums are read from the ledger."""
    found: list[None] = []
    read = sums.Sums.read

    def counted(self: sums.Sums, *given: Any) -> None:
        found.append(None)
        read(self, *given)

    monkeypatch.setattr(sums.Sums, "read", counted)
    return found


def run_all(session: Session, count: int = RUNS) -> None:
    for number in range(count):
        session.generate(Prompt((Message("user", f"Question {number}"),), Sampling(max_tokens=4)), "s", cache=False)


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    made = make_session()
    made.models.add("s", ModelSpec("scripted"))
    return made


def listen(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(session.channel), "listens", property(lambda _: True))


def test_where_nobody_listens_nothing_is_read(session: Session, reads: list[None]) -> None:
    run_all(session)
    assert reads == []
    view = session.everything(None, False)
    assert view.notebook_totals == session.ledger().totals(Selection(session=session.session_id))
    assert view.notebook_totals is not None
    assert view.notebook_totals.runs == RUNS


def test_of_many_runs_few_read_the_sums_and_all_are_in_them(
    session: Session, reads: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(session, monkeypatch)
    monkeypatch.setattr(sums, "PAUSE", 1e9)
    run_all(session)
    # The first one's alone: all others would have come too soon after it.
    assert len(reads) == 1
    counted, kept = session._under_way.sums.notebook_totals, session.ledger().totals(session.selection)
    assert counted is not None
    assert (counted.runs, counted.input_tokens, counted.output_tokens) == (RUNS, kept.input_tokens, kept.output_tokens)
    # Where nothing runs the next look reads them, budgets too, and the one after that has nothing to read.
    assert session.changes().notebook_totals == kept != Sum()
    assert len(reads) == 2
    session.changes()
    assert len(reads) == 2


def test_without_a_pause_each_run_reads_them(
    session: Session, reads: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(session, monkeypatch)
    monkeypatch.setattr(sums, "PAUSE", 0.0)
    run_all(session, 3)
    assert len(reads) == 6


def test_a_look_between_a_runs_settling_and_its_adding_up_counts_it_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has it by then, and it counts as running: sums that are read now would have it twice."""
    listen(session, monkeypatch)
    run_all(session, 1)
    seen: list[int] = []
    ended = session._head.ended

    def look(*args: Any) -> None:
        view = session.everything(None, False)
        assert view.notebook_totals is not None
        seen.append(view.notebook_totals.runs)
        ended(*args)

    monkeypatch.setattr(session._head, "ended", look)
    run_all(session, 3)
    assert seen == [2, 3, 4]
    view = session.changes()
    assert view.notebook_totals == session.ledger().totals(Selection(session=session.session_id))


def test_after_midnight_today_has_nothing_of_yesterday(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what ended before it, though nothing runs since then, nor a run that goes on over it."""
    listen(session, monkeypatch)
    monkeypatch.setattr(sums, "PAUSE", 1e9)  # the day is over, however short ago the sums were read
    midnight = datetime.now(UTC)
    monkeypatch.setattr(sums, "today", lambda: midnight)
    begin, seen = session._under_way.begin, list[tuple[int, ...]]()

    def look() -> None:
        view = session.changes()
        assert view.notebook_totals is not None
        assert view.day_totals is not None
        seen.append((view.notebook_totals.runs, view.day_totals.runs))

    def over_midnight(run: Any) -> None:
        nonlocal midnight
        begin(run)
        look()
        midnight = datetime.now(UTC)
        look()

    monkeypatch.setattr(session._under_way, "begin", over_midnight)
    run_all(session, 1)
    look()
    assert seen == [(1, 1), (1, 0), (1, 0)]
    monkeypatch.setattr(session._under_way, "begin", begin)
    run_all(session, 1)
    look()
    midnight = datetime.now(UTC) + timedelta(seconds=1)
    look()
    assert seen[3:] == [(2, 1), (2, 0)]


def test_a_first_look_while_a_run_is_settled_counts_it_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listened until then, so that there are no sums of before to go on with."""
    run_all(session, 2)
    seen: list[int] = []
    ended = session._head.ended

    def look(*args: Any) -> None:
        listen(session, monkeypatch)
        for view in (session.everything(None, False), session.changes()):
            assert view.notebook_totals is not None
            assert view.day_totals is not None
            seen.extend((view.notebook_totals.runs, view.day_totals.runs))
        ended(*args)

    monkeypatch.setattr(session._head, "ended", look)
    run_all(session, 1)
    assert seen == [3, 3, 3, 3]
    assert session.changes().notebook_totals == session.ledger().totals(session.selection)
