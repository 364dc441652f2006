"""A run's numbers as answers carry them: OpenAI's usage, tokmagic's own beside it, and vLLM's names for the times."""

from __future__ import annotations

from typing import Any

from tokmagic.core.metered import description
from tokmagic.core.money import plain, rates_dict
from tokmagic.core.record import RunRecord
from tokmagic.core.stream import FinishReason, Usage

_REASONS: dict[str | None, str] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    # The model's own end, whatever its server calls it: with "length" a client would ask for the rest.
    "other": "stop",
    # A whole answer whose own server gave no reason: clients need a word.
    None: "stop",
}


def finish_reason(reason: FinishReason | str | None) -> str:
    """OpenAI's word for why an answer ended. One that a budget or a stop cut short has reached a limit."""
    return _REASONS.get(reason, "length")


def usage(of: Usage) -> dict[str, Any] | None:
    """The counts as a chat has them; None where one is unknown, which is never zero."""
    if of.input_tokens is None or of.output_tokens is None:
        return None
    written = of.cache_write_input_tokens
    return {
        "prompt_tokens": of.input_tokens,
        "completion_tokens": of.output_tokens,
        "total_tokens": of.input_tokens + of.output_tokens,
        # Clients that price an answer themselves charge what was written to a cache at a rate of its own.
        "prompt_tokens_details": {"cached_tokens": of.cached_input_tokens or 0}
        | ({} if written is None else {"cache_write_tokens": written}),
        "completion_tokens_details": {"reasoning_tokens": of.reasoning_tokens or 0},
    }


def billed(record: RunRecord, waited_s: float | None) -> dict[str, Any]:
    """The counts of an ended run with ``usage.tokmagic``: what it cost and how long it took, in USD and seconds.

    ``waited_s`` is how long the request waited until the engine was asked, for its key's check, its turn and its hold;
    rows do not keep it.
    """
    return (usage(record.reading.usage) or {}) | {"tokmagic": _extension(record, waited_s)}


def _extension(record: RunRecord, waited_s: float | None) -> dict[str, Any]:
    reading = record.reading
    return {
        "run_id": record.run_id,
        "status": record.status,
        "stopped": record.error if record.finish_reason == "budget" else None,
        "cost_usd": plain(reading.cost.usd),
        "cost_source": reading.cost.source,
        "cost_bound": reading.cost.bound,
        "compute_cost_usd": plain(reading.cost.compute_usd),
        "rates": rates_dict(record.rates),
        "waited_s": waited_s,
        "queue_s": reading.queue_s,
        "ttft_s": reading.ttft_s,
        "latency_s": reading.latency_s,
        "itl_mean_s": reading.itl_mean_s,
        "itl_p50_s": reading.itl_p50_s,
        "itl_p95_s": reading.itl_p95_s,
        "output_tokens_per_s": reading.output_tokens_per_s,
        "device_s": reading.device_s,
        "gpu_peak_bytes": reading.peak_bytes,
        "energy_j": record.energy_j,
        "energy_source": record.energy_source,
        "energy_bound": record.energy_bound,
        "input_source": reading.usage.input_source,
        "output_source": reading.usage.output_source,
        # With None for unknown, which OpenAI's counts cannot say.
        "cached_input_tokens": reading.usage.cached_input_tokens,
        "cache_write_input_tokens": reading.usage.cache_write_input_tokens,
        "cache_write_1h_input_tokens": reading.usage.cache_write_1h_input_tokens,
        "reasoning_tokens": reading.usage.reasoning_tokens,
        **description(record.info),
    }


def metrics(record: RunRecord, waited_s: float) -> dict[str, float | None]:
    """The times of an ended run by the names of vLLM's per-request metrics."""
    reading = record.reading
    queue_s = waited_s + (reading.queue_s or 0.0)
    generating_s = None
    if reading.latency_s is not None and reading.ttft_s is not None:
        generating_s = reading.latency_s - reading.ttft_s
    return {
        "time_to_first_token_ms": _ms(None if reading.ttft_s is None else reading.ttft_s + waited_s),
        "generation_time_ms": _ms(generating_s),
        "queue_time_ms": _ms(queue_s),
        "mean_itl_ms": _ms(reading.itl_mean_s),
        "tokens_per_second": reading.output_tokens_per_s,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
