"""The endpoint engine against a scripted server on loopback: counts, cost, latency and status whatever happens."""

from __future__ import annotations

import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.servers import ANSWER, ROLE, USAGE, Asked, Endpoint, Script, Wire, chunk, serve, streams, usage_chunk, whole
from tokmagic import reports as report
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.sums import Selection
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import GenerationInterrupted, UsageError
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session

ASK = Prompt((Message("system", "Be brief."), Message("user", "Hi é")))
RATES = Rates(input=Decimal(1), output=Decimal(10), source="%price")
Make = Callable[..., Session]
Ask = Callable[..., Generation]


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(streams(ANSWER)) as endpoint:
        yield endpoint


@pytest.fixture
def session(make_session: Make, server: Endpoint) -> Session:
    session = make_session(first_token_timeout_s=5.0, silence_timeout_s=5.0, connect_timeout_s=5.0)
    session.models.add("m", ModelSpec("org/m", api_base=server.url))
    session.prices.set("m", RATES)
    return session


@pytest.fixture
def ask(session: Session, server: Endpoint) -> Ask:
    def run(script: Script | None = None, prompt: Prompt = ASK, **options: Any) -> Generation:
        if script is not None:
            server.script = script
        generation = session.generate(prompt, "m", **options)
        # What is given back is what the ledger holds.
        (row,) = (row for row in session.ledger().runs() if row.run_id == generation.run_id)
        assert row.reading.usage == generation.usage
        assert row.reading.cost.usd == generation.cost.usd
        assert row.status == generation.status
        return generation

    return run


def counts(generation: Generation) -> tuple[int | None, str, int | None, str]:
    usage = generation.usage
    return usage.input_tokens, usage.input_source, usage.output_tokens, usage.output_source


REPORTED = (12, "reported", 3, "reported")


# Answers that are whole


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


