"""What a cell's next run is likely to cost, from its earlier ones. Nothing here asks a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import sqrt
from typing import NamedTuple

from tokmagic.core.money import Rates
from tokmagic.core.record import PastRun
from tokmagic.core.stream import Source, Usage
from tokmagic.prices import bill
from tokmagic.prices.projection import student_t

_PICODOLLAR = Decimal("1E-12")


class Span(NamedTuple):
    """The least and the most that a prompt can cost, in USD; None where that is not known."""

    least: Decimal | None
    most: Decimal | None


@dataclass(frozen=True, slots=True)
class Likely:
    """What a run is likely to cost, in USD. ``usd`` is the mean of ``runs`` earlier runs; None where there are none.

    ``low`` and ``high`` are the 95 % prediction interval for one more run: mean ± t·s·√(1 + 1/n), with s the standard
    deviation over n runs and t the 97.5th percentile of Student's t distribution with n − 1 degrees of freedom (G. J.
    Hahn and W. Q. Meeker, Statistical Intervals, 1991, section 4.7), cut off at the least and the most that the run
    can cost. With less than two runs of the present text there is no such interval (``predicted`` False), and they are
    that least and most themselves.
    """

    usd: Decimal | None
    low: Decimal | None
    high: Decimal | None
    runs: int
    predicted: bool
    most: Decimal | None = None
    """The most that the run can cost, which a budget asks for; None where that is not known."""
    edited: bool = False
    """Whether the earlier runs were all of another text of the cell."""
    margin: Decimal | None = None
    """Of a prediction interval t·s·√(1 + 1/n), before it is cut off; None where there is none."""
    least: Decimal | None = None
    """The least that the run can cost; None where that is not known."""


def likely(
    past: Sequence[PastRun],
    source_sha256: str,
    input_tokens: int,
    input_source: Source,
    rates: Rates,
    span: Span,
) -> Likely:
    """Forecast the next run of a cell from ``past`` runs by the same model, at the ``rates`` in force.

    What they generated, or how long they kept the device busy, is priced with the present input, of which a server has
    as large a share in its cache as it had then.
    """
    same = [run for run in past if run.source_sha256 == source_sha256]
    costs = _costs(same or past, input_tokens, input_source, rates)
    if span.least is not None and any(run.cached_input_tokens for run in same or past):
        # The least of a prompt is without any cache, and here one may have all of it.
        cached = bill(_asked(input_tokens, input_source, input_tokens), None, rates).usd
        span = span._replace(least=span.least if cached is None else min(span.least, cached))
    return _likely(costs, edited=bool(costs) and not same, span=span)


def likely_executions(past: Sequence[PastRun], source_sha256: str, most: int) -> Likely | None:
    """Forecast the next execution of a cell whose Python runs prompts, from what its latest ones cost in all.

    ``past`` are its newest runs, ``most`` of them and ``most`` replays. None where they do not tell what an execution
    of this text costs.
    """
    # Of an execution that is the oldest of so many runs, some may be missing.
    ended = [[run for run in past if run.replayed is replayed] for replayed in (False, True)]
    partly = {runs[-1].execution for runs in ended if len(runs) >= most}
    costs: dict[str, Decimal] = {}
    for run in past:
        if run.execution in partly:
            break
        if run.source_sha256 == source_sha256 and not run.cut_short:
            if run.execution is None or run.cost_usd is None:
                return None
            costs[run.execution] = costs.get(run.execution, Decimal(0)) + run.cost_usd
    return _likely(list(costs.values()), edited=False, span=Span(Decimal(0), None)) if costs else None


def perhaps_cached(found: Likely, *, replayed: bool) -> Likely:
    """Of a run of which only itself tells whether a cache has its answer. ``replayed``: the latest one was."""
    if not replayed:
        return replace(found, low=Decimal(0), predicted=False)
    return replace(found, usd=Decimal(0), low=Decimal(0), runs=max(1, found.runs), predicted=False)


def _likely(costs: Sequence[Decimal], *, edited: bool, span: Span) -> Likely:
    """From what earlier runs would cost now."""
    if not costs:
        return Likely(None, span.least, span.most, 0, False, span.most)
    middle = _within(sum(costs, Decimal(0)) / len(costs), span)
    if edited or len(costs) < 2:
        return Likely(middle, span.least, span.most, len(costs), False, span.most, edited)
    margin = Decimal(student_t(len(costs) - 1) * _deviation(costs) * sqrt(1 + 1 / len(costs)))
    low, high = _within(middle - margin, span), _within(middle + margin, span)
    return Likely(middle, low, high, len(costs), True, span.most, False, _rounded(margin), span.least)


def _costs(past: Sequence[PastRun], input_tokens: int, input_source: Source, rates: Rates) -> list[Decimal]:
    """What each run would cost with the present input, where that is known."""
    if rates.input is None:
        return [cost for run in past if (cost := bill(Usage(), run.device_s, rates).usd) is not None]
    counted = _asked(input_tokens, input_source)
    # The input alone says which tier applies, so that each output token costs the same.
    none, one = (bill(replace(counted, output_tokens=tokens), None, rates).usd for tokens in (0, 1))
    if none is None or one is None:
        return []
    each, inputs, costs = one - none, {(0, 0): none}, list[Decimal]()
    for run in past:
        if run.output_tokens is None:
            continue
        cached, written = parts = _parts(run, input_tokens)
        if parts not in inputs:  # runs of one text mostly have the same
            usage = _asked(input_tokens, input_source, cached, written)
            inputs[parts] = bill(usage, None, rates).usd or none
        costs.append(inputs[parts] + run.output_tokens * each)
    return costs


def _asked(input_tokens: int, source: Source, cached: int = 0, written: int = 0) -> Usage:
    """A prompt that nothing is answered to."""
    return Usage(
        input_tokens=input_tokens,
        output_tokens=0,
        cached_input_tokens=cached,
        cache_write_input_tokens=written,
        input_source=source,
        output_source="estimated",
    )


def _parts(run: PastRun, input_tokens: int) -> tuple[int, int]:
    """How many of so many input tokens a server reads from its cache, and writes to it, if it does as with this run."""
    if not run.input_tokens:
        return 0, 0
    cached, written = run.cached_input_tokens or 0, run.cache_write_input_tokens or 0
    cached = min(input_tokens, round(Fraction(cached * input_tokens, run.input_tokens)))
    return cached, min(input_tokens - cached, round(Fraction(written * input_tokens, run.input_tokens)))


def _deviation(costs: Sequence[Decimal]) -> float:
    """The sample's standard deviation, among floats: 200 cells are forecast at once."""
    values = [float(cost) for cost in costs]
    middle = sum(values) / len(values)
    return sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))


