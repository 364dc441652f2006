"""From measured runs of one prompt to what it costs at scale: exact, with the spread that was measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from fractions import Fraction
from math import sqrt
from statistics import NormalDist, median, variance
from typing import Any

from tokmagic.core.money import CERTAIN, Precision, Uncertainty, plain
from tokmagic.core.record import RunRecord
from tokmagic.errors import UsageError, nearest
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table

MONTH_DAYS = 30
"""Days of the month that is projected to."""

_PER_DAY = {"hour": Fraction(24), "day": Fraction(1), "week": Fraction(1, 7), "month": Fraction(1, MONTH_DAYS)}
_PICODOLLAR = Decimal("1E-12")
# Many people write a comma for the point: 0,5 must not be read as 5.
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+(?![\d,])[^,]*$", re.ASCII)
# 97.5th percentiles of Student's t for 1 … 30 degrees of freedom, as every table has them.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """What a number was over the runs, and how well its mean is known.

    ``margin`` is half the width of the mean's 95 % confidence interval, in the number's own unit; None for a single
    run. It is t·s/√n, with s the sample's standard deviation over n runs and t the 97.5th percentile of Student's t
    distribution with n − 1 degrees of freedom (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2). It assumes
    that the runs are a representative sample of the calls, and that there are many if their costs are far from normal.
    """

    least: Fraction
    mean: Fraction
    most: Fraction
    margin: float | None = None

    @classmethod
    def of(cls, values: Sequence[int | Decimal]) -> Spread:
        exact = [Fraction(value) for value in values]
        mean = sum(exact, Fraction(0)) / len(exact)
        if len(exact) == 1:
            return cls(mean, mean, mean)
        margin = student_t(len(exact) - 1) * sqrt(variance(exact, mean) / len(exact))
        return cls(min(exact), mean, max(exact), margin)

    def times(self, factor: Fraction) -> Spread:
        margin = None if self.margin is None else self.margin * float(factor)
        return Spread(self.least * factor, self.mean * factor, self.most * factor, margin)


def student_t(freedom: int) -> float:
    """The 97.5th percentile of Student's t distribution with so many degrees of freedom, to three decimals.

    Beyond the table by its expansion around the normal distribution (Abramowitz and Stegun, 26.7.5).
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / (4 * freedom),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
    )
    return z + sum(terms)


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
    left_out: int = 0
    """Whole runs of the cell that had another model, other rates or no price."""
    precision: Precision = field(default_factory=Precision)
    """Whether the costs are only estimates, and what they bound, as of the sum of the runs."""
    edited: int = 0
    """Of the runs, those of another text of the cell than the latest one's."""

    @property
    def day_usd(self) -> Spread:
        """What a day costs."""
        return self.call_usd.times(self.calls_a_day)

    @property
    def month_usd(self) -> Spread:
        """What a month of 30 days costs."""
        return self.day_usd.times(Fraction(MONTH_DAYS))

    def table(self) -> Table:
        """Least, mean and most as measured, and the mean's 95 % interval: no forecast for other inputs."""
        rows: list[tuple[str, ...]] = []
        exact: list[dict[str, Any]] = []
        for name, label, spread in (
            ("input_tokens", "tokens in", self.input_tokens),
            ("output_tokens", "tokens out", self.output_tokens),
        ):
            rows.append((label, *_counts(spread)))
            exact.append({"of": name, "runs": self.runs, **_bounds(spread)})
        sure = {"cost_estimated": self.precision.estimated, "cost_bound": self.precision.bound}
        for name, label, spread in (
            ("call_usd", "a call", self.call_usd),
            ("day_usd", "a day", self.day_usd),
            ("month_usd", f"a month ({MONTH_DAYS} days)", self.month_usd),
        ):
            rows.append((label, *_dollars(spread, self.precision)))
            exact.append({"of": name, "runs": self.runs, **_bounds(spread), **sure})
        calls = usd(self.calls_a_day).normalize()
        note = (
            f"{calls:,f} call{'' if calls == 1 else 's'} a day of {self.model}, "
            f"from {numbers.counted(self.runs, 'run')} (median {self.median_tokens:,.0f} tokens) "
            "at the rates they ran with"
        )
        if self.left_out:
            note += f"; {self.left_out} with another model, other rates or no price left out"
        if self.edited:
            note += f"; {self.edited} of them of another text of the cell than its latest"
        if self.runs == 1:
            note += "; run the cell again for the spread of its answers"
        else:
            note += "; ± is the mean's 95 % interval, if the runs are a representative sample of the calls"
        return Table(("", "least", "mean", "± 95 %", "most"), tuple(rows), note, exact=tuple(exact))


