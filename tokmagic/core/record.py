"""One run, as the meter reads it and the ledger keeps it, and sums over runs. Wall-clock times are UTC."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from tokmagic.core.money import CERTAIN, Bound, Cost, Precision, Rates, Uncertainty, known_sum
from tokmagic.core.stream import Source, Usage

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
class EngineTraits:
    """What holds of every run by one kind of engine: asked by trait, so that nobody compares the names of engines."""

    remote: bool = False
    """A server computes and counts: it may keep to no limit, go on after a broken connection, and answer otherwise."""
    has_weights: bool = False
    """Its model's files are read on this machine, and its weights take a device's memory."""
    billed_by_device: bool = False
    """Where there are no token rates it costs the device's time."""


_TRAITS: Mapping[str, EngineTraits] = MappingProxyType(
    {
        "local": EngineTraits(has_weights=True, billed_by_device=True),
        "llamacpp": EngineTraits(has_weights=True, billed_by_device=True),
        "endpoint": EngineTraits(remote=True),
        "pool": EngineTraits(billed_by_device=True),
        "scripted": EngineTraits(),
    }
)
REMOTE = tuple(kind for kind, traits in _TRAITS.items() if traits.remote)
"""The kinds that are remote, for queries."""


def traits_of(kind: str) -> EngineTraits:
    """The traits of a kind of engine, by the name that rows keep of it; of an unknown one nothing is supposed."""
    return _TRAITS.get(kind, EngineTraits())


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
    service_tier: str | None = None
    """At which service tier a server says that it answered, such as ``priority``; a provider's price depends on it."""
    arithmetic: str | None = None
    """How products with several rows are computed, where that is not as transformers does: prompts and batches."""
    dated: str | None = None
    """What its chat template says of the present, as strftime has it: ``%d %b %Y``. No row keeps it."""

    @property
    def traits(self) -> EngineTraits:
        """What holds of its kind of engine."""
        return traits_of(self.engine)

    @property
    def listed_as(self) -> tuple[str, ...]:
        """What a price list may call the model: its id, also without its provider's name before it."""
        bare = self.model_id.removeprefix(f"{self.provider}/") if self.provider else self.model_id
        return tuple(dict.fromkeys((self.model_id, bare)))


COMPARISON_IN_OUTPUTS = "tokmagic_comparison"
"""Under which name an output's metadata keeps a comparison's figures."""
INFO_IN_ENV = ("tokenizer_sha256", "device_name", "provider", "server", "greedy", "service_tier", "arithmetic")
"""What of EngineInfo a row keeps in ``env``, having no column of its own."""
USAGE_IN_ENV = ("cache_write_1h_input_tokens",)
"""What of Usage a row keeps there."""
RUN_IN_ENV = (
    *("answer_sha256", "execution", "execution_count", "source_sha256", "server_run_id"),
    *("reported_cost_usd", "ignored_options", "server_times", "energy", *USAGE_IN_ENV),
)
"""What of the run itself a row keeps there: a digest of its answers, which execution of its cell it belongs to
and under which number the notebook shows that one, a digest of the cell's text as it ran, the id of a shared engine's
own row of it, counts, and what its server told: a cost, a decimal string in USD, the options that it ignored, its own
times in seconds. ``energy`` tells of ``energy_j`` by which meter, how surely, and how many joules a token took."""


def is_place(cell_id: str) -> bool:
    """Whether a cell's id only tells where the cell stood: nbstripout numbers all cells anew each time."""
    return cell_id.isdecimal()


