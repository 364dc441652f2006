"""One run, as the meter reads it and the ledger keeps it. Wall-clock times are UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from tokmagic.core.money import Cost, Rates
from tokmagic.core.stream import Usage
from tokmagic.core.traits import EngineTraits, traits_of

Status = Literal["running", "ok", "cached", "interrupted", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The meter's view of a run at one moment. Seconds, tokens, tokens per second; docs/metrics.md."""

    usage: Usage = field(default_factory=Usage)
    cost: Cost = field(default_factory=Cost)
    ttft_s: float | None = None
    queue_s: float | None = None
    latency_s: float | None = None
    itl_mean_s: float | None = None
    itl_p50_s: float | None = None
    itl_p95_s: float | None = None
    output_tokens_per_s: float | None = None
    device_s: float | None = None
    peak_bytes: int | None = None
    attempts: int = 1
    spark_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Which model answers, and how it is run. Unknown is ``None``."""

    name: str
    model_id: str
    engine: str
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    quant: str | None = None
    context_tokens: int | None = None
    tokenizer_sha256: str | None = None
    device_name: str | None = None
    """The GPU's name as its driver gives it, such as ``NVIDIA H100 80GB HBM3``."""
    provider: str | None = None
    """Whose public API an endpoint is, as the price table names it; None for a server of one's own."""
    server: str | None = None
    """An endpoint's base URL, without anything that could be a key."""
    greedy: bool | None = None
    """Whether the model by itself, where a prompt says nothing of sampling, takes the likeliest token each time."""

    @property
    def traits(self) -> EngineTraits:
        """What holds of its kind of engine."""
        return traits_of(self.engine)


INFO_IN_ENV = ("tokenizer_sha256", "device_name", "provider", "server", "greedy")
"""What of EngineInfo a row keeps in ``env``, having no column of its own."""
RUN_IN_ENV = ("answer_sha256", "execution")
"""What of the run itself a row keeps there: a digest of its answers, and which execution of its cell it belongs to."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as the ledger keeps it and ``tokmagic export`` prints it: one row a run, whatever happens."""

    run_id: str
    started_at: datetime
    status: Status
    info: EngineInfo
    prompt_sha256: str
    params: dict[str, Any]
    finished_at: datetime | None = None
    finish_reason: str | None = None
    error: str | None = None
    notebook: str | None = None
    cell_id: str | None = None
    session: str | None = None
    user: str | None = None
    reading: Reading = field(default_factory=Reading)
    rates: Rates = field(default_factory=Rates)
    local_input_tokens: int | None = None
    energy_j: float | None = None
    replay_of: str | None = None
    tags: tuple[str, ...] = ()
    env: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The seed that was asked for."""
        return self.params.get("seed")
