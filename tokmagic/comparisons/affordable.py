"""Whether a budget is enough to begin a comparison."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal

from tokmagic.comparisons.plan import Block, Plan
from tokmagic.errors import BudgetError, TokmagicError
from tokmagic.formatting import numbers
from tokmagic.prices import bound_usd
from tokmagic.runs.session import Session


def check_affordable(session: Session, plan: Plan, block: Block, budget_usd: Decimal | None) -> None:
    """Raise BudgetError where not even one run of each arm of ``block`` is sure to fit."""
    if budget_usd is None:
        return
    dearest = Decimal(0)
    for arm in block.arms:
        with suppress(TokmagicError):  # what is wrong with a model is told when it runs
            prompt = plan.prompt(arm, block.item)
            engine = session.models.engine(plan.arms[arm].model)
            tokens, _ = engine.estimate(prompt)
            most, _ = bound_usd(session.rates(engine.info), tokens, prompt.sampling.max_tokens, None)
            dearest = max(dearest, most or Decimal(0))
    if dearest > budget_usd:
        raise BudgetError(
            f"a budget of {numbers.usd(budget_usd)} does not cover one pair: a single run may cost up to "
            f"{numbers.usd(dearest)}; raise the budget, or lower max_tokens"
        )
