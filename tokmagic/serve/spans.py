"""A span of OpenTelemetry for each request, by the conventions for generative AI, where its API is installed.

Which SDK collects it and where it goes is for whoever starts the process to say, as ``opentelemetry-instrument`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tokmagic.core.money import plain
from tokmagic.core.record import RunRecord
from tokmagic.serve import figures

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:
    AVAILABLE = False
else:
    AVAILABLE = True

CARRIED = ("traceparent", "tracestate", "baggage")
"""Headers that say to which trace a request belongs."""
_PARAMS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


def attributes(record: RunRecord) -> dict[str, Any]:
    """What a span says of an ended run: never a text. Costs in USD, times in seconds; what is unknown is left out."""
    counts, params, reason = record.reading.usage, record.params, record.finish_reason
    operation = "text_completion" if params.get("completion") else "chat"
    told = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": record.info.provider or "tokmagic",
        "gen_ai.request.model": record.info.name,
        "gen_ai.response.model": record.info.model_id,
        "gen_ai.response.id": record.run_id,
        "gen_ai.response.finish_reasons": None if reason is None else (figures.finish_reason(reason),),
        "gen_ai.usage.input_tokens": counts.input_tokens,
        "gen_ai.usage.output_tokens": counts.output_tokens,
        "gen_ai.response.time_to_first_chunk": record.reading.ttft_s,
        "gen_ai.usage.cache_read.input_tokens": counts.cached_input_tokens,
        # The name of today, and the one before it, which some readers look for alone.
        "gen_ai.usage.cache_write.input_tokens": counts.cache_write_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": counts.cache_write_input_tokens,
        "gen_ai.usage.reasoning.output_tokens": counts.reasoning_tokens,
        **{name: params.get(field) for field, name in _PARAMS.items()},
        "gen_ai.request.stop_sequences": tuple(params["stop"]) if params.get("stop") else None,
        "error.type": record.status if record.status in ("failed", "refused") else None,
        "tokmagic.status": record.status,
        "tokmagic.cost_usd": plain(record.reading.cost.usd),
        "tokmagic.key": record.key,
        "tokmagic.team": record.team,
        "tokmagic.device_s": record.reading.device_s,
        "tokmagic.energy_j": record.energy_j,
    }
    return {name: value for name, value in told.items() if value is not None}


def ended(record: RunRecord, carried: Mapping[str, str]) -> None:
    """Record the span of an ended run, in the trace that the request's headers name. Does nothing without the API."""
    if not AVAILABLE:
        return
    told = attributes(record)
    span = trace.get_tracer("tokmagic.serve").start_span(
        f"{told['gen_ai.operation.name']} {record.info.name}",
        context=propagate.extract(carried),
        kind=trace.SpanKind.SERVER,
        attributes=told,
        start_time=_ns(record.started_at),
    )
    if record.status in ("failed", "refused"):
        span.set_status(trace.StatusCode.ERROR, record.error)
    span.end(_ns(record.finished_at or record.started_at))


def _ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1e9)