def test_a_role_alone_stops_no_clock(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(ROLE)
        time.sleep(0.3)
        for part in ANSWER[1:]:
            wire.event(part)
        wire.end()

    assert (ask(script).reading.ttft_s or 0) >= 0.3


def test_reasoning_stops_the_clock_and_is_no_part_of_the_answer(ask: Ask) -> None:
    thought = {"index": 0, "delta": {"reasoning_content": "Hm. "}, "finish_reason": None}

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event({"object": "chat.completion.chunk", "choices": [thought]})
        time.sleep(0.3)
        for part in ANSWER[1:]:
            wire.event(part)
        wire.end()

    generation = ask(script)
    assert generation.text == "Hello!"
    # Less than the pause, since both ends are stamped where they arrive.
    assert (generation.reading.latency_s or 0) - (generation.reading.ttft_s or 0) >= 0.2


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
        ("vllm", {"max_tokens": 256, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
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


def test_googles_hidden_reasoning_is_output(session: Session, server: Endpoint) -> None:
    session.models.add("s", ModelSpec("org/m", api_base=server.url, server="google"))
    for usage, output in (({"prompt_tokens": 8, "total_tokens": 263}, 255), ({**USAGE, "total_tokens": 20}, 8)):
        server.script = streams([chunk("a"), chunk(reason="length"), usage_chunk(usage)])
        found = session.generate(ASK, "s").usage
        assert (found.output_tokens, found.output_source) == (output, "reported")


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
        ask()
        time.sleep(0.05)  # the end of the stream is read behind the run's back
    assert (len(server.asked), server.connections) == (3, 1)


# Attempts


def in_turn(*scripts: Script) -> Script:
    left = iter(scripts)

    def script(asked: Asked, wire: Wire) -> None:
        next(left)(asked, wire)

    return script


def status(code: int, text: str = "no", **headers: str) -> Script:
    return lambda _asked, wire: wire.answer(code, {"error": {"message": text}}, **headers)


def test_busy_then_failing_then_well_is_one_run_at_one_cost(ask: Ask, server: Endpoint, session: Session) -> None:
    generation = ask(in_turn(status(429, Retry_After="0"), status(500, Retry_After="0"), streams(ANSWER)))
    assert (generation.status, generation.reading.attempts, generation.cost.usd) == ("ok", 3, Decimal("0.000042"))
    assert len(server.asked) == 3
    assert len(session.ledger().runs()) == 1


def test_attempts_end(ask: Ask, server: Endpoint, session: Session) -> None:
    session.settings.attempts = 2
    generation = ask(status(503, "overloaded", Retry_After="0"))
    assert (generation.status, generation.reading.attempts, len(server.asked)) == ("failed", 2, 2)
    assert "503: overloaded" in str(generation.error)
    assert "tried 2 times" in str(generation.error)
    assert generation.cost.usd == 0


def test_a_long_wait_is_left_to_the_person(ask: Ask, server: Endpoint) -> None:
    generation = ask(status(429, "slow down", Retry_After="3600"))
    assert generation.status == "failed"
    assert "3600 s" in str(generation.error)
    assert len(server.asked) == 1


def test_a_spent_quota_is_not_asked_again(ask: Ask, server: Endpoint) -> None:
    said = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    generation = ask(lambda _asked, wire: wire.answer(429, said))
    assert "insufficient_quota" in str(generation.error)
    assert len(server.asked) == 1


def test_waiting_for_the_next_attempt_can_be_interrupted(session: Session, server: Endpoint) -> None:
    server.script = status(429, Retry_After="30")
    began = time.monotonic()
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    generation = session.generate(ASK, "m")
    assert time.monotonic() - began < 10
    assert generation.status == "interrupted"


# Answers that break


def test_a_disconnect_in_mid_stream_keeps_what_arrived(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in (ROLE, chunk("Once upon"), chunk(" a time")):
            wire.event(part)
        wire.drop()

    generation = ask(script)
    assert (generation.text, generation.status, generation.finish_reason) == ("Once upon a time", "failed", "error")
    assert (generation.usage.output_source, generation.usage.input_source) == ("estimated", "estimated")
    assert (generation.usage.output_tokens or 0) > 0
    assert generation.cost.bound == "at_least"
    assert generation.reading.attempts == 1
    assert "before the answer's end" in str(generation.error)


def test_a_stream_that_just_ends_is_no_whole_answer(ask: Ask) -> None:
    generation = ask(streams([ROLE, chunk("Once")], done=False))
    assert (generation.text, generation.status) == ("Once", "failed")


def test_a_disconnect_after_the_finish_reason_took_nothing_away(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in (chunk("Hello"), chunk(reason="stop")):
            wire.event(part)
        wire.drop()

    generation = ask(script)
    assert (generation.text, generation.status, generation.cost.bound) == ("Hello", "ok", "exact")


@pytest.mark.parametrize(
    ("garbage", "says"),
    [
        ("{not json", "'{not json'"),
        ("[1, 2]", "[1, 2]"),
        ('{"choices": 7}', "choices"),
        ('{"choices": [{"index": 9, "delta": {"content": "x"}}]}', "choice 9"),
        ('{"error": {"message": "the GPU\\nfell off"}}', "the GPU fell off"),
        ("[" * 5000, "JSON"),
    ],
)
def test_garbage_in_mid_stream_keeps_what_arrived(ask: Ask, garbage: str, says: str) -> None:
    generation = ask(streams([chunk("Hello"), garbage, chunk(" unseen"), chunk(reason="stop")]))
    assert (generation.text, generation.status) == ("Hello", "failed")
    assert says in str(generation.error)
    assert "\n" not in str(generation.error)
    assert generation.cost.bound == "at_least"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 3},
        {"prompt_tokens": 12, "completion_tokens": 10**30},
        {"prompt_tokens": "many", "completion_tokens": 3},
        {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}},
        {"prompt_tokens": 12, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 99}},
        {"prompt_tokens": True, "completion_tokens": 3},
        ["nonsense"],
    ],
)
def test_usage_that_cannot_be_is_an_anomaly_and_the_counts_are_our_own(ask: Ask, session: Session, usage: Any) -> None:
    generation = ask(streams([chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)]))
    assert generation.status == "ok"
    assert generation.cost.anomaly is not None
    assert generation.usage.input_source == generation.usage.output_source == "estimated"
    assert generation.cost.usd is not None
    assert generation.cost.usd > 0
    (row,) = session.ledger().runs()
    assert row.reading.cost.anomaly == generation.cost.anomaly


