"""Every field of a run, once: where a record holds it, and what the ledger, an export and a live message make of it.

A new column of the ledger is a line here, an attribute of the record and a migration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal

from tokmagic.core.money import plain
from tokmagic.core.record import RunRecord

Kind = Literal["text", "int", "float", "money", "time", "json", "list", "rates", "flag"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a run: ``name`` is what exports and messages call it, ``path`` where a RunRecord holds it."""

    name: str
    path: str
    kind: Kind = "text"
    size: int | None = None
    """How wide its column is: characters of a text, bits of an integer. None: any number of them, 64 bits."""
    required: bool = False
    """Whether its column is never NULL."""
    stored: bool = True
    exported: bool = True
    sent: bool = False
    """Whether the sidebar gets it, and a cell's output keeps it."""
    stored_as: str | None = None

    @property
    def column(self) -> str:
        """The name of its column: money is kept as an integer of picodollars."""
        return self.stored_as or self.name.replace("_usd", "_pico")


FIELDS = (
    Field("run_id", "run_id", size=32, required=True, sent=True),
    Field("started_at", "started_at", "time", required=True, sent=True),
    Field("finished_at", "finished_at", "time"),
    Field("status", "status", size=12, required=True, sent=True),
    Field("finish_reason", "finish_reason", size=16, sent=True),
    Field("error", "error", sent=True),
    Field("notebook", "notebook"),
    Field("cell_id", "cell_id", sent=True),
    Field("session", "session"),
    Field("user", "user"),
    Field("model", "info.name", required=True, sent=True),
    Field("model_id", "info.model_id", required=True),
    Field("revision", "info.revision"),
    Field("engine", "info.engine", required=True),
    Field("device", "info.device"),
    Field("dtype", "info.dtype"),
    Field("quant", "info.quant"),
    Field("params", "params", "json", required=True),
    Field("seed", "seed", "int", stored=False),
    Field("prompt_sha256", "prompt_sha256", size=64, required=True),
    Field("input_tokens", "reading.usage.input_tokens", "int", sent=True),
    Field("cached_input_tokens", "reading.usage.cached_input_tokens", "int"),
    Field("cache_write_input_tokens", "reading.usage.cache_write_input_tokens", "int"),
    Field("output_tokens", "reading.usage.output_tokens", "int", sent=True),
    Field("reasoning_tokens", "reading.usage.reasoning_tokens", "int"),
    Field("input_source", "reading.usage.input_source", size=9, required=True, sent=True),
    Field("output_source", "reading.usage.output_source", size=9, required=True, sent=True),
    Field("local_input_tokens", "local_input_tokens", "int"),
    Field("anomaly", "reading.cost.anomaly"),
    Field("ttft_s", "reading.ttft_s", "float", sent=True),
    Field("queue_s", "reading.queue_s", "float"),
    Field("latency_s", "reading.latency_s", "float", sent=True),
    Field("itl_mean_s", "reading.itl_mean_s", "float", sent=True),
    Field("itl_p50_s", "reading.itl_p50_s", "float"),
    Field("itl_p95_s", "reading.itl_p95_s", "float"),
    Field("output_tokens_per_s", "reading.output_tokens_per_s", "float"),
    Field("attempts", "reading.attempts", "int", size=32, required=True),
    Field("device_seconds", "reading.device_s", "float", stored_as="device_s"),
    Field("gpu_peak_bytes", "reading.peak_bytes", "int"),
    Field("energy_j", "energy_j", "float"),
    # In an export they stand in env, beside the meter.
    Field("energy_source", "energy_source", size=9, exported=False),
    Field("energy_bound", "energy_bound", size=8, exported=False),
    Field("rates", "rates", "rates", required=True),
    Field("cost_usd", "reading.cost.usd", "money", sent=True),
    Field("cost_source", "reading.cost.source", size=9, required=True, sent=True),
    Field("cost_bound", "reading.cost.bound", size=8, required=True, sent=True),
    Field("token_cost_usd", "reading.cost.token_usd", "money", exported=False),
    Field("compute_cost_usd", "reading.cost.compute_usd", "money"),
    Field("saved_usd", "reading.cost.saved_usd", "money", sent=True),
    # These two follow from the rates that are frozen in the row.
    Field("shadow_usd", "reading.cost.shadow_usd", "money", stored=False, exported=False, sent=True),
    Field("shadow_model", "rates.shadow_model", stored=False, exported=False, sent=True),
    Field("replay_of", "replay_of", size=32),
    Field("tags", "tags", "list", required=True),
    Field("env", "env", "json", required=True),
    Field("key", "key", size=12),
    Field("team", "team"),
    Field("client_run_id", "client_run_id"),
    Field("duplicate", "duplicate", "flag"),
    Field("spark_ms", "reading.spark_ms", "list", required=True, exported=False, sent=True),
)
"""In the order of the export. ``env`` also holds what INFO_IN_ENV and RUN_IN_ENV name."""


def utc_text(moment: datetime) -> str:
    """A UTC instant as text of fixed width, which sorts as time does: ``2026-11-24T09:15:02.120000Z``."""
    # Written out by isoformat, which takes a fifth of strftime's time; the offset is what +00:00 stands for.
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def utc_time(text: str) -> datetime:
    """The inverse of :func:`utc_text`."""
    return datetime.fromisoformat(text)


Writers = Mapping[Kind, Callable[[Any], Any]]
AS_JSON: Writers = {"time": utc_text, "money": plain, "list": list}
"""What becomes of values in an export or a message: money as decimal strings, times as UTC ISO 8601."""


class Layout:
    """Some fields under the names they have in one place, written as that place wants them; unknown stays None."""

    def __init__(self, fields: Mapping[str, Field], writers: Writers) -> None:
        self.fields = fields
        # One call for all values: a run is written three times, and exports have very many.
        self._values = attrgetter(*(field.path for field in fields.values()))
        self._written = [(name, writers.get(field.kind)) for name, field in fields.items()]

    def row(self, record: RunRecord) -> dict[str, Any]:
        """The fields of one run."""
        return {
            name: value if write is None or value is None else write(value)
            for (name, write), value in zip(self._written, self._values(record), strict=True)
        }
