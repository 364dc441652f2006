"""What the sidebar is told, as wire messages; docs/wire.md describes them. :mod:`tokmagic.runs.channel` sends them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tokmagic.core.budget import Standing
from tokmagic.core.fields import AS_JSON, FIELDS, Layout, utc_text
from tokmagic.core.money import plain
from tokmagic.core.record import EnergySum, EngineInfo, RunRecord, Sum
from tokmagic.formatting.numbers import list_price
from tokmagic.runs.channel import VERSION
from tokmagic.runs.comparing import ComparisonRow, comparison_wire, tokens_wire
from tokmagic.runs.gpu_readings import GpuReading
from tokmagic.runs.shared_readings import SharedReading


@dataclass(frozen=True, slots=True)
class ModelView:
    """The current model as the sidebar's head shows it. ``progress`` is a share, 0 to 1."""

    info: EngineInfo
    state: str
    detail: str | None = None
    progress: float | None = None
    notice: str | None = None
    """A problem with the model, in one line."""
    gpu: GpuReading | None = None
    energy: EnergySum | None = None
    """The energy of the notebook's runs, where the model is on a GPU that is read."""
    shared: SharedReading | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Everything one message says."""

    notebook: str | None
    model: ModelView | None
    notebook_totals: Sum | None
    day_totals: Sum | None
    rows: tuple[RunRecord, ...]
    budgets: tuple[Standing, ...] = ()
    previous: tuple[RunRecord, ...] = ()
    """Of cells in ``rows`` the last complete run before that one."""
    comparisons: tuple[ComparisonRow, ...] = ()
    """Each stands for its runs, which are not in ``rows``."""
    day_began: datetime | None = None
    """When the day of ``day_totals`` did."""

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
    if record.status == "running" and not record.info.traits.remote and record.reading.usage.input_tokens is None:
        # The prompt is counted when its turn comes; what a server does with it until then is not known.
        row["queued"] = True
    if (choices := record.params.get("n") or 1) > 1:
        row["choices"] = choices
    if (count := record.env.get("execution_count")) is not None:
        row["execution_count"] = count
    return row | of_cell(record.env.get("source_sha256"), record.env.get("execution"))


def of_cell(source_sha256: str | None, execution: str | None) -> dict[str, str]:
    """What a row says of its cell, where a front end ran one: which text it had, and which execution of it this was."""
    # Of an execution only whether it is the same counts, and a request's id says more: the kernel's process.
    shown_by = execution and hashlib.sha256(execution.encode()).hexdigest()[:16]
    told = {"source_sha256": source_sha256, "execution": shown_by}
    return {name: value for name, value in told.items() if value}


def snapshot_wire(view: View, *, session: str, seq: int, complete: bool) -> dict[str, Any]:
    """A view as a message."""
    message = {
        "v": VERSION,
        "type": "snapshot",
        "complete": complete,
        "session": session,
        "seq": seq,
        "notebook": view.notebook,
        "model": None if view.model is None else _model_wire(view.model),
        "totals": {"notebook": totals_wire(view.notebook_totals), "day": totals_wire(view.day_totals)},
        "budgets": [_budget_wire(standing) for standing in view.budgets],
        "rows": [*map(row_wire, view.rows), *map(comparison_wire, view.comparisons)],
    }
    return message | ({"previous": [_previous_wire(record) for record in view.previous]} if complete else {})


_PREVIOUS = ("run_id", "cell_id", "input_tokens", "output_tokens", "cost_usd", "latency_s")


def _previous_wire(record: RunRecord) -> dict[str, Any]:
    row = row_wire(record)
    return {name: row[name] for name in _PREVIOUS}


def _model_wire(model: ModelView) -> dict[str, Any]:
    info = model.info
    told: dict[str, Any] = {
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
    if model.gpu is not None:
        told["gpu"] = _gpu_wire(model.gpu, model.energy or EnergySum())
    if model.shared is not None:
        told["shared"] = _shared_wire(model.shared)
    return told


def _shared_wire(reading: SharedReading) -> dict[str, Any]:
    share = reading.share
    return {
        "read_at": utc_text(reading.at),
        "state": share.model.state,
        "running": share.running,
        "waiting": share.waiting,
        "users": dict(share.model.users),
        "key": share.key,
        "team": share.team,
        "cap_usd": plain(share.cap_usd),
        "left_usd": plain(share.left_usd),
        "cap_tokens": share.cap_tokens,
        "left_tokens": share.left_tokens,
    }


def _gpu_wire(reading: GpuReading, energy: EnergySum) -> dict[str, Any]:
    gpu, split = reading.gpu, reading.split
    memory = None
    if split is not None:
        memory = {
            "weights_bytes": split.weights_bytes + split.other_weights_bytes,
            "cache_bytes": split.cache_bytes,
            "reserve_bytes": split.reserve_bytes,
        }
    return {
        "label": gpu.label,
        "name": gpu.name,
        "read_at": utc_text(reading.at),
        "busy": gpu.load.busy,
        "power_w": gpu.load.power_w,
        "power_limit_w": gpu.load.power_limit_w,
        "total_bytes": gpu.total_bytes,
        "used_bytes": gpu.used_bytes,
        "memory": memory,
        "energy_j": energy.joules if energy.runs else None,
        "energy_estimated": energy.precision.estimated,
        "energy_bound": energy.precision.bound,
    }


def totals_wire(totals: Sum | None) -> dict[str, Any] | None:
    """Sums as the sidebar gets them."""
    if totals is None:
        return None
    return {
        "cost_usd": plain(totals.cost_usd),
        **tokens_wire(totals),
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
