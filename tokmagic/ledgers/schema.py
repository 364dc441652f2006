"""The ledger's tables, and how a row becomes a record and back.

Money is an integer of picodollars, times are UTC ISO 8601 text of fixed width (which sorts as time
does), and what nobody filters by is JSON.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from tokmagic.core.money import Cost, Rates
from tokmagic.core.record import INFO_IN_ENV, EngineInfo, Reading, RunRecord
from tokmagic.core.stream import Usage
from tokmagic.prices import bill, from_picodollars, rates_dict, rates_of, to_picodollars

HEAD = "0003"
"""The revision of the newest migration."""

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("run_id", sa.String(32), nullable=False, unique=True),
    sa.Column("started_at", sa.String(27), nullable=False),
    sa.Column("finished_at", sa.String(27)),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("finish_reason", sa.String(16)),
    sa.Column("error", sa.Text),
    sa.Column("owner", sa.String(32)),
    sa.Column("notebook", sa.Text),
    sa.Column("cell_id", sa.Text),
    sa.Column("session", sa.Text),
    sa.Column("user", sa.Text),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("revision", sa.Text),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("device", sa.Text),
    sa.Column("dtype", sa.Text),
    sa.Column("quant", sa.Text),
    sa.Column("params", sa.Text, nullable=False),
    sa.Column("prompt_sha256", sa.String(64), nullable=False),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("cached_input_tokens", sa.BigInteger),
    sa.Column("cache_write_input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("input_source", sa.String(9), nullable=False),
    sa.Column("output_source", sa.String(9), nullable=False),
    sa.Column("local_input_tokens", sa.BigInteger),
    sa.Column("anomaly", sa.Text),
    sa.Column("ttft_s", sa.Float(53)),
    sa.Column("queue_s", sa.Float(53)),
    sa.Column("latency_s", sa.Float(53)),
    sa.Column("itl_mean_s", sa.Float(53)),
    sa.Column("itl_p50_s", sa.Float(53)),
    sa.Column("itl_p95_s", sa.Float(53)),
    sa.Column("output_tokens_per_s", sa.Float(53)),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("device_s", sa.Float(53)),
    sa.Column("gpu_peak_bytes", sa.BigInteger),
    sa.Column("energy_j", sa.Float(53)),
    sa.Column("rates", sa.Text, nullable=False),
    sa.Column("cost_pico", sa.BigInteger),
    sa.Column("cost_source", sa.String(9), nullable=False),
    sa.Column("cost_bound", sa.String(8), nullable=False),
    sa.Column("token_cost_pico", sa.BigInteger),
    sa.Column("compute_cost_pico", sa.BigInteger),
    sa.Column("saved_pico", sa.BigInteger),
    sa.Column("replay_of", sa.String(32)),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("env", sa.Text, nullable=False),
    sa.Column("spark_ms", sa.Text, nullable=False),
    sa.Column("hold_pico", sa.BigInteger),
    sa.Column("hold_tokens", sa.BigInteger),
    sa.Index("runs_by_notebook", "notebook", "started_at"),
    sa.Index(
        "runs_by_time",
        *("started_at", "model", "status", "cost_pico", "saved_pico"),
        *("input_tokens", "output_tokens", "ttft_s", "itl_mean_s", "cost_source", "cost_bound"),
    ),
    sa.Index("runs_by_user", "user", "started_at", "status", "cost_pico", "input_tokens", "output_tokens"),
    sa.Index(
        "runs_open",
        "owner",
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    ),
    sa.Index(
        "runs_cached",
        *("status", "saved_pico"),
        sqlite_where=sa.text("status = 'cached'"),
        postgresql_where=sa.text("status = 'cached'"),
    ),
)

LIVE = sa.text("runs.status = 'running'")
"""Runs that go on. Written out, not as a parameter: only so SQLite sees that the index of these runs alone answers."""

texts = sa.Table(
    "texts",
    metadata,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("prompt", sa.Text),
    sa.Column("answer", sa.Text),
)

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("scope", sa.String(8), nullable=False),
    sa.Column("notebook", sa.Text),
    sa.Column("user", sa.Text),
    sa.Column("cap_pico", sa.BigInteger),
    sa.Column("cap_tokens", sa.BigInteger),
    sa.Column("warn_at", sa.Float(53), nullable=False),
    sa.Column("strict", sa.Boolean, nullable=False),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.String(27), nullable=False),
    # With the size in it, so that their sum is asked without reading the answers.
    sa.Index("answers_by_use", "used_at", "size_bytes"),
)


def utc_text(moment: datetime) -> str:
    """A UTC instant as text of fixed width: ``2026-11-24T09:15:02.120000Z``."""
    # Written out by isoformat, which takes a fifth of strftime's time; the offset is what +00:00 stands for.
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def utc_time(text: str) -> datetime:
    """The inverse of :func:`utc_text`."""
    return datetime.fromisoformat(text)


# Dollars are summed in two parts, since a sum of picodollars alone leaves 64 bits at nine million dollars.
_CHUNK = 1_000_000


def money_parts(pico: Any) -> tuple[Any, Any]:
    """An expression in picodollars as two columns that can be added up without leaving 64 bits."""
    return pico.op("/")(_CHUNK), pico.op("%")(_CHUNK)


def money_sum(pico: Any) -> tuple[Any, Any]:
    """The sum of an expression in picodollars as two columns, for :func:`money`."""
    high, low = money_parts(pico)
    return sa.func.sum(high), sa.func.sum(low)


def money(high: Any, low: Any) -> Decimal | None:
    """A sum in USD from what :func:`money_sum` selected; None for a sum of nothing."""
    return None if high is None else from_picodollars(int(high) * _CHUNK + int(low))


def storable(text: str) -> str:
    """``text`` with what not every database takes written out: lone surrogates as ``\\udce9``, NUL as ``\\x00``.

    File names that are not UTF-8 reach Python as lone surrogates, and a model may write an incomplete character.
    """
    if text.isascii() and "\0" not in text:  # nearly always, and every run asks it thirty times
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def to_row(record: RunRecord) -> dict[str, Any]:
    """Return the columns of a record, without ``id`` and ``owner``."""
    row = _columns(record)
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = storable(value)
    return row


def _columns(record: RunRecord) -> dict[str, Any]:
    reading, usage, cost, info = record.reading, record.reading.usage, record.reading.cost, record.info
    return {
        "run_id": record.run_id,
        "started_at": utc_text(record.started_at),
        "finished_at": utc_text(record.finished_at) if record.finished_at else None,
        "status": record.status,
        "finish_reason": record.finish_reason,
        "error": record.error,
        "notebook": record.notebook,
        "cell_id": record.cell_id,
        "session": record.session,
        "user": record.user,
        "model": info.name,
        "model_id": info.model_id,
        "revision": info.revision,
        "engine": info.engine,
        "device": info.device,
        "dtype": info.dtype,
        "quant": info.quant,
        "params": _json(record.params),
        "prompt_sha256": record.prompt_sha256,
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_input_tokens": usage.cache_write_input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "input_source": usage.input_source,
        "output_source": usage.output_source,
        "local_input_tokens": record.local_input_tokens,
        "anomaly": cost.anomaly,
        "ttft_s": reading.ttft_s,
        "queue_s": reading.queue_s,
        "latency_s": reading.latency_s,
        "itl_mean_s": reading.itl_mean_s,
        "itl_p50_s": reading.itl_p50_s,
        "itl_p95_s": reading.itl_p95_s,
        "output_tokens_per_s": reading.output_tokens_per_s,
        "attempts": reading.attempts,
        "device_s": reading.device_s,
        "gpu_peak_bytes": reading.peak_bytes,
        "energy_j": record.energy_j,
        "rates": _frozen(record.rates),
        "cost_pico": to_picodollars(cost.usd),
        "cost_source": cost.source,
        "cost_bound": cost.bound,
        "token_cost_pico": to_picodollars(cost.token_usd),
        "compute_cost_pico": to_picodollars(cost.compute_usd),
        "saved_pico": to_picodollars(cost.saved_usd),
        "replay_of": record.replay_of,
        "tags": _json(list(record.tags)),
        "env": _json(record.env),
        "spark_ms": _json(list(reading.spark_ms)),
    }


def to_record(row: sa.RowMapping) -> RunRecord:
    """Return the record of a row."""
    usage = Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_input_tokens=row["cached_input_tokens"],
        cache_write_input_tokens=row["cache_write_input_tokens"],
        reasoning_tokens=row["reasoning_tokens"],
        input_source=row["input_source"],
        output_source=row["output_source"],
    )
    rates = rates_of(json.loads(row["rates"]))
    cost = Cost(
        usd=from_picodollars(row["cost_pico"]),
        source=row["cost_source"],
        bound=row["cost_bound"],
        token_usd=from_picodollars(row["token_cost_pico"]),
        compute_usd=from_picodollars(row["compute_cost_pico"]),
        saved_usd=from_picodollars(row["saved_pico"]),
        anomaly=row["anomaly"],
        # Follows from what is frozen in the row, so it has no column of its own.
        shadow_usd=None if rates.shadow is None else bill(usage, None, rates.shadow).usd,
    )
    reading = Reading(
        usage=usage,
        cost=cost,
        ttft_s=row["ttft_s"],
        queue_s=row["queue_s"],
        latency_s=row["latency_s"],
        itl_mean_s=row["itl_mean_s"],
        itl_p50_s=row["itl_p50_s"],
        itl_p95_s=row["itl_p95_s"],
        output_tokens_per_s=row["output_tokens_per_s"],
        device_s=row["device_s"],
        peak_bytes=row["gpu_peak_bytes"],
        attempts=row["attempts"],
        spark_ms=tuple(json.loads(row["spark_ms"])),
    )
    env = json.loads(row["env"])
    info = EngineInfo(
        name=row["model"],
        model_id=row["model_id"],
        engine=row["engine"],
        revision=row["revision"],
        device=row["device"],
        dtype=row["dtype"],
        quant=row["quant"],
        **{name: env.get(name) for name in INFO_IN_ENV},
    )
    return RunRecord(
        run_id=row["run_id"],
        started_at=utc_time(row["started_at"]),
        status=row["status"],
        info=info,
        prompt_sha256=row["prompt_sha256"],
        params=json.loads(row["params"]),
        finished_at=utc_time(row["finished_at"]) if row["finished_at"] else None,
        finish_reason=row["finish_reason"],
        error=row["error"],
        notebook=row["notebook"],
        cell_id=row["cell_id"],
        session=row["session"],
        user=row["user"],
        reading=reading,
        rates=rates,
        local_input_tokens=row["local_input_tokens"],
        energy_j=row["energy_j"],
        replay_of=row["replay_of"],
        tags=tuple(json.loads(row["tags"])),
        env=env,
    )


# Made once: making an encoder takes longer than encoding what a row holds.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def _json(value: Any) -> str:
    return _ENCODER.encode(value)


@lru_cache(maxsize=64)
def _frozen(rates: Rates) -> str:
    # A session's runs have few different ones.
    return _json(rates_dict(rates))
