"""Figures for Prometheus: vLLM's names, so that dashboards and tools for it work unchanged, and money beside them."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tokmagic.core.record import RunRecord
from tokmagic.serve import figures
from tokmagic.serve.gateway import Gateway

# vLLM's buckets, in seconds.
_FIRST = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_MODEL = ("model_name",)


class Metrics:
    """What is counted of a gateway's requests. Labels never hold a key, a user's text or a prompt."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._running = self._gauge("vllm:num_requests_running", "Requests at the engine.", *_MODEL)
        self._waiting = self._gauge("vllm:num_requests_waiting", "Requests that wait for a turn.", *_MODEL)
        self._prompt = self._counter("vllm:prompt_tokens", "Input tokens.")
        self._generated = self._counter("vllm:generation_tokens", "Output tokens.")
        self._prefix_queries = self._counter("vllm:prefix_cache_queries", "Input tokens looked up among beginnings.")
        self._prefix_hits = self._counter("vllm:prefix_cache_hits", "Input tokens that were not computed again.")
        self._success = self._counter("vllm:request_success", "Requests by why their answer ended.", "finished_reason")
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", "Seconds to the first token.", _FIRST)
        self._itl = self._histogram("vllm:inter_token_latency_seconds", "Mean seconds between tokens.", _BETWEEN)
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "Seconds of requests.", _WHOLE)
        self._queue = self._histogram("vllm:request_queue_time_seconds", "Seconds until the prefill.", _WHOLE)
        self._prefill = self._histogram("vllm:request_prefill_time_seconds", "Seconds of prefill.", _WHOLE)
        self._decode = self._histogram("vllm:request_decode_time_seconds", "Seconds of decoding.", _WHOLE)
        self._cost = self._counter("tokmagic:cost_usd", "What requests cost, in USD.", "team")
        self._held = self._gauge("tokmagic:held_usd", "What running requests hold of budgets, in USD.")
        self._unpriced = self._counter("tokmagic:unpriced_requests", "Requests whose price is not known.")
        self._device = self._counter("tokmagic:device_seconds", "Seconds of the device.")
        self._energy = self._counter("tokmagic:energy_joules", "Energy that devices took for requests.")
        self._ended = self._counter("tokmagic:requests", "Requests by how they ended.", "status")
        self._rejected = Counter(
            "tokmagic:rejected_requests",
            "Requests that were answered with an error before a run began.",
            ("status", "code"),
            registry=self.registry,
        )

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(name, told, (*_MODEL, *labels), registry=self.registry)

    def _gauge(self, name: str, told: str, *labels: str) -> Gauge:
        return Gauge(name, told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, told, _MODEL, registry=self.registry, buckets=buckets)

    def watch(self, gateway: Gateway) -> None:
        """Show what is under way at a gateway whenever somebody looks."""
        for model in gateway.served:
            self._running.labels(model).set_function(partial(gateway.running.__getitem__, model))
            self._waiting.labels(model).set_function(partial(gateway.waiting.__getitem__, model))
        self._held.set_function(lambda: float(gateway.held_usd))

    def ended(self, record: RunRecord, waited_s: float) -> None:
        """A row was settled; it had waited so many seconds until the engine was asked. Any thread."""
        model, reading, counts = record.info.name, record.reading, record.reading.usage
        self._ended.labels(model, record.status).inc()
        if record.status == "refused":
            return
        self._prompt.labels(model).inc(counts.input_tokens or 0)
        self._generated.labels(model).inc(counts.output_tokens or 0)
        # Where a server does not say what it had, the share of hits is of the others: unknown is not none.
        known = counts.cached_input_tokens is not None
        self._prefix_queries.labels(model).inc((counts.input_tokens or 0) if known else 0)
        self._prefix_hits.labels(model).inc(counts.cached_input_tokens or 0)
        if record.status == "ok":
            self._success.labels(model, figures.finish_reason(record.finish_reason)).inc()
        queue_s = waited_s + (reading.queue_s or 0.0)
        self._queue.labels(model).observe(queue_s)
        if reading.ttft_s is not None:
            self._ttft.labels(model).observe(waited_s + reading.ttft_s)
            self._prefill.labels(model).observe(max(0.0, reading.ttft_s - (reading.queue_s or 0.0)))
        if reading.latency_s is not None:
            self._whole.labels(model).observe(waited_s + reading.latency_s)
            self._decode.labels(model).observe(reading.latency_s - (reading.ttft_s or 0.0))
        if reading.itl_mean_s is not None:
            self._itl.labels(model).observe(reading.itl_mean_s)
        self._unpriced.labels(model).inc(reading.cost.usd is None)
        self._cost.labels(model, record.team or "").inc(float(reading.cost.usd or 0))
        self._device.labels(model).inc(reading.device_s or 0.0)
        self._energy.labels(model).inc(record.energy_j or 0.0)

    def rejected(self, status: int, code: str | None) -> None:
        """A request was answered with an error before a run began."""
        self._rejected.labels(str(status), code or "").inc()

    def text(self) -> tuple[bytes, str]:
        """The exposition, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
