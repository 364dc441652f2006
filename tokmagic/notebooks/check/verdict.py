"""Limits, and which cells go beyond them. Growth is compared exactly: nothing is rounded but for the reader."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from operator import itemgetter

from tokmagic.core.money import plain
from tokmagic.errors import UsageError
from tokmagic.formatting.numbers import UNKNOWN, counted, tokens
from tokmagic.notebooks.align import align
from tokmagic.notebooks.check.figures import Figures, Notebook, PromptCell
from tokmagic.prices import usd

_PERCENT = re.compile(r"(\d{1,9}(?:\.\d{0,12})?|\.\d{1,12})\s*%?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a notebook may cost (USD), take (tokens, input and output) and grow by (percent). None: no such limit."""

    cost_usd: Decimal | None = None
    tokens: int | None = None
    increase: Decimal | None = None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self != Limits()


def limits(max_cost: str | None, max_tokens: int | None, max_increase: str | None) -> Limits:
    """Limits as the command takes them: ``0.10``, ``1000``, ``10%``. Raises UsageError."""
    if max_tokens is not None and max_tokens < 0:
        raise UsageError(f"--max-tokens is {max_tokens}; give a whole number of tokens, 0 or more, such as 2000")
    percent = None if max_increase is None else _PERCENT.fullmatch(max_increase.strip())
    if max_increase is not None and percent is None:
        raise UsageError(f"--max-increase is {max_increase!r}; give percent, 0 or more, such as 10%")
    return Limits(
        cost_usd=None if max_cost is None else usd(max_cost, what="--max-cost", error=UsageError),
        tokens=max_tokens,
        increase=None if percent is None else Decimal(percent[1]),
    )


@dataclass(frozen=True, slots=True)
class Growth:
    """A figure of two versions, both known. ``of`` is ``cost`` (USD) or ``tokens``."""

    of: str
    before: Decimal
    after: Decimal

    @property
    def percent(self) -> Fraction | None:
        """How much it grew, in percent; None from 0 to more than 0, which no percentage tells."""
        if not self.before:
            return None if self.after else Fraction(0)
        return (Fraction(self.after) / Fraction(self.before) - 1) * 100

    def beyond(self, increase: Decimal) -> bool:
        """Whether it grew by more than ``increase`` percent. From 0 any growth is beyond any limit."""
        return Fraction(self.after) * 100 > Fraction(self.before) * (100 + Fraction(increase))


Pair = tuple[PromptCell | None, PromptCell | None]
"""A cell before and now; None where one of the versions lacks it."""


