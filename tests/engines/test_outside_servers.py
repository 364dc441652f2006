"""Each thing that can be asked, of each real server: our row is what the tokenizer counts and what the server did.

Where it cannot be, the row carries its mark. llama.cpp's server itself counts what it does (``/metrics``).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.peers.servers import PRICES_USD, Peer
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session
from tokmagic.tokens.tokenizer import Tokenizer

pytestmark = [pytest.mark.outside, pytest.mark.model]

ASK = Prompt((Message("user", "Name three colours."),), Sampling(max_tokens=6, temperature=0.0))
LONG = (Message("user", "Write a long story about the sea."),)
"""Its answers do not end by themselves soon."""
RATES = Rates(
    input=Decimal(str(PRICES_USD["input_cost_per_token"])) * 10**6,
    output=Decimal(str(PRICES_USD["output_cost_per_token"])) * 10**6,
    cached=Decimal(str(PRICES_USD["cache_read_input_token_cost"])) * 10**6,
    source="%price",
)
"""LiteLLM's, so that its cost is ours."""
SCHEMA = '{"type": "object", "properties": {"red": {"type": "integer"}}, "required": ["red"]}'


def ask(*, stream: bool = True, **changed: Any) -> Prompt:
    return replace(ASK, sampling=replace(ASK.sampling, **changed), stream=stream)


CASES = {
    "plain": ask(stream=False),
    "streamed": ask(),
    "n": replace(ask(n=3, temperature=0.3), messages=LONG),
    "n, plain": replace(ask(n=3, temperature=0.3, stream=False), messages=LONG),
    "stop": ask(stop=(":",)),
    "stop, plain": ask(stop=(":",), stream=False),
    "schema": ask(json_schema=SCHEMA, max_tokens=60),
    "schema, cut": ask(json_schema=SCHEMA),
    "logprobs": ask(logprobs=True),
    "logprobs, plain": ask(logprobs=True, stream=False),
    "seed": replace(ask(temperature=0.8, seed=7), messages=LONG),
    "repeated": ask(),
}


@dataclass(frozen=True)
class At:
    """A server: the fixture that runs it, what ``--server`` calls it, its model where that is not the peer's."""

    fixture: str
    kind: str | None
    model: str | None = None
    caches: bool = True
    """Whether it says what it took from its cache."""


SERVERS = {
    "llama.cpp": At("llama_cpp", "llama.cpp"),
    "LiteLLM": At("litellm_proxy", "litellm", "priced"),
    "mlx-lm": At("mlx_server", "mlx"),
    "mlx-lm, unnamed": At("mlx_server", None),
    "transformers": At("transformers_serve", "transformers", caches=False),
    "transformers, unnamed": At("transformers_serve", None, caches=False),
}


@dataclass(frozen=True)
class Row:
    """What a row says. ``own``: whether the tokenizer counts the same output by the answer's text.

    ``output`` is None where it depends on the processor's arithmetic: then the server alone tells. ``reason`` is None
    where it depends on which answer is ready first.
    """

    output: int | None = 6
    reason: str | None = "length"
    own: bool = True
    logprobs: int = 0
    source: str = "reported"
    anomalies: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    open_end: bool = False
    """Whether more may be billed than that."""


EXPECTED = {
    **dict.fromkeys(CASES, Row()),
    "n": Row(18, own=False),
    "n, plain": Row(18, own=False),
    "stop": Row(4, "stop"),
    "stop, plain": Row(4, "stop"),
    "schema": Row(None, "stop", own=False),
    "schema, cut": Row(own=False),
    "seed": Row(own=False),
    "logprobs": Row(logprobs=6),
    "logprobs, plain": Row(logprobs=6),
}
ONE_OF_THREE = "the server reports 6 output tokens for 1 of 3 answers"
FEWER = "the server reports 6 output tokens for 3 answers of at least 18"
OTHER_COST = "the server reports a cost of"
NO_SCHEMA = Row(ignored=("--json-schema",))
MARKED = {
    ("llama.cpp", "n, plain"): Row(18, own=False, source="estimated", anomalies=(ONE_OF_THREE,)),
    ("LiteLLM", "n, plain"): Row(18, own=False, source="estimated", anomalies=(ONE_OF_THREE, OTHER_COST)),
    # Of the first answer that is ready it tells the end, of the others none.
    ("LiteLLM", "n"): Row(18, None, own=False, source="estimated", anomalies=(FEWER, OTHER_COST)),
    ("mlx-lm", "logprobs"): Row(ignored=("--logprobs",)),
    ("mlx-lm, unnamed", "n"): Row(ignored=("-n",)),
    ("mlx-lm, unnamed", "n, plain"): Row(ignored=("-n",)),
    ("mlx-lm, unnamed", "schema, cut"): NO_SCHEMA,
    # It sends no [DONE], so that a stream of fewer answers may have been cut off.
    ("transformers, unnamed", "n"): Row(ignored=("-n",), open_end=True),
    ("transformers, unnamed", "n, plain"): Row(ignored=("-n",)),
    ("transformers, unnamed", "schema, cut"): NO_SCHEMA,
    ("transformers, unnamed", "logprobs"): Row(ignored=("--logprobs",)),
}
"""Where a server does not what it was asked for, or does not count what it did, and how the row says so."""
_IGNORED = dict.fromkeys(("n", "n, plain"), "-n") | dict.fromkeys(("schema", "schema, cut"), "--json-schema")
REFUSED = {
    "mlx-lm": _IGNORED,
    "transformers": _IGNORED | dict.fromkeys(("logprobs", "logprobs, plain"), "--logprobs"),
}
"""What is not asked of a server that is known to ignore it."""


