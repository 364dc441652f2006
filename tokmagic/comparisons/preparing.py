"""From what a caller gives to a plan, and from the plan to a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tokmagic.comparisons import concurrency, inputs, plan, scores
from tokmagic.comparisons.ablating import savings
from tokmagic.comparisons.amounts import amount
from tokmagic.comparisons.billed import rates_now
from tokmagic.comparisons.judges import Judge, judge
from tokmagic.comparisons.outcome import Outcome
from tokmagic.comparisons.ratings import Book, Human
from tokmagic.comparisons.results import Comparison
from tokmagic.comparisons.running import Progress, Running
from tokmagic.comparisons.saved import Cell
from tokmagic.comparisons.savings import Savings
from tokmagic.comparisons.tally import Here
from tokmagic.core.compared import SAVINGS
from tokmagic.core.record import source_sha256
from tokmagic.errors import UsageError
from tokmagic.prompts.options import check_sampling
from tokmagic.runs.comparing import ComparisonRow
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
    at_once: object = None,
    beside: ComparisonRow | None = None,
    options: dict[str, Any],
) -> Comparison:
    """Compare as :func:`tokmagic.comparisons.api.compare` says, in a session.

    ``beside``: the comparison of whose winner parts are left out here.
    """
    items = inputs.read(over)
    check_sampling(options["sampling"])
    names = [_resolved(session, it) for it in models]
    if not names:
        raise UsageError("no model is named; leave model out for the current one, or name at least one")
    identities = {name: _identity(session, name) for name in names}
    planned = plan.make(variants, items, names, identities=identities, **options)
    scored = _scored(session, score, items)
    if pilot is not None and (isinstance(pilot, bool) or not isinstance(pilot, int) or pilot < 1):
        raise UsageError(f"pilot is {pilot!r}; give a whole number of items, at least 1")
    limit = None if budget is None else amount(budget)
    judging = scored.model if isinstance(scored, Judge) else None
    limits = concurrency.read(at_once, [*names, *([] if judging is None else [judging])])
    places = concurrency.Places(session, [arm.model for arm in planned.arms], judging, limits)
    cell = _cell(session)
    running = Running(
        session,
        planned,
        scored,
        places=places,
        budget_usd=limit,
        tags=tags,
        progress=progress,
        here=Here(cell.cell_id, cell.source_sha256, session.execution(), session.execution_count(), beside),
        most_blocks=pilot,
    )
    book = _book(session, scored, planned.question_tag) if isinstance(scored, Human) else None
    outcome, row = _shown(session, running, cell.cell_id)
    outcome.billed.now = {name: rates_now(session, name) for name in names}
    # The variants of a row that this one stands beside have means of their own.
    shown = cell.cell_id if beside is None else None
    rated = None if shown is None else partial(session.comparisons.set_means, shown, row.tags)
    found = Comparison(planned, scored, outcome, cell, book, partial(_savings, session, at_once), row=row, rated=rated)
    if book is not None:
        found.rating()  # takes in what was rated before
    else:
        found.rescored()
    return found


def _scored(session: Session, score: object, items: inputs.Items) -> scores.Score | Judge | Human | None:
    """The score that is meant, a judge by the model that its name stands for. Raises UsageError."""
    found = None if score is None else scores.read(score)
    if isinstance(found, Judge):
        named = judge(_resolved(session, found.model), found.question)
        return replace(named, identity=_identity(session, named.model))
    if isinstance(found, scores.Score) and found.column is not None:
        items.check(found.column, f"the score {found.name}")
    return found


def _book(session: Session, score: Human, question_tag: str) -> Book:
    """Where a person's ratings are kept."""
    name = question_tag.replace(":", "-")
    return Book(session.settings.home_path / "ratings" / f"{name}.jsonl", score.question)


def _shown(session: Session, running: Running, cell_id: str | None) -> tuple[Outcome, ComparisonRow]:
    """Run it, and let the sidebar see it where a cell does."""
    if cell_id is not None:
        session.comparisons.begin(cell_id, running)
    row: ComparisonRow | None = None
    try:
        outcome = running.execute()
        row = running.tally.ended(outcome)
    except BaseException as error:
        row = running.tally.broke(error)
        raise
    finally:
        if cell_id is not None and row is not None:
            session.comparisons.end(cell_id, row)
    return outcome, row


def _savings(
    session: Session, at_once: object, found: Comparison, *, progress: Progress | None = None, **options: Any
) -> Savings:
    """Where its money goes; what more is run for that, is run as it was."""
    plan = found.plan

    def again(variants: object, model: str, *, budget: object, items: int | None) -> Comparison:
        return compared(
            session,
            variants,
            plan.items if items is None else plan.items.sample(items, plan.seed),
            models=[model],
            score=found.score,
            budget=budget,
            pilot=None,
            tags=(f"{SAVINGS}{plan.question_tag}",),
            progress=progress,
            at_once=at_once if isinstance(at_once, int) else None,
            beside=found.shown if found.cell.cell_id == session.cell_id() else None,
            options={"repeat": plan.repeat, "seed": plan.seed, "baseline": None, "sampling": plan.sampling},
        )

    return savings(found, session, again, **options)


def _cell(session: Session) -> Cell:
    source = session.source()
    digest = None if source is None else source_sha256(source)
    return Cell(session.cell_id(), digest, session.settings.notebook_metadata, session.cell_id)


def _identity(session: Session, model: str) -> str:
    """Which model a name stands for in this session, and how it is run."""
    spec = session.models.spec(model)
    return repr((spec.source, spec.revision, spec.quant, spec.dtype, spec.api_base))


def _resolved(session: Session, model: str | None) -> str:
    return session.models.current if model is None else session.models.resolve(model)
