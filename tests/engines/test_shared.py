"""Models at a shared engine, against a real gateway: what is learnt of them, counted, billed, refused, and told."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.gateways import RATES, WORDS, Held, Served, scripted, serving
from tests.serve.test_money import TwoAnswers
from tokmagic.bench.load import Load, Request
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates, Tier
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Event, Finished, Source, Started, Token, Usage
from tokmagic.engines.base import Progress, Shared
from tokmagic.engines.endpoint import shared
from tokmagic.engines.registry import shared_spec
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream
from tokmagic.errors import BudgetError, EndpointError, ModelError, UsageError
from tokmagic.health import doctor
from tokmagic.health.devices import Probe
from tokmagic.runs import request
from tokmagic.runs.energy import Energy
from tokmagic.runs.generation import Generation
from tokmagic.runs.run import Run
from tokmagic.runs.session import Session
from tokmagic.serve.gateway import Bounds
from tokmagic.tokens.tokenizer import Tokenizer

ASK = Prompt((Message("system", "Be brief."), Message("user", "Count to five.")))
KEY = "TOKMAGIC_ENGINE_KEY"
Make = Callable[..., Session]


@pytest.fixture
def at(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    """A session, with a ledger of its own, whose models are at a gateway."""

    def made(served: Served, **given: Any) -> Session:
        monkeypatch.setenv(KEY, served.secret)
        return make_session(**{"model": "tiny", "engine_url": served.url, "attempts": 2, **given})

    return made


def elsewhere(folder: Path, *engines: Any, **given: Any) -> AbstractContextManager[Served]:
    """A gateway whose ledger is another than the sessions'."""
    there = folder / "there"
    there.mkdir(parents=True)
    return serving(there, *engines, **given)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


# Which models are there


def test_with_the_setting_models_that_nobody_added_are_there(served: Served, at: Callable[..., Session]) -> None:
    session = at(served)
    assert session.models.current == "tiny"
    assert session.generate(ASK).text == "".join(WORDS)
    assert session.generate(ASK).record.info.server == served.url
    specs = {name: spec.shared for name, spec in session.models}
    assert specs == {"smollm2": True, "tiny": True}
    # Of this machine alone are what it has in files, what plays back, and what was added with a spec of its own.
    session.models.add("mine", replace(session.models.spec("scripted")))
    for name in ("scripted", "mine", "./folder", "/models/a.gguf"):
        assert not session.models.spec(name).shared
    assert session.models.spec("owner/name").source == "owner/name"
    assert session.models.spec("owner/name").shared


def test_the_setting_is_followed_while_the_kernel_runs(served: Served, at: Callable[..., Session]) -> None:
    session = at(served, model="smollm2")
    assert session.models.spec("smollm2").shared
    session.models.use("tiny")
    session.settings.engine_url = ""
    assert not session.models.spec("smollm2").shared
    with pytest.raises(UsageError, match="model 'tiny' is unknown"):
        session.models.spec("tiny")
    session.settings.engine_url = f"{served.url}/v1/"
    assert session.generate(ASK, "tiny").status == "ok"