def asked() -> list[tuple[str, str]]:
    """Servers whose kind was not named differ in what they ignore, and are asked for that alone."""
    pairs = [(server, case) for server in SERVERS for case in CASES]
    return [(server, case) for server, case in pairs if "unnamed" not in server or (server, case) in MARKED]


Run = Callable[..., Generation]


@pytest.fixture(scope="module")
def session(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    ledger = tmp_path_factory.mktemp("servers") / "ledger.sqlite"
    session = Session(TokMagic(home=str(model_home), ledger=f"sqlite:///{ledger}", cache=False))
    yield session
    session.close()


@pytest.fixture(scope="module")
def tokenizer(smollm_folder: Path) -> Tokenizer:
    return Tokenizer(smollm_folder)


@pytest.fixture
def run(request: pytest.FixtureRequest, session: Session, server: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    at = SERVERS[server]
    peer: Peer = request.getfixturevalue(at.fixture)
    monkeypatch.setenv("PEER_KEY", peer.key or "none")
    spec = ModelSpec(at.model or peer.model, api_base=peer.base_url, api_key_name="PEER_KEY", tokenizer="smollm2")
    if server not in dict(session.models):
        session.models.add(server, replace(spec, server=at.kind))
        session.prices.set(server, RATES)

    def generate(prompt: Prompt, **options: Any) -> Generation:
        generation = session.generate(prompt, server, **options)
        row = next(row for row in session.ledger().runs() if row.run_id == generation.run_id)
        assert (row.reading.usage, row.reading.cost) == (generation.usage, generation.cost)
        assert (row.status, row.env) == (generation.status, generation.record.env)
        return generation

    return generate


@dataclass(frozen=True)
class Work:
    """What llama.cpp's server did so far, in tokens."""

    read: int
    cached: int
    generated: int

    @classmethod
    def of(cls, peer: Peer) -> Work:
        said = httpx2.get(f"{peer.base_url.removesuffix('/v1')}/metrics", trust_env=False).text
        counters = dict(re.findall(r"^llamacpp:(\w+) (\d+)$", said, re.MULTILINE))
        return cls(
            *(int(counters[f"{it}_total"]) for it in ("prompt_tokens", "prompt_tokens_cached", "tokens_predicted"))
        )

    def __sub__(self, before: Work) -> Work:
        return Work(self.read - before.read, self.cached - before.cached, self.generated - before.generated)


@pytest.mark.parametrize(("server", "case"), asked())
def test_a_row_is_the_servers_work_and_the_tokenizers_count_or_marked(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, run: Run, server: str, case: str
) -> None:
    if case in REFUSED.get(server, {}):
        generation = run(CASES[case])
        assert generation.status == "refused"
        assert f"ignores {REFUSED[server][case]}" in str(generation.error)
        return
    model = request.getfixturevalue("llama_cpp") if server in ("llama.cpp", "LiteLLM") else None
    expected = MARKED.get((server, case), EXPECTED[case])
    texts = []
    for _ in range(2 if case in ("seed", "repeated") else 1):
        before = Work.of(model) if model is not None else None
        generation = run(CASES[case])
        if model is not None and before is not None:
            usage = generation.usage
            work = Work.of(model) - before
            assert (work.read + work.cached, work.cached) == (usage.input_tokens, usage.cached_input_tokens)
            assert work.generated == usage.output_tokens
        check(tokenizer, generation, expected, SERVERS[server])
        texts.append(generation.text)
    assert len(set(texts)) == 1
    if case == "repeated":
        usage = generation.usage
        assert usage.cached_input_tokens == ((usage.input_tokens or 0) - 1 if SERVERS[server].caches else None)
    if server == "LiteLLM":
        told = Decimal(generation.record.env["reported_cost_usd"])
        assert (told == pytest.approx(generation.cost.usd)) is (OTHER_COST not in expected.anomalies)


def check(tokenizer: Tokenizer, generation: Generation, expected: Row, at: At) -> None:
    usage, cost, env = generation.usage, generation.cost, generation.record.env
    sampling = generation.prompt.sampling
    assert (generation.status, generation.error) == ("ok", None)
    assert expected.reason in (generation.finish_reason, None)
    own_input = len(tokenizer.encode(generation.prompt))
    assert (usage.input_tokens, usage.input_source) == (own_input, "reported")
    # The form in which a schema may be a part of the prompt is not known.
    assert generation.record.local_input_tokens == (own_input if sampling.json_schema is None else None)
    assert usage.output_source == expected.source
    assert expected.output is None or usage.output_tokens == expected.output
    assert 0 < (generation.reading.ttft_s or 0) <= (generation.reading.latency_s or 0)
    if expected.own:
        stop = sampling.stop[0] if sampling.stop else ""
        assert tokenizer.count_text(generation.text + stop) == usage.output_tokens
    assert sum(len(choice.logprobs) for choice in generation.choices) == expected.logprobs
    assert env.get("ignored_options") == (list(expected.ignored) or None)
    said = str(cost.anomaly).split("; ") if cost.anomaly else []
    assert len(said) == len(expected.anomalies)
    assert all(one.startswith(odd) for one, odd in zip(said, expected.anomalies, strict=True))
    below, above = not at.caches, expected.open_end
    assert (usage.cached_input_tokens is None) is below
    assert cost.bound == ("exact" if below == above else "at_most" if below else "at_least")
    assert cost.source == ("estimated" if below and above else expected.source)


class Interrupt:
    """Ctrl-C at the third piece."""

    def __init__(self) -> None:
        self.seen = 0

    def token(self, _text: str) -> None:
        self.seen += 1
        if self.seen == 3:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("server", [name for name in SERVERS if "unnamed" not in name])
def test_an_interrupt_stops_the_server_and_is_marked(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, run: Run, server: str
) -> None:
    at = SERVERS[server]
    model: Peer = request.getfixturevalue("llama_cpp" if server == "LiteLLM" else at.fixture)
    counts_work = model.name == "llama.cpp"
    before = Work.of(model) if counts_work else None
    generation = run(ask(max_tokens=400), watcher=Interrupt())
    assert stops(model), "it went on"
    usage, cost = generation.usage, generation.cost
    assert (generation.status, generation.finish_reason) == ("interrupted", "interrupted")
    assert (usage.input_tokens, usage.input_source) == (len(tokenizer.encode(ASK)), "counted")
    assert usage.output_tokens == tokenizer.count_text(generation.text) > 0
    # What was cached is not known, nor what was generated and not sent.
    assert (usage.output_source, cost.source) == ("estimated", "estimated")
    if before is not None:
        assert usage.output_tokens <= (Work.of(model) - before).generated < 100
    assert run(ASK).status == "ok"


def stops(peer: Peer) -> bool:
    """Whether a server soon takes no more of the processor."""
    process, deadline = psutil.Process(peer.pid), time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.cpu_percent(0.3) < 20:
            return True
    return False


@pytest.mark.parametrize(
    ("server", "case"), [("llama.cpp", "plain"), ("llama.cpp", "streamed"), ("LiteLLM", "plain"), ("mlx-lm", "plain")]
)
def test_a_servers_own_times_are_reported_and_within_ours(run: Run, server: str, case: str) -> None:
    generation = run(CASES[case])
    told, reading = generation.record.env.get("server_times", {}), generation.reading
    if server == "mlx-lm":  # it tells none
        assert (told, reading.itl_mean_s) == ({}, None)
        return
    assert told.keys() == {"prefill_s", "itl_mean_s"}
    assert 0 < told["prefill_s"] + 5 * told["itl_mean_s"] < (reading.latency_s or 0) + 0.001
    assert reading.itl_mean_s is not None
    if case == "plain":
        assert reading.itl_mean_s == told["itl_mean_s"]
