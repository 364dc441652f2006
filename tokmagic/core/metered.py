"""What a shared engine says of a run that it metered itself, so that its client's row loses no number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tokmagic.core.money import Bound, Cost, Rates
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import ServerTimes, Source, Usage

RUN_ID_HEADER = "X-Tokmagic-Run-Id"
"""In which a client tells a shared engine the id of its own row."""
SERVER_RUN_ID_HEADER = "X-Tokmagic-Server-Run-Id"
"""In which the engine tells the id of its row."""
KNOWN_BY_SERVER = (
    *("model_id", "revision", "device", "device_name", "dtype", "quant", "arithmetic", "tokenizer_sha256", "dated"),
)
"""What of EngineInfo a shared engine tells and its client takes over, texts all of them."""


def description(info: EngineInfo) -> dict[str, str | None]:
    """What a shared engine tells of how a model runs: what its client takes over, and what kind of engine it is."""
    return {name: getattr(info, name) for name in (*KNOWN_BY_SERVER, "engine")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """A run as the server recorded it; what it does not tell is None.

    ``run_id`` is that of the server's row. ``stopped`` says why a budget of the server's cut the answer short.
    ``device_s`` are seconds, ``energy_j`` joules. ``info`` holds what KNOWN_BY_SERVER names, as far as it was told.
    """

    run_id: str | None = None
    usage: Usage | None = None
    rates: Rates | None = None
    cost: Cost = field(default_factory=Cost)
    stopped: str | None = None
    times: ServerTimes = field(default_factory=ServerTimes)
    device_s: float | None = None
    peak_bytes: int | None = None
    energy_j: float | None = None
    energy_source: Source | None = None
    energy_bound: Bound | None = None
    info: Mapping[str, str | None] = field(default_factory=lambda: MappingProxyType({}))


UNRECORDED = Metered()
"""A run of which the server has no row: none that it began, since each has one."""
