"""The endpoint engine against a scripted server on loopback: counts, times, cost and options of complete answers."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.engines.endpoints import ASK, RATES, REPORTED, Ask, Follower, Make, counts, until_stamped
from tests.servers import ANSWER, ROLE, USAGE, Asked, Endpoint, Wire, chunk, serve, streams, usage_chunk, whole
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Started
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.endpoint import certificates
from tokmagic.engines.endpoint.counting import Counter
from tokmagic.engines.endpoint.engine import EndpointEngine
from tokmagic.engines.endpoint.shared import SharedCounter, SharedEngine
from tokmagic.engines.registry import shared_spec
from tokmagic.runs.session import Session

# Complete answers


def test_a_stream_is_metered_with_the_servers_counts(ask: Ask, server: Endpoint) -> None:
    generation = ask()
    assert (generation.text, generation.status, generation.finish_reason) == ("Hello!", "ok", "stop")
    assert counts(generation) == REPORTED
    assert (generation.cost.usd, generation.cost.source) == (Decimal("0.000042"), "reported")
    assert generation.cost.bound == "exact"
    assert generation.reading.attempts == 1
    assert server.last.path == "/v1/chat/completions"
    assert server.last.body == {
        "model": "org/m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi é"}],
        "max_tokens": 256,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "authorization" not in server.last.headers


def test_a_plain_answer_has_its_counts_and_no_time_between_tokens(ask: Ask, server: Endpoint) -> None:
    generation = ask(lambda _asked, wire: wire.answer(200, whole("Hello!")), replace(ASK, stream=False))
    assert (generation.text, generation.status, counts(generation)) == ("Hello!", "ok", REPORTED)
    assert "stream" not in server.last.body
    reading = generation.reading
    assert reading.ttft_s == reading.latency_s
    assert reading.itl_mean_s is None
    assert reading.output_tokens_per_s is None


def test_a_server_that_ignores_the_wish_for_a_stream_is_understood(ask: Ask) -> None:
    assert ask(lambda _asked, wire: wire.answer(200, whole("Hello!"))).text == "Hello!"


def test_usage_beside_an_empty_choice_in_the_last_chunk_is_kept(ask: Ask) -> None:
    generation = ask(streams([chunk("Hello!"), chunk(reason="stop"), chunk(usage=USAGE)]))
    assert counts(generation) == REPORTED


def test_usage_in_the_finishing_chunk_is_kept(ask: Ask) -> None:
    assert counts(ask(streams([chunk("Hello!"), chunk(reason="length", usage=USAGE)]))) == REPORTED


def test_the_last_of_several_usages_holds(ask: Ask) -> None:
    running = [chunk("a", usage={"prompt_tokens": 12, "completion_tokens": n}) for n in (0, 1)]
    generation = ask(streams([*running, chunk(reason="stop"), usage_chunk()]))
    assert counts(generation) == REPORTED


def test_without_usage_input_and_output_are_estimated_and_marked(ask: Ask) -> None:
    generation = ask(streams(ANSWER[:-1]))
    usage = generation.usage
    assert usage.input_source == usage.output_source == "estimated"
    assert (usage.input_tokens or 0) > 0
    assert (usage.output_tokens or 0) > 0
    assert generation.cost.source == "estimated"
    assert generation.cost.usd is not None
    assert generation.cost.usd > 0
    assert "~" in generation.footer


def test_without_usage_the_models_own_tokenizer_counts(make_session: Make, server: Endpoint, model_home: Path) -> None:
    session = make_session(home=str(model_home))
    session.models.add("m", ModelSpec("org/m", api_base=server.url, tokenizer="smollm2"))
    server.script = streams([chunk("Hello there, you"), chunk(reason="stop")])
    generation = session.generate(ASK, "m")
    expected = session.models.engine("smollm2").count(ASK)
    assert counts(generation) == (expected, "counted", 4, "estimated")
    assert generation.record.local_input_tokens == expected


def test_the_local_count_stands_beside_the_servers(make_session: Make, server: Endpoint, model_home: Path) -> None:
    session = make_session(home=str(model_home))
    session.models.add("m", ModelSpec("org/m", api_base=server.url, tokenizer="smollm2"))
    record = session.generate(ASK, "m").record
    assert record.reading.usage.input_tokens == 12
    assert record.local_input_tokens == session.models.engine("smollm2").count(ASK)
    assert record.reading.cost.anomaly is None
    record = session.generate(Prompt((Message("user", "word " * 60),)), "m").record
    assert record.reading.usage.input_tokens == 12
    assert "this machine counts" in str(record.reading.cost.anomaly), "a proxy may have made it up"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({**USAGE, "prompt_tokens_details": None}, (12, None, None, 3, None)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 8}}, (12, 8, None, 3, None)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 0}}, (12, 0, None, 3, None)),
        ({**USAGE, "completion_tokens_details": {"reasoning_tokens": 2}}, (12, None, None, 3, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, None, None, 0, None)),
        (
            {"input_tokens": 3, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 6},
            (12, 5, 4, 6, None),
        ),
        (
            {**USAGE, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 5},
            (12, 5, 4, 3, None),
        ),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 6,
                "total_tokens": 18,
                "cache_creation_input_tokens": 4,
                "cache_read_input_tokens": 5,
            },
            (12, 5, 4, 6, None),
        ),
        (
            {**USAGE, "prompt_tokens": 100, "total_tokens": 153, "cache_read_input_tokens": 50},
            (150, 50, None, 3, None),
        ),
        (
            {"input_tokens": 12, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 6},
            (12, 5, None, 6, None),
        ),
    ],
)
def test_usage_is_read_in_all_its_shapes(ask: Ask, usage: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    found = ask(streams([chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)])).usage
    assert (
        found.input_tokens,
        found.cached_input_tokens,
        found.cache_write_input_tokens,
        found.output_tokens,
        found.reasoning_tokens,
    ) == expected
    assert found.input_source == found.output_source == "reported"


def test_a_null_in_the_details_bounds_the_cost_from_above(ask: Ask, session: Session) -> None:
    session.prices.set("m", replace(RATES, cached=Decimal("0.5")))
    usage = {**USAGE, "prompt_tokens_details": None}
    generation = ask(streams([chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)]))
    assert (generation.cost.usd, generation.cost.bound) == (Decimal("0.000042"), "at_most")


LOGPROBS_ALONE = {"index": 0, "delta": {}, "logprobs": {"content": [{"token": "", "logprob": -0.5}]}}


@pytest.mark.parametrize("first", [ROLE, {"object": "chat.completion.chunk", "choices": [LOGPROBS_ALONE]}])
def test_a_role_or_log_probabilities_alone_stop_no_clock(ask: Ask, first: dict[str, Any]) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(first)
        time.sleep(0.3)
        for part in ANSWER[1:]:
            wire.event(part)
        wire.end()

    assert (ask(script).reading.ttft_s or 0) >= 0.3


@pytest.mark.parametrize(
    ("shared", "of", "what"),
    [
        (False, certificates, "trusted"),
        (False, Counter, "input"),
        (True, certificates, "trusted"),
        (True, SharedCounter, "input"),
    ],
)
def test_what_is_made_ready_here_is_no_time_of_the_servers(
    make_session: Make, server: Endpoint, monkeypatch: pytest.MonkeyPatch, shared: bool, of: Any, what: str
) -> None:
    """A process's first run reads certificates, and a long prompt takes a second to count."""
    done_ns: list[int] = []
    does = getattr(of, what)

    def noted(*given: Any, **named: Any) -> Any:
        found = does(*given, **named)
        done_ns.append(time.perf_counter_ns())
        return found

    monkeypatch.setattr(of, what, noted)
    monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", "tm-key")
    made, spec = EndpointEngine, ModelSpec("m", api_base=server.url)
    if shared:
        made, spec = SharedEngine, shared_spec("m", server.url)
    begun, *_ = made("m", spec, make_session().settings).stream(ASK)
    assert isinstance(begun, Started)
    assert begun.submitted_ns > done_ns[0]


