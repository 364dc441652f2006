"""Where variants disagree, item by item: the scores, and the answers side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tokmagic.comparisons.contrasts import Contrast, Contrasts
from tokmagic.comparisons.intervals import item_means
from tokmagic.comparisons.outcome import Answer
from tokmagic.comparisons.plan import Plan
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table

if TYPE_CHECKING:
    from tokmagic.comparisons.intervals import Floats

_CHARACTERS = 80


def disagreements(plan: Plan, answers: Iterable[Answer], scores: Floats, most: int) -> Table:
    """The items on which a variant scored otherwise than the baseline, those that differ most first.

    ``scores``: arms × items × repeats. The answers are those of the first repeat.
    """
    texts, means = _texts(answers), item_means(scores)
    found = _disagreeing(means)
    baseline = plan.arms[0].label
    rows = tuple(
        (
            f"{item + 1}",
            plan.arms[arm].label,
            f"{means[0, item]:.3g}",
            f"{means[arm, item]:.3g}",
            _short(texts.get((0, item))),
            _short(texts.get((arm, item))),
        )
        for arm, item in found[:most]
    )
    more = f"; the first {most:,} are shown" if len(found) > most else ""
    note = f"{numbers.counted(len(found), 'disagreement')} with {baseline} in score{more}"
    columns = ("item", "variant", f"score {baseline}", "score", f"answer {baseline}", "answer")
    return Table(columns, rows, note, words=("variant", f"answer {baseline}", "answer"))


def side_by_side(
    plan: Plan, answers: Iterable[Answer], scores: Floats, most: int, items: Sequence[int] | None
) -> Contrasts:
    """Each variant's answers beside the baseline's: on ``items``, numbers from 1 on, else where the scores differ.

    Where nothing has a score it is where the texts do. Raises UsageError for a number that no item has.
    """
    texts, means = _texts(answers), item_means(scores)
    if items is not None:
        wanted, what = _asked_for(plan, items), "on these items"
    elif not np.isnan(means).all():
        wanted, what = _disagreeing(means), "that differ in score"
    else:
        both = [(arm, item) for item in range(len(plan.items.rows)) for arm in range(1, len(plan.arms))]
        wanted = [(arm, item) for arm, item in both if texts.get((0, item)) != texts.get((arm, item))]
        what = "that differ"
    found = [it for it in wanted if texts.get((0, it[1])) is not None and texts.get(it) is not None]

    def score(arm: int, item: int) -> float | None:
        return None if np.isnan(means[arm, item]) else float(means[arm, item])

    pairs = tuple(
        Contrast.of(
            item + 1,
            (plan.arms[0].label, plan.arms[arm].label),
            (score(0, item), score(arm, item)),
            (texts[0, item] or "", texts[arm, item] or ""),
        )
        for arm, item in found[:most]
    )
    return Contrasts(pairs, len(found), what)


def _texts(answers: Iterable[Answer]) -> dict[tuple[int, int], str | None]:
    return {(it.arm, it.item): it.text for it in answers if it.repeat == 0}


def _disagreeing(means: Floats) -> list[tuple[int, int]]:
    """The arms and items whose score is not the baseline's, those that differ most first. ``means``: arms × items."""
    found = [
        (abs(apart), arm, item)
        for arm in range(1, len(means))
        for item, apart in enumerate((means[arm] - means[0]).tolist())
        if apart and not np.isnan(apart)
    ]
    found.sort(key=lambda it: (-it[0], it[1], it[2]))
    return [(arm, item) for _, arm, item in found]


def _asked_for(plan: Plan, items: Sequence[int]) -> list[tuple[int, int]]:
    count = len(plan.items.rows)
    for number in items:
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= count:
            raise UsageError(f"items has {number!r}; give numbers of items from 1 to {count:,}")
    return [(arm, number - 1) for number in items for arm in range(1, len(plan.arms))]


def _short(text: str | None) -> str:
    """On one line, its middle left out where it is long: answers differ at their ends."""
    if text is None:
        return numbers.UNKNOWN
    line = " ".join(text.split())
    half = (_CHARACTERS - 3) // 2
    return line if len(line) <= _CHARACTERS else f"{line[:half]} … {line[-half:]}"
