"""What recorded runs would cost at today's prices."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from tokmagic.core.money import Cost, Precision, Uncertainty, plain
from tokmagic.core.record import Selection, Sum
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.prices import PriceBook, at_rates
from tokmagic.reports.tables import key_of, marks, naming, shown

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


def repriced(ledger: Ledger, where: Selection, book: PriceBook, by: str = "model") -> Table:
    """What the selected runs would cost today, beside what is frozen in their rows; nothing is changed.

    Raises UsageError for an unknown group, PriceError for an unreadable price file.
    """
    key, names, today = key_of(by), naming(by), datetime.now(UTC)
    # Asked once for each model: there can be a million runs, and a price table takes half a millisecond to ask.
    rates = cache(lambda info: book.rates(info, today))
    groups, total = dict[str, _Repriced](), _Repriced()
    for record in ledger.stream(where):
        if record.status in ("running", "refused"):
            continue
        then, now = record.reading.cost, at_rates(record, rates(record.info))
        total.add(then, now)
        for name in names(key(record)):
            groups.setdefault(name, _Repriced()).add(then, now)
    lines = [*groups.items(), ("total", total)]
    return Table(
        (by, "runs", "cost", "at today's prices", "difference"),
        tuple((shown(name, by), *it.cells()) for name, it in lines),
        f"over the runs with a price then and now; {numbers.counted(total.left_out, 'run')} left out. "
        "Recorded costs do not change",
        exact=tuple({by: name, **it.exact()} for name, it in lines),
    )


@dataclass(slots=True)
class _Repriced:
    """Runs that have a price then and now, so that both sums are over the same ones; exact."""

    left_out: int = 0
    then: Sum = field(default_factory=Sum)
    now: Sum = field(default_factory=Sum)

    def add(self, then: Cost, now: Cost) -> None:
        if then.usd is None or now.usd is None:
            self.left_out += 1
            return
        self.then += Sum(1, cost_usd=then.usd, uncertainty=Uncertainty.of(then))
        self.now += Sum(1, cost_usd=now.usd, uncertainty=Uncertainty.of(now))

    def change(self) -> Decimal | None:
        then = self.then.cost_usd
        return None if then is None else (self.now + Sum(cost_usd=then.copy_negate())).cost_usd

    def cells(self) -> tuple[str, ...]:
        change = self.change()
        if change is None:
            return ("0", *[numbers.UNKNOWN] * 3)
        sign = "+" if change > 0 else "−" if change < 0 else ""
        # Between two bounds there is no bound, and the mark stands before the sign as before any number.
        about = "~" if {self.then.precision, self.now.precision} != {Precision()} else ""
        sums = (numbers.usd_marked(it.cost_usd, it.precision) for it in (self.then, self.now))
        return (str(self.then.runs), *sums, f"{about}{sign}{numbers.usd(abs(change))}")

    def exact(self) -> dict[str, Any]:
        return {
            "runs": self.then.runs,
            "left_out_runs": self.left_out,
            "cost_usd": plain(self.then.cost_usd),
            **marks("cost", self.then.precision),
            "today_usd": plain(self.now.cost_usd),
            **marks("today", self.now.precision),
            "difference_usd": plain(self.change()),
        }