def test_a_model_is_added_with_the_url(served: Served, make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    monkeypatch.setenv("ANOTHER_KEY", served.secret)
    session.models.add("far", shared_spec("tiny", served.url, "ANOTHER_KEY"))
    assert session.generate(ASK, "far").text == "".join(WORDS)
    assert not session.models.spec("smollm2").shared


@pytest.mark.parametrize("url", ["given", "ftp://host", "http://", "http://me:hunter@host"])
def test_a_url_that_is_none_is_refused_at_once(url: str, make_session: Make) -> None:
    with pytest.raises(UsageError, match=r"^TOKMAGIC_ENGINE_URL") as told:
        make_session(engine_url=url).generate(ASK)
    assert "hunter" not in str(told.value)
    with pytest.raises(UsageError, match=r"^--engine"):
        make_session().models.add("m", shared_spec("tiny", url))


# What is learnt


def test_loading_learns_how_the_model_runs(served: Served, at: Callable[..., Session]) -> None:
    session = at(served)
    engine = session.models.engine("tiny")
    assert isinstance(engine, Shared)
    assert (engine.state, engine.rates, engine.identity()) == ("unloaded", None, None)
    session.load("tiny")
    found: tuple[Any, Any] = engine.state, engine.rates
    assert found == ("ready", replace(RATES, source="shared engine: test"))
    assert engine.info == EngineInfo("tiny", "scripted", "endpoint", device="none", server=served.url)
    assert session.loaded_s() == {}  # the server keeps it loaded, for others as well
    session.models.unload("tiny")
    found = engine.state, engine.rates
    assert found == ("unloaded", None)


def test_the_doctor_asks_whether_it_is_there(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(model: str = "tiny", url: str = served.url, secret: str = served.secret) -> tuple[bool, str]:
        monkeypatch.setenv(KEY, secret)
        settings = TokMagic(home=str(tmp_path), model=model, engine_url=url)
        diagnosis = doctor(settings, Probe(problem="libcudnn.so.9 is missing"))
        (finding,) = [it for it in diagnosis.findings if it.name == "model"]
        return diagnosis.can_generate, finding.message

    assert found() == (True, f"tiny, at {served.url}")
    assert found(model="tinny") == (False, f"tinny is not served at {served.url}; known: tiny")
    wrong, told = found(secret="tm-wrong")
    assert (wrong, "refuses the key" in told) == (False, True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    away, told = found(url=url)
    assert (away, "cannot be reached" in told) == (False, True)


def test_what_is_served_and_who_uses_it_is_told(tmp_path: Path, at: Callable[..., Session]) -> None:
    slow = scripted(pace=1.0, ttft_s=30.0)
    with elsewhere(tmp_path, slow, scripted("other")) as served:
        session = at(served)
        engine = session.load("tiny")
        thread = threading.Thread(target=session.generate, args=[ASK])
        thread.start()
        try:
            assert isinstance(engine, Shared)
            _until(lambda: served.gateway.users("tiny"))
            told = {it.name: (it.state, it.users) for it in engine.served()}
            assert told == {"tiny": ("ready", {"ada": 1}), "other": ("ready", {})}
            model = served.get("/v1/models/tiny").json()["tokmagic"]
            assert model["users"] == {"ada": 1}
            assert model["rates"] == {"input": "1", "output": "2", "source": "test"}
            assert served.secret not in json.dumps(model)
        finally:
            _until(lambda: session.changes().rows)
            session.stop(session.changes().rows[-1].run_id)
            thread.join(60)
        _until(lambda: not served.gateway.users("tiny"))


def _until(look: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not look():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "tm-wrong"}, r"refuses the key .*revoked; .*\); check TOKMAGIC_ENGINE_KEY"),
        ({"key": None}, "TOKMAGIC_ENGINE_KEY is not set; put the key for tiny there"),
        ({"model": "tinny"}, "model 'tinny' is not served here; known: tiny"),
        ({"path": "/elsewhere"}, "is no shared engine .*; give the URL of tokmagic serve, check --engine or TOKMAGIC"),
        (
            {"port": "closed"},
            "cannot be reached: nothing listens there; start it with tokmagic serve, or check --engine",
        ),
    ],
    ids=lambda it: next(iter(it)) if isinstance(it, dict) else "",
)
def test_what_hinders_is_one_line(
    served: Served,
    make_session: Make,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str | None],
    words: str,
) -> None:
    secret = change.get("key", served.secret)
    monkeypatch.setenv(KEY, secret) if secret else monkeypatch.delenv(KEY, raising=False)
    url = served.url + str(change.get("path", ""))
    if "port" in change:
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
    name = str(change.get("model", "tiny"))
    session = make_session(model=name, engine_url=url)
    with pytest.raises((ModelError, UsageError), match=words) as told:
        session.generate(ASK)
    assert "\n" not in str(told.value)
    assert served.secret not in str(told.value)
    assert session.ledger().runs() == []


def test_a_server_that_says_nothing_is_waited_for_so_long_and_no_longer(
    make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "tm-any")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        session = make_session(model="tiny", engine_url=url, first_token_timeout_s=0.2, connect_timeout_s=0.1)
        with pytest.raises(EndpointError, match=r"did not answer within 0\.2 s"):
            session.generate(ASK)


