"""What the runs of a comparison may cost at most: whether a budget is enough to begin one, or one pair more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

from tokmagic.comparisons.judges import Judge
from tokmagic.comparisons.plan import Block, Plan
from tokmagic.core.prompt import Prompt
from tokmagic.errors import BudgetError, TokmagicError
from tokmagic.formatting import numbers
from tokmagic.prices import bound_usd
from tokmagic.runs.budget_guard import input_tokens
from tokmagic.runs.session import Session

RAISE_OR_CHEAPER = "raise the budget, or take a judge that costs less"
"""What helps where the judge does not fit: how much it may write is its own limit, whatever max_tokens is."""


@dataclass(frozen=True, slots=True)
class Most:
    """The most that the runs of a block may cost: of each arm, and each one of the judge's."""

    answers: Mapping[int, Decimal]
    reply: Decimal = Decimal(0)

    def usd(self, replies: int) -> Decimal:
        """All of it, with so many runs of the judge."""
        return sum(self.answers.values(), replies * self.reply)


def check_affordable(session: Session, plan: Plan, judge: Judge | None, block: Block, budget_usd: Decimal) -> None:
    """Raise BudgetError where not even one run of each arm of ``block``, and of the judge, is sure to fit."""
    dearest = Decimal(0)
    for arm in block.arms:
        with suppress(TokmagicError):  # what is wrong with a model is told when it runs
            prompt = plan.prompt(arm, block.item)
            engine = session.models.engine(plan.arms[arm].model)
            tokens, _ = engine.estimate(prompt)
            most, _ = bound_usd(session.rates(engine.info), tokens, prompt.sampling.max_tokens, None)
            dearest = max(dearest, most or Decimal(0))
    little = f"a budget of {numbers.usd(budget_usd)} does not cover one pair"
    if dearest > budget_usd:
        raise BudgetError(
            f"{little}: a single run may cost up to {numbers.usd(dearest)}; raise the budget, or lower max_tokens"
        )
    if judge is not None and (dear := too_dear(session, plan, judge, block, budget_usd)) is not None:
        raise BudgetError(f"{little}: {dear}; {RAISE_OR_CHEAPER}")


def too_dear(session: Session, plan: Plan, judge: Judge, block: Block, left_usd: Decimal) -> str | None:
    """What one run of the judge may cost even of answers without text, where that is more than is left."""
    with suppress(TokmagicError):
        prompt = Prompt(judge.ask(plan.prompt(0, block.item).messages[-1].content, "", ""))
        engine = session.models.engine(judge.model)
        tokens, _ = engine.estimate(prompt)
        most, _ = bound_usd(session.rates(engine.info), tokens, prompt.sampling.max_tokens, None)
        if most is not None and most > left_usd:
            return f"a single run of the judge {judge.model} may cost up to {numbers.usd(most)}"
    return None


def no_longer_fits(dear: str, budget_usd: Decimal, left_usd: Decimal) -> str:
    """Why a comparison ends where the judge is :func:`too_dear`."""
    left = f"more than what is left of the budget of {numbers.usd(budget_usd)}, {numbers.usd(left_usd)}"
    return f"{dear}, {left}; {RAISE_OR_CHEAPER}"


def most_of(session: Session, plan: Plan, judge: Judge | None, block: Block) -> Most:
    """What a block may cost. The judge's part is a guess, since what it is to judge is not written yet."""
    answers = {}
    for arm in block.arms:
        with suppress(TokmagicError):
            answers[arm] = _most_usd(session, plan.arms[arm].model, plan.prompt(arm, block.item))
    if judge is None:
        return Most(answers)
    # As long as answers may be: a token and five bytes a word, about as in English, where tokens cannot be counted.
    longest = "text " * plan.sampling.max_tokens
    with suppress(TokmagicError):
        task = plan.prompt(0, block.item).messages[-1].content
        return Most(answers, _most_usd(session, judge.model, Prompt(judge.ask(task, longest, longest))))
    return Most(answers)


def _most_usd(session: Session, model: str, prompt: Prompt) -> Decimal:
    """What a budget sets aside for a run; 0 where that is not known. Raises TokmagicError."""
    engine = session.models.engine(model)
    rates, (tokens, _) = session.rates(engine.info), input_tokens(engine, prompt)
    by_time = rates.device_hour is not None and rates.input is None
    token_time_s = session.ledger().token_time_s(engine.info) if by_time else None
    most, _ = bound_usd(rates, tokens, prompt.sampling.max_tokens, token_time_s)
    return most or Decimal(0)