def test_reasoning_stops_the_clock_and_is_no_part_of_the_answer(ask: Ask, session: Session) -> None:
    thought = {"index": 0, "delta": {"reasoning_content": "Hm. "}, "finish_reason": None}

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event({"object": "chat.completion.chunk", "choices": [thought]})
        until_stamped(session)
        time.sleep(0.3)
        for part in ANSWER[1:]:
            wire.event(part)
        wire.end()

    generation = ask(script)
    assert generation.text == "Hello!"
    assert (generation.reading.latency_s or 0) - (generation.reading.ttft_s or 0) >= 0.3


def test_chunks_are_no_tokens(ask: Ask) -> None:
    """Two chunks that carry nine tokens: the mean is over eight steps, and there are no percentiles."""
    usage = {"prompt_tokens": 12, "completion_tokens": 9}

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("one two three four"))
        time.sleep(0.2)
        wire.event(chunk(" five six seven eight nine"))
        wire.event(chunk(reason="stop"))
        wire.event(usage_chunk(usage))
        wire.end()

    reading = ask(script).reading
    assert reading.latency_s is not None
    assert reading.ttft_s is not None
    assert reading.itl_mean_s == pytest.approx((reading.latency_s - reading.ttft_s) / 8)
    assert reading.itl_p50_s is None


def test_the_end_of_the_stream_is_enough_after_a_finish_reason(ask: Ask) -> None:
    generation = ask(streams(ANSWER, done=False))
    assert (generation.status, counts(generation)) == ("ok", REPORTED)