def growth(before: Figures, after: Figures) -> Growth | None:
    """The growth of the cost where both prices are known, else of the tokens, else unknown."""
    if before.cost_usd is not None and after.cost_usd is not None:
        return Growth("cost", before.cost_usd, after.cost_usd)
    if before.tokens is not None and after.tokens is not None:
        return Growth("tokens", Decimal(before.tokens), Decimal(after.tokens))
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. ``problems`` are why it failed; ``notes`` are worth knowing and fail nothing."""

    notebook: Notebook
    against: Notebook | None
    pairs: tuple[Pair, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    @property
    def total_growth(self) -> Growth | None:
        """How the sum over all cells changed."""
        return None if self.against is None else growth(self.against.total, self.notebook.total)


def check(notebook: Notebook, wanted: Limits, against: Notebook | None = None, *, new: bool = False) -> Verdict:
    """Check a notebook's numbers. ``new``: an earlier version was asked for, and there is none.

    Without limits nothing but having numbers at all is asked of it.
    """
    pairs = align(against.cells if against else (), notebook.cells)
    problems: list[str] = []
    if not notebook.measured and (wanted.any or against is None or not against.measured):
        problems.append("there is nothing to check: no cell holds the numbers of a run")
    if wanted.any:
        problems += [f"{cell.name} {cell.missing}" for cell in notebook.cells if cell.missing]
        problems += _beyond_sums(notebook, wanted)
    if wanted.increase is not None and against is not None:
        problems += _beyond_increase(pairs, notebook, against, wanted.increase)
    notes = ["it is new: there is nothing to compare it with"] if new else []
    without = len(notebook.cells) - len(notebook.measured)
    if without and notebook.measured:
        notes.append(f"{without} of its {counted(len(notebook.cells), 'prompt cell')} without numbers, in no sum")
    if wanted.any:
        notes += [f"the comparison of {name} is in no sum" for name in notebook.compared]
    else:
        # Numbers that stand there and are not the cell's own are told of, whatever is asked.
        notes += [f"{cell.name} {cell.missing}" for cell in notebook.cells if cell.missing and cell.runs]
    if any(cell.cached for version in (notebook, against) if version for cell in version.cells):
        notes.append("answers from the cache are counted at what they would have cost")
    return Verdict(notebook, against, tuple(pairs), tuple(problems), tuple(notes))


def _beyond_sums(notebook: Notebook, wanted: Limits) -> Iterator[str]:
    if wanted.cost_usd is not None:
        costs = [(cell.figures.cost_usd, cell) for cell in notebook.measured]
        for usd, cell in costs:
            if usd is None:
                yield f"{cell.name} has no price; set one with %price and run it again, or check --max-tokens"
            elif any(run.cost.bound == "at_least" for run in cell.runs):
                yield f"{cell.name} may have cost more than the {_usd(usd)} that is known; run it again"
        priced = [(usd, cell) for usd, cell in costs if usd is not None]
        total = sum((usd for usd, _ in priced), Decimal(0))
        if total > wanted.cost_usd:
            highest, cell = max(priced, key=itemgetter(0))
            yield (
                f"it costs {_usd(total)}, more than {_usd(wanted.cost_usd)}; "
                f"the most expensive is {cell.name} with {_usd(highest)}"
            )
    if wanted.tokens is not None:
        counts = [(cell.figures.tokens or 0, cell) for cell in notebook.measured]
        uncounted = [cell for cell in notebook.measured if cell.figures.tokens is None]
        yield from (f"{cell.name} has no token count; run it again" for cell in uncounted)
        took = sum(count for count, _ in counts)
        if took > wanted.tokens:
            longest, cell = max(counts, key=itemgetter(0))
            yield (
                f"it takes {counted(took, 'token')}, more than {wanted.tokens:,}; "
                f"the longest is {cell.name} with {longest:,}"
            )


def _beyond_increase(pairs: Sequence[Pair], notebook: Notebook, against: Notebook, increase: Decimal) -> Iterator[str]:
    if not against.measured:
        yield f"there is nothing to compare with: no cell of {against.name} holds the numbers of a run"
        return
    in_both = [(before, after) for before, after in pairs if before is not None and after is not None]
    for before, after in in_both:
        if before.missing:
            yield f"{after.name} cannot be compared: in {against.name} {before.name} {before.missing}"
        elif not after.missing:
            yield from _growth_beyond(after.name, before.figures, after.figures, increase)
    # A sum that lacks a cell says nothing, and that cell is told of already.
    if not any(before.missing for before, _ in in_both) and not any(cell.missing for cell in notebook.cells):
        yield from _growth_beyond(None, against.total, notebook.total, increase)


def _growth_beyond(cell: str | None, before: Figures, after: Figures, increase: Decimal) -> Iterator[str]:
    """How a cell grew, or the whole notebook, where it is beyond the limit or not known."""
    it = growth(before, after)
    if it is None and cell is None:
        yield "the whole notebook cannot be compared: neither all its prices nor all its tokens are known"
    elif it is None:
        yield f"{cell} cannot be compared: one version has neither price nor tokens"
    elif it.beyond(increase):
        of = "" if it.of == "cost" else " in tokens"
        by = "from 0" if it.percent is None else f"by {percent(it).removeprefix('+')}"
        limit = f"(at most {increase.normalize():f} %)"
        costs = " → ".join(_usd(side.cost_usd) for side in (before, after))
        counts = " → ".join(tokens(side.tokens) for side in (before, after))
        yield f"{cell or 'the whole notebook'} grew {by}{of} {limit}: {costs}, {counts} tokens"
    elif it.of == "cost" and after.uncertainty.at_least_runs > before.uncertainty.at_least_runs:
        yield (
            f"{cell or 'the whole notebook'} may have grown by more: "
            f"it may have cost more than the {_usd(after.cost_usd)} that is known; run it again"
        )


def percent(it: Growth) -> str:
    """Growth for the reader: ``+12.5 %``, rounded away from 0, so that no change looks like none."""
    value = it.percent
    if value is None:
        return "from 0"
    tenths = ceil(value * 10) if value > 0 else floor(value * 10)
    return f"{Decimal(tenths) / 10:+.1f} %" if tenths else "0 %"


def _usd(amount: Decimal | None) -> str:
    # In full: two amounts that differ must not look the same.
    return UNKNOWN if amount is None else f"${plain(amount)}"
