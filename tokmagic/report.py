"""Tables, sums and exports over the ledger's runs. Sums of money are Decimal, unknown stays unknown."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

from tokmagic import numbers
from tokmagic.errors import UsageError, nearest
from tokmagic.events import EngineInfo, Rates, RunRecord
from tokmagic.prices import plain, rates_dict


@dataclass(frozen=True, slots=True)
class Table:
    """A small table that shows itself in a notebook, a terminal and as JSON."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    figures: bool = True
    """Whether the columns after the first hold figures, which stand to the right."""

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.columns))]
        text = "\n".join(
            "  ".join(
                cell.rjust(width) if index and self.figures else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return f"{text}\n{self.note}" if self.note else text

    def _repr_html_(self) -> str:
        def line(cells: Iterable[str], tag: str) -> str:
            inner = "".join(
                f'<{tag} style="text-align:{"right" if index and self.figures else "left"}">{_escape(cell)}</{tag}>'
                for index, cell in enumerate(cells)
            )
            return f"<tr>{inner}</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        note = f"<p>{_escape(self.note)}</p>" if self.note else ""
        # The class keeps MathJax from reading "$0.01 … $0.02" as a formula.
        return (
            '<div class="tex2jax_ignore mathjax_ignore"><table>'
            f"<thead>{line(self.columns, 'th')}</thead><tbody>{body}</tbody></table>{note}</div>"
        )

    def as_dicts(self) -> list[dict[str, str]]:
        """Rows as dictionaries, for ``--json``."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def _escape(text: str) -> str:
    return html.escape(text).replace("$", "<span>&#36;</span>")


@dataclass(frozen=True, slots=True)
class Sum:
    """Sums over runs of one group. ``cost_usd`` is None where none has a price; medians over priced stamps."""

    runs: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    unpriced_runs: int
    ttft_s: float | None
    itl_mean_s: float | None


def add_up(records: Sequence[RunRecord]) -> Sum:
    """Add runs up. Latencies are medians, cache hits and refusals left out."""
    counted = [record for record in records if record.status != "refused"]
    costs = [record.reading.cost.usd for record in counted if record.reading.cost.usd is not None]
    timed = [record.reading for record in counted if record.status != "cached"]
    ttft = [reading.ttft_s for reading in timed if reading.ttft_s is not None]
    itl = [reading.itl_mean_s for reading in timed if reading.itl_mean_s is not None]
    return Sum(
        runs=len(records),
        input_tokens=sum(record.reading.usage.input_tokens or 0 for record in counted),
        output_tokens=sum(record.reading.usage.output_tokens or 0 for record in counted),
        cost_usd=sum(costs, Decimal(0)) if costs else None,
        unpriced_runs=len(counted) - len(costs),
        ttft_s=median(ttft) if ttft else None,
        itl_mean_s=median(itl) if itl else None,
    )


def _by_cell(records: Sequence[RunRecord]) -> Callable[[RunRecord], list[str]]:
    # Cells have ids, not names: they are numbered in the order in which they first ran.
    places: dict[tuple[str | None, str | None], str] = {}
    for record in records:
        places.setdefault((record.notebook or record.session, record.cell_id), f"cell {len(places) + 1}")
    return lambda record: [places[record.notebook or record.session, record.cell_id]]


_GROUPS: dict[str, Callable[[RunRecord], list[str]]] = {
    "run": lambda record: [record.run_id[:8]],
    "model": lambda record: [record.info.name],
    "notebook": lambda record: [record.notebook or numbers.UNKNOWN],
    "day": lambda record: [record.started_at.astimezone().strftime("%Y-%m-%d")],
    "tag": lambda record: list(record.tags) or [numbers.UNKNOWN],
    "user": lambda record: [record.user or numbers.UNKNOWN],
    "status": lambda record: [record.status],
}
GROUPS = ("cell", *_GROUPS)
"""What a table can be grouped by."""


def table(records: Sequence[RunRecord], by: str = "cell") -> Table:
    """Group runs and show a line for each group, with a total. Raises UsageError for an unknown group."""
    if by not in GROUPS:
        raise UsageError(f"cannot group by {by!r}{nearest(by, GROUPS)}; use one of {', '.join(GROUPS)}")
    keys = _by_cell(records) if by == "cell" else _GROUPS[by]
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        for key in keys(record):
            groups.setdefault(key, []).append(record)
    rows = [_line(key, add_up(group)) for key, group in groups.items()]
    total = add_up(records)
    note = ""
    if total.unpriced_runs:
        note = f"{total.unpriced_runs} of {total.runs} runs have no price and are not in the cost; set one with %price"
    columns = (by, "runs", "in", "out", "cost", "TTFT", "ms/token")
    return Table(columns, (*rows, _line("total", total)), note)


def _line(name: str, group: Sum) -> tuple[str, ...]:
    return (
        name,
        str(group.runs),
        numbers.tokens(group.input_tokens),
        numbers.tokens(group.output_tokens),
        numbers.usd(group.cost_usd),
        numbers.seconds(group.ttft_s),
        numbers.milliseconds(group.itl_mean_s),
    )


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


def export_text(records: Iterable[RunRecord], form: str) -> str:
    """Runs as JSONL or CSV text; nested values are JSON in a CSV's field. Raises UsageError."""
    rows = [export_row(record) for record in records]
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if form == "parquet":
        raise UsageError("parquet cannot be printed; name a file, such as runs.parquet")
    if form != "csv":
        raise UsageError(f"format {form!r} is unknown{nearest(form, FORMATS)}; use {', '.join(FORMATS)}")
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_EXPORT_COLUMNS), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _flat(value) for key, value in row.items()})
    return out.getvalue()


def export_file(records: Iterable[RunRecord], path: Path, form: str | None = None) -> None:
    """Write runs to a file; its ending chooses the format where none is given. Raises UsageError."""
    form = form or path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"format {form!r} is unknown{nearest(form, FORMATS)}; use {', '.join(FORMATS)}")
    try:
        if form == "parquet":
            _write_parquet([export_row(record) for record in records], path)
        else:
            path.write_text(export_text(records, form), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("parquet needs the package pyarrow; run: pip install 'tokmagic[parquet]'") from None
    flat = [{key: _flat(value) for key, value in row.items()} for row in rows]
    columns = {name: [row[name] for row in flat] for name in _EXPORT_COLUMNS}
    pyarrow.parquet.write_table(pyarrow.table(columns), str(path))


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


_EXPORT_COLUMNS = tuple(export_row(RunRecord("", datetime.now(UTC), "ok", EngineInfo("", "", ""), "", {})))
