"""Runs as files and data frames: JSONL, CSV, Parquet, pandas. One run at a time, however many there are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from tokmagic.core.money import Rates
from tokmagic.core.record import EngineInfo, RunRecord
from tokmagic.errors import UsageError, nearest
from tokmagic.prices import plain, rates_dict


def export_row(record: RunRecord) -> dict[str, Any]:
    """One run as ``tokmagic export`` prints it: money as decimal strings, unknown as null, times UTC ISO 8601."""
    reading, usage, cost, info = record.reading, record.reading.usage, record.reading.cost, record.info
    return {
        "run_id": record.run_id,
        "started_at": _iso(record.started_at),
        "finished_at": _iso(record.finished_at) if record.finished_at else None,
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
        "params": record.params,
        "seed": record.params.get("seed"),
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
        "device_seconds": reading.device_s,
        "gpu_peak_bytes": reading.peak_bytes,
        "energy_j": record.energy_j,
        "rates": _rates(record.rates),
        "cost_usd": plain(cost.usd),
        "cost_source": cost.source,
        "cost_bound": cost.bound,
        "compute_cost_usd": plain(cost.compute_usd),
        "saved_usd": plain(cost.saved_usd),
        "replay_of": record.replay_of,
        "tags": list(record.tags),
        "env": record.env,
    }


def _rates(rates: Rates) -> dict[str, Any]:
    return {
        "input": plain(rates.input),
        "output": plain(rates.output),
        "cached": plain(rates.cached),
        "cache_write": plain(rates.cache_write),
        "device_hour": plain(rates.device_hour),
        "source": rates.source,
        "version": rates.version,
        **({"tiers": rates_dict(rates)["tiers"]} if rates.tiers else {}),
        **({"shadow_model": rates.shadow_model, "shadow": _rates(rates.shadow)} if rates.shadow else {}),
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


FORMATS = ("jsonl", "csv", "parquet")


def export_lines(records: Iterable[RunRecord], form: str) -> Iterator[str]:
    """Runs as lines of JSONL or CSV, one at a time; nested values are JSON in a CSV's field. Raises UsageError."""
    if form == "parquet":
        raise UsageError("parquet cannot be printed; name a file, such as runs.parquet")
    if form not in FORMATS:
        raise UsageError(f"format {form!r} is unknown{nearest(form, FORMATS)}; use {', '.join(FORMATS)}")
    return _csv(records) if form == "csv" else _jsonl(records)


def export_text(records: Iterable[RunRecord], form: str) -> str:
    """Runs as JSONL or CSV text. Raises UsageError."""
    return "".join(export_lines(records, form))


def _jsonl(records: Iterable[RunRecord]) -> Iterator[str]:
    for record in records:
        yield json.dumps(export_row(record), ensure_ascii=False) + "\n"


def _csv(records: Iterable[RunRecord]) -> Iterator[str]:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_EXPORT_COLUMNS), lineterminator="\n")
    writer.writeheader()
    for record in records:
        yield _taken(out)
        writer.writerow({key: _flat(value) for key, value in export_row(record).items()})
    yield _taken(out)


def _taken(out: io.StringIO) -> str:
    text = out.getvalue()
    out.seek(0)
    out.truncate()
    return text


def export_file(records: Iterable[RunRecord], path: Path, form: str | None = None) -> None:
    """Write runs to a file; its ending chooses the format where none is given. Raises UsageError.

    An export that fails leaves an earlier file as it was.
    """
    form = form or path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"format {form!r} is unknown{nearest(form, FORMATS)}; use {', '.join(FORMATS)}")
    part = path.with_name(f"{path.name}.part")
    try:
        if form == "parquet":
            _write_parquet(records, part)
        else:
            with part.open("w", encoding="utf-8", newline="") as file:
                file.writelines(export_lines(records, form))
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def dataframe(records: Iterable[RunRecord]) -> Any:
    """Runs as a pandas DataFrame, a row each; money stays an exact Decimal. Raises UsageError without pandas."""
    try:
        import pandas
    except ImportError:
        raise UsageError("a DataFrame needs the package pandas; run: pip install 'tokmagic[report]'") from None
    rows = [export_row(record) for record in records]
    frame = pandas.DataFrame(rows, columns=list(_EXPORT_COLUMNS))
    for column in ("started_at", "finished_at"):
        frame[column] = pandas.to_datetime(frame[column], utc=True)
    for column in _MONEY:
        exact = [None if row[column] is None else Decimal(row[column]) for row in rows]
        frame[column] = pandas.Series(exact, dtype="object")
    return frame


def _write_parquet(records: Iterable[RunRecord], path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("parquet needs the package pyarrow; run: pip install 'tokmagic[parquet]'") from None
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[_KINDS.get(name, str)]) for name in _EXPORT_COLUMNS])
    with pyarrow.parquet.ParquetWriter(str(path), schema) as writer:
        rows = (export_row(record) for record in records)
        while portion := list(islice(rows, _PORTION)):
            columns = {name: [_flat(row[name]) for row in portion] for name in _EXPORT_COLUMNS}
            writer.write_table(pyarrow.table(columns, schema=schema))


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


_PORTION = 10_000
_EXPORT_COLUMNS = tuple(export_row(RunRecord("", datetime.now(UTC), "ok", EngineInfo("", "", ""), "", {})))
_MONEY = ("cost_usd", "compute_cost_usd", "saved_usd")
# Columns that hold numbers; money is exact text, and what is nested is JSON.
_KINDS: dict[str, type] = {
    **dict.fromkeys(
        (
            *("seed", "input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens"),
            *("reasoning_tokens", "local_input_tokens", "attempts", "gpu_peak_bytes"),
        ),
        int,
    ),
    **dict.fromkeys(
        (
            *("ttft_s", "queue_s", "latency_s", "itl_mean_s", "itl_p50_s", "itl_p95_s", "output_tokens_per_s"),
            *("device_seconds", "energy_j"),
        ),
        float,
    ),
}
