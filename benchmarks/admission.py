"""What a budget adds to a run before it starts: counting its prompt and setting its hold aside.

``python -m benchmarks.admission [ROUNDS]``: the default model must have been pulled; only its tokenizer is read. Each
round inserts one run's row with budgets in force (count, admission) and one without (as every run does), in a ledger of
10,000 runs of today. Prompts of about 500 tokens, each another one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import report, spread
from tokmagic.core.budget import Budget
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo, RunRecord
from tokmagic.ledgers import Ledger
from tokmagic.runs.budget_guard import BudgetGuard, BudgetWarning
from tokmagic.runs.recorder import Teller
from tokmagic.runs.session import Session

HISTORY = 10_000


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Return milliseconds with budgets, without, and what they add."""
    session = Session(TokMagic(ledger=f"sqlite:///{folder}/ledger.sqlite"))
    ledger, engine = session.ledger(), session.models.engine("smollm2")
    for number in range(HISTORY):
        ledger.settle(_record(session, f"h{number}"))
    budgets = [Budget(scope, Decimal(10_000), 10**12, user=session.user) for scope in ("day", "month")]
    for budget in [*budgets, Budget("notebook", Decimal(1_000), user=session.user, notebook="/n.ipynb")]:
        ledger.set_budget(budget)
    engine.count(_prompt(-1))
    with_ms, without_ms = [], []
    for number in range(rounds):
        prompt, record = _prompt(number), _record(session, f"a{number}")
        began = time.perf_counter()
        held = ledger.budgets(session.user, "/n.ipynb")
        BudgetGuard(session.ledger, held, [], teller=Teller(BudgetWarning)).admit(record, prompt, engine)
        with_ms.append((time.perf_counter() - began) * 1e3)
        _end(ledger, record)
        record = replace(record, run_id=f"b{number}")
        began = time.perf_counter()
        ledger.begin(record, prompt.messages)
        without_ms.append((time.perf_counter() - began) * 1e3)
        _end(ledger, record)
    session.close()
    added = [one - other for one, other in zip(with_ms, without_ms, strict=True)]
    return {
        "rounds": rounds,
        "runs": HISTORY,
        **{
            f"{name}_ms": spread(values)
            for name, values in (("admitted", with_ms), ("begun", without_ms), ("added", added))
        },
    }


def _end(ledger: Ledger, record: RunRecord) -> None:
    ledger.settle(replace(record, status="ok"))


def _record(session: Session, run_id: str) -> RunRecord:
    info = EngineInfo("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "local")
    rates = Rates(Decimal("0.15"), Decimal("0.60"))
    return RunRecord(
        run_id,
        datetime.now(UTC),
        "running",
        info,
        "",
        {},
        notebook="/n.ipynb",
        session="s",
        user=session.user,
        rates=rates,
    )


def _prompt(number: int) -> Prompt:
    text = f"{number}: " + " ".join(f"the {word}th sentence of a long prompt." for word in range(50))
    return Prompt((Message("user", text),), Sampling(max_tokens=256))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report("admission", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200, Path(scratch)))
