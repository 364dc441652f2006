"""A comparison's figures as tables, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tokmagic.comparisons.differences import Difference
from tokmagic.comparisons.figures import METRICS, ArmFigures, Level
from tokmagic.comparisons.intervals import Interval
from tokmagic.comparisons.words import Show, p_value, signed
from tokmagic.core.money import plain
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table

_ABOUT = "95 % intervals over items"


def usd(value: float) -> str:
    """Dollars of a mean."""
    return numbers.usd(Decimal(repr(value)))


def shows(*, passes: bool) -> Mapping[str, tuple[str, Show, Show]]:
    """For each metric what it is called, how its level is written, and how a difference."""
    score: tuple[str, Show, Show] = ("score", lambda it: numbers.fixed(it, 3), lambda it: numbers.fixed(it, 3))
    rate: tuple[str, Show, Show] = (
        "pass rate",
        lambda value: f"{numbers.fixed(100 * value, 1)}%",
        lambda value: f"{numbers.fixed(100 * value, 1)} points",
    )
    return {
        "score": rate if passes else score,
        "usd": ("cost", usd, usd),
        "tokens": ("tokens", lambda value: f"{value:,.1f}", lambda value: f"{value:,.1f}"),
        "latency_s": ("latency", _time, _time),
    }


def _time(value_s: float) -> str:
    return numbers.seconds(value_s) if value_s >= 0.1 else f"{numbers.milliseconds(value_s)} ms"


def levels(arms: Sequence[ArmFigures], *, passes: bool) -> Table:
    """Each arm's means with their intervals."""
    how = shows(passes=passes)
    known = [metric for metric in METRICS if metric in arms[0].levels]
    rows = tuple((arm.label, *(_level(arm.levels[it], how[it][1]) for it in known)) for arm in arms)
    return Table(("variant", *(how[it][0] for it in known)), rows, f"means of a run, with {_ABOUT}")


def differences(arms: Sequence[ArmFigures], *, passes: bool) -> Table:
    """What each arm differs by from the first."""
    how = shows(passes=passes)
    rows = []
    for arm in arms[1:]:
        for metric, it in arm.differences.items():
            name, _, show = how[metric]
            if it.mean is None:
                rows.append((arm.label, name, *[numbers.UNKNOWN] * 4))
                continue
            p = p_value(it.p_holm).removeprefix("= ")
            rows.append((arm.label, name, signed(it.mean, show), _ends(it.interval, show), p, f"{it.items:,}"))
        if arm.pass_price is not None:
            price, ends = arm.pass_price.usd, _ends(arm.pass_price.interval, usd)
            rows.append(
                (arm.label, "an extra pass", numbers.UNKNOWN if price is None else signed(price, usd), ends, "", "")
            )
    many = ", each of its variant alone; p by Holm over all" if len(arms) > 2 else ""
    columns = ("variant", "of", "difference", "95 %", "p", "items")
    note = f"variant − {arms[0].label}, {_ABOUT}{many}"
    return Table(columns, tuple(rows), note, words=("of",))


def _level(it: Level, show: Show) -> str:
    if it.mean is None:
        return numbers.UNKNOWN
    low, high = it.interval.low, it.interval.high
    return show(it.mean) if low is None or high is None else f"{show(it.mean)} ({show(low)} to {show(high)})"


def _ends(it: Interval, show: Show) -> str:
    if it.low is None or it.high is None:
        return numbers.UNKNOWN
    return f"{signed(it.low, show)} to {signed(it.high, show)}"


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    text = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
    return f"{text}\n\n{table.note}" if table.note else text


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("$", "\\$")


_LEVEL = ("mean", "low", "high", "interval", "runs", "items")
_APART = ("difference", "low", "high", "interval", "pairs", "items", "test", "p", "p_holm", "smallest", "needed")


def exact_rows(arms: Sequence[ArmFigures]) -> list[dict[str, Any]]:
    """A row for each arm and metric, unrounded; unknown is None."""
    rows = []
    for arm in arms:
        for metric, level in arm.levels.items():
            ends = level.interval
            row = dict(
                zip(_LEVEL, (level.mean, ends.low, ends.high, ends.method, level.runs, level.items), strict=True)
            )
            apart = arm.differences.get(metric)
            told = _exact(apart) if apart is not None else dict.fromkeys(_APART)
            rows.append({"variant": arm.label, "metric": metric, **row, **{f"d_{key}": it for key, it in told.items()}})
    return rows


def _exact(it: Difference) -> dict[str, Any]:
    ends = it.interval
    found = (it.mean, ends.low, ends.high, ends.method, it.pairs, it.items, it.test)
    return dict(zip(_APART, (*found, it.p_value, it.p_holm, it.smallest, it.needed), strict=True))


_MONEY = ("mean", "low", "high", "d_difference", "d_low", "d_high", "d_smallest")


def json_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same, with money as decimal strings."""
    return [
        {
            key: plain(Decimal(repr(value)))
            if row["metric"] == "usd" and key in _MONEY and value is not None
            else value
            for key, value in row.items()
        }
        for row in rows
    ]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text; unknown is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
