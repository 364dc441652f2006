"""Limits, and which cells go beyond them. Growth is compared exactly: nothing is rounded but for the reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

from tokmagic.errors import UsageError
from tokmagic.notebooks.saved import Figures, Notebook, PromptCell
from tokmagic.formatting.numbers import UNKNOWN, counted
from tokmagic.prices import plain

_NUMBER = r"(\d{1,9}(?:\.\d{0,12})?|\.\d{1,12})"
_USD = re.compile(rf"\$?\s*{_NUMBER}(?:\s*USD)?", re.ASCII)
_PERCENT = re.compile(rf"{_NUMBER}\s*%?", re.ASCII)
_TOKENS = re.compile(r"\d{1,3}(_\d{3}){1,5}|\d{1,18}", re.ASCII)


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


def limits(max_cost: str | None, max_tokens: str | None, max_increase: str | None) -> Limits:
    """Limits as the command takes them: ``0.10``, ``1000``, ``10%``. Raises UsageError."""
    return Limits(
        cost_usd=_decimal(max_cost, _USD, "--max-cost", "an amount of USD, 0 or more, such as 0.10"),
        tokens=_tokens(max_tokens),
        increase=_decimal(max_increase, _PERCENT, "--max-increase", "percent, 0 or more, such as 10%"),
    )


def _decimal(text: str | None, form: re.Pattern[str], option: str, fix: str) -> Decimal | None:
    if text is None:
        return None
    match = form.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} is {text!r}; give {fix}")
    return Decimal(match[1])


def _tokens(text: str | None) -> int | None:
    if text is None:
        return None
    if not _TOKENS.fullmatch(text.strip()):
        raise UsageError(f"--max-tokens is {text!r}; give a whole number of tokens, 0 or more, such as 2000")
    return int(text)


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


@dataclass(frozen=True, slots=True)
class Pair:
    """A cell in both versions; None where one of them lacks it."""

    before: PromptCell | None
    after: PromptCell | None

    @property
    def growth(self) -> Growth | None:
        """How it changed; None where either side is unknown."""
        if self.before is None or self.after is None:
            return None
        if self.before.figures is None or self.after.figures is None:
            return None
        return growth(self.before.figures, self.after.figures)


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
    pairs = _pairs(against, notebook)
    problems: list[str] = []
    if not notebook.measured and (wanted.any or against is None or not against.measured):
        problems.append("there is nothing to check: no cell holds the numbers of a run")
    if wanted.any:
        problems += [f"{cell.name} {cell.missing}" for cell in notebook.cells if cell.missing]
        problems += _beyond_sums(notebook, wanted)
    if wanted.increase is not None and against is not None:
        problems += _beyond_increase(pairs, notebook, against, wanted.increase)
    notes = []
    if new:
        notes.append("it is new: there is nothing to compare it with")
    without = len(notebook.cells) - len(notebook.measured)
    if without and notebook.measured:
        notes.append(f"{without} of its {counted(len(notebook.cells), 'prompt cell')} without numbers, in no sum")
    if any(cell.cached for version in (notebook, against) if version for cell in version.cells):
        notes.append("answers from the cache are counted at what they would have cost")
    return Verdict(notebook, against, pairs, tuple(problems), tuple(notes))


def _pairs(against: Notebook | None, notebook: Notebook) -> tuple[Pair, ...]:
    """Cells side by side: by id where all have one and the versions share any, else by their order."""
    before = list(against.cells) if against else []
    after = list(notebook.cells)
    by_id = all(cell.id for cell in (*before, *after)) and {cell.id for cell in before} & {cell.id for cell in after}
    if by_id:
        known = {cell.id: cell for cell in before}
        pairs = [Pair(known.pop(cell.id, None), cell) for cell in after]
        return (*pairs, *(Pair(cell, None) for cell in known.values()))
    longest = max(len(before), len(after))
    places = [(*cells, *[None] * (longest - len(cells))) for cells in (before, after)]
    return tuple(Pair(one, other) for one, other in zip(*places, strict=True))


def _beyond_sums(notebook: Notebook, wanted: Limits) -> Iterator[str]:
    known = [cell for cell in notebook.cells if cell.figures is not None]
    if wanted.cost_usd is not None:
        priced = {cell: cell.figures.cost_usd for cell in known if cell.figures and cell.figures.cost_usd is not None}
        for cell in known:
            if cell not in priced:
                yield f"{cell.name} has no price; set one with %price and run it again, or check --max-tokens"
            elif cell.lower_bound:
                yield f"{cell.name} may have cost more than the {_usd(priced[cell])}that is known; run it again"
        total = sum(priced.values(), Decimal(0))
        if total > wanted.cost_usd:
            highest = max(priced, key=lambda cell: priced[cell])
            yield (
                f"it costs {_usd(total)}, more than {_usd(wanted.cost_usd)}; "
                f"the most expensive is {highest.name} with {_usd(priced[highest])}"
            )
    if wanted.tokens is not None:
        for cell in known:
            if cell.figures is not None and cell.figures.tokens is None:
                yield f"{cell.name} has no token count; run it again"
        tokens = {cell: cell.figures.tokens for cell in known if cell.figures and cell.figures.tokens is not None}
        took = sum(tokens.values())
        if took > wanted.tokens:
            longest = max(tokens, key=lambda cell: tokens[cell])
            yield (
                f"it takes {counted(took, 'token')}, more than {wanted.tokens:,}; "
                f"the longest is {longest.name} with {tokens[longest]:,}"
            )


def _beyond_increase(
    pairs: tuple[Pair, ...], notebook: Notebook, against: Notebook, increase: Decimal
) -> Iterator[str]:
    if not against.measured:
        yield f"there is nothing to compare with: no cell of {against.name} holds the numbers of a run"
        return
    complete = True
    for pair in pairs:
        before, after = pair.before, pair.after
        if before is not None and before.missing and after is not None:
            complete = False
            yield f"{after.name} cannot be compared: in {against.name} {before.name} {before.missing}"
        if before is None or after is None or before.figures is None or after.figures is None:
            continue
        if pair.growth is None:
            yield f"{after.name} cannot be compared: one version has neither price nor tokens"
        elif pair.growth.beyond(increase):
            yield f"{after.name} grew {_grew(pair.growth, increase)}: {change(before.figures, after.figures)}"
    # A sum that lacks a cell says nothing, and that cell is told of already.
    if complete and len(notebook.measured) == len(notebook.cells):
        old, new = against.total, notebook.total
        whole = growth(old, new)
        if whole is None:
            yield "the whole notebook cannot be compared: neither all its prices nor all its tokens are known"
        elif whole.beyond(increase):
            yield f"the whole notebook grew {_grew(whole, increase)}: {change(old, new)}"


def _grew(it: Growth, increase: Decimal) -> str:
    of = "" if it.of == "cost" else " in tokens"
    by = "from 0" if it.percent is None else f"by {percent(it).removeprefix('+')}"
    return f"{by}{of} (at most {increase.normalize():f} %)"


def percent(it: Growth) -> str:
    """Growth for the reader: ``+12.5 %``, rounded away from 0, so that no change looks like none."""
    value = it.percent
    if value is None:
        return "from 0"
    tenths = ceil(value * 10) if value > 0 else floor(value * 10)
    return f"{Decimal(tenths) / 10:+.1f} %" if tenths else "0 %"


def change(before: Figures, after: Figures) -> str:
    """``$0.001 → $0.00125, 12 → 15 tokens``."""
    return f"{_usd(before.cost_usd)} → {_usd(after.cost_usd)}, {_told(before)} → {_told(after)} tokens"


def _told(figures: Figures) -> str:
    return UNKNOWN if figures.tokens is None else f"{figures.tokens:,}"


def _usd(amount: Decimal | None) -> str:
    # In full: two amounts that differ must not look the same.
    return UNKNOWN if amount is None else f"${plain(amount)}"
