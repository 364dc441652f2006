"""What the sidebar is told, as wire messages; docs/wire.md describes them. :mod:`tokmagic.runs.channel` sends them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tokmagic.core.budget import Standing
from tokmagic.core.fields import AS_JSON, FIELDS, Layout
from tokmagic.core.money import plain
from tokmagic.core.record import EngineInfo, RunRecord, Sum
from tokmagic.formatting.numbers import list_price
from tokmagic.runs.channel import VERSION


@dataclass(frozen=True, slots=True)
class ModelView:
    """The current model as the sidebar's head shows it. ``progress`` is a share, 0 to 1."""

    info: EngineInfo
    state: str
    detail: str | None = None
    progress: float | None = None
    notice: str | None = None
    """A problem with the model, in one line."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything one message says."""

    notebook: str | None
    model: ModelView | None
    notebook_totals: Sum | None
    day_totals: Sum | None
    rows: tuple[RunRecord, ...]
    budgets: tuple[Standing, ...] = ()

    def wire(self, *, session: str, seq: int, complete: bool) -> dict[str, Any]:
        """All of it as a message."""
        return snapshot_wire(self, session=session, seq=seq, complete=complete)


_ROW = Layout({field.name: field for field in FIELDS if field.sent}, AS_JSON)


def row_wire(record: RunRecord) -> dict[str, Any]:
    """One run as the sidebar gets it, and as a cell's output keeps it in ``metadata.tokmagic``."""
    row = _ROW.row(record) | {
        "list_price": list_price(record.reading.cost, record.rates),
        "max_tokens": record.params.get("max_tokens"),
    }
    return row | of_cell(record.env.get("source_sha256"), record.env.get("execution"))


def of_cell(source_sha256: str | None, execution: str | None) -> dict[str, str]:
    """What a row says of its cell, where a front end ran one: which text it had, and which execution of it this was."""
    # Of an execution only whether it is the same counts, and a request's id says more: the kernel's process.
    shown_by = execution and hashlib.sha256(execution.encode()).hexdigest()[:16]
    told = {"source_sha256": source_sha256, "execution": shown_by}
    return {name: value for name, value in told.items() if value}


def snapshot_wire(view: View, *, session: str, seq: int, complete: bool) -> dict[str, Any]:
    """A view as a message."""
    return {
        "v": VERSION,
        "type": "snapshot",
        "complete": complete,
        "session": session,
        "seq": seq,
        "notebook": view.notebook,
        "model": None if view.model is None else _model_wire(view.model),
        "totals": {"notebook": _totals_wire(view.notebook_totals), "day": _totals_wire(view.day_totals)},
        "budgets": [_budget_wire(standing) for standing in view.budgets],
        "rows": [row_wire(record) for record in view.rows],
    }


def _model_wire(model: ModelView) -> dict[str, Any]:
    info = model.info
    return {
        "name": info.name,
        "model_id": info.model_id,
        "engine": info.engine,
        "device": info.device,
        "dtype": info.dtype,
        "quant": info.quant,
        "state": model.state,
        "detail": model.detail,
        "progress": model.progress,
        "notice": model.notice,
    }


def _totals_wire(totals: Sum | None) -> dict[str, Any] | None:
    if totals is None:
        return None
    return {
        "cost_usd": plain(totals.cost_usd),
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "runs": totals.runs,
        "unpriced_runs": totals.unpriced_runs,
        "cost_estimated": totals.precision.estimated,
        "cost_bound": totals.precision.bound,
    }


def _budget_wire(it: Standing) -> dict[str, Any]:
    return {
        "scope": it.budget.scope,
        "cap_usd": plain(it.budget.usd),
        "used_usd": plain(it.spent_usd + it.held_usd),
        "cap_tokens": it.budget.tokens,
        "used_tokens": it.spent_tokens + it.held_tokens,
        "warn_at": it.budget.warn_at,
        "unpriced_runs": it.unpriced_runs,
    }
