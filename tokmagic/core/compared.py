"""How the runs of a comparison are told from others: by their tags, which the ledger keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

QUESTION, DATA, VARIANT, SAVINGS = "compare:", "data:", "variant:", "savings:"
JUDGE_TAG = "judge"


class Compared(NamedTuple):
    """What the tags of a comparison's run say of it."""

    question: str
    data: str
    savings_of: str | None
    """The question of the comparison of which parts are left out here."""

    @property
    def runs(self) -> int:
        """How many runs the comparison has in all, a judge's not among them."""
        return int(self.data.rpartition("/")[2])


def compared(tags: Sequence[str]) -> Compared | None:
    """What tags say of the comparison that a run belongs to; None for a run of none."""
    # Others may stand between: those that a caller gave.
    if len(tags) < 3 or not tags[0].startswith(QUESTION) or not tags[1].startswith(DATA):
        return None
    if not tags[1].rpartition("/")[2].isdecimal():
        return None
    of = next((it.removeprefix(SAVINGS) for it in tags[2:-1] if it.startswith(SAVINGS)), None)
    return Compared(tags[0], tags[1], of)


def variant_name(tag: str) -> str | None:
    """The variant's name in the last tag of its runs; None where that is a judge's."""
    return tag.removeprefix(VARIANT).rpartition("@")[0] if tag.startswith(VARIANT) else None
