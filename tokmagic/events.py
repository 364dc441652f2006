"""The vocabulary: what goes into an engine, what comes out of it, and what is kept of a run.

Everything here is an immutable value. Times ending in ``_ns`` are readings of
``time.perf_counter_ns`` taken where the thing happened; they are comparable within one process only.
Wall-clock times are UTC and are used for the ledger's timestamps alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
Source = Literal["measured", "reported", "counted", "estimated", "unknown"]
"""Where a count or a cost came from; see docs/metrics.md, "Provenance"."""
Bound = Literal["exact", "at_least", "at_most"]
Status = Literal["running", "ok", "cached", "interrupted", "failed", "refused"]
FinishReason = Literal["stop", "length", "content_filter", "other", "interrupted", "error", "budget"]
Scope = Literal["cell", "notebook", "day", "month"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the answer is drawn. ``None`` leaves a value to the model's own generation config.

    ``json_schema`` is a JSON schema, as JSON text, that the answer has to fit. With ``logprobs`` the answer comes with
    each token's log probability.
    """

    max_tokens: int = 256
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    json_schema: str | None = None
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, independent of any model's chat template.

    With ``completion`` the single message's content is fed as it stands, without a chat template. ``stream`` False asks
    a server for the whole answer at once.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    completion: bool = False
    stream: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of a run. Cached, cache-write and reasoning tokens are subsets of the totals.

    ``None`` is unknown, never zero.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_source: Source = "unknown"
    output_source: Source = "unknown"


@dataclass(frozen=True, slots=True)
class Started:
    """The engine took the request.

    ``submitted_ns`` is t0, before tokenisation and queueing. ``prefill_ns`` is the start of the
    prefill where the engine knows it, else ``None``; queue time is the difference.
    """

    submitted_ns: int
    usage: Usage
    prefill_ns: int | None = None


class Logprob(NamedTuple):
    """A token's text, as far as it has one of its own, and the natural logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer, stamped where it was produced.

    With an ``id`` it is exactly one output token of choice ``choice`` and ``text`` is what became
    certain with it: often empty, since a character may span several tokens. Without an ``id`` it is
    a network piece that carries an unknown number of tokens; ``usage`` then says how the counts stand after it.
    ``reasoning`` is text that is generated, but is not the answer's. ``logprobs`` are those of the tokens that it
    carries, where they were asked for.
    """

    at_ns: int
    text: str
    id: int | None = None
    choice: int = 0
    reasoning: str = ""
    usage: Usage | None = None
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The stream ended; nothing comes after it.

    ``reasons`` holds one finish reason for each choice. ``tails`` holds, for each choice, text that
    was held back until the end. ``device_s`` is the run's share of the device's busy time. ``error`` says why the
    answer is not whole, or not there. ``cut``: a server may have gone on after the last thing that was heard of it, so
    it may bill more than was counted. ``local_input_tokens`` is this process' own count of what a server counted, and
    ``anomaly`` what is wrong with the server's.
    """

    at_ns: int
    reasons: tuple[FinishReason, ...]
    usage: Usage
    tails: tuple[str, ...] = ()
    device_s: float | None = None
    peak_bytes: int | None = None
    attempts: int = 1
    error: str | None = None
    cut: bool = False
    anomaly: str | None = None
    local_input_tokens: int | None = None


Event = Started | Token | Finished


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates that replace the base ones for a whole run whose input has more than ``above_tokens`` tokens."""

    above_tokens: int
    input: Decimal
    output: Decimal
    cached: Decimal | None = None
    cache_write: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices frozen into a run: USD per 1,000,000 tokens, USD per hour for the device.

    ``source`` and ``version`` say where they came from. ``shadow`` are the rates of the hosted model named
    ``shadow_model``, for what the same tokens would cost there.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    device_hour: Decimal | None = None
    source: str = "unknown"
    version: str | None = None
    tiers: tuple[Tier, ...] = ()
    shadow_model: str | None = None
    shadow: Rates | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run costs, in USD. ``usd`` is the bill; the other figures stand beside it, never added.

    Of a replay ``source`` and ``bound`` are those of ``saved_usd``: that it costs 0 is sure.
    """

    usd: Decimal | None = None
    source: Source = "unknown"
    bound: Bound = "exact"
    token_usd: Decimal | None = None
    compute_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    anomaly: str | None = None
    shadow_usd: Decimal | None = None


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


@dataclass(frozen=True, slots=True)
class Doubt:
    """Of how many priced runs the cost, or what they saved, is estimated, or a bound; and what follows for the sum."""

    estimated_runs: int = 0
    at_least_runs: int = 0
    at_most_runs: int = 0

    @classmethod
    def of(cls, cost: Cost) -> Doubt:
        """The doubt about one cost; none about an unknown one, which is in no sum, nor about a replay's."""
        return cls() if cost.usd is None or cost.saved_usd is not None else cls._of(cost)

    @classmethod
    def of_saved(cls, cost: Cost) -> Doubt:
        """The doubt about what a replay saved."""
        return cls() if cost.saved_usd is None else cls._of(cost)

    @classmethod
    def _of(cls, cost: Cost) -> Doubt:
        return cls(int(cost.source == "estimated"), int(cost.bound == "at_least"), int(cost.bound == "at_most"))

    def __add__(self, other: Doubt) -> Doubt:
        return Doubt(
            self.estimated_runs + other.estimated_runs,
            self.at_least_runs + other.at_least_runs,
            self.at_most_runs + other.at_most_runs,
        )

    def marks(self, unpriced_runs: int) -> tuple[bool, Bound]:
        """Whether a sum is only an estimate, and what it bounds (docs/metrics.md, "Sums").

        What has no price is missing from the sum, so that the whole is at least it. Where some costs are lower bounds
        and others upper ones, the sum may lie on either side of the whole: it is an estimate and bounds nothing.
        """
        lower, upper = unpriced_runs + self.at_least_runs > 0, self.at_most_runs > 0
        bound: Bound = "exact" if lower == upper else "at_least" if lower else "at_most"
        return self.estimated_runs > 0 or (lower and upper), bound