@pytest.mark.parametrize(
    ("reason", "told"),
    [("stop", "stop"), ("eos", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("odd", "other")],
)
def test_finish_reasons(ask: Ask, reason: str, told: str) -> None:
    assert ask(streams([chunk("a"), chunk(reason=reason), usage_chunk()])).finish_reason == told


def test_several_answers_are_one_run(ask: Ask, server: Endpoint) -> None:
    prompt = replace(ASK, sampling=Sampling(n=2, temperature=0.7))
    parts = [chunk("a"), chunk("b", index=1), chunk(reason="stop"), chunk(reason="length", index=1), usage_chunk()]
    generation = ask(streams(parts), prompt)
    assert [(choice.text, choice.finish_reason) for choice in generation.choices] == [("a", "stop"), ("b", "length")]
    assert server.last.body["n"] == 2
    assert counts(generation) == REPORTED


def test_a_completion_sends_the_text_as_it_stands(ask: Ask, server: Endpoint) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event({"object": "text_completion", "choices": [{"index": 0, "text": " time", "finish_reason": "stop"}]})
        wire.event(usage_chunk())
        wire.end()

    generation = ask(script, Prompt((Message("user", "Once upon a"),), completion=True))
    assert (generation.text, counts(generation)) == (" time", REPORTED)
    assert server.last.path == "/v1/completions"
    assert server.last.body["prompt"] == "Once upon a"


def test_only_what_was_asked_for_is_sent(ask: Ask, server: Endpoint) -> None:
    sampling = Sampling(
        max_tokens=5,
        temperature=0.0,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.1,
        stop=("a",),
        seed=7,
        json_schema='{"type":"object"}',
    )
    ask(prompt=replace(ASK, sampling=sampling), cache=False)
    body = {name: value for name, value in server.last.body.items() if name not in ("model", "messages")}
    assert body == {
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "stop": ["a"],
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("openai", {"max_completion_tokens": 256, "stream_options": {"include_usage": True}}),
        (
            "vllm",
            {
                "max_tokens": 256,
                "include_metrics": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            },
        ),
        ("transformers", {"max_tokens": 256}),
    ],
)
def test_servers_differ_by_a_flag(session: Session, server: Endpoint, kind: str, sent: dict[str, Any]) -> None:
    session.models.add("s", ModelSpec("org/m", api_base=server.url, server=kind))
    assert session.generate(ASK, "s").status == "ok"
    assert {k: v for k, v in server.last.body.items() if k not in ("model", "messages", "stream")} == sent


@pytest.mark.parametrize(
    ("kind", "sampling", "option"),
    [
        ("openai", Sampling(top_k=3), "--top-k"),
        ("transformers", Sampling(n=2), "-n"),
        ("transformers", Sampling(json_schema="{}"), "--json-schema"),
        ("transformers", Sampling(logprobs=True), "--logprobs"),
    ],
)
def test_what_a_server_does_not_take_is_refused(
    session: Session, server: Endpoint, kind: str, sampling: Sampling, option: str
) -> None:
    session.models.add("s", ModelSpec("org/m", api_base=server.url, server=kind))
    generation = session.generate(replace(ASK, sampling=sampling), "s")
    assert generation.status == "refused"
    assert option in str(generation.error)
    assert server.asked == []


def test_log_probabilities_come_with_the_answer_and_with_its_replay(ask: Ask, server: Endpoint) -> None:
    def told(*pairs: tuple[str, float]) -> dict[str, Any]:
        return {
            "content": [{"token": text, "logprob": value, "bytes": None, "top_logprobs": []} for text, value in pairs]
        }

    first = chunk("Hello")
    first["choices"][0]["logprobs"] = told(("Hel", -0.5), ("lo", -0.25))
    last = chunk(reason="stop")
    last["choices"][0]["logprobs"] = told(("<end>", -0.125))
    prompt = replace(ASK, sampling=Sampling(temperature=0.0, logprobs=True))
    for expected in ("ok", "cached"):
        generation = ask(streams([ROLE, first, last, usage_chunk()]), prompt)
        assert generation.status == expected
        assert generation.choices[0].logprobs == (("Hel", -0.5), ("lo", -0.25), ("<end>", -0.125))
    assert server.last.body["logprobs"] is True


def test_log_probabilities_of_a_completion(ask: Ask, server: Endpoint) -> None:
    choice = {"index": 0, "text": " time", "finish_reason": "stop"}
    choice["logprobs"] = {"tokens": [" time", 7], "token_logprobs": [-0.5, None], "top_logprobs": None}
    sampling = Sampling(logprobs=True)
    prompt = Prompt((Message("user", "Once upon a"),), sampling, completion=True)
    generation = ask(lambda _asked, wire: wire.answer(200, {"choices": [choice], "usage": USAGE}), prompt)
    assert generation.choices[0].logprobs == ((" time", -0.5),)
    assert server.last.body["logprobs"] == 1


