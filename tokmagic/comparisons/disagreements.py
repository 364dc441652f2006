"""Where variants disagree, item by item: the scores and the answers side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tokmagic.comparisons.intervals import item_means
from tokmagic.comparisons.plan import Plan
from tokmagic.comparisons.running import Answer
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table

if TYPE_CHECKING:
    from tokmagic.comparisons.intervals import Floats

_CHARACTERS = 80


def disagreements(plan: Plan, answers: Iterable[Answer], scores: Floats, most: int) -> Table:
    """The items on which a variant scored otherwise than the baseline, those that differ most first.

    ``scores``: arms × items × repeats. The answers are those of the first repeat.
    """
    texts = {(it.arm, it.item): it.text for it in answers if it.repeat == 0}
    means = item_means(scores)
    found = [
        (abs(apart), arm, item)
        for arm in range(1, len(plan.arms))
        for item, apart in enumerate((means[arm] - means[0]).tolist())
        if apart and not np.isnan(apart)
    ]
    found.sort(key=lambda it: (-it[0], it[1], it[2]))
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
        for _, arm, item in found[:most]
    )
    more = f"; the first {most:,} are shown" if len(found) > most else ""
    note = f"{numbers.counted(len(found), 'disagreement')} with {baseline} in score{more}"
    columns = ("item", "variant", f"score {baseline}", "score", f"answer {baseline}", "answer")
    return Table(columns, rows, note, words=("variant", f"answer {baseline}", "answer"))


def _short(text: str | None) -> str:
    """On one line, its middle left out where it is long: answers differ at their ends."""
    if text is None:
        return numbers.UNKNOWN
    line = " ".join(text.split())
    half = (_CHARACTERS - 3) // 2
    return line if len(line) <= _CHARACTERS else f"{line[:half]} … {line[-half:]}"
