"""A verdict for people and for programs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tokmagic.core.money import plain
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.notebooks.check.figures import UNKNOWN, Figures, PromptCell
from tokmagic.notebooks.check.verdict import Growth, Verdict, growth, percent


def table(verdict: Verdict) -> Table:
    """The cells that run prompts, a line each, and their sum; beside the earlier version where there is one."""
    note, now = "; ".join(verdict.notes), verdict.notebook
    if verdict.against is None:
        rows = [(_label(it), ", ".join(it.models) or numbers.UNKNOWN, *_figures(it.figures)) for it in now.cells]
        return Table(("cell", "model", "in", "out", "cost"), (*rows, ("total", "", *_figures(now.total))), note)
    columns = ("cell", "tokens before", "tokens", "cost before", "cost", "change")
    total = ("total", *_two(verdict.against.total, now.total), _percent(verdict.total_growth))
    return Table(columns, (*(_pair(*pair) for pair in verdict.pairs), total), note)


def _figures(figures: Figures) -> tuple[str, ...]:
    return numbers.tokens(figures.input_tokens), numbers.tokens(figures.output_tokens), _usd(figures)


def _pair(before: PromptCell | None, after: PromptCell | None) -> tuple[str, ...]:
    shown = after or before
    assert shown is not None
    was, now = (cell.figures if cell else UNKNOWN for cell in (before, after))
    change = "gone" if after is None else "new" if before is None else _percent(growth(was, now))
    return (_label(shown), *_two(was, now), change)


def _two(before: Figures, after: Figures) -> tuple[str, ...]:
    return numbers.tokens(before.tokens), numbers.tokens(after.tokens), _usd(before), _usd(after)


def _usd(figures: Figures) -> str:
    return numbers.usd_marked(figures.cost_usd, figures.precision)


def _percent(growth: Growth | None) -> str:
    if growth is None:
        return numbers.UNKNOWN
    return percent(growth) + ("" if growth.of == "cost" else " tokens")


def _label(cell: PromptCell) -> str:
    return cell.name.removeprefix("cell ")


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON: money as decimal strings, unknown as null."""
    against = verdict.against
    return {
        "notebook": verdict.notebook.name,
        "against": against.name if against else None,
        "ok": verdict.ok,
        "problems": list(verdict.problems),
        "notes": list(verdict.notes),
        "cells": [_pair_dict(*pair) for pair in verdict.pairs],
        "total": {
            "before": _figures_dict(against.total) if against else None,
            "after": _figures_dict(verdict.notebook.total),
            "growth": _growth_dict(verdict.total_growth),
        },
    }


def _pair_dict(before: PromptCell | None, after: PromptCell | None) -> dict[str, Any]:
    grown = growth(before.figures, after.figures) if before and after else None
    return {"before": _cell_dict(before), "after": _cell_dict(after), "growth": _growth_dict(grown)}


def _cell_dict(cell: PromptCell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    return {
        "cell": cell.number,
        "id": cell.id,
        "models": list(cell.models),
        "cached": cell.cached,
        "missing": cell.missing or None,
        **_figures_dict(cell.figures),
    }


def _figures_dict(figures: Figures) -> dict[str, Any]:
    return {
        "cost_usd": plain(figures.cost_usd),
        "cost_estimated": figures.precision.estimated,
        "cost_bound": figures.precision.bound,
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
    }


def _growth_dict(growth: Growth | None) -> dict[str, Any] | None:
    if growth is None:
        return None
    value = growth.percent
    # In twelve decimals at most; growth itself is compared exactly.
    return {"of": growth.of, "percent": None if value is None else plain(Decimal(round(value * 10**12)).scaleb(-12))}