def source_sha256(source: str) -> str:
    """The hex digest of a cell's text, by which it is seen later whether a run is of the text that stands there.

    Front ends and tools write line ends as they like, and the one that ends the text belongs to no prompt.
    """
    text = source.replace("\r\n", "\n").removesuffix("\n")
    # No output can hold half a character; it is counted as what stands for it.
    return hashlib.sha256(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()).hexdigest()


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
    energy_source: Source | None = None
    energy_bound: Bound | None = None
    replay_of: str | None = None
    tags: tuple[str, ...] = ()
    env: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    """The id of the key with which a shared engine was asked for it."""
    team: str | None = None
    client_run_id: str | None = None
    """On a shared engine: under which id the client keeps its own row of the same run."""
    duplicate: bool = False
    """Whether that row is in this ledger too: then this one counts for its key alone, and in no other sum."""

    @property
    def owes_no_price(self) -> bool:
        """Whether no price is missing where there is no cost: it was refused, or goes on and its rates are known."""
        priced = self.rates.input is not None or self.rates.device_hour is not None
        return self.status == "refused" or (self.status == "running" and priced)

    @property
    def requests(self) -> int:
        """Of how many requests, alike in length, the counts are the sums: of one, unless it is the row of a bench."""
        return int(self.params.get("requests") or 1)

    @property
    def seed(self) -> int | None:
        """The seed that was asked for."""
        return self.params.get("seed")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs are meant; what is None does not select. ``until`` is the first instant that does not belong.

    Of several ``tags`` a run must have all. ``once`` leaves duplicates out, as every sum does but a key's.
    """

    notebook: str | None = None
    session: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None
    model: str | None = None
    cell_id: str | None = None
    status: Status | None = None
    tags: tuple[str, ...] = ()
    once: bool = False


@dataclass(frozen=True, slots=True)
class Sum:
    """Sums over runs: a group of ended ones, or all of a notebook with those that go on.

    Tokens are None where runs were let in and no count of any is known, ``cost_usd`` where none has a price,
    ``saved_usd`` where no cache hit has one. Refused runs count as runs, but neither as priced nor as unpriced. Cache
    hits are left out of the latencies; ``unpriced_hits`` saved what is not known.
    """

    runs: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost_usd: Decimal | None = None
    unpriced_runs: int = 0
    saved_usd: Decimal | None = None
    ttft_total_s: float = 0.0
    ttft_runs: int = 0
    itl_total_s: float = 0.0
    itl_steps: int = 0
    uncertainty: Uncertainty = CERTAIN
    unpriced_hits: int = 0
    saved_uncertainty: Uncertainty = CERTAIN
    refused_runs: int = 0

    @property
    def precision(self) -> Precision:
        """Whether ``cost_usd`` is only an estimate, and what it bounds."""
        return self.uncertainty.precision(self.unpriced_runs)

    @property
    def saved_precision(self) -> Precision:
        """The same of ``saved_usd``."""
        return self.saved_uncertainty.precision(self.unpriced_hits)

    @property
    def ttft_s(self) -> float | None:
        """The mean TTFT of the runs that have one."""
        return self.ttft_total_s / self.ttft_runs if self.ttft_runs else None

    @property
    def itl_mean_s(self) -> float | None:
        """Seconds a token, over all tokens after the first of each run: each run weighs as much as it generated."""
        return self.itl_total_s / self.itl_steps if self.itl_steps else None

    @classmethod
    def of(cls, records: Iterable[RunRecord]) -> Sum:
        """Add runs up that are at hand."""
        return sum(map(cls._of, records), cls())

    @classmethod
    def _of(cls, record: RunRecord) -> Sum:
        reading, usage, cost = record.reading, record.reading.usage, record.reading.cost
        timed, refused = record.status != "cached", record.status == "refused"
        steps = (usage.output_tokens or 1) - 1 if timed and reading.itl_mean_s is not None else 0
        ttft = reading.ttft_s if timed else None
        return cls(
            runs=1,
            input_tokens=0 if refused else usage.input_tokens,
            output_tokens=0 if refused else usage.output_tokens,
            cost_usd=cost.usd,
            unpriced_runs=int(cost.usd is None and not record.owes_no_price),
            saved_usd=cost.saved_usd,
            ttft_total_s=ttft or 0.0,
            ttft_runs=int(ttft is not None),
            itl_total_s=(reading.itl_mean_s or 0.0) * steps,
            itl_steps=steps,
            uncertainty=Uncertainty.of(cost),
            unpriced_hits=int(cost.saved_usd is None and record.status == "cached"),
            saved_uncertainty=Uncertainty.of_saved(cost),
            refused_runs=int(refused),
        )

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.runs + other.runs,
            self._with(other, self.input_tokens, other.input_tokens),
            self._with(other, self.output_tokens, other.output_tokens),
            known_sum(self.cost_usd, other.cost_usd),
            self.unpriced_runs + other.unpriced_runs,
            known_sum(self.saved_usd, other.saved_usd),
            self.ttft_total_s + other.ttft_total_s,
            self.ttft_runs + other.ttft_runs,
            self.itl_total_s + other.itl_total_s,
            self.itl_steps + other.itl_steps,
            self.uncertainty + other.uncertainty,
            self.unpriced_hits + other.unpriced_hits,
            self.saved_uncertainty + other.saved_uncertainty,
            self.refused_runs + other.refused_runs,
        )

    def _with(self, other: Sum, mine: int | None, its: int | None) -> int | None:
        """Two sums of tokens; what no run is in that was let in adds nothing, and says nothing of the other."""
        if mine is None:
            return its if other.runs > other.refused_runs else None
        if its is None:
            return mine if self.runs > self.refused_runs else None
        return mine + its


NO_RUNS = Sum()


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of the same tags, model name and status, added up. ``latency_s`` is their mean; None: not known."""

    tags: tuple[str, ...]
    model: str
    status: Status
    sum: Sum
    latency_s: float | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class EnergySum:
    """The energy of those runs of a group that have one, and what they generated; the others are in no figure.

    ``counted_joules`` are those of the runs that are known to have generated something: ``output_tokens`` in all.
    """

    runs: int = 0
    joules: float = 0.0
    counted_joules: float = 0.0
    output_tokens: int = 0
    uncertainty: Uncertainty = CERTAIN

    @property
    def precision(self) -> Precision:
        """Whether the joules are only an estimate, and what they bound."""
        return self.uncertainty.precision(0)

    @property
    def per_output_token_j(self) -> float | None:
        """Joules an output token, prefill included."""
        return self.counted_joules / self.output_tokens if self.output_tokens else None

    @classmethod
    def of(cls, records: Iterable[RunRecord]) -> EnergySum:
        """Add runs up that are at hand."""
        return sum(map(cls._of, records), cls())

    @classmethod
    def _of(cls, record: RunRecord) -> EnergySum:
        joules, output_tokens, bound = record.energy_j, record.reading.usage.output_tokens, record.energy_bound
        if joules is None:
            return cls()
        estimated = record.energy_source == "estimated"
        unsure = Uncertainty(int(estimated), int(bound == "at_least"), int(bound == "at_most"))
        return cls(1, joules, joules if output_tokens else 0.0, output_tokens or 0, unsure)

    def __add__(self, other: EnergySum) -> EnergySum:
        return EnergySum(
            self.runs + other.runs,
            self.joules + other.joules,
            self.counted_joules + other.counted_joules,
            self.output_tokens + other.output_tokens,
            self.uncertainty + other.uncertainty,
        )


class PastRun(NamedTuple):
    """What a forecast needs of a complete run, or of one that a cache replayed. Unknown is None."""

    model_id: str
    input_tokens: int | None
    output_tokens: int | None
    device_s: float | None
    source_sha256: str | None
    """A digest of the cell's text as it ran."""
    execution: str | None = None
    """Of the cell, in which it ran: one may run many."""
    cost_usd: Decimal | None = None
    """What it cost then."""
    replayed: bool = False
    cut_short: bool = False
    """Whether another run of its execution was interrupted, so that the execution tells no whole cost."""
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None


Histories = dict[str, list[PastRun]]
"""The runs of each cell, by its id, the newest first."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What the answer cache holds and what it was good for: ``hits`` adds up all replays in the ledger."""

    answers: int = 0
    size_bytes: int = 0
    hits: Sum = Sum()