def _within(amount: Decimal, span: Span) -> Decimal:
    if span.most is not None:
        amount = min(amount, span.most)
    return _rounded(max(amount, span.least or Decimal(0)))


def _rounded(amount: Decimal) -> Decimal:
    """To a picodollar: what follows is no money."""
    return amount.quantize(_PICODOLLAR)


class _Width(NamedTuple):
    """How far a run may be off what is likely, on one side; and the furthest it can be, None where that is not known.

    What is cut off there is no width to add up: a run that costs either little or much nearly always does.
    """

    margin: Decimal
    furthest: Decimal | None


def _to(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else other - one


def _apart(widths: Sequence[_Width]) -> Decimal:
    """How far the sum of independent runs may be off what is likely, on one side.

    Of some runs the furthest that they can be may be less than what their margins add, as where there were only two
    before: where it is, that is counted instead, of those first of which it is least beside the square of the margin.
    """
    squares = sum((it.margin**2 for it in widths), Decimal(0))
    least, furthest = squares.sqrt(), Decimal(0)
    bounded = [
        (it.furthest / it.margin**2, it.furthest, it.margin) for it in widths if it.furthest is not None and it.margin
    ]
    for _, its, margin in sorted(bounded):
        squares, furthest = max(Decimal(0), squares - margin**2), furthest + its
        least = min(least, furthest + squares.sqrt())
    return least


@dataclass(frozen=True, slots=True)
class LikelySum:
    """The sum of several forecasts, in USD. ``usd`` counts a cell without a history with the least that it can cost."""

    usd: Decimal | None
    low: Decimal | None
    high: Decimal | None
    """None where no most is known of some."""

    @classmethod
    def of(cls, found: Sequence[Likely]) -> LikelySum:
        """Add forecasts up.

        The intervals of independent runs add up by the root of the sum of their squared widths (JCGM 100:2008, 5.1.2),
        as wide as they were before they were cut off; the least and the most of the others by themselves.
        """
        nothing = Decimal(0)
        middle = low = high = nothing
        below, above = list[_Width](), list[_Width]()
        known = True
        for it in found:
            middle += it.usd if it.usd is not None else it.low or nothing
            if it.predicted and it.usd is not None:
                low, high = low + it.usd, high + it.usd
                down, up = it.usd - (it.low or nothing), (it.high or nothing) - it.usd
                below.append(_Width(down, down) if it.margin is None else _Width(it.margin, _to(it.least, it.usd)))
                above.append(_Width(up, up) if it.margin is None else _Width(it.margin, _to(it.usd, it.most)))
            else:
                low += it.low or nothing
                known = known and it.high is not None
                high += it.high or nothing
        least, most = max(nothing, low - _apart(below)), high + _apart(above)
        return cls(middle, _rounded(least), _rounded(most) if known else None)
