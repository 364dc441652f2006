"""Sums by cell, model, day and so on, with a total."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokmagic.core.sums import Selection, Sum
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.prices import plain
from tokmagic.reports.names import group, labelled, shown

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


def table(ledger: Ledger, where: Selection, by: str = "cell") -> Table:
    """A line for each group of the selected runs, with a total. Raises UsageError for an unknown group."""
    groups = ledger.summarise(where, group(by))
    total = sum((part for _, part in groups), Sum())
    # Pairs: a tag or a model may be called "total" too.
    lines = [*labelled(groups, by).items(), ("total", total)]
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
        numbers.usd_marked(part.cost_usd, part.precision),
        numbers.usd_marked(part.saved_usd, part.saved_precision),
        numbers.seconds(part.ttft_s),
        numbers.milliseconds(part.itl_mean_s),
    )


def _exact(part: Sum) -> dict[str, Any]:
    return {
        "runs": part.runs,
        "input_tokens": part.input_tokens,
        "output_tokens": part.output_tokens,
        "cost_usd": plain(part.cost_usd),
        "unpriced_runs": part.unpriced_runs,
        **doubts(part),
        "saved_usd": plain(part.saved_usd),
        "saved_estimated": part.saved_precision.estimated,
        "saved_bound": part.saved_precision.bound,
        "ttft_s": part.ttft_s,
        "itl_mean_s": part.itl_mean_s,
    }


def doubts(part: Sum) -> dict[str, Any]:
    """How sure a sum's cost is, for ``--json``."""
    return {
        "estimated_runs": part.uncertainty.estimated_runs,
        "at_least_runs": part.uncertainty.at_least_runs,
        "at_most_runs": part.uncertainty.at_most_runs,
        "cost_estimated": part.precision.estimated,
        "cost_bound": part.precision.bound,
    }