NO_DOUBT = Doubt()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over finished runs. ``cost_usd`` is None where no run has a price."""

    cost_usd: Decimal | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    runs: int = 0
    unpriced_runs: int = 0
    doubt: Doubt = NO_DOUBT

    @property
    def marks(self) -> tuple[bool, Bound]:
        """Whether ``cost_usd`` is only an estimate, and what it bounds."""
        return self.doubt.marks(self.unpriced_runs)


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What the answer cache holds and what it was good for, over all notebooks of the ledger.

    ``saved_usd`` is None where no hit has a price; ``unpriced_hits`` are in no sum.
    """

    answers: int = 0
    size_bytes: int = 0
    hits: int = 0
    saved_usd: Decimal | None = None
    unpriced_hits: int = 0
    doubt: Doubt = NO_DOUBT

    @property
    def marks(self) -> tuple[bool, Bound]:
        """Whether ``saved_usd`` is only an estimate, and what it bounds."""
        return self.doubt.marks(self.unpriced_hits)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs are meant; what is None does not select. ``until`` is the first instant that does not belong.

    Of several ``tags`` a run must have all.
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


@dataclass(frozen=True, slots=True)
class Sum:
    """Sums over ended runs of one group.

    ``cost_usd`` is None where none has a price, ``saved_usd`` where no cache hit has one. Refused runs count as runs,
    but neither as priced nor as unpriced. Cache hits are left out of the latencies; ``unpriced_hits`` saved what is not
    known.
    """

    runs: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    unpriced_runs: int = 0
    saved_usd: Decimal | None = None
    ttft_total_s: float = 0.0
    ttft_runs: int = 0
    itl_total_s: float = 0.0
    itl_steps: int = 0
    doubt: Doubt = NO_DOUBT
    unpriced_hits: int = 0
    saved_doubt: Doubt = NO_DOUBT

    @property
    def marks(self) -> tuple[bool, Bound]:
        """Whether ``cost_usd`` is only an estimate, and what it bounds."""
        return self.doubt.marks(self.unpriced_runs)

    @property
    def saved_marks(self) -> tuple[bool, Bound]:
        """The same of ``saved_usd``."""
        return self.saved_doubt.marks(self.unpriced_hits)

    @property
    def ttft_s(self) -> float | None:
        """The mean TTFT of the runs that have one."""
        return self.ttft_total_s / self.ttft_runs if self.ttft_runs else None

    @property
    def itl_mean_s(self) -> float | None:
        """Seconds a token, over all tokens after the first of each run: each run weighs as much as it generated."""
        return self.itl_total_s / self.itl_steps if self.itl_steps else None

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.runs + other.runs,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            _known_sum(self.cost_usd, other.cost_usd),
            self.unpriced_runs + other.unpriced_runs,
            _known_sum(self.saved_usd, other.saved_usd),
            self.ttft_total_s + other.ttft_total_s,
            self.ttft_runs + other.ttft_runs,
            self.itl_total_s + other.itl_total_s,
            self.itl_steps + other.itl_steps,
            self.doubt + other.doubt,
            self.unpriced_hits + other.unpriced_hits,
            self.saved_doubt + other.saved_doubt,
        )


