"""An interrupt at whatever step of a run: its row is settled, and nothing stays held."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.ledgers.test_interrupts import locked
from tests.ledgers.test_store import asked, run
from tests.steps import interrupted_at_each_step
from tokmagic.core.budget import Budget
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.runs import recorder
from tokmagic.runs.recorder import Recorder
from tokmagic.runs.run import Run
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Hi"),), Sampling(max_tokens=3))
DOLLARS = Rates(input=Decimal(1), output=Decimal(2), source="%price")
STEPS = ("tokmagic/runs/run.py", "tokmagic/core/interrupts.py", "contextlib.py")
OWED = ("tokmagic/runs/recorder.py", "tokmagic/core/interrupts.py", "contextlib.py")


def test_a_run_is_settled_at_whatever_step_an_interrupt_comes(make_session: Callable[..., Session]) -> None:
    session = make_session()
    session.models.register(ScriptedEngine("m", [Script.of_text(["Hi"])]), ModelSpec("scripted"))
    session.prices.set("m", DOLLARS)
    session.ledger().set_budget(Budget("day", usd=Decimal(5), user=session.user))
    came = sum(interrupted_at_each_step(lambda: session.generate(ASK, "m"), within=Run.execute, files=STEPS))
    assert came > 50
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert asked(session.settings.ledger, "SELECT count(*) FROM runs WHERE status = 'running'") == [0]
    (day,) = session.standings()
    assert day.held_usd == 0


def test_what_is_owed_is_paid_at_whatever_step_an_interrupt_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Ends of runs that a locked ledger did not take: who takes one to write it either writes it or gives it back."""
    monkeypatch.setattr(recorder, "PAY_AGAIN_S", 3600.0)
    monkeypatch.setattr(recorder, "warnings", SimpleNamespace(warn_explicit=lambda *_args, **_more: None))
    settings = TokMagic(home=str(tmp_path))
    it = Recorder(settings, patience_s=0.01)
    request.addfinalizer(it.close)
    numbers = count()

    def owe() -> None:
        record = run(f"{next(numbers):032x}", status="running")
        it.ledger().begin(record)
        with locked(settings.ledger):
            assert not it.settle(replace(record, status="ok"), (), "", begun=True)

    owe()
    for _ in interrupted_at_each_step(lambda: it.write(lambda _ledger: None), within=Recorder.write, files=OWED):
        it.write(lambda _ledger: None)
        assert asked(settings.ledger, "SELECT count(*) FROM runs WHERE status = 'running'") == [0]
        owe()
    assert next(numbers) > 20