def test_more_tokens_than_bytes_are_billed_and_flagged(ask: Ask) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 90_000}
    generation = ask(streams([chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)]))
    assert counts(generation) == (12, "reported", 90_000, "reported")
    assert "90,000 output tokens" in str(generation.cost.anomaly)


def test_a_server_that_trickles_is_left(ask: Ask, session: Session) -> None:
    """Comments and blank events keep a connection open for ever; they are no answer."""
    session.settings.first_token_timeout_s = 0.5
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        try:
            for _ in range(200):
                wire.send(": still here\n\n")
                wire.event({"object": "chat.completion.chunk", "choices": []})
                wire.event(ROLE)
                time.sleep(0.05)
        except OSError:
            hung_up.set()

    generation = ask(script)
    assert generation.status == "failed"
    assert "no answer for 0.5 s" in str(generation.error)
    assert hung_up.wait(10)


def test_a_head_that_trickles_is_left(ask: Ask, session: Session) -> None:
    session.settings.first_token_timeout_s = 0.5

    def script(_asked: Asked, wire: Wire) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200:
            wire._handler.wfile.write(bytes([letter]))
            time.sleep(0.05)

    began = time.monotonic()
    assert ask(script).status == "failed"
    assert time.monotonic() - began < 8


def test_silence_in_mid_stream_keeps_what_arrived(ask: Ask, session: Session) -> None:
    session.settings.silence_timeout_s = 0.5
    hung_up: list[bool] = []

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Once"))
        hung_up.append(wire.wait_for_hangup())

    generation = ask(script)
    assert (generation.text, generation.status) == ("Once", "failed")
    assert "for 0.5 s" in str(generation.error)


