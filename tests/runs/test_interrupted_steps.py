"""An interrupt at whatever step of a run: its row is settled, and nothing stays held."""

from __future__ import annotations

import signal
from collections.abc import Callable
from decimal import Decimal

from tests.ledgers.test_store import asked
from tests.steps import interrupted_at_each_step
from tokmagic.core.budget import Budget
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.runs.run import Run
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Hi"),), Sampling(max_tokens=3))
DOLLARS = Rates(input=Decimal(1), output=Decimal(2), source="%price")
STEPS = ("tokmagic/runs/run.py", "tokmagic/core/interrupts.py", "contextlib.py")


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