def _known_sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    if one is None or other is None:
        return other if one is None else one
    # As many digits as both need: sums of money are exact, however many runs there are.
    with localcontext(prec=60):
        return one + other


@dataclass(frozen=True, slots=True)
class Budget:
    """A cap on what runs may cost. Of USD and tokens either may be None: no cap of that kind.

    ``cell`` bounds each single run (its ``tokens``: the prompt's, above which a person is asked); the other scopes
    bound the sum over a notebook, or over a user's local day or month. ``warn_at`` is a share of the cap. With
    ``strict`` a run whose price is unknown is refused. ``user`` None means each user by himself; ``notebook`` is set
    for the scopes cell and notebook.
    """

    scope: Scope
    usd: Decimal | None = None
    tokens: int | None = None
    warn_at: float = 0.8
    strict: bool = False
    notebook: str | None = None
    user: str | None = None
    origin: str = "%budget"


_OTHER_WAY: dict[Bound, Bound] = {"exact": "exact", "at_least": "at_most", "at_most": "at_least"}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands: what ended runs have used and what running ones hold."""

    budget: Budget
    spent_usd: Decimal = Decimal(0)
    held_usd: Decimal = Decimal(0)
    spent_tokens: int = 0
    held_tokens: int = 0
    unpriced_runs: int = 0
    """Ended runs whose price is not known: they are in no sum of USD."""
    doubt: Doubt = NO_DOUBT
    """How sure ``spent_usd`` is; none where it was not asked for, since it takes longer than all the others."""

    @property
    def marks(self) -> tuple[bool, Bound]:
        """Whether ``spent_usd`` is only an estimate, and what it bounds."""
        return self.doubt.marks(self.unpriced_runs)

    @property
    def available_marks(self) -> tuple[bool, Bound]:
        """The same of ``available_usd``: where more may have been spent, less is left."""
        estimated, bound = self.marks
        return estimated, _OTHER_WAY[bound]

    @property
    def available_usd(self) -> Decimal | None:
        """Cap − spent − live holds; None without a cap. Below 0 where a cap was lowered."""
        return None if self.budget.usd is None else self.budget.usd - self.spent_usd - self.held_usd

    @property
    def available_tokens(self) -> int | None:
        """The same in tokens."""
        return None if self.budget.tokens is None else self.budget.tokens - self.spent_tokens - self.held_tokens

    @property
    def share(self) -> float:
        """The larger of the used shares of both caps, holds included; 1 is all of it."""
        used = self.spent_usd + self.held_usd
        shares = [float(used / self.budget.usd)] if self.budget.usd else []
        if self.budget.tokens:
            shares.append((self.spent_tokens + self.held_tokens) / self.budget.tokens)
        return max(shares, default=0.0)


@dataclass(frozen=True, slots=True)
class Hold:
    """The most that a run can use: set aside before it starts. ``usd`` None: its price is not known.

    ``estimated``: not a bound, so the run is watched while it streams.
    """

    tokens: int
    usd: Decimal | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a run may start. ``refused`` says why not, in one line; ``standings`` are after its hold."""

    refused: str | None = None
    standings: tuple[Standing, ...] = ()
