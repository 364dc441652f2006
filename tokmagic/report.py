"""Tables of what runs cost: by cell, model, day and so on; what was wasted; what it would cost today."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tokmagic import numbers
from tokmagic.errors import UsageError, nearest
from tokmagic.events import RunRecord, Selection, Sum
from tokmagic.prices import PriceBook, from_picodollars, reprice
from tokmagic.tables import Table

if TYPE_CHECKING:
    from tokmagic.ledger import Ledger

GROUPS = ("cell", "run", "model", "notebook", "day", "tag", "user", "status")
"""What a table can be grouped by."""


def table(ledger: Ledger, where: Selection, by: str = "cell") -> Table:
    """A line for each group of the selected runs, with a total. Raises UsageError for an unknown group."""
    groups = ledger.summarise(where, _group(by))
    found = _labelled(groups, by)
    total = sum((group for _, group in groups), Sum())
    note = ""
    if total.unpriced_runs:
        note = f"{total.unpriced_runs} of {total.runs} runs have no price and are not in the cost; set one with %price"
    columns = (by, "runs", "in", "out", "cost", "saved", "TTFT", "ms/token")
    rows = [_line(name, group) for name, group in found.items()]
    return Table(columns, (*rows, _line("total", total)), note)


def add_up(records: Iterable[RunRecord]) -> Sum:
    """Add runs up that are at hand; runs that go on are left out."""
    total = Sum()
    for record in records:
        if record.status != "running":
            total += _sum_of(record)
    return total


def _sum_of(record: RunRecord) -> Sum:
    reading, usage = record.reading, record.reading.usage
    timed = record.status != "cached"
    steps = (usage.output_tokens or 1) - 1 if timed and reading.itl_mean_s is not None else 0
    ttft = reading.ttft_s if timed else None
    return Sum(
        runs=1,
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        cost_usd=reading.cost.usd,
        unpriced_runs=int(reading.cost.usd is None and record.status != "refused"),
        saved_usd=reading.cost.saved_usd,
        ttft_total_s=ttft or 0.0,
        ttft_runs=int(ttft is not None),
        itl_total_s=(reading.itl_mean_s or 0.0) * steps,
        itl_steps=steps,
    )


def _group(by: str) -> str:
    if by not in GROUPS:
        raise UsageError(f"cannot group by {by!r}{nearest(by, GROUPS)}; use one of {', '.join(GROUPS)}")
    return by


def _labelled(found: Iterable[tuple[tuple[Any, ...], Sum]], by: str) -> dict[str, Sum]:
    """Groups by what they are called; a run with two tags stands in two."""
    names = cell_names() if by == "cell" else None
    groups: dict[str, Sum] = {}
    for key, group in found:
        for name in [names(key)] if names else _names(key[0], by):
            groups[name] = groups.get(name, Sum()) + group
    return groups


def cell_names() -> Callable[[tuple[Any, ...]], str]:
    """Cells have ids, not names: they are numbered in the order in which they first ran."""
    places: dict[tuple[Any, Any], str] = {}

    def name(key: tuple[Any, ...]) -> str:
        notebook, session, cell_id = key
        return places.setdefault((notebook or session, cell_id), f"cell {len(places) + 1}")

    return name


def _names(key: Any, by: str) -> list[str]:
    if by == "tag":
        return json.loads(key) or [numbers.UNKNOWN]
    return [str(key)[:12] if by == "run" else str(key or numbers.UNKNOWN)]


def _line(name: str, group: Sum) -> tuple[str, ...]:
    return (
        name,
        str(group.runs),
        numbers.tokens(group.input_tokens),
        numbers.tokens(group.output_tokens),
        numbers.usd(group.cost_usd),
        numbers.usd(group.saved_usd),
        numbers.seconds(group.ttft_s),
        numbers.milliseconds(group.itl_mean_s),
    )


@dataclass(slots=True)
class _Wasted:
    runs: int = 0
    tokens: int = 0
    pico: int | None = None

    def add(self, tokens: int, pico: int | None) -> None:
        self.runs += 1
        self.tokens += tokens
        if pico is not None:
            self.pico = (self.pico or 0) + pico


def waste(ledger: Ledger, where: Selection) -> Table:
    """What was paid for and gave nothing new: interrupted runs, failed ones, and runs made again unchanged."""
    by_status = {key[0]: total for key, total in ledger.summarise(where, "status")}
    again, seen = _Wasted(), set()
    for row in ledger.answered(where):
        *what, params, pico, given, made = row
        if not _repeatable(json.loads(params)):
            continue
        key = (*what, params)
        if key in seen:
            again.add((given or 0) + (made or 0), pico)
        seen.add(key)
    rows = [
        (status, str(it.runs), numbers.tokens(it.input_tokens + it.output_tokens), numbers.usd(it.cost_usd))
        for status in ("interrupted", "failed")
        if (it := by_status.get(status, Sum())).runs
    ]
    if again.runs:
        cost = from_picodollars(again.pico)
        rows.append(("run again unchanged", str(again.runs), numbers.tokens(again.tokens), numbers.usd(cost)))
    note = "" if rows else "nothing was wasted"
    return Table(("wasted", "runs", "tokens", "cost"), tuple(rows), note)


def _repeatable(params: Mapping[str, Any]) -> bool:
    """Whether a run with these parameters says the same each time."""
    return params.get("temperature") == 0 or params.get("seed") is not None


def repriced(ledger: Ledger, where: Selection, book: PriceBook, by: str = "model") -> Table:
    """What the selected runs would cost today, beside what is frozen in their rows; nothing is changed."""
    _group(by)
    names, groups, total = cell_names(), dict[str, _Repriced](), _Repriced()
    for record in ledger.stream(where):
        if record.status in ("running", "refused"):
            continue
        then, now = record.reading.cost.usd, reprice(record, book).usd
        total.add(then, now)
        for name in _record_names(record, by, names):
            groups.setdefault(name, _Repriced()).add(then, now)
    rows = [it.line(name) for name, it in [*groups.items(), ("total", total)]]
    note = f"over the runs that have a price then and now; {total.left_out} have not. Frozen costs stay as they are"
    return Table((by, "runs", "cost", "at today's prices", "difference"), tuple(rows), note)


@dataclass(slots=True)
class _Repriced:
    """Runs that have a price then and now, so that both sums are over the same ones; exact."""

    runs: int = 0
    left_out: int = 0
    then: Sum = field(default_factory=Sum)
    now: Sum = field(default_factory=Sum)

    def add(self, then: Decimal | None, now: Decimal | None) -> None:
        if then is None or now is None:
            self.left_out += 1
            return
        self.runs += 1
        self.then += Sum(cost_usd=then)
        self.now += Sum(cost_usd=now)

    def line(self, name: str) -> tuple[str, ...]:
        then, now = self.then.cost_usd, self.now.cost_usd
        if then is None or now is None:
            return (name, "0", *[numbers.UNKNOWN] * 3)
        change = now - then
        sign = "+" if change > 0 else "−" if change < 0 else ""
        return (name, str(self.runs), numbers.usd(then), numbers.usd(now), f"{sign}{numbers.usd(abs(change))}")


def _record_names(record: RunRecord, by: str, cells: Callable[[tuple[Any, ...]], str]) -> list[str]:
    keys: dict[str, Any] = {
        "run": record.run_id,
        "model": record.info.name,
        "notebook": record.notebook,
        "tag": json.dumps(list(record.tags)),
        "user": record.user,
        "status": record.status,
        "day": f"{record.started_at.astimezone():%Y-%m-%d}",
    }
    if by == "cell":
        return [cells((record.notebook, record.session, record.cell_id))]
    return _names(keys[by], by)