@pytest.mark.parametrize("body", ["[]", "{}", '{"tokmagic": 5}', "<html>", '{"tokmagic": {"rates": {"input": "x"}}}'])
def test_another_server_is_no_shared_engine(body: str, make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers import serve

    monkeypatch.setenv(KEY, "tm-any")
    with serve(lambda _asked, wire: wire.answer(200, body)) as other:
        session = make_session(model="tiny", engine_url=other.url.removesuffix("/v1"), attempts=1)
        if "rates" in body:  # the rest holds, and what is no rate is none
            engine = session.load("tiny")
            assert isinstance(engine, Shared)
            assert engine.rates is None
            return
        with pytest.raises(EndpointError, match=r"is no shared engine|where JSON should be"):
            session.load("tiny")


# Counting


class Tokenizing(ScriptedEngine):
    """A scripted model that has the default model's tokenizer."""

    def __init__(self, folder: Path) -> None:
        super().__init__("tiny", [Script.of_text(WORDS)])
        self._tokenizer = Tokenizer(folder)

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def count(self, prompt: Prompt) -> int:
        return self._tokenizer.count(prompt)

    @property
    def info(self) -> EngineInfo:
        model_id, sha256 = "HuggingFaceTB/SmolLM2-135M-Instruct", self._tokenizer.sha256
        return replace(super().info, model_id=model_id, context_tokens=8192, tokenizer_sha256=sha256)


PROMPTS = [
    ASK,
    Prompt((Message("user", "Dear 😀\n\n日本"),)),
    Prompt((Message("user", " as it is "),), completion=True),
]


@pytest.mark.model
def test_prompts_are_counted_exactly_by_the_server_or_by_the_same_tokenizer_here(
    tmp_path: Path,
    smollm_folder: Path,
    model_home: Path,
    at: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Tokenizer(smollm_folder)
    with elsewhere(tmp_path, Tokenizing(smollm_folder)) as served:
        session = at(served, home=str(model_home))
        engine = session.load("tiny")
        assert engine.info.context_tokens == 8192
        assert engine.info.tokenizer_sha256 is None
        with monkeypatch.context() as offline:  # what asks at every keystroke asks nobody
            offline.setattr(shared, "ask", None)
            assert engine.estimate(ASK)[1] == "estimated"
        assert [engine.count(prompt) for prompt in PROMPTS] == [own.count(prompt) for prompt in PROMPTS]
        refused = session.generate(ASK, budget="0.0000001")
        assert f"${(own.count(ASK) + 2 * 256) / 1e6:.6f}, more than --budget" in str(refused.error)
        # Once this machine's tokenizer was read, and has the same digest, it counts.
        monkeypatch.setattr(shared, "ask", None)
        assert engine.tokenizer().sha256 == own.sha256 == engine.info.tokenizer_sha256  # type: ignore[attr-defined]
        assert engine.estimate(ASK) == (own.count(ASK), "counted")
        assert [engine.count(prompt) for prompt in PROMPTS] == [own.count(prompt) for prompt in PROMPTS]
        schema = replace(ASK, sampling=Sampling(json_schema='{"type":"object"}'))
        assert engine.count(schema) == own.count(ASK)


@pytest.mark.model
def test_another_tokenizer_here_is_not_used(
    tmp_path: Path, smollm_folder: Path, model_home: Path, at: Callable[..., Session]
) -> None:
    engine = Tokenizing(smollm_folder)
    with elsewhere(tmp_path, engine) as served:
        session = at(served, home=str(model_home))
        digest = engine.tokenizer().sha256
        engine.tokenizer().__dict__["sha256"] = "0" * 64
        with pytest.raises(ModelError, match="the shared engine counts for it"):
            session.models.engine("tiny").tokenizer()  # type: ignore[attr-defined]
        session.models.add("named", shared_spec("tiny", served.url, tokenizer=str(smollm_folder)))
        with pytest.raises(ModelError, match="another tokenizer than that of named at the shared engine; leave out"):
            session.models.engine("named").tokenizer()  # type: ignore[attr-defined]
        engine.tokenizer().__dict__["sha256"] = digest


def test_a_model_without_a_tokenizer_is_bounded_and_runs(served: Served, at: Callable[..., Session]) -> None:
    session = at(served)
    with pytest.raises(ModelError, match="no tokenizer"):
        session.load("tiny").count(ASK)
    assert session.generate(ASK, budget="1").status == "ok"
    assert "~" in repr(request.dry_run(session, ASK, "tiny"))


# Figures


COUNTS = st.integers(0, 100_000)
AMOUNTS = st.integers(0, 10**9).map(lambda pico: Decimal(pico) / 10**6)
SOURCES: st.SearchStrategy[Source] = st.sampled_from(["measured", "counted", "estimated"])


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cached, written, plain = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    output = draw(COUNTS)
    return Usage(
        input_tokens=cached + written + plain,
        output_tokens=output,
        cached_input_tokens=draw(st.sampled_from([cached, None])),
        cache_write_input_tokens=written,
        cache_write_1h_input_tokens=draw(st.one_of(st.none(), st.integers(0, written))),
        reasoning_tokens=draw(st.one_of(st.none(), st.integers(0, output))),
        input_source=draw(SOURCES),
        output_source=draw(SOURCES),
    )


@st.composite
def priced(draw: st.DrawFn) -> Rates:
    """Rates for tokens, for the device, or for both."""
    names = ("input", "output", "cached", "cache_write", "cache_write_1h")
    tokens = {name: draw(AMOUNTS) for name in names}
    device = {"device_hour": draw(AMOUNTS)}
    tiers = (Tier(draw(COUNTS), **{name: draw(AMOUNTS) for name in names}),)
    kind = draw(st.sampled_from(["tokens", "device", "both", "tiers"]))
    chosen: dict[str, dict[str, Any]] = {
        "tokens": tokens,
        "device": device,
        "both": tokens | device,
        "tiers": tokens | {"tiers": tiers},
    }
    return Rates(**chosen[kind], source="drawn")


class Chosen(ScriptedEngine):
    """A model whose counts and device seconds are chosen before each run."""

    def __init__(self) -> None:
        super().__init__("tiny", [Script.of_text(["a", "b"])])
        self.set(Usage.measured(1, 2), 1.0)

    def set(self, usage: Usage, device_s: float) -> None:
        finished = Finished(200, ("stop",), usage, device_s=device_s)
        events = (Started(0, usage, 0), Token(100, "a", 1), Token(200, "b", 2), finished)
        self._scripts = (Script(events),)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usage=usages(), rates=priced(), device_s=st.floats(0, 1e5))
def _bills_alike(session: Session, served: Served, engine: Chosen, usage: Usage, rates: Rates, device_s: float) -> None:
    engine.set(usage, device_s)
    served.gateway.prices.set("tiny", rates)
    generation = session.generate(replace(ASK, stream=random.random() < 0.5))
    record, there = generation.record, served.ended[-1]
    assert record.status == "ok", record.error
    assert record.reading.cost.usd is not None
    assert record.reading.cost.usd == there.reading.cost.usd
    assert record.reading.cost.compute_usd == there.reading.cost.compute_usd
    assert record.reading.cost.bound == there.reading.cost.bound
    assert record.rates == replace(rates, source="shared engine: drawn")
    assert record.reading.device_s == device_s
    counts: dict[str, Any] = {"input_source": "measured", "output_source": "measured"}
    assert replace(record.reading.usage, **counts) == replace(usage, **counts)
    for name, source in (("input_source", usage.input_source), ("output_source", usage.output_source)):
        assert getattr(record.reading.usage, name) == ("reported" if source == "measured" else source)
    # What was estimated there is no surer here.
    expected = {"measured": "reported"}.get(there.reading.cost.source, there.reading.cost.source)
    assert record.reading.cost.source == expected
    assert (record.env["reported_cost_usd"], record.reading.cost.anomaly) == (
        f"{there.reading.cost.usd.normalize():f}",
        None,
    )


def test_the_clients_cost_is_the_servers_to_the_picodollar(tmp_path: Path, at: Callable[..., Session]) -> None:
    engine = Chosen()
    with elsewhere(tmp_path, engine) as served:
        _bills_alike(at(served, cache=False), served, engine)


def test_no_number_of_the_servers_row_is_lost(tmp_path: Path, at: Callable[..., Session]) -> None:
    with elsewhere(tmp_path, scripted(pace=1.0, ttft_s=0.05, itl_s=0.02)) as served:
        session = at(served)
        generation = session.generate(ASK)
    (there,) = served.ended
    here, server = generation.record, generation.record.env["server_times"]
    assert here.env["server_run_id"] == there.run_id
    assert there.client_run_id == here.run_id
    assert (here.info.model_id, here.info.device, here.info.engine) == ("scripted", "none", "endpoint")
    assert here.reading.device_s == there.reading.device_s
    assert (here.reading.usage.input_tokens, here.reading.usage.input_source) == (12, "reported")
    assert (here.reading.usage.output_tokens, here.reading.usage.output_source) == (5, "reported")
    # Times as seen here stay; those that only the server could measure are its own.
    assert server["ttft_s"] == there.reading.ttft_s
    assert here.reading.ttft_s is not None
    assert here.reading.ttft_s > server["ttft_s"]
    assert server["itl_mean_s"] == there.reading.itl_mean_s
    assert here.reading.itl_mean_s != server["itl_mean_s"]
    assert here.reading.itl_p95_s == server["itl_p95_s"] == there.reading.itl_p95_s
    assert 0 <= server["waited_s"] <= server["queue_s"]
    assert here.reading.queue_s == server["queue_s"]


def test_energy_comes_along(tmp_path: Path, at: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    told = Energy(12.5, "measured", "at_most", "nvml")
    with elsewhere(tmp_path) as served:
        session = at(served)
        session.load("tiny")

        def taken(run: Run, _device_s: float | None) -> Energy | None:
            return told if run.record.key else None  # of the server's runs alone

        monkeypatch.setattr(Run, "_taken", taken)
        record = session.generate(ASK).record
    assert (record.energy_j, record.energy_source, record.energy_bound) == (12.5, "reported", "at_most")


def test_rates_of_ones_own_win(served: Served, at: Callable[..., Session]) -> None:
    session = at(served)
    own = Rates(Decimal(100), Decimal(1000), source="%price")
    session.prices.set("tiny", own)
    record = session.generate(ASK).record
    assert record.rates == own
    assert record.reading.cost.usd == Decimal("0.0062")
    assert record.reading.cost.source == "reported"
    assert record.env["reported_cost_usd"] == "0.000022"
    assert record.reading.cost.anomaly is None
    session.prices.reset("tiny")
    assert session.generate(ASK).cost.usd == Decimal("0.000022")


def test_the_hosted_price_beside_it_is_ones_own(served: Served, at: Callable[..., Session]) -> None:
    session = at(served)
    session.prices.shadow("tiny", "openai/gpt-5-mini")
    record = session.generate(ASK).record
    assert record.rates.shadow_model == "openai/gpt-5-mini"
    assert record.reading.cost.shadow_usd is not None
    assert record.reading.cost.usd == Decimal("0.000022")


def test_a_price_that_changes_there_holds_here_from_the_answer_on(tmp_path: Path, at: Callable[..., Session]) -> None:
    with elsewhere(tmp_path) as served:
        session = at(served)
        engine = session.load("tiny")
        served.gateway.prices.set("tiny", Rates(Decimal(10), Decimal(20), source="dearer"))
        assert session.generate(ASK).cost.usd == Decimal("0.00022")
        assert isinstance(engine, Shared)
        assert engine.rates == Rates(Decimal(10), Decimal(20), source="shared engine: dearer")
        assert session.rates(engine.info).input == 10


def test_an_engine_that_was_started_anew_with_another_model_is_asked_again(
    tmp_path: Path, at: Callable[..., Session]
) -> None:
    class Other(ScriptedEngine):
        revision: str | None = None

        @property
        def info(self) -> EngineInfo:
            return replace(super().info, revision=self.revision, dtype="bfloat16", context_tokens=99)

    engine = Other("tiny", [Script.of_text(WORDS)])
    with elsewhere(tmp_path, engine) as served:
        session = at(served, cache=False)
        session.load("tiny")
        engine.revision = "second"
        record = session.generate(ASK).record
        assert (record.info.revision, record.info.dtype) == ("second", "bfloat16")
        assert session.models.engine("tiny").state == "unloaded"
        assert session.generate(ASK).record.info.revision == "second"
        assert session.models.engine("tiny").state == "ready"
        assert session.models.engine("tiny").info.context_tokens == 99


def test_budgets_hold_by_the_servers_rates(served: Served, at: Callable[..., Session]) -> None:
    session = at(served)
    refused = session.generate(ASK, budget="0.0000001")
    assert refused.status == "refused"
    assert "this run may cost up to" in str(refused.error)
    assert [row.status for row in session.ledger().runs()] == ["refused"]
    fits = session.generate(ASK, budget="0.01")
    assert fits.status == "ok"


def test_answers_are_cached_by_the_model_wherever_it_is_served(tmp_path: Path, at: Callable[..., Session]) -> None:
    class Known(ScriptedEngine):
        @property
        def info(self) -> EngineInfo:
            return replace(super().info, revision="abc")

    greedy = replace(ASK, sampling=Sampling(temperature=0.0))
    with elsewhere(tmp_path, Known("tiny", [Script.of_text(WORDS)])) as served:
        session = at(served)
        assert session.generate(greedy).status == "ok"
        again = session.generate(greedy)
        assert (again.status, again.cost.saved_usd) == ("cached", Decimal("0.000022"))
    with elsewhere(tmp_path / "again", Known("tiny", [Script.of_text(WORDS)])) as moved:
        assert at(moved).generate(greedy).status == "cached"


def test_several_answers_are_one_bill(tmp_path: Path, at: Callable[..., Session]) -> None:
    usage = Usage.measured(12, 6)
    pieces: list[Event] = [Token(100 + turn, f"w{turn}", turn, choice=turn % 2) for turn in range(6)]
    events: tuple[Event, ...] = (Started(0, usage, 0), *pieces, Finished(106, ("stop", "length"), usage, device_s=1.0))
    with elsewhere(tmp_path, ScriptedEngine("tiny", [Script(events)])) as served:
        session = at(served)
        generation = session.generate(replace(ASK, sampling=Sampling(n=2, seed=1)))
    assert [choice.text for choice in generation.choices] == ["w0w2w4", "w1w3w5"]
    assert (generation.usage.output_tokens, generation.cost.usd) == (6, Decimal("0.000024"))


def test_options_reach_the_model(tmp_path: Path, at: Callable[..., Session]) -> None:
    sampling = Sampling(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=1.1, seed=4, stop=("x",), max_tokens=9
    )
    with elsewhere(tmp_path) as served:
        session = at(served)
        for completion in (False, True):
            prompt = Prompt((Message("user", "Hi"),), replace(sampling, logprobs=True), completion=completion)
            generation = session.generate(replace(prompt, ignore_eos=True))
            assert generation.status == "ok"
            assert served.ended[-1].params == generation.record.params


# What goes wrong in a run


# The prompt is free, each of an answer's five tokens costs two cents: a request holds and costs $0.10.
TEN_CENTS = Rates(Decimal(0), Decimal(20_000), source="test")
FIVE = replace(ASK, sampling=Sampling(max_tokens=5))


def test_a_key_that_is_used_up_is_a_budget_error_with_the_numbers(tmp_path: Path, at: Callable[..., Session]) -> None:
    with elsewhere(tmp_path, rates=TEN_CENTS, usd=Decimal("0.15")) as served:
        session = at(served)
        assert session.generate(FIVE).status == "ok"
        refused = session.generate(FIVE)
    assert isinstance(refused.error, BudgetError)
    assert not refused.error.passing
    told = str(refused.error)
    assert told.startswith(served.url)
    assert "the key's budget" in told
    assert "$0.1000" in told
    assert "\n" not in told
    assert (refused.status, refused.cost.usd) == ("refused", None)
    assert [row.status for row in session.ledger().runs()] == ["ok", "refused"]
    with pytest.raises(BudgetError):
        refused.raise_for_status()


@pytest.mark.slow
def test_what_others_only_hold_is_waited_for(tmp_path: Path, at: Callable[..., Session]) -> None:
    class Held(ScriptedEngine):
        """Answers nobody before the one that asks last was turned away."""

        def stream(self, prompt: Prompt) -> ScriptedStream:
            _until(lambda: any(row.status == "refused" for row in served.ledger.runs()))
            return super().stream(prompt)

    engine = Held("tiny", [Script.of_text(WORDS)])
    with elsewhere(tmp_path, engine, rates=TEN_CENTS, usd=Decimal("0.25")) as served:
        session, other = at(served, attempts=6), at(served)
        session.load("tiny")
        first = threading.Thread(target=other.generate, args=[FIVE])
        held = threading.Thread(target=other.generate, args=[replace(FIVE, sampling=Sampling(max_tokens=7))])
        first.start()
        held.start()
        _until(lambda: len(served.ledger.runs()) == 2)
        generation = session.generate(replace(FIVE, sampling=Sampling(max_tokens=2)))
        first.join(60)
        held.join(60)
        tries = [row.status for row in served.rows() if row.client_run_id == generation.run_id]
    assert generation.status == "ok"
    assert generation.record.reading.attempts > 1
    # Each attempt has a row of the server's; what was turned away cost nothing.
    assert tries == ["refused"] * (generation.record.reading.attempts - 1) + ["ok"]
    assert (generation.cost.usd, generation.cost.bound) == (Decimal("0.04"), "exact")


def test_what_others_hold_for_too_long_is_a_budget_error_that_passes(
    tmp_path: Path, at: Callable[..., Session]
) -> None:
    slow = scripted(pace=1.0, ttft_s=30.0)
    with elsewhere(tmp_path, slow, rates=TEN_CENTS, usd=Decimal("0.15")) as served:
        session, other = at(served, attempts=1), at(served)
        session.load("tiny")
        thread = threading.Thread(target=other.generate, args=[FIVE])
        thread.start()
        _until(lambda: served.ledger.runs())
        refused = session.generate(FIVE)
        _until(lambda: other.changes().rows)
        other.stop(other.changes().rows[-1].run_id)
        thread.join(60)
    assert isinstance(refused.error, BudgetError)
    assert refused.error.passing
    assert "held" in str(refused.error)


def test_a_full_queue_is_an_endpoint_error(tmp_path: Path, at: Callable[..., Session]) -> None:
    bounds = Bounds(at_once=1, waiting=0)
    with elsewhere(tmp_path, scripted(pace=1.0, ttft_s=30.0), bounds=bounds) as served:
        session, other = at(served, attempts=1), at(served)
        session.load("tiny")
        thread = threading.Thread(target=other.generate, args=[FIVE])
        thread.start()
        _until(lambda: served.gateway.turns.running)
        failed = session.generate(FIVE)
        _until(lambda: other.changes().rows)
        other.stop(other.changes().rows[-1].run_id)
        thread.join(60)
    assert type(failed.error) is EndpointError
    assert "wait already" in str(failed.error)
    assert failed.status == "failed"
    assert failed.usage.input_tokens == 0
    assert failed.cost.usd == 0


def test_a_stopping_server_is_an_endpoint_error(tmp_path: Path, at: Callable[..., Session]) -> None:
    with elsewhere(tmp_path) as served:
        session = at(served, attempts=1)
        session.load("tiny")
        served.gateway.drain()
        failed = session.generate(FIVE)
    assert (type(failed.error), str(failed.error)) == (EndpointError, f"{served.url}: the server is stopping")


def test_an_answer_that_the_keys_budget_cuts_short_says_so(tmp_path: Path, at: Callable[..., Session]) -> None:
    short, long = Script.of_text([" w"] * 2), Script.of_text([" w"] * 40)
    engine = ScriptedEngine("tiny", [*[short] * 5, long])
    with elsewhere(tmp_path, engine, rates=TEN_CENTS, usd=Decimal("0.40"), hold="p95") as served:
        session = at(served, cache=False)
        for _ in range(5):
            assert session.generate(replace(ASK, sampling=Sampling(max_tokens=2))).status == "ok"
        # Set aside is what most answers take; this one takes more than the key has.
        cut = session.generate(replace(ASK, sampling=Sampling(max_tokens=40)))
    assert (cut.status, cut.finish_reason) == ("interrupted", "budget")
    assert isinstance(cut.error, BudgetError)
    assert "a budget is used up" in str(cut.error)
    assert (cut.usage.output_tokens, cut.cost.usd, cut.cost.bound) == (10, Decimal("0.2"), "exact")
    assert cut.text == " w" * 10
    assert session.ledger().runs()[-1].error == str(cut.error)


def test_of_several_answers_those_are_cut_by_the_keys_budget_that_had_not_ended(
    tmp_path: Path, at: Callable[..., Session]
) -> None:
    engine = TwoAnswers("tiny", [*[Script.of_text([" w"] * 2)] * 5, Script.of_text([" w"] * 40)])
    with elsewhere(tmp_path, engine, rates=TEN_CENTS, usd=Decimal("0.40"), hold="p95") as served:
        session = at(served, cache=False)
        for _ in range(5):
            assert session.generate(replace(ASK, sampling=Sampling(max_tokens=2))).status == "ok"
        cut = session.generate(replace(ASK, sampling=Sampling(max_tokens=40, n=2, seed=1)))
    assert (cut.status, cut.finish_reason) == ("interrupted", "budget")
    assert [choice.finish_reason for choice in cut.choices] == ["stop", "budget"]


def test_a_failure_in_mid_stream_is_billed_as_far_as_the_server_says(
    tmp_path: Path, at: Callable[..., Session]
) -> None:
    engine = ScriptedEngine("tiny", [Script.of_text([" a", " b"], error="the device is gone")])
    with elsewhere(tmp_path, engine, rates=TEN_CENTS) as served:
        failed = at(served).generate(FIVE)
    assert failed.status == "failed"
    assert "the device is gone" in str(failed.error)
    assert (failed.text, failed.usage.output_tokens, failed.usage.output_source) == (" a b", 2, "reported")
    assert (failed.cost.usd, failed.cost.source, failed.cost.bound) == (Decimal("0.04"), "reported", "exact")


def _stopped(session: Session) -> Generation:
    """A run that is stopped in mid-answer."""

    class Watcher:
        def token(self, text: str) -> None:
            if "w5" in text:
                session.stop(session.changes().rows[-1].run_id)

    generation = session.generate(replace(ASK, sampling=Sampling(max_tokens=2000)), watcher=Watcher())
    assert generation.status == "interrupted"
    return generation


@pytest.mark.parametrize("rates", [TEN_CENTS, Rates(device_hour=Decimal(36), source="test")], ids=["tokens", "device"])
def test_a_run_that_is_stopped_costs_here_what_it_costs_there(
    tmp_path: Path, rates: Rates, at: Callable[..., Session]
) -> None:
    words = [f" w{number}" for number in range(2000)]
    with elsewhere(tmp_path, scripted(words=words, pace=1.0, ttft_s=0.02, itl_s=0.02), rates=rates) as served:
        stopped = _stopped(at(served))
        (there,) = served.rows()
    here = stopped.record
    assert there.status == "interrupted"
    assert here.reading.cost.usd == there.reading.cost.usd is not None
    assert here.reading.cost.bound == there.reading.cost.bound == "exact"
    counts = [(it.input_tokens, it.output_tokens) for it in (here.reading.usage, there.reading.usage)]
    assert counts[0] == counts[1]
    assert here.reading.device_s == there.reading.device_s
    assert here.env["server_run_id"] == there.run_id


@pytest.mark.parametrize("rates", [TEN_CENTS, Rates(device_hour=Decimal(36), source="test")], ids=["tokens", "device"])
def test_an_answer_that_was_whole_when_it_was_stopped_costs_what_it_costs_there(
    tmp_path: Path, rates: Rates, at: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cost is sent when the server's row is settled, which a busy ledger may put off."""
    with elsewhere(tmp_path, rates=rates) as served:
        session, recorder = at(served), served.gateway._recorder
        settling, go_on, settle = threading.Event(), threading.Event(), recorder.settle

        def late(*given: Any, **more: Any) -> bool:
            settling.set()
            go_on.wait(30)
            return settle(*given, **more)

        monkeypatch.setattr(recorder, "settle", late)

        class Watcher:
            def token(self, text: str) -> None:
                if "five" in text:
                    assert settling.wait(30)
                    time.sleep(0.2)  # by now the answer's end has been sent, too
                    session.stop(session.changes().rows[-1].run_id)
                    go_on.set()

        record = session.generate(ASK, watcher=Watcher()).record
        (there,) = served.rows()
    assert there.status == "ok"
    assert record.reading.cost.usd == there.reading.cost.usd is not None
    assert record.env["server_run_id"] == there.run_id


def test_requests_of_one_row_that_are_stopped_cost_each_what_it_cost_there(
    tmp_path: Path, at: Callable[..., Session]
) -> None:
    """A bench's requests name the same row: each is looked up by itself, and the one that waits has none."""
    given: dict[str, Any] = {"ttft_s": 0.02, "itl_s": 0.02, "pace": 1.0}
    scripts = [Script.of_text([" w"] * 2000, input_tokens=tokens, **given) for tokens in (10, 1_000, 100_000)]
    ended: list[Request] = []
    with elsewhere(tmp_path, ScriptedEngine("tiny", scripts), bounds=Bounds(at_once=3)) as served:
        engine = at(served, attempts=1).load("tiny")
        load = Load(engine, RATES, lambda request: ended.append(request) is None, "0123456789abcdef" * 2)
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(load.run, iter([replace(ASK, sampling=Sampling(max_tokens=2000))] * 4), 4)
            _until(lambda: served.gateway.turns.waiting)
            time.sleep(0.5)  # those that run answer by now
            load.stop()
            done.result()
        _until(lambda: len(served.ended) == 3)
        assert len(served.rows()) == 3
    here = sorted((it.reading.cost.usd or 0, it.reading.usage.input_tokens or 0) for it in ended)
    there = sorted((it.reading.cost.usd or 0, it.reading.usage.input_tokens or 0) for it in served.ended)
    assert here == [(0, 0), *there]
    assert {it.outcome for it in ended} == {"stopped"}


@pytest.mark.parametrize("rates", [RATES, Rates(device_hour=Decimal(36), source="test")], ids=["tokens", "device"])
def test_a_run_that_is_stopped_while_it_waits_for_its_turn_costs_nothing_that_is_known(
    tmp_path: Path, rates: Rates, at: Callable[..., Session]
) -> None:
    """The server has no row of it, and has read no token of its prompt."""
    held = Held()
    with elsewhere(tmp_path, held, rates=rates, bounds=Bounds(at_once=1)) as served, ThreadPoolExecutor(2) as pool:
        session, turns = at(served), served.gateway.turns
        session.load("tiny")
        before = pool.submit(served.post, "/v1/completions", {"prompt": "Count."})
        _until(lambda: turns.running)

        def stop() -> None:
            _until(lambda: turns.waiting)
            session.stop(session.changes().rows[-1].run_id)

        pool.submit(stop)
        stopped = session.generate(ASK)
        _until(lambda: not turns.waiting)
        held.go_on.set()
        assert before.result().status_code == 200
        assert [row.client_run_id for row in served.rows()] == [None]
    assert stopped.status == "interrupted"
    assert (stopped.cost.usd, stopped.cost.bound) == (0, "at_least")
    assert (stopped.usage.input_tokens, stopped.usage.output_tokens) == (0, 0)


def test_a_server_that_no_longer_answers_leaves_a_lower_bound(
    tmp_path: Path, at: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_SETTLE_S", 0.0)
    words = [f" w{number}" for number in range(2000)]
    with elsewhere(tmp_path, scripted(words=words, pace=1.0, ttft_s=0.02, itl_s=0.02), rates=TEN_CENTS) as served:
        stopped = _stopped(at(served))
        _until(lambda: served.ended)
    assert stopped.cost.bound == "at_least"
    (there,) = served.ended
    assert there.status == "interrupted"
    assert stopped.cost.usd is not None
    assert there.reading.cost.usd is not None
    assert stopped.cost.usd <= there.reading.cost.usd


def test_what_is_no_figure_is_left_out(tmp_path: Path, at: Callable[..., Session]) -> None:
    """The figures that a server sends are judged: neither a row nor a bill takes in what cannot be."""
    from tests.servers import ANSWER, chunk, serve, streams, usage_chunk

    odd: dict[str, Any] = {
        "rates": {"input": "NaN", "output": "1", "source": "x"},
        "cost_usd": "-5",
        "device_s": -1,
        "energy_j": "many",
        "cached_input_tokens": 2.5,
        "itl_p95_s": float("inf"),
        "gpu_peak_bytes": True,
        "revision": ["x"],
        "input_source": "guessed",
        "stopped": 7,
        "run_id": None,
    }
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, "tokmagic": odd}
    script = streams([*ANSWER[:-1], chunk(reason="stop"), usage_chunk(usage)])
    model = {"id": "tiny", "tokmagic": {"state": "ready", "rates": {"input": "1", "output": "2", "source": "t"}}}

    def answer(asked: Any, wire: Any) -> None:
        if asked.path.startswith("/v1/models"):
            wire.answer(200, model)
        else:
            script(asked, wire)

    with elsewhere(tmp_path) as key, serve(answer) as other:
        session = at(key, engine_url=other.url)
        generation = session.generate(ASK)
    record = generation.record
    assert record.status == "ok"
    assert (record.reading.usage.input_tokens, record.reading.usage.input_source) == (12, "reported")
    assert (record.reading.usage.cached_input_tokens, record.reading.device_s, record.energy_j) == (None, None, None)
    assert record.reading.cost.usd == Decimal("0.000018")
    assert "server_run_id" not in record.env


def test_answers_of_any_other_server_bill_by_nothing_that_it_says(tmp_path: Path, make_session: Make) -> None:
    """Only who named a shared engine takes over its rates."""
    from tests.servers import ANSWER, chunk, serve, streams, usage_chunk
    from tokmagic.engines.base import ModelSpec

    told = {"rates": {"input": "1", "output": "2", "source": "t"}, "cost_usd": "0.5", "stopped": "now"}
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, "tokmagic": told}
    with serve(streams([*ANSWER[:-1], chunk(reason="stop"), usage_chunk(usage)])) as other:
        session = make_session()
        session.models.add("m", ModelSpec("m", api_base=other.url))
        record = session.generate(ASK, "m").record
    assert (record.status, record.reading.cost.usd, record.rates) == ("ok", None, Rates())


def test_a_run_is_told_its_id(served: Served, at: Callable[..., Session]) -> None:
    generation = at(served).generate(ASK)
    assert served.ended[-1].client_run_id == generation.run_id
    with suppress(httpx2.HTTPError):
        assert served.get("/health").status_code == 200


def test_loading_tells_what_it_waits_for(served: Served, at: Callable[..., Session]) -> None:
    told: list[str] = []

    def progress(doing: str, _share: float | None) -> None:
        told.append(doing)

    loading: Progress = progress
    at(served).models.load("tiny", loading)
    assert told == [f"asking the shared engine at {served.url}", "ready"]
    assert isinstance(at(served).generate(ASK), Generation)
