"""Where a prompt's money goes: what a cache and a lower output limit would have saved, and which parts can go.

All of it is measured on the comparison's own items. None of it is a promise.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from tokmagic.comparisons.differences import Difference
from tokmagic.comparisons.figures import ArmFigures
from tokmagic.comparisons.intervals import Interval, of_mean, of_rate
from tokmagic.comparisons.parts import Part, without
from tokmagic.comparisons.showing import exact_rows, json_rows, markdown, shows, usd
from tokmagic.comparisons.words import p_value, signed
from tokmagic.core.money import plain
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table, escape

if TYPE_CHECKING:
    from tokmagic.comparisons.intervals import Floats
    from tokmagic.core.money import Rates
    from tokmagic.runs.comparing import ComparisonRow

_LIMIT_SHARE = 0.95
"""Where answers neither pass nor fail, the limit that is tried lets so many through whole."""
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Saving:
    """What a measure would have saved on a run: USD with a 95 % interval over items, and tokens. None: not known."""

    what: str
    usd: float | None
    interval: Interval
    tokens: float | None
    note: str
    """What it rests on, and what speaks against it."""

    @property
    def sentence(self) -> str:
        """It in plain words."""
        if self.tokens is None:
            return f"{self.what}: {self.note}."
        told = f"{self.what} would have saved {self.tokens:,.1f} tokens a run"
        if self.usd is not None:
            low, high = self.interval.low, self.interval.high
            spread = "" if low is None or high is None else f" ({signed(low, usd)} to {signed(high, usd)})"
            told = f"{self.what} would have saved {usd(self.usd)} a run{spread}, {self.tokens:,.1f} tokens"
        return f"{told}. {self.note}."


def none_known(what: str, why: str) -> Saving:
    """A saving that cannot be told."""
    return Saving(what, None, Interval(None, None, "none", why), None, why)


def shared_prefixes(prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """For each prompt, as ids in the order in which they ran, how many of its first ids an earlier one began with."""
    before: list[tuple[int, ...]] = []
    found = []
    for ids in prompts:
        # Of all sorted before it, the neighbours share most.
        at = bisect_left(before, ids)
        neighbours = before[max(0, at - 1) : at + 1]
        found.append(max((_common(ids, it) for it in neighbours), default=0))
        before.insert(at, ids)
    return found


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


def caching(shared: Floats, rates: Rates, seed: int) -> Saving:
    """What a cache of prompts' beginnings would have saved.

    ``shared``: each item's tokens a run that an earlier prompt began with, beyond those that were cached.
    """
    what = "A cache of the prompts' beginnings"
    mean = float(shared.mean())
    told = (
        "As if it kept every beginning all the while; servers forget, ask for a least length, and bill what they write"
    )
    if rates.input is None or rates.cached is None:
        unknown = f"no rate for cached input is known (%price --cached), so USD are not; {_lower(told)}"
        return Saving(what, None, Interval(None, None, "none", unknown), mean, _upper(unknown))
    each = shared * float(rates.input - rates.cached) / _MILLION
    return Saving(what, float(each.mean()), of_mean(each, seed, least=0.0), mean, told)


def shorter_limit(outputs: Floats, passed: Floats | None, rates: Rates, seed: int) -> Saving:
    """What a lower output limit would have saved: chosen on one half of the items and measured on the other.

    ``outputs``: output tokens, items × repeats, NaN where there is no run; ``passed``: 1 and 0, where answers pass or
    fail. The limit is the longest passing answer's, else what 95 % of answers keep to.
    """
    have = [item for item in range(len(outputs)) if not np.isnan(outputs[item]).all()]
    random.Random(seed).shuffle(have)
    one, other = have[: len(have) // 2], have[len(have) // 2 :]
    chosen = outputs[one] if passed is None else outputs[one][passed[one] == 1]
    known = chosen[~np.isnan(chosen)]
    what = "A lower output limit"
    if not known.size or len(other) < 2:
        few = "too few answers passed to choose one" if passed is not None else "too few items ran to choose one"
        return none_known(what, few)
    limit = math.ceil(known.max() if passed is not None else np.quantile(known, _LIMIT_SHARE))
    rest = outputs[other]
    cut = np.clip(rest - limit, 0, None)
    items = np.nanmean(cut, axis=1)
    # An answer that is cut counts as one that no longer passes. One that did not pass loses nothing.
    counted = ~np.isnan(rest) & (True if passed is None else passed[other] == 1)
    lost = np.where(counted, rest > limit, np.nan)
    share = of_rate(lost.astype(float))
    of = "answers" if passed is None else "answers that passed"
    at_most = "" if share.high is None else f", at most {share.high:.0%} by Wilson's interval"
    note = (
        f"{'Chosen' if passed is None else 'Long enough for all that passed'} on half of the items; on the other "
        f"{len(other):,} it cuts {int(np.nansum(lost)):,} of {int(counted.sum()):,} {of}{at_most}"
    )
    what = f"An output limit of {limit:,} tokens"
    if rates.output is None:
        return Saving(what, None, Interval(None, None, "none", "no output rate"), float(items.mean()), note)
    each = items * float(rates.output) / _MILLION
    return Saving(what, float(each.mean()), of_mean(each, seed, least=0.0), float(items.mean()), note)


@dataclass(frozen=True, slots=True)
class Ablation:
    """A part that was left out, and what that changed: without it − with it."""

    part: Part
    figures: ArmFigures

    @property
    def score(self) -> Difference | None:
        return self.figures.differences.get("score")

    @property
    def says(self) -> str:
        """What follows: never more than that no loss was seen."""
        if self.score is None or self.score.mean is None:
            return "not measured"
        if self.score.seen:
            return "keep it: worse without" if self.score.mean < 0 else "better without"
        if self.score.leaning:
            return f"{'worse' if self.score.leaning < 0 else 'better'} without, not certain"
        return "no loss seen" if self.score.p_value is not None else "too few items"


@dataclass(frozen=True, slots=True)
class Savings:
    """Where a variant's money goes. It shows itself."""

    variant: str
    text: str
    """The variant's template."""
    savings: tuple[Saving, ...]
    ablations: tuple[Ablation, ...] = ()
    passes: bool = False
    spent_usd: Decimal | None = Decimal(0)
    """What leaving parts out cost, in USD."""
    remarks: tuple[str, ...] = ()
    row: ComparisonRow | None = field(default=None, repr=False, compare=False)
    """How the comparison stands in the sidebar since, where its own cell left parts out."""

    @property
    def table(self) -> Table:
        """What was left out, and what that changed."""
        how = shows(passes=self.passes)
        rows = []
        for number, it in enumerate(self.ablations, 1):
            cells = []
            for metric in ("score", "usd"):
                apart, show = it.figures.differences.get(metric), how[metric][2]
                if apart is None or apart.mean is None:
                    cells += [numbers.UNKNOWN, numbers.UNKNOWN]
                    continue
                low, high = apart.interval.low, apart.interval.high
                spread = "" if low is None or high is None else f" ({signed(low, show)} to {signed(high, show)})"
                cells += [f"{signed(apart.mean, show)}{spread}", p_value(apart.p_holm).removeprefix("= ")]
            items = f"{it.score.items:,}" if it.score is not None else numbers.UNKNOWN
            rows.append((f"{number}", it.part.label, *cells[:3], items, it.says))
        columns = ("", "left out", how["score"][0], "p", "cost", "items", "so")
        note = (
            f"without the part − {self.variant}, 95 % intervals over items, each of its part alone; p by Holm over all"
        )
        return Table(columns, tuple(rows), note, words=("left out", "so"))

    def without(self, *numbers_: int) -> str:
        """The template without these parts, by their numbers in the table: to be compared as a variant of its own.

        Raises IndexError for a number that is not there.
        """
        if any(number < 1 for number in numbers_):
            raise IndexError("parts are numbered from 1 on")
        return without(self.text, [self.ablations[number - 1].part for number in numbers_])

    @property
    def lines(self) -> list[str]:
        """Each saving in a sentence, then remarks."""
        return [*(it.sentence for it in self.savings), *self.remarks]

    def __repr__(self) -> str:
        table = [repr(self.table)] if self.ablations else []
        return "\n\n".join([f"Where the money of {self.variant} goes", *table, *self.lines])

    def _repr_html_(self) -> str:
        table = self.table._repr_html_() if self.ablations else ""
        told = "".join(f"<li>{escape(line)}</li>" for line in self.lines)
        head = escape(f"Where the money of {self.variant} goes")
        return f'<div class="tex2jax_ignore mathjax_ignore"><p>{head}</p>{table}<ul>{told}</ul></div>'

    def to_json(self) -> dict[str, Any]:
        """The same unrounded: money as decimal strings, unknown as None."""
        told = [
            {
                "what": it.what,
                "usd": _money(it.usd),
                "low": _money(it.interval.low),
                "high": _money(it.interval.high),
                "tokens": it.tokens,
                "note": it.note,
            }
            for it in self.savings
        ]
        figures = exact_rows([it.figures for it in self.ablations])
        left_out = [{"left_out": it.part.label, "so": it.says} for it in self.ablations]
        return {
            "variant": self.variant,
            "spent_usd": plain(self.spent_usd),
            "savings": told,
            "left_out": left_out,
            "figures": json_rows(figures),
            "remarks": list(self.remarks),
        }

    def to_markdown(self) -> str:
        """The same in GitHub's Markdown."""
        table = [markdown(self.table)] if self.ablations else []
        told = "\n".join(f"- {line}" for line in self.lines).replace("$", "\\$")
        return "\n\n".join([f"Where the money of {self.variant} goes", *table, told]) + "\n"


def winner(arms: Sequence[ArmFigures]) -> int:
    """The arm to keep by what was seen: better than the baseline, or cheaper without a loss seen; else the baseline."""
    best, rank = 0, (0, 0.0)
    for number, arm in enumerate(arms[1:], 1):
        score, cost = arm.differences.get("score"), arm.differences.get("usd")
        better = score is not None and score.seen and (score.mean or 0) > 0
        worse = score is not None and score.seen and (score.mean or 0) < 0
        cheaper = cost is not None and cost.seen and (cost.mean or 0) < 0
        level: Any = arm.levels.get("score" if better else "usd")
        mean = 0.0 if level is None or level.mean is None else level.mean
        if better:
            rank, best = max((rank, best), ((2, mean), number))
        elif cheaper and not worse:
            rank, best = max((rank, best), ((1, -mean), number))
    return best


def _money(value: float | None) -> str | None:
    return None if value is None else plain(Decimal(repr(value)))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
