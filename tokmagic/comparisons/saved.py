"""A comparison as JSON: in its output's metadata, so that a notebook tells it without a kernel, and in files.

It has figures and no answers, so its size depends on the number of variants and not on that of the items. Reading it
needs none of the packages that comparing does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from tokmagic.core.money import plain
from tokmagic.runs.comparing import comparison_wire

if TYPE_CHECKING:
    from tokmagic.comparisons.results import Comparison

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """Which cell made a comparison, and whether the output keeps its figures. ``source_sha256``: of the cell's text.

    ``now`` tells which cell runs now: the sidebar's row belongs to the cell that made it, not to one that shows it.
    """

    cell_id: str | None = None
    source_sha256: str | None = None
    keeps: bool = True
    now: Callable[[], str | None] = lambda: None


def to_json(found: Comparison) -> dict[str, Any]:
    """A comparison's figures with what they are of; money as decimal strings, unknown as None."""
    plan = found.plan
    return {
        "format": FORMAT,
        "id": [plan.question_tag, plan.data_tag],
        "cell_id": found.cell.cell_id,
        "source_sha256": found.cell.source_sha256,
        "variants": [
            {"label": it.label, "name": it.variant.name, "version": it.variant.version, "model": it.model}
            for it in plan.arms
        ],
        "items": len(plan.items.rows),
        "repeat": plan.repeat,
        "seed": plan.seed,
        "score": None if found.score is None else found.score.name,
        "passes": found.passes,
        "complete": found.complete,
        "unscored": found.unscored,
        "spent_usd": plain(found.spent_usd),
        "verdict": found.verdict,
        "notes": found.notes(),
        "figures": found.rows(),
        **({} if found.money is None else {"savings": found.money.to_json()}),
    }


def for_output(found: Comparison) -> dict[str, Any]:
    """The same for the metadata of an output, in its own cell with the row that the sidebar shows."""
    told, row = to_json(found), found.shown
    if row is None or found.cell.cell_id != found.cell.now():
        return told
    return told | {"row": comparison_wire(row)}


@dataclass(frozen=True, slots=True)
class Apart:
    """What a variant differs by from the baseline in one metric. ``p`` is corrected over all variants.

    ``low`` and ``high`` are the ends of the 95 % interval over so many ``items``.
    """

    variant: str
    metric: str
    difference: float | None
    p: float | None
    low: float | None = None
    high: float | None = None
    items: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """What is read of a saved comparison: what a gate asks for."""

    ids: tuple[str, ...]
    cell_id: str | None
    source_sha256: str | None
    baseline: str
    complete: bool
    passes: bool
    differences: tuple[Apart, ...]
    unscored: Mapping[str, int] = field(default_factory=dict)
    """How many answers have no score, by variant."""

    @property
    def told(self) -> tuple[object, ...]:
        """All that is checked: with another score or another baseline the same comparison tells something else."""
        unscored = tuple(sorted(self.unscored.items()))
        return self.ids, self.baseline, self.complete, self.passes, self.differences, unscored


def read(given: Any) -> Saved:
    """Read what :func:`to_json` wrote, as an object or as JSON text. Raises ValueError in one line."""
    if isinstance(given, str | bytes):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(given, Mapping) or "figures" not in given:
        raise ValueError("it holds no figures of a comparison")
    if given.get("format") != FORMAT:
        raise ValueError(f"it is in format {given.get('format')!r:.20}, and {FORMAT} is needed; upgrade tokmagic")
    try:
        rows = [_row(it) for it in given["figures"]]
        baseline = next(str(it["label"]) for it in given["variants"])
        ids = tuple(map(str, given.get("id") or ()))
        complete, passes = _is(given, "complete"), _is(given, "passes")
        # Files of earlier versions do not say it.
        unscored = {str(label): int(count) for label, count in (given.get("unscored") or {}).items()}
    except (TypeError, KeyError, ValueError, StopIteration, AttributeError, InvalidOperation) as error:
        raise ValueError(f"its figures cannot be read: {type(error).__name__}: {error}") from None
    cell_id, source = (it if isinstance(it, str) else None for it in (given.get("cell_id"), given.get("source_sha256")))
    apart = tuple(it for it in rows if it.variant != baseline)
    return Saved(ids, cell_id, source, baseline, complete, passes, apart, unscored)


def _row(row: Mapping[str, Any]) -> Apart:
    found = {name: _number(row.get(f"d_{name}")) for name in ("difference", "p_holm", "low", "high", "items")}
    ends, items = (found["low"], found["high"]), int(found["items"] or 0)
    return Apart(str(row["variant"]), str(row["metric"]), found["difference"], found["p_holm"], *ends, items)


def _number(given: Any) -> float | None:
    if given is None:
        return None
    value = float(Decimal(given)) if isinstance(given, str) else given
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{given!r:.40} is no number")
    return float(value)


def _is(given: Mapping[str, Any], name: str) -> bool:
    value = given[name]
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.40}")
    return value
