"""Finds out where the money of a comparison's variant goes: from its runs alone, or by more of them within a budget."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from tokmagic.comparisons.billed import rates_now
from tokmagic.comparisons.inputs import Item
from tokmagic.comparisons.intervals import item_means
from tokmagic.comparisons.parts import Part, parts
from tokmagic.comparisons.plan import Arm, Plan, Variant
from tokmagic.comparisons.savings import (
    Ablation,
    Saving,
    Savings,
    caching,
    none_known,
    shared_prefixes,
    shorter_limit,
    winner,
)
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt
from tokmagic.errors import PromptError, TokmagicError, UsageError
from tokmagic.explain.readers import reader_for
from tokmagic.prices import at_input

if TYPE_CHECKING:
    from tokmagic.comparisons.results import Comparison
    from tokmagic.runs.session import Session

Again = Callable[..., "Comparison"]
"""Compares more variants on the same items: ``again(variants, model, budget=…, items=…)``."""


def savings(
    found: Comparison,
    session: Session,
    again: Again,
    *,
    variant: str | None,
    budget: object,
    items: int | None,
    most: int,
) -> Savings:
    """As :meth:`Comparison.savings` says."""
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise UsageError(f"most is {most!r}; give a whole number of parts, at least 1")
    number = _arm(found, variant)
    arm = found.plan.arms[number]
    seen = _caching(found, session, number), _limit(found, session, number)
    if budget is None:
        hint = "give a budget to leave out its parts, one at a time, and measure what that changes"
        return Savings(arm.label, arm.variant.text, seen, remarks=(hint,))
    left_out = _candidates(found.plan, arm)
    if not left_out:
        return Savings(arm.label, arm.variant.text, seen, remarks=("it has no part that could go",))
    measured = again(_variants(arm, left_out[:most]), arm.model, budget=budget, items=items)
    figures = measured.figures[1:]
    ablations = tuple(Ablation(part, it) for part, it in zip(left_out, figures, strict=False))
    remarks = [f"Leaving out parts: {it}" for it in measured.notes()]
    if len(left_out) > most:
        remarks.append(f"Of {len(left_out):,} parts the {most:,} longest were tried; most= takes more")
    remarks.append("Parts that can go alone need not go together: compare savings.without(…) as a variant of its own")
    return Savings(
        arm.label, arm.variant.text, seen, ablations, measured.passes, measured.spent_usd, tuple(remarks), measured.row
    )


def _arm(found: Comparison, variant: str | None) -> int:
    if variant is None:
        return winner(found.figures)
    labels = [arm.label for arm in found.plan.arms]
    if variant not in labels:
        raise UsageError(f"variant is {variant!r}; give one of {', '.join(labels)}, or leave it out for the best one")
    return labels.index(variant)


def _variants(arm: Arm, left_out: list[Part]) -> list[tuple[str, str]]:
    text = arm.variant.text
    named = [(f"without {number}: {it.label}", it.left_out_of(text)) for number, it in enumerate(left_out, 1)]
    return [("as it is", text), *named]


def _candidates(plan: Plan, arm: Arm) -> list[Part]:
    """The parts without which there is still another prompt for an item."""
    text = arm.variant.text
    # Of some items, such as empty ones, a template makes no prompt at all.
    wholes = ((item, _made(arm.variant, item, plan)) for item in plan.items.rows)
    first = next(((item, made) for item, made in wholes if made is not None), None)
    if first is None:
        return []
    (item, whole), found, texts = first, list[Part](), {text}
    for part in parts(text):
        rest = part.left_out_of(text)
        made = _made(Variant("", rest), item, plan)
        if made is not None and rest not in texts and made.messages != whole.messages:
            texts.add(rest)
            found.append(part)
    return found


def _made(variant: Variant, item: Item, plan: Plan) -> Prompt | None:
    """A variant's prompt for an item; None where there is none."""
    try:
        return variant.prompt(item, plan.sampling)
    except PromptError:
        return None


def _caching(found: Comparison, session: Session, number: int) -> Saving:
    arm, plan = found.plan.arms[number], found.plan
    what = "A cache of the prompts' beginnings"
    ran = [it for it in found.answers if it.arm == number and it.ran]
    if not ran:
        return none_known(what, "nothing ran")
    try:
        reader = reader_for(session.models, arm.model)
        traces = [reader.trace(plan.prompt(number, it.item)).pieces for it in ran]
    except TokmagicError as error:
        return none_known(what, f"the tokens of the prompts are not known here: {error}")
    if any(it is None for it in traces):
        return none_known(what, "the tokenizer does not tell which tokens a prompt has")
    # A token of a format that is not public has no id: it stands for itself.
    ids = [tuple(-1 if piece.id is None else piece.id for piece in it) for it in traces if it is not None]
    values = np.full((len(plan.items.rows), plan.repeat), np.nan)
    for it, shared in zip(ran, shared_prefixes(ids), strict=True):
        values[it.item, it.repeat] = max(0, shared - (it.cached_input_tokens or 0))
    means = item_means(values)
    return caching(means[~np.isnan(means)], _rates(found, session, number), plan.seed)


def _rates(found: Comparison, session: Session, number: int) -> Rates:
    """The rates of an arm's next run, whose prompt is about as long as those were that ran."""
    rates = rates_now(session, found.plan.arms[number].model)
    inputs = [it.input_tokens for it in found.answers if it.arm == number and it.input_tokens is not None]
    return at_input(rates, round(median(inputs))) if inputs else rates


def _limit(found: Comparison, session: Session, number: int) -> Saving:
    plan = found.plan
    outputs = np.full((len(plan.items.rows), plan.repeat), np.nan)
    for it in found.answers:
        if it.arm == number and it.ran and it.output_tokens is not None:
            outputs[it.item, it.repeat] = it.output_tokens
    passed = found.values("score")[number] if found.passes else None
    return shorter_limit(outputs, passed, _rates(found, session, number), plan.seed)
