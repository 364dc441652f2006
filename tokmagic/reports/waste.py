"""What was paid for and gave nothing new (docs/metrics.md, "Sums")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokmagic.core.sums import Selection, Sum
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.prices import plain
from tokmagic.reports.sums import doubts

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


def waste(ledger: Ledger, where: Selection) -> Table:
    """A line for each kind of waste among the selected runs, with a total: interrupted, failed, run again unchanged."""
    found = ledger.wasted(where)
    lines = [*found.items(), ("total", sum(found.values(), Sum()))] if found else []
    return Table(
        ("wasted", "runs", "tokens", "cost"),
        tuple((kind, str(it.runs), numbers.tokens(_tokens(it)), _cost(it)) for kind, it in lines),
        _note(found),
        exact=tuple(
            {
                "wasted": kind,
                "runs": it.runs,
                "tokens": _tokens(it),
                "cost_usd": plain(it.cost_usd),
                "unpriced_runs": it.unpriced_runs,
                **doubts(it),
            }
            for kind, it in lines
        ),
    )


def waste_line(ledger: Ledger, where: Selection) -> str:
    """The same in one line; empty where nothing was wasted."""
    found = ledger.wasted(where)
    if not found:
        return ""
    kinds = ", ".join(f"{it.runs} {kind} ({_cost(it)})" for kind, it in found.items())
    return f"wasted {_cost(sum(found.values(), Sum()))}: {kinds}"


def _note(found: dict[str, Sum]) -> str:
    if not found:
        return "nothing was wasted"
    without = sum(it.unpriced_runs for it in found.values())
    return f"{without:,} of these runs without a price, not in the cost" if without else ""


def _cost(it: Sum) -> str:
    return numbers.usd_marked(it.cost_usd, it.precision)


def _tokens(it: Sum) -> int:
    return it.input_tokens + it.output_tokens
