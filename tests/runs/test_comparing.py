"""A comparison's row: as the fixture has it, and put together from the ledger where its kernel is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from tests.runs.test_live import DONE, SESSION, STREAMING, fixture, record, usage
from tokmagic.core.compared import Compared, compared
from tokmagic.core.money import Cost
from tokmagic.core.record import Reading, RunRecord, Selection, Sum
from tokmagic.runs.comparing import ComparisonRow, Comparisons, Part, ToCome, comparison_wire, from_ledger, told
from tokmagic.runs.live import View, snapshot_wire
from tokmagic.runs.session import Session

TAGS = ("compare:0123456789ab", "data:ba9876543210/400")
TERSE = record("r", "c-compare", "ok", DONE)
SPENT = Sum.of([TERSE] * 37)
ROW = ComparisonRow(
    row_id="5f0c",
    tags=TAGS,
    cell_id="c-compare",
    status="running",
    started_at=TERSE.started_at,
    parts=(
        Part("terse", "terse", "smollm2", 200, 37, 0, 0, SPENT, 1.5, 0.75),
        Part("reasoned", "reasoned", "smollm2", 200, 35, 2, 1, Sum.of([TERSE] * 35), 1.5, None),
    ),
    runs=400,
    items=200,
    repeat=1,
    spent=SPENT + SPENT,
    to_come=ToCome(Decimal("0.36"), Decimal("0.35"), Decimal("0.37"), 95.5),
    passes=True,
    judge=Sum(1, cost_usd=Decimal("0.002")),
    note="2 runs failed, 1 run was refused; the first: EndpointError: the server answered 500",
    source_sha256="00ff",
)


def test_a_comparison_is_a_row_of_the_message() -> None:
    message = snapshot_wire(View(None, None, None, None, (), comparisons=(ROW,)), session=SESSION, seq=3, complete=True)
    assert message == fixture("comparison")
    assert ROW.done == 75


def test_what_went_wrong_is_said_in_words() -> None:
    assert told(0, 0) is None
    assert told(1, 0) == "1 run failed"
    assert told(2, 1, "no") == "2 runs failed, 1 run was refused; the first: no"
    assert told(0, 2) == "2 runs were refused"


def test_tags_tell_the_runs_of_comparisons_from_others() -> None:
    assert compared((*TAGS, "mine", "variant:a@1")) == Compared(*TAGS, None)
    assert compared((*TAGS, "savings:compare:77", "variant:a@1")) == Compared(*TAGS, "compare:77")
    assert Compared(*TAGS, None).runs == 400
    for tags in ((), ("mine",), TAGS, ("compare:x", "mine", "z"), ("compare:x", "data:no number", "z")):
        assert compared(tags) is None


class Going:
    """A comparison that goes on."""

    stopped = False

    def row(self) -> ComparisonRow:
        return ROW

    def stop(self) -> None:
        self.stopped = True


def test_a_cells_comparison_is_told_while_it_goes_on_and_once_after_its_end() -> None:
    touched: list[None] = []
    known, going = Comparisons(lambda: touched.append(None)), Going()
    known.begin("c-compare", going)
    assert known.changes() == known.changes() == [ROW]
    assert not known.stop("another")
    assert known.stop("5f0c")
    assert going.stopped
    ended = replace(ROW, status="interrupted")
    known.end("c-compare", ended)
    assert not known.stop("5f0c")
    assert known.changes() == [ended]
    assert known.changes() == []
    assert known.known() == {"c-compare": ended}
    assert len(touched) == 2


def settle(session: Session, *records: RunRecord) -> None:
    for it in records:
        session.ledger().settle(replace(it, session=session.session_id))


def run(run_id: str, tag: str, status: Any = "ok", reading: Reading = DONE, tags: Any = TAGS, **more: Any) -> RunRecord:
    return record(run_id, "c-compare", status, reading, tags=(*tags, tag), **more)


def of_ledger(session: Session) -> list[ComparisonRow]:
    ledger, here = session.ledger(), Selection(session=session.session_id)
    return list(from_ledger(ledger, here, ledger.latest_by_cell(here)))


def test_after_a_restart_it_is_put_together_from_the_ledger(make_session: Callable[..., Session]) -> None:
    session, tags = make_session(), (TAGS[0], "data:ba9876543210/4")
    unpriced = Reading(usage(3), Cost(), latency_s=0.5)
    settle(
        session,
        run("1", "variant:terse@aa", tags=tags),
        run("2", "variant:terse@aa", reading=replace(DONE, latency_s=0.5), tags=tags),
        run("3", "variant:long one@bb", "failed", STREAMING, tags=tags),
        run("4", "judge", tags=tags),
        run("5", "variant:long one@bb", reading=unpriced, tags=tags),
        record("6", "c-other", "ok", DONE, tags=("mine",)),
    )
    (row,) = of_ledger(session)
    assert (row.status, row.runs, row.done, row.cell_id) == ("interrupted", 4, 4, "c-compare")
    assert [(it.label, it.runs, it.done, it.failed) for it in row.parts] == [("terse", 2, 2, 0), ("long one", 2, 1, 1)]
    assert row.parts[0].latency_s == 1.0
    assert row.spent.cost_usd == DONE.cost.usd * 3 + STREAMING.cost.usd
    assert row.judge.cost_usd == DONE.cost.usd
    assert row.note == "1 run failed"
    wire = comparison_wire(row)
    assert (wire["cost_bound"], wire["comparison"]["variants"], wire["comparison"]["items"]) == ("at_least", 2, None)

    # The failed one was made good.
    settle(session, run("7", "variant:long one@bb", tags=tags))
    (row,) = of_ledger(session)
    assert (row.status, row.done, row.note) == ("ok", 4, None)


def test_how_many_runs_the_only_part_should_have_is_not_known(make_session: Callable[..., Session]) -> None:
    """The other variants never ran, so they have no runs in the ledger."""
    session = make_session()
    settle(session, run("1", "variant:terse@aa", tags=(TAGS[0], "data:ba9876543210/20")))
    (row,) = of_ledger(session)
    assert (row.runs, [(it.runs, it.done) for it in row.parts]) == (20, [(None, 1)])


def test_what_savings_ran_is_shown_as_what_they_are_of(make_session: Callable[..., Session]) -> None:
    session, own = make_session(), ("compare:77", "data:00/2", f"savings:{TAGS[0]}")
    settle(session, run("1", "variant:terse@aa"), run("2", "variant:without 1@cc", tags=own))
    (row,) = of_ledger(session)
    assert (row.tags, [it.label for it in row.parts]) == (TAGS, ["terse"])
    settle(session, replace(run("3", "variant:without 1@cc", tags=own), cell_id="c-later"))
    assert [it.tags for it in of_ledger(session)] == [TAGS, own[:2]]


def test_a_sidebar_that_says_hello_gets_a_row_for_a_comparison_and_none_for_its_runs(
    make_session: Callable[..., Session],
) -> None:
    session = make_session()
    settle(session, run("1", "variant:terse@aa"), record("2", "c-other", "ok", DONE))
    view = session.everything(None, False)
    assert [it.run_id for it in view.rows] == ["2"]
    assert [it.tags for it in view.comparisons] == [TAGS]
    session.comparisons.end("c-compare", ROW)
    assert session.everything(None, False).comparisons == (ROW,)
    assert session.changes().comparisons == (ROW,)
    assert session.changes().comparisons == ()
