"""Sums by cell, model, day and so on, and what was paid for and gave nothing new (docs/metrics.md, "Sums")."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokmagic.core.money import Precision
from tokmagic.core.sums import Selection, Sum
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.prices import plain
from tokmagic.reports.groups import key_of, naming, shown

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


def table(ledger: Ledger, where: Selection, by: str = "cell") -> Table:
    """A line for each group of the selected runs, with a total. Raises UsageError for an unknown group."""
    key_of(by)
    total, groups, names = Sum(), dict[str, Sum](), naming(by)
    for key, part in ledger.summarise(where, by):
        total += part
        for name in names(key):
            groups[name] = groups.get(name, Sum()) + part
    # Pairs: a tag or a model may be called "total" too.
    lines = [*groups.items(), ("total", total)]
    note = ""
    if total.unpriced_runs:
        note = (
            f"{total.unpriced_runs:,} of {numbers.counted(total.runs, 'run')} without a price, not in the cost; "
            "set one with %price"
        )
    columns = (by, "runs", "in", "out", "cost", "saved", "TTFT", "ms/token")
    rows = tuple(_line(shown(name, by), part) for name, part in lines)
    return Table(columns, rows, note, exact=tuple({by: name, **_exact(part)} for name, part in lines))


def _line(name: str, part: Sum) -> tuple[str, ...]:
    return (
        name,
        str(part.runs),
        numbers.tokens(part.input_tokens),
        numbers.tokens(part.output_tokens),
        _cost(part),
        numbers.usd_marked(part.saved_usd, part.saved_precision),
        numbers.seconds(part.ttft_s),
        numbers.milliseconds(part.itl_mean_s),
    )


def _exact(part: Sum) -> dict[str, Any]:
    return {
        "runs": part.runs,
        "input_tokens": part.input_tokens,
        "output_tokens": part.output_tokens,
        **_exact_cost(part),
        "saved_usd": plain(part.saved_usd),
        **marks("saved", part.saved_precision),
        "ttft_s": part.ttft_s,
        "itl_mean_s": part.itl_mean_s,
    }


def _exact_cost(part: Sum) -> dict[str, Any]:
    return {
        "cost_usd": plain(part.cost_usd),
        "unpriced_runs": part.unpriced_runs,
        **asdict(part.uncertainty),
        **marks("cost", part.precision),
    }


def marks(name: str, precision: Precision) -> dict[str, Any]:
    """How sure a sum is, for ``--json``."""
    return {f"{name}_estimated": precision.estimated, f"{name}_bound": precision.bound}


def _cost(part: Sum) -> str:
    return numbers.usd_marked(part.cost_usd, part.precision)


def waste(ledger: Ledger, where: Selection) -> Table:
    """A line for each kind of waste among the selected runs, with a total: interrupted, failed, run again unchanged."""
    found = ledger.wasted(where)
    if not found:
        return Table(("wasted", "runs", "tokens", "cost"), (), "nothing was wasted")
    total = sum(found.values(), Sum())
    lines = [(kind, it, it.input_tokens + it.output_tokens) for kind, it in (found | {"total": total}).items()]
    return Table(
        ("wasted", "runs", "tokens", "cost"),
        tuple((kind, str(it.runs), numbers.tokens(tokens), _cost(it)) for kind, it, tokens in lines),
        f"{total.unpriced_runs:,} of these runs without a price, not in the cost" if total.unpriced_runs else "",
        exact=tuple(
            {"wasted": kind, "runs": it.runs, "tokens": tokens, **_exact_cost(it)} for kind, it, tokens in lines
        ),
    )


def waste_line(ledger: Ledger, where: Selection) -> str:
    """The same in one line; empty where nothing was wasted."""
    found = ledger.wasted(where)
    if not found:
        return ""
    kinds = ", ".join(f"{it.runs} {kind} ({_cost(it)})" for kind, it in found.items())
    return f"wasted {_cost(sum(found.values(), Sum()))}: {kinds}"