def test_an_interrupt_closes_the_connection_and_counts_what_arrived(session: Session, server: Endpoint) -> None:
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Once upon"))
        if wire.wait_for_hangup():
            hung_up.set()

    class Interrupt:
        def token(self, _text: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    server.script = script
    generation = session.generate(ASK, "m", watcher=Interrupt())
    assert hung_up.wait(10)
    assert (generation.status, generation.finish_reason) == ("interrupted", "interrupted")
    assert generation.cost.bound == "at_least"
    assert (generation.usage.output_tokens or 0) > 0
    with pytest.raises(GenerationInterrupted):
        generation.raise_for_status()


def test_an_interrupt_before_the_first_byte_closes_the_connection(session: Session, server: Endpoint) -> None:
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        if wire.wait_for_hangup():
            hung_up.set()

    server.script = script
    assert session.generate(ASK, "m").status == "interrupted"
    assert hung_up.wait(10)
    server.script = streams(ANSWER)
    assert session.generate(ASK, "m").status == "ok"


def test_an_early_usage_is_not_the_last_word(ask: Ask) -> None:
    early = {"prompt_tokens": 12, "completion_tokens": 0}
    parts = [chunk("One", usage=early), *(chunk(f" word{number}") for number in range(20)), chunk(reason="stop")]
    generation = ask(streams(parts))
    assert generation.usage.output_source == "estimated"
    assert (generation.usage.output_tokens or 0) > 15


def test_usage_in_each_chunk_counts_what_that_chunk_carries(ask: Ask) -> None:
    parts = [chunk("a", usage={"prompt_tokens": 12, "completion_tokens": 1})]
    parts += [chunk("b", reason="stop", usage={"prompt_tokens": 12, "completion_tokens": 2})]
    assert counts(ask(streams(parts))) == (12, "reported", 2, "reported")


def test_an_attempt_that_the_server_may_bill_makes_the_cost_a_lower_bound(ask: Ask, session: Session) -> None:
    session.settings.attempts = 2
    generation = ask(in_turn(lambda _asked, wire: wire.drop(), streams(ANSWER)))
    assert (generation.status, generation.reading.attempts) == ("ok", 2)
    assert (generation.cost.usd, generation.cost.bound) == (Decimal("0.000042"), "at_least")
    generation = ask(status(504, Retry_After="0"))
    assert (generation.status, generation.cost.bound) == ("failed", "at_least")
    assert generation.cost.usd is not None
    assert generation.cost.usd > 0
    at_todays = report.repriced(session.ledger(), Selection(), session.prices).rows[-1]
    assert (at_todays[1], at_todays[2][:2], at_todays[3][:2]) == ("2", "~≥", "~≥")


def test_stopping_while_the_next_attempt_is_waited_for_costs_nothing(session: Session, server: Endpoint) -> None:
    server.script = status(503, Retry_After="30")
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    assert session.generate(ASK, "m").cost.usd == 0


def test_what_fails_while_showing_an_answer_hangs_up(session: Session, server: Endpoint) -> None:
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Once upon"))
        if wire.wait_for_hangup():
            hung_up.set()

    class Broken:
        def token(self, _text: str) -> None:
            raise BrokenPipeError

    server.script = script
    generation = session.generate(ASK, "m", watcher=Broken())
    assert hung_up.wait(10)
    assert (generation.status, generation.finish_reason, generation.cost.bound) == ("failed", "error", "at_least")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(session: Session, server: Endpoint) -> None:
    def echo(asked: Asked, wire: Wire) -> None:
        streams([chunk(asked.body["messages"][-1]["content"]), chunk(reason="stop"), usage_chunk()])(asked, wire)

    def ask(name: str) -> bool:
        return session.generate(Prompt((Message("user", name),)), "m").text == name

    server.script = echo
    assert ask("before")
    children = []
    for child in range(2):
        pid = os.fork()
        if pid == 0:
            good = False
            try:
                good = all(ask(f"child {child} {number}") for number in range(5))
            finally:
                os._exit(0 if good else 1)
        children.append(pid)
    assert all(ask(f"parent {number}") for number in range(5))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]


@pytest.mark.model
def test_a_template_that_refuses_what_the_server_takes_takes_nothing_away(
    make_session: Make, server: Endpoint, model_home: Path, tmp_path: Path
) -> None:
    (folder,) = (model_home / "models").glob("HuggingFaceTB--*[!k]")
    strict = tmp_path / "strict"
    strict.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (strict / path.name).write_bytes(path.read_bytes())
    (strict / "model.safetensors").write_bytes(b"")
    (strict / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}", encoding="utf-8")
    session = make_session(home=str(model_home))
    session.models.add("m", ModelSpec("org/m", api_base=server.url, tokenizer=str(strict)))
    for _ in range(2):
        generation = session.generate(ASK, "m")
        assert (generation.status, counts(generation)) == ("ok", REPORTED)
        assert generation.record.local_input_tokens is None