def test_a_query_tells_servers_apart_and_is_not_shown(session: Session, server: Endpoint) -> None:
    greedy = replace(ASK, sampling=Sampling(temperature=0.0))
    for route in ("a", "b"):
        session.models.add(route, ModelSpec("org/m", api_base=f"{server.url}?route={route}"))
        assert session.generate(greedy, route).status == "ok"
    assert server.last.path == "/v1/chat/completions?route=b"
    assert "route" not in repr(session.ledger().runs())


def test_a_schema_is_part_of_what_is_held_and_counted(session: Session, server: Endpoint, model_home: Path) -> None:
    schema = '{"description":"' + "word " * 2_000 + '"}'
    prompt = replace(ASK, sampling=Sampling(json_schema=schema))
    assert session.generate(prompt, "m", budget="0.005").status == "refused"
    server.script = streams([chunk("a"), chunk(reason="stop"), usage_chunk({**USAGE, "prompt_tokens": 2_000})])
    generation = session.generate(prompt, "m")
    assert generation.cost.anomaly is None
    server.script = streams([chunk("a"), chunk(reason="stop")])
    assert (session.generate(prompt, "m").usage.input_tokens or 0) > 2_000


def test_an_answer_is_replayed_from_the_cache_of_its_own_server(ask: Ask, session: Session, server: Endpoint) -> None:
    greedy = replace(ASK, sampling=Sampling(temperature=0.0))
    first = ask(prompt=greedy)
    again = ask(prompt=greedy)
    assert (again.status, again.text, again.cost.saved_usd) == ("cached", first.text, first.cost.usd)
    with serve(streams(ANSWER)) as other:
        session.models.add("other", ModelSpec("org/m", api_base=other.url))
        assert session.generate(greedy, "other").status == "ok"
    assert len(server.asked) == 1


def test_a_connection_serves_run_after_run(ask: Ask, server: Endpoint) -> None:
    for _ in range(3):
        before = threading.enumerate()
        ask()
        # The end of the stream is read behind the run's back.
        for thread in threading.enumerate():
            if thread not in before and thread.name.startswith("tokmagic "):
                thread.join(60)
    assert (len(server.asked), server.connections) == (3, 1)


# Prices


@pytest.mark.parametrize(
    ("base", "provider", "source"),
    [
        (None, "openai", "genai-prices: openai/gpt-5-mini"),
        ("https://api.openai.com/v1", "openai", "genai-prices: openai/gpt-5-mini"),
        ("https://api.openai.com.evil.example/v1", None, "unknown"),
        ("http://127.0.0.1:8000/v1", None, "unknown"),
    ],
)
def test_the_price_is_the_providers_at_its_own_address_alone(
    session: Session, base: str | None, provider: str | None, source: str
) -> None:
    for name in ("gpt-5-mini", "openai/gpt-5-mini"):
        session.models.add("gpt", ModelSpec(name, api_base=base, api_key_name="SOME_KEY"))
        info = session.models.engine("gpt").info
        assert info.provider == provider
        assert session.rates(info).source == source


# Budgets


def test_a_budget_is_held_on_bytes_where_there_is_no_tokenizer(ask: Ask, server: Endpoint) -> None:
    generation = ask(budget="0.0001")
    assert generation.status == "refused"
    assert server.asked == []
    assert ask(budget="0.1").status == "ok"


def test_a_server_that_does_not_keep_to_the_limit_is_stopped_at_the_cap(ask: Ask, session: Session) -> None:
    follower = Follower(session)

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for number in range(2_000):
            wire.event(chunk(" word"))
            follower.wait(number - 20)
        wire.end()

    prompt = replace(ASK, sampling=Sampling(max_tokens=10))
    generation = ask(script, prompt, budget="0.002", watcher=follower)
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    assert generation.cost.usd is not None
    assert generation.cost.usd < Decimal("0.003")
    assert str(generation.error).startswith("stopped at ~≥$0.00"), "the server may go on, and so may its bill"


def test_counts_and_cost_are_there_while_it_streams(session: Session, server: Endpoint) -> None:
    """What a sidebar is shown in mid-stream."""
    seen: list[tuple[int | None, str]] = []

    class Watch:
        def token(self, _text: str) -> None:
            (row,) = session.changes().rows
            seen.append((row.reading.usage.output_tokens, row.reading.usage.output_source))
            assert row.reading.cost.usd is not None

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in ANSWER:
            wire.event(part)
            time.sleep(0.02)
        wire.end()

    server.script = script
    session.generate(ASK, "m", watcher=Watch())
    assert seen == [(1, "estimated"), (2, "estimated"), (3, "estimated")]