def project(records: Sequence[RunRecord], calls: str) -> Projection:
    """Project a cell's complete runs to a number of calls, such as ``1e6/day``, at the model and rates of the latest.

    Interrupted and cached runs say nothing of a call's cost and are left out, as are runs of another model or at other
    rates: their mean would be a price that nobody ever had. Raises UsageError.
    """
    a_day = calls_a_day(calls)
    whole = [record for record in records if record.status == "ok"]
    if not whole:
        raise UsageError("there is no complete run to project from; run the cell first")
    latest, rates = whole[-1].info.name, whole[-1].rates.charged
    same = [record for record in whole if record.info.name == latest and record.rates.charged == rates]
    priced = [record for record in same if record.reading.cost.usd is not None]
    if not priced:
        raise UsageError(f"the runs of {latest} have no price; set one with %price and run the cell again")
    texts = [record.env.get("source_sha256") for record in priced]
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
        len(whole) - len(priced),
        sum((Uncertainty.of(record.reading.cost) for record in priced), CERTAIN).precision(0),
        sum(None not in (text, texts[-1]) and text != texts[-1] for text in texts),
    )


def calls_a_day(text: str, what: str = "--calls") -> Fraction:
    """Read ``1e6/day``, ``50000/hour``, ``2/week``; ``what`` is the option's name. Raises UsageError."""
    number, _, unit = text.strip().partition("/")
    if "," in number and not _THOUSANDS.match(number):
        raise UsageError(f"{what} is {text!r}; a comma separates thousands here, write a fraction with a point")
    unit = unit.strip().lower() or "day"
    known = ", ".join(f"/{name}" for name in _PER_DAY)
    try:
        amount = Decimal(re.sub(r"(?<=\d)[_,](?=\d)", "", number.strip()))
    except InvalidOperation:
        raise UsageError(f"{what} is {text!r}; give a number of calls, such as 1e6/day") from None
    if unit not in _PER_DAY:
        raise UsageError(f"{what} is {text!r}; the unit is one of {known}{nearest(unit, _PER_DAY)}")
    if not amount.is_finite() or not 0 < amount <= Decimal(10) ** 15:
        raise UsageError(f"{what} is {text!r}; give a number above 0, such as 1e6/day")
    return Fraction(amount) * _PER_DAY[unit]


def usd(amount: Fraction) -> Decimal:
    """An exact fraction as a decimal, rounded half up to a picodollar where it has no end."""
    with localcontext(prec=60):
        return (Decimal(amount.numerator) / amount.denominator).quantize(_PICODOLLAR, ROUND_HALF_UP)


def _dollars(spread: Spread, precision: Precision) -> tuple[str, ...]:
    """The margin has no mark: it is of the costs as they are known."""
    margin = None if spread.margin is None else usd(Fraction(spread.margin))
    least, mean, most = (numbers.usd_marked(usd(it), precision) for it in (spread.least, spread.mean, spread.most))
    return least, mean, numbers.usd(margin), most


def _counts(spread: Spread) -> tuple[str, ...]:
    margin = numbers.UNKNOWN if spread.margin is None else _tenths(spread.margin)
    return f"{int(spread.least):,}", _tenths(float(spread.mean)), margin, f"{int(spread.most):,}"


def _tenths(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _bounds(spread: Spread) -> dict[str, str | None]:
    """For programs: decimal strings to a picodollar. No mean is below 0, so the interval is cut off there."""
    low = high = None
    if spread.margin is not None:
        margin = Fraction(spread.margin)
        low, high = usd(max(Fraction(0), spread.mean - margin)), usd(spread.mean + margin)
    return {
        "least": plain(usd(spread.least)),
        "mean": plain(usd(spread.mean)),
        "mean_low": plain(low),
        "mean_high": plain(high),
        "most": plain(usd(spread.most)),
    }
