"""``tokmagic.compare``: which prompt is worth its money."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tokmagic.comparisons import packages
from tokmagic.errors import UsageError
from tokmagic.runs import api

if TYPE_CHECKING:
    from tokmagic.comparisons.results import Comparison
    from tokmagic.comparisons.tally import Stand
    from tokmagic.runs.session import Session


def compare(
    variants: Mapping[str, str] | Sequence[tuple[str, str]],
    over: object = None,
    *,
    model: str | Sequence[str] | None = None,
    score: object = None,
    repeat: int = 1,
    budget: str | Decimal | None = None,
    seed: int = 0,
    baseline: str | None = None,
    pilot: int | None = None,
    concurrency: int | Mapping[str, int] | None = None,
    tags: Iterable[str] = (),
    progress: Callable[[Stand], None] | None = None,
    **sampling: Any,
) -> Comparison:
    """Run variants of a prompt on the same items, metered and recorded, and compare cost, tokens, latency and score.

    ``variants`` are templates by their names, over the columns of ``over``: a list of dicts, a DataFrame, a CSV, JSONL
    or Parquet file, or a folder that a Hugging Face data set was saved to. ``model`` is one or several. ``score`` is a
    function of answer and item, or text such as ``"exact(answer)"`` or ``"judge(big)"``. The first variant at the first
    model is the baseline, unless ``baseline`` names another variant. ``budget`` is the most that all of it may cost, in
    USD; what is finished when it ends is compared. ``pilot`` runs so many items alone, for a forecast of the rest.
    ``concurrency`` is how many runs go on at once, at each server and each local model, or for each model its own
    number; by default as many as :func:`tokmagic.generate_many` runs. A latency beside others is not that of a run
    alone: 1 measures that. ``seed`` decides the order and what is resampled. ``sampling`` takes Sampling's fields, as
    :func:`tokmagic.generate` does.

    Runs are in the ledger under tags. The same call goes on where it was interrupted, and nothing that is finished is
    paid for twice: it is read from there.

    Raises UsageError, PromptError, BudgetError, LedgerError, and GenerationInterrupted after an interrupt.
    """
    return compare_in(
        api.session(),
        variants,
        over,
        model=model,
        score=score,
        repeat=repeat,
        budget=budget,
        seed=seed,
        baseline=baseline,
        pilot=pilot,
        concurrency=concurrency,
        tags=tags,
        progress=progress,
        **sampling,
    )


def compare_in(
    session: Session,
    variants: object,
    over: object,
    *,
    model: object = None,
    score: object = None,
    budget: object = None,
    pilot: int | None = None,
    concurrency: object = None,
    tags: Iterable[str] = (),
    progress: Callable[[Stand], None] | None = None,
    repeat: int = 1,
    seed: int = 0,
    baseline: str | None = None,
    **sampling: Any,
) -> Comparison:
    """As :func:`compare`, in a session: for the magic and the command, whose options nobody has looked at yet."""
    packages.check()
    if progress is not None and not callable(progress):
        raise UsageError(f"progress is {progress!r}; give a function, which is told how far it is")
    from tokmagic.comparisons.preparing import compared  # start-up: numpy and scipy, for a name that is only looked up

    return compared(
        session,
        variants,
        over,
        models=_models(model),
        score=score,
        budget=budget,
        pilot=pilot,
        at_once=concurrency,
        tags=api.texts_of("tags", tags),
        progress=progress,
        options={"repeat": repeat, "seed": seed, "baseline": baseline, "sampling": api.sampling_of(sampling)},
    )


def _models(given: object) -> list[str | None]:
    if given is None:
        return [None]
    if isinstance(given, str):
        return [given]
    names = list(given) if isinstance(given, Iterable) else []
    if not names or any(not isinstance(name, str) for name in names):
        raise UsageError(f"model is {given!r}; give a name, or a list of names")
    return names
