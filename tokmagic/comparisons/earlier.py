"""What the ledger has of a comparison: runs that are finished are read from it and never paid for twice."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from tokmagic.comparisons.plan import Plan
from tokmagic.core.compared import DATA, JUDGE_TAG
from tokmagic.core.record import RunRecord, Selection, Sum
from tokmagic.errors import UsageError

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


class Key(NamedTuple):
    """What two runs have in common that may stand for each other: variant (or judge), model, and prompt."""

    tags: tuple[str, ...]
    model: str
    prompt_sha256: str


class Earlier:
    """A user's finished runs of a comparison, each given out once, in the order in which they ran.

    Somebody else's are none of them, though the ledger may be shared: they were paid for from other budgets, and timed
    on another machine.
    """

    def __init__(self, ledger: Ledger, plan: Plan, user: str | None) -> None:
        """Raises UsageError where the file was changed before an earlier beginning was finished, and LedgerError."""
        self._ledger = ledger
        self._finished: dict[Key, deque[RunRecord]] = defaultdict(deque)
        # Of a selection None is anybody.
        every, data = ledger.runs(Selection(tags=(plan.question_tag,), user=user)), plan.data_tag
        rows = [row for row in every if row.user == user]
        mine = [row for row in rows if data in row.tags]
        if plan.items.source and not mine:
            _check_unchanged(rows, plan)
        self.spent = Sum.of(mine)
        """What all of its runs cost so far, those that did not finish included."""
        self.left = 0
        """How many finished runs are still to be taken."""
        for row in mine:
            if row.status == "ok":
                self._finished[_key(row)].append(row)
                self.left += 1

    @property
    def spent_usd(self) -> Decimal:
        """The same in USD; runs without a price are not in it."""
        return self.spent.cost_usd or Decimal(0)

    def finished(self, tag: str, model: str) -> int:
        """How many finished runs of a variant at a model are still to be taken."""
        return sum(len(rows) for key, rows in self._finished.items() if key[:2] == ((tag,), model))

    def take(self, key: Key) -> tuple[RunRecord, str | None] | None:
        """A finished run and its answer, the answer None where texts are not kept; None: there is none (any more)."""
        found = self._finished.get(key)
        if not found:
            return None
        row = found.popleft()
        self.left -= 1
        kept = self._ledger.texts(row.run_id)
        return row, None if kept is None else kept[1]


def _key(row: RunRecord) -> Key:
    # The last tag is ours, and of a judge's the last two, whatever others a caller gave.
    ours = 2 if row.tags[-1] == JUDGE_TAG else 1
    return Key(row.tags[-ours:], row.info.name, row.prompt_sha256)


def _check_unchanged(rows: Iterable[RunRecord], plan: Plan) -> None:
    """Raise UsageError if the same comparison was begun with other contents of its file, and not finished."""
    begun: dict[str, int] = defaultdict(int)
    for row in rows:
        for tag in row.tags:
            if tag.startswith(DATA):
                begun[tag] += row.status == "ok" and JUDGE_TAG not in row.tags
    for tag, finished in begun.items():
        wanted = int(tag.rpartition("/")[2])
        if 0 < finished < wanted:
            raise UsageError(
                f"{plan.items.source} was changed since this comparison began: {finished:,} of {wanted:,} runs are "
                "finished with what it held before; put that back to go on, or give another seed to begin anew"
            )
