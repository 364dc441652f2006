"""From what a caller gives to a plan, and from the plan to a result."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tokmagic.comparisons import inputs, plan, scores
from tokmagic.comparisons.judges import Judge, judge
from tokmagic.comparisons.results import Comparison
from tokmagic.comparisons.running import Progress, Running
from tokmagic.errors import BudgetError, UsageError
from tokmagic.prices.money import usd
from tokmagic.prompts.options import check_sampling
from tokmagic.runs.session import Session


def compared(
    session: Session,
    variants: object,
    over: object,
    *,
    models: Sequence[str | None],
    score: object,
    budget: object,
    pilot: int | None,
    tags: Sequence[str],
    progress: Progress | None,
    options: dict[str, Any],
) -> Comparison:
    """Compare as :func:`tokmagic.comparisons.api.compare` says, in a session."""
    items = inputs.read(over)
    check_sampling(options["sampling"])
    names = [_resolved(session, it) for it in models]
    if not names:
        raise UsageError("no model is named; leave model out for the current one, or name at least one")
    identities = {name: _identity(session, name) for name in names}
    planned = plan.make(variants, items, names, identities=identities, **options)
    scored = None if score is None else scores.read(score)
    if isinstance(scored, Judge):
        scored = judge(_resolved(session, scored.model), scored.question)
    elif scored is not None and scored.column is not None:
        items.check(scored.column, f"the score {scored.name}")
    if pilot is not None and (isinstance(pilot, bool) or not isinstance(pilot, int) or pilot < 1):
        raise UsageError(f"pilot is {pilot!r}; give a whole number of items, at least 1")
    limit = None if budget is None else _limit(budget)
    running = Running(session, planned, scored, budget_usd=limit, tags=tags, progress=progress)
    return Comparison(planned, scored, running.execute(pilot))


def _identity(session: Session, model: str) -> str:
    """Which model a name stands for in this session, and how it is run."""
    spec = session.models.spec(model)
    return repr((spec.source, spec.revision, spec.quant, spec.dtype, spec.api_base))


def _limit(given: object) -> Decimal:
    amount = given if isinstance(given, str | int | Decimal) and not isinstance(given, bool) else repr(given)
    return usd(amount, what="budget", error=BudgetError)


def _resolved(session: Session, model: str | None) -> str:
    return session.models.current if model is None else session.models.resolve(model)