def test_a_setting_that_is_none_is_refused_in_one_line(
    make_session: Make, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKMAGIC_ATTEMPTS", "0")
    session = make_session()
    session.models.add("m", ModelSpec("org/m", api_base=server.url))
    generation = session.generate(ASK, "m")
    assert generation.status == "refused"
    assert "TOKMAGIC_ATTEMPTS" in str(generation.error)
    assert server.asked == []


def test_fewer_answers_than_were_asked_for_are_told(ask: Ask) -> None:
    generation = ask(streams([chunk("a"), chunk(reason="stop"), usage_chunk()]), replace(ASK, sampling=Sampling(n=2)))
    assert [choice.finish_reason for choice in generation.choices] == ["stop", "other"]


# Answers that are none


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (status(401, "bad key"), "asks for a key (401: bad key)"),
        (status(404, "no such model"), "404: no such model"),
        (status(400, "too long"), "refuses the request (400: too long)"),
        (lambda _asked, wire: wire.answer(200, "<!DOCTYPE html><p>Hi", Content_Type="text/html"), "an HTML page"),
        (lambda _asked, wire: wire.answer(404, "<html>x", Content_Type="text/html"), "404: an HTML page"),
        (lambda _asked, wire: wire.answer(200, "hello"), "'hello'"),
        (lambda _asked, wire: wire.answer(200, ""), "nothing"),
        (lambda _asked, wire: wire.answer(200, {"hello": "there"}), "not an answer of an OpenAI-compatible server"),
        (lambda _asked, wire: wire.answer(200, whole("a", usage=None) | {"choices": []}), "without sending any"),
        (lambda _asked, wire: wire.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "does not speak HTTP"),
    ],
)
def test_what_is_no_answer_is_said_in_one_line(ask: Ask, script: Script, says: str) -> None:
    generation = ask(script)
    assert generation.status == "failed"
    assert says in str(generation.error)
    assert "\n" not in str(generation.error)


