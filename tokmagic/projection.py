"""From measured runs of one prompt to what it costs at scale: exact, with the spread that was measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from fractions import Fraction
from statistics import median

from tokmagic import numbers
from tokmagic.errors import UsageError
from tokmagic.events import RunRecord
from tokmagic.tables import Table

MONTH_DAYS = 30
"""Days of the month that is projected to."""

_PER_DAY = {"hour": Fraction(24), "day": Fraction(1), "week": Fraction(1, 7), "month": Fraction(1, MONTH_DAYS)}
_PICODOLLAR = Decimal("1E-12")


@dataclass(frozen=True, slots=True)
class Spread:
    """What a number was over the runs."""

    least: Fraction
    mean: Fraction
    most: Fraction

    @classmethod
    def of(cls, values: Sequence[int | Decimal]) -> Spread:
        exact = [Fraction(value) for value in values]
        return cls(min(exact), sum(exact, Fraction(0)) / len(exact), max(exact))

    def times(self, factor: Fraction) -> Spread:
        return Spread(self.least * factor, self.mean * factor, self.most * factor)


@dataclass(frozen=True, slots=True)
class Projection:
    """One call as measured, and what ``calls_a_day`` of them cost. Money in USD."""

    runs: int
    model: str
    calls_a_day: Fraction
    call_usd: Spread
    input_tokens: Spread
    output_tokens: Spread
    median_tokens: float

    @property
    def day_usd(self) -> Spread:
        """What a day costs."""
        return self.call_usd.times(self.calls_a_day)

    @property
    def month_usd(self) -> Spread:
        """What a month of 30 days costs."""
        return self.day_usd.times(Fraction(MONTH_DAYS))

    def table(self) -> Table:
        """Least, mean and most, as measured: not a forecast of what other inputs would give."""
        rows = (
            ("tokens in", *_counts(self.input_tokens)),
            ("tokens out", *_counts(self.output_tokens)),
            ("a call", *_dollars(self.call_usd)),
            ("a day", *_dollars(self.day_usd)),
            (f"a month ({MONTH_DAYS} days)", *_dollars(self.month_usd)),
        )
        calls = usd(self.calls_a_day).normalize()
        note = (
            f"{calls:,f} calls a day of {self.model}, from {self.runs} run{'s' if self.runs > 1 else ''} "
            f"(median {self.median_tokens:,.0f} tokens) at the rates they ran with"
        )
        if self.runs == 1:
            note += "; run the cell again for the spread of its answers"
        return Table(("", "least", "mean", "most"), rows, note)


def project(records: Sequence[RunRecord], calls: str) -> Projection:
    """Project a cell's whole runs to a number of calls, such as ``1e6/day``, at the model and rates of the latest.

    Interrupted and cached runs say nothing of a call's cost and are left out, as are runs of another model or at other
    rates: their mean would be a price that nobody ever had. Raises UsageError.
    """
    a_day = calls_a_day(calls)
    whole = [record for record in records if record.status == "ok"]
    if not whole:
        raise UsageError("there is no whole run to project from; run the cell first")
    latest, rates = whole[-1].info.name, whole[-1].rates
    same = [record for record in whole if record.info.name == latest and record.rates == rates]
    priced = [record for record in same if record.reading.cost.usd is not None]
    if not priced:
        raise UsageError(f"the runs of {latest} have no price; set one with %price and run the cell again")
    usage = [record.reading.usage for record in priced]
    given = [one.input_tokens or 0 for one in usage]
    made = [one.output_tokens or 0 for one in usage]
    return Projection(
        len(priced),
        latest,
        a_day,
        Spread.of([record.reading.cost.usd or Decimal(0) for record in priced]),
        Spread.of(given),
        Spread.of(made),
        median(one + other for one, other in zip(given, made, strict=True)),
    )


def calls_a_day(text: str) -> Fraction:
    """Read ``1e6/day``, ``50000/hour``, ``2/week``. Raises UsageError."""
    number, _, unit = text.strip().partition("/")
    unit = unit.strip().lower() or "day"
    known = ", ".join(f"/{name}" for name in _PER_DAY)
    try:
        amount = Decimal(re.sub(r"(?<=\d)[_,](?=\d)", "", number.strip()))
    except InvalidOperation:
        raise UsageError(f"--calls is {text!r}; give a number of calls, such as 1e6/day") from None
    if unit not in _PER_DAY:
        raise UsageError(f"--calls is {text!r}; the unit is one of {known}")
    if not amount.is_finite() or not 0 < amount <= Decimal(10) ** 15:
        raise UsageError(f"--calls is {text!r}; give a number above 0, such as 1e6/day")
    return Fraction(amount) * _PER_DAY[unit]


def usd(amount: Fraction) -> Decimal:
    """An exact fraction as a decimal, rounded half up to a picodollar where it has no end."""
    with localcontext(prec=60):
        return (Decimal(amount.numerator) / amount.denominator).quantize(_PICODOLLAR)


def _dollars(spread: Spread) -> tuple[str, str, str]:
    return numbers.usd(usd(spread.least)), numbers.usd(usd(spread.mean)), numbers.usd(usd(spread.most))


def _counts(spread: Spread) -> tuple[str, str, str]:
    mean = f"{float(spread.mean):,.1f}".removesuffix(".0")
    return f"{int(spread.least):,}", mean, f"{int(spread.most):,}"
