"""What the sidebar is told, as wire messages; docs/wire.md describes them. :mod:`tokmagic.runs.channel` sends them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from tokmagic.core.budget import Standing
from tokmagic.core.money import Uncertainty
from tokmagic.core.record import EngineInfo, RunRecord
from tokmagic.core.sums import Totals
from tokmagic.formatting.numbers import list_price
from tokmagic.prices import plain
from tokmagic.runs.channel import VERSION


@dataclass(frozen=True, slots=True)
class ModelView:
    """The current model as the sidebar's head shows it. ``progress`` is a share, 0 to 1."""

    info: EngineInfo
    state: str
    detail: str | None = None
    progress: float | None = None
    notice: str | None = None
    """What is amiss with the model, in one line."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything one message says."""

    notebook: str | None
    model: ModelView | None
    notebook_totals: Totals | None
    day_totals: Totals | None
    rows: tuple[RunRecord, ...]
    budgets: tuple[Standing, ...] = ()

    def wire(self, *, session: str, seq: int, complete: bool) -> dict[str, Any]:
        """All of it as a message."""
        return snapshot_wire(self, session=session, seq=seq, complete=complete)


def row_wire(record: RunRecord) -> dict[str, Any]:
    """One run as the sidebar gets it, and as a cell's output keeps it in ``metadata.tokmagic``."""
    reading, usage, cost = record.reading, record.reading.usage, record.reading.cost
    return {
        "run_id": record.run_id,
        "cell_id": record.cell_id,
        "status": record.status,
        "model": record.info.name,
        "started_at": record.started_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "input_tokens": usage.input_tokens,
        "input_source": usage.input_source,
        "output_tokens": usage.output_tokens,
        "output_source": usage.output_source,
        "cost_usd": plain(cost.usd),
        "cost_source": cost.source,
        "cost_bound": cost.bound,
        "saved_usd": plain(cost.saved_usd),
        "shadow_usd": plain(cost.shadow_usd),
        "shadow_model": record.rates.shadow_model,
        "list_price": list_price(cost, record.rates),
        "ttft_s": reading.ttft_s,
        "itl_mean_s": reading.itl_mean_s,
        "latency_s": reading.latency_s,
        "spark_ms": list(reading.spark_ms),
        "max_tokens": record.params.get("max_tokens"),
        "finish_reason": record.finish_reason,
        "error": record.error,
    }


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


def _totals_wire(totals: Totals | None) -> dict[str, Any] | None:
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


def add_running(base: Totals | None, running: Iterable[RunRecord]) -> Totals | None:
    """Sums of finished runs plus what the running ones have used so far."""
    if base is None:
        return None
    cost, runs, unpriced, uncertainty = base.cost_usd, base.runs, base.unpriced_runs, base.uncertainty
    input_tokens, output_tokens = base.input_tokens, base.output_tokens
    for record in running:
        usage, usd = record.reading.usage, record.reading.cost.usd
        runs += 1
        input_tokens += usage.input_tokens or 0
        output_tokens += usage.output_tokens or 0
        if usd is None:
            unpriced += 1
        else:
            cost = usd if cost is None else cost + usd
        uncertainty += Uncertainty.of(record.reading.cost)
    return Totals(cost, input_tokens, output_tokens, runs, unpriced, uncertainty)