def test_a_body_without_an_end_is_left(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream("application/json")
        for _ in range(100):
            wire.send(b"x" * 2**20)
        wire.end(done=False)

    generation = ask(script)
    assert generation.status == "failed"
    assert "MiB" in str(generation.error)


def test_an_event_of_ten_megabytes_is_left(ask: Ask) -> None:
    generation = ask(streams([chunk("Hello"), "x" * 10_000_000]))
    assert (generation.text, generation.status) == ("Hello", "failed")
    assert "MiB" in str(generation.error)


def test_invalid_utf8_becomes_replacement_characters(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.send(b'data: {"choices": [{"index": 0, "delta": {"content": "a\xffb"}, "finish_reason": "stop"}]}\n\n')
        wire.event(usage_chunk())
        wire.end()

    assert ask(script).text == "a�b"


def test_nobody_listening(session: Session, server: Endpoint) -> None:
    session.models.add("gone", ModelSpec("org/m", api_base="http://127.0.0.1:9/v1"))
    generation = session.generate(ASK, "gone")
    assert generation.status == "failed"
    assert "nothing listens there" in str(generation.error)
    assert generation.usage.output_tokens == 0


def test_a_certificate_that_nobody_vouches_for(session: Session, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve(streams(ANSWER), context) as secure:
        session.models.add("secure", ModelSpec("org/m", api_base=secure.url))
        generation = session.generate(ASK, "secure")
        assert generation.status == "failed"
        assert "certificate cannot be trusted" in str(generation.error)
        assert secure.asked == []
        session.models.add("plain", ModelSpec("org/m", api_base=secure.url.replace("https", "http")))
        assert session.generate(ASK, "plain").status == "failed"


# Keys


@pytest.fixture
def with_key(session: Session, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret-1234")
    session.models.add("m", ModelSpec("org/m", api_base=server.url, api_key_name="SOME_KEY"))
    session.prices.set("m", RATES)
    return session


def test_the_key_is_sent_and_kept_nowhere(with_key: Session, ask: Ask, server: Endpoint, tmp_path: Path) -> None:
    ask()
    assert server.last.headers["authorization"] == "Bearer sk-very-secret-1234"
    generation = ask(status(401, "Incorrect API key provided: sk-very-secret-1234"))
    assert "refuses the key" in str(generation.error)
    with_key.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()
    assert "sk-very-secret" not in str(generation.error)


def test_the_key_does_not_follow_a_redirect(with_key: Session, ask: Ask) -> None:
    with serve(streams(ANSWER)) as other:
        where = f"{other.url}/chat/completions"
        generation = ask(lambda _asked, wire: wire.answer(307, "", Location=where))
        assert generation.status == "failed"
        assert f"redirects to {where}" in str(generation.error)
        assert other.asked == []


@pytest.mark.parametrize(
    "script",
    [
        status(401, f"{'x' * 280} sk-very-secret-1234 is wrong"),
        lambda _asked, wire: wire.answer(200, {"error": {"message": "bad key sk-very-secret-1234"}}),
        streams([chunk("a"), {"error": {"message": "bad key sk-very-secret-1234"}}]),
        streams([chunk("a"), "garbage sk-very-secret-1234"]),
        lambda _asked, wire: wire.answer(307, "", Location="https://host/sk-very-secret-1234/v1"),
        streams([chunk("a"), chunk(reason="stop"), usage_chunk({"prompt_tokens": "sk-very-secret-1234"})]),
    ],
)
def test_a_key_that_the_server_repeats_is_blotted_out(with_key: Session, ask: Ask, script: Script) -> None:
    generation = ask(script)
    assert "sk-very-" not in str(generation.error)
    assert "sk-very-" not in str(generation.cost.anomaly)
    assert generation.error is not None or generation.cost.anomaly is not None


def test_a_key_in_the_place_of_its_variables_name_is_not_shown(session: Session, server: Endpoint) -> None:
    with pytest.raises(UsageError, match="not the key") as refused:
        session.models.add("bad", ModelSpec("org/m", api_base=server.url, api_key_name="sk-proj-abcdef"))
    assert "abcdef" not in str(refused.value)
    session.models.add("odd", ModelSpec("org/m", api_base=server.url, api_key_name="gsk_abcdef0123"))
    generation = session.generate(ASK, "odd")
    assert generation.status == "refused"
    assert "abcdef" not in str(generation.error)


@pytest.mark.parametrize(
    ("key", "says"),
    [(None, "not set"), ("", "empty"), ("  ", "empty"), ("sk-1\nX: y", "line break"), ("sk-1\n", "line break")],
)
def test_a_key_that_is_none_is_refused(
    with_key: Session, ask: Ask, server: Endpoint, monkeypatch: pytest.MonkeyPatch, key: str | None, says: str
) -> None:
    if key is None:
        monkeypatch.delenv("SOME_KEY")
    else:
        monkeypatch.setenv("SOME_KEY", key)
    generation = ask()
    assert generation.status == "refused"
    assert says in str(generation.error)
    assert "sk-1" not in str(generation.error)
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://a b/v1",
        "http://host:99999/v1",
        "http://u:secret@host/v1",
        "h:8/v1?key=secret",
        "x",
    ],
)
def test_what_is_no_base_url_is_said_when_the_model_is_added(session: Session, url: str) -> None:
    with pytest.raises(UsageError, match="--api-base") as refused:
        session.models.add("bad", ModelSpec("org/m", api_base=url))
    assert "secret" not in str(refused.value)


def test_an_unknown_kind_of_server_is_refused(session: Session, server: Endpoint) -> None:
    with pytest.raises(UsageError, match="did you mean vllm"):
        session.models.add("bad", ModelSpec("org/m", api_base=server.url, server="vlm"))


def test_a_proxy_does_not_stand_before_this_machine(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask().status == "ok"


def test_a_proxy_that_is_none_is_named(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://x")
    session.models.add("far", ModelSpec("org/m", api_base="http://far.invalid/v1"))
    generation = session.generate(ASK, "far")
    assert generation.status == "failed"
    assert "ALL_PROXY" in str(generation.error)


def test_half_a_character_is_refused(ask: Ask) -> None:
    generation = ask(prompt=Prompt((Message("user", "a\ud800"),)))
    assert generation.status == "refused"
    assert "an incomplete character" in str(generation.error)


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


def test_a_server_that_does_not_keep_to_the_limit_is_stopped_at_the_cap(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for _ in range(2_000):
            wire.event(chunk(" word"))
            time.sleep(0.002)
        wire.end()

    prompt = replace(ASK, sampling=Sampling(max_tokens=10))
    generation = ask(script, prompt, budget="0.002")
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
