"""Sums by cell, model and day, as a sidebar asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers.test_store import run
from tokmagic.core.record import EngineInfo, RunRecord
from tokmagic.errors import UsageError
from tokmagic.runs.session import Session

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "wire" / "totals.json").read_text(encoding="utf-8"))


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    made = make_session(model="scripted")
    made.notebook = "/n.ipynb"

    def settle(cell: str | None, cost: str | None, model: str = "m", **more: Any) -> None:
        record: RunRecord = run(cell_id=cell, cost=cost, notebook="/n.ipynb", **more)
        made.ledger().settle(replace(record, info=EngineInfo(model, model, "scripted")))

    settle("a", "0.25", session="before")
    settle("b", None, "other")
    settle("a", "0.5", session="now")
    settle(None, "1")
    made.ledger().settle(run(cell_id="a", cost="9", notebook="/other.ipynb"))
    return made


def test_the_messages_are_the_fixture(session: Session) -> None:
    assert session.totals(FIXTURE["request"]) == FIXTURE["answer"]


def test_a_cell_is_one_whatever_kernel_ran_it(session: Session) -> None:
    groups = session.totals({**FIXTURE["request"], "by": "cell"})["groups"]
    assert [(it["key"], it["runs"], it["cost_usd"]) for it in groups] == [
        ("a", 2, "0.75"),
        ("b", 1, None),
        (None, 1, "1"),
    ]
    (day,) = session.totals({**FIXTURE["request"], "by": "day"})["groups"]
    assert (day["runs"], day["cost_usd"], day["cost_bound"]) == (4, "1.75", "at_least")


@pytest.mark.parametrize("change", [{"by": "user"}, {"by": None}, {"seq": "1"}], ids=repr)
def test_a_request_of_another_shape_is_refused(session: Session, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'totals'"):
        session.totals({**FIXTURE["request"], **change})
