"""Whether a server follows what it was asked for: stop texts are cut here, options that it ignores are told."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal
from queue import SimpleQueue
from typing import Any

import pytest

from tests.engines.endpoints import ASK, ENDS, REPORTED, Ask, Chunks, counts, several, until_stamped
from tests.servers import ROLE, USAGE, Asked, Endpoint, Wire, chunk, streams, usage_chunk, whole
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.session import Session

STOP = replace(ASK, sampling=Sampling(stop=("END", "\n\n")))
CACHED = {**USAGE, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}}

# Stop texts

LEFT_IN: dict[str, tuple[list[str], str]] = {
    "not there": (["Hel", "lo", "!"], "Hello!"),
    "at the end": (["Hel", "lo ", "END"], "Hello "),
    "in the middle of a piece": (["Hello END and"], "Hello "),
    "in halves": (["Hello E", "ND"], "Hello "),
    "letter by letter": (["Hello ", "E", "N", "D"], "Hello "),
    "another one": (["Hello\n", "\n"], "Hello"),
    "only its beginning": (["Hello E", "N"], "Hello EN"),
    "at once": (["END"], ""),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", LEFT_IN)
def test_a_stop_text_that_is_left_in_is_cut_and_counted(ask: Ask, name: str, stream: bool) -> None:
    pieces, text = LEFT_IN[name]
    prompt = replace(STOP, stream=stream)
    if stream:
        generation = ask(streams([*map(chunk, pieces), chunk(reason="stop"), usage_chunk(CACHED)]), prompt)
    else:
        generation = ask(lambda _asked, wire: wire.answer(200, whole("".join(pieces), usage=CACHED)), prompt)
    assert (generation.text, generation.status, generation.finish_reason) == (text, "ok", "stop")
    assert (counts(generation), generation.cost.bound) == (REPORTED, "exact")
    assert generation.record.env.get("ignored_options") is None


@pytest.mark.parametrize(
    "first", [["Hello END", " and"], ["Hello E", "ND", " and"], ["Hello \n\nEND", "x"], ["Hello END and on", "x"]]
)
def test_a_server_that_goes_on_after_a_stop_text_is_left(ask: Ask, first: list[str]) -> None:
    hung_up: SimpleQueue[bool] = SimpleQueue()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for piece in first:
            wire.event(chunk(piece, usage=None))
        hung_up.put(wire.wait_for_hangup())

    generation = ask(script, STOP)
    assert (generation.text, generation.status, generation.finish_reason) == ("Hello ", "ok", "stop")
    assert hung_up.get(timeout=90)
    assert generation.usage.output_source == "estimated"
    assert (generation.usage.output_tokens or 0) >= len(first), "what came after it was generated, too"
    assert generation.record.env["ignored_options"] == ["--stop"]
    assert "ignored --stop" in generation.footer
    assert generation.cost.usd is not None
    assert generation.cost.bound == "at_least" or generation.cost.source == "estimated"


def test_a_server_that_runs_to_its_limit_past_a_stop_text_is_told(ask: Ask) -> None:
    generation = ask(streams([chunk("Hello END and on"), chunk(reason="length"), usage_chunk(CACHED)]), STOP)
    assert (generation.text, generation.finish_reason, counts(generation)) == ("Hello ", "stop", REPORTED)
    assert generation.cost.usd == Decimal("0.000042")
    assert generation.record.env["ignored_options"] == ["--stop"]


def test_silence_after_a_stop_text_is_the_end(ask: Ask, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmagic.engines.endpoint.stream._LAST_WORD_S", 0.2)
    session.settings.silence_timeout_s = 60.0

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Hello END"))
        wire.wait_for_hangup()

    began = time.monotonic()
    generation = ask(script, STOP)
    assert (generation.text, generation.status, generation.finish_reason) == ("Hello ", "ok", "stop")
    assert generation.cost.source == "estimated"
    assert time.monotonic() - began < 30, "half of what silence takes"


def test_a_stop_text_in_one_answer_leaves_the_other_alone(ask: Ask) -> None:
    prompt = replace(ASK, sampling=Sampling(stop=("END",), n=2, temperature=0.7))
    parts: Chunks = [
        chunk("a END"),
        chunk("b", index=1),
        chunk(" more"),
        chunk("c", index=1),
        *ENDS,
        usage_chunk(CACHED),
    ]
    generation = ask(streams(parts), prompt)
    assert [choice.text for choice in generation.choices] == ["a ", "bc"]
    assert [choice.finish_reason for choice in generation.choices] == ["stop", "stop"]
    assert generation.status == "ok"


def test_a_stop_text_in_the_reasoning_ends_nothing(ask: Ask) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "then END."}, "finish_reason": None}]}
    generation = ask(streams([thought, chunk("Hello"), chunk(reason="stop"), usage_chunk(CACHED)]), STOP)
    assert (generation.text, counts(generation)) == ("Hello", REPORTED)


def test_a_piece_that_is_held_back_stops_the_clock(ask: Ask, session: Session) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("E"))
        until_stamped(session)
        time.sleep(0.2)
        wire.event(chunk("nd"))
        wire.event(chunk(reason="stop"))
        wire.end()

    reading = ask(script, STOP).reading
    assert reading.ttft_s is not None
    assert reading.latency_s is not None
    assert reading.latency_s - reading.ttft_s >= 0.2


# Options that are ignored

SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
LOGPROB: dict[str, Any] = {"content": [{"token": "a", "logprob": -0.5}]}
AS_ID: dict[str, Any] = {"content": [{"id": 7, "logprob": -0.5}]}
EITHER = '{"type": ["object", "null"]}'
CUT: Chunks = [chunk("Sure! The"), chunk(reason="length")]
LONG = {"prompt_tokens": 12, "completion_tokens": 300}


def said(text: str, **fields: Any) -> Chunks:
    """One answer in two chunks."""
    first = chunk(text)
    return [first | {"choices": [first["choices"][0] | fields]}, chunk(reason="stop")]


FOLLOWED: dict[str, tuple[Sampling, Chunks, dict[str, Any], list[str] | None]] = {
    "nothing asked": (Sampling(), said("a"), USAGE, None),
    "logprobs": (Sampling(logprobs=True), said("a", logprobs=LOGPROB), USAGE, None),
    "logprobs as ids": (Sampling(logprobs=True), said("a", logprobs=AS_ID), USAGE, None),
    "no logprobs": (Sampling(logprobs=True), said("a"), USAGE, ["--logprobs"]),
    "null logprobs": (Sampling(logprobs=True), said("a", logprobs=None), USAGE, ["--logprobs"]),
    "two answers": (Sampling(n=2, temperature=0.7), [chunk("a"), chunk("b", index=1), *ENDS], USAGE, None),
    "one of two answers": (Sampling(n=2, temperature=0.7), said("a"), USAGE, ["-n"]),
    "schema": (Sampling(json_schema=SCHEMA), said('{"a": 1}'), USAGE, None),
    "prose": (Sampling(json_schema=SCHEMA), said("Sure! The answer is 1."), USAGE, ["--json-schema"]),
    "another type": (Sampling(json_schema=SCHEMA), said("[1]"), USAGE, ["--json-schema"]),
    "a part is missing": (Sampling(json_schema=SCHEMA), said('{"b": 1}'), USAGE, ["--json-schema"]),
    "prose that was cut": (Sampling(json_schema=SCHEMA), CUT, USAGE, ["--json-schema"]),
    "JSON that was cut": (Sampling(json_schema=SCHEMA), [chunk(' {"a'), chunk(reason="length")], USAGE, None),
    "blanks that were cut": (Sampling(json_schema=SCHEMA), [chunk("\n "), chunk(reason="length")], USAGE, None),
    "one of several types, cut": (Sampling(json_schema=EITHER), [chunk("nul"), chunk(reason="length")], USAGE, None),
    "none of several types, cut": (Sampling(json_schema=EITHER), CUT, USAGE, ["--json-schema"]),
    "a type that nobody knows, cut": (Sampling(json_schema='{"type": "x"}'), CUT, USAGE, ["--json-schema"]),
    "JSON whose end is not told": (Sampling(json_schema=SCHEMA), [chunk('{"a')], USAGE, None),
    "prose whose end is not told": (Sampling(json_schema=SCHEMA), [chunk("Sure!")], USAGE, ["--json-schema"]),
    "a schema of anything": (Sampling(json_schema="true"), said("[1]"), USAGE, None),
    "at the limit": (Sampling(max_tokens=299), said("a " * 150), LONG, None),
    "above the limit": (Sampling(max_tokens=100), said("a " * 150), LONG, ["--max-tokens"]),
    "reasoning above it": (
        Sampling(max_tokens=100),
        said("a " * 150),
        LONG | {"completion_tokens_details": {"reasoning_tokens": 250}},
        None,
    ),
    "several": (Sampling(logprobs=True, n=2, temperature=0.7), said("a"), USAGE, ["-n", "--logprobs"]),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_an_option_that_is_ignored_is_told(ask: Ask, name: str) -> None:
    sampling, parts, usage, options = FOLLOWED[name]
    generation = ask(streams([ROLE, *parts, usage_chunk(usage)]), replace(ASK, sampling=sampling))
    assert generation.record.env.get("ignored_options") == options
    assert ("the server ignored" in generation.footer) is (options is not None)


@pytest.mark.parametrize(
    ("parts", "status", "bound"),
    [
        ([*said("a"), usage_chunk()], "ok", "at_least"),
        ([chunk("a"), usage_chunk()], "failed", "at_least"),
        ([*said("a"), chunk("b", index=1), usage_chunk()], "failed", "at_least"),
        ([chunk("a"), chunk("b", index=1), *ENDS, usage_chunk()], "ok", "exact"),
    ],
    ids=["one of two", "half of one", "one and a half", "both"],
)
def test_fewer_answers_in_a_stream_that_ends_without_a_word(ask: Ask, parts: Chunks, status: str, bound: str) -> None:
    """`transformers serve` sends no [DONE] and takes no notice of `n`."""
    generation = ask(streams(parts, done=False), several(2))
    assert (generation.status, generation.cost.bound) == (status, bound)
    assert generation.record.env.get("ignored_options") == (["-n"] if (status, bound) == ("ok", "at_least") else None)


def test_a_cut_answer_tells_of_no_options(ask: Ask) -> None:
    generation = ask(streams([chunk("a")], done=False), replace(ASK, sampling=Sampling(logprobs=True)))
    assert (generation.status, generation.record.env.get("ignored_options")) == ("failed", None)


# mlx-lm's server


def test_mlx_is_asked_for_what_it_takes(session: Session, server: Endpoint) -> None:
    session.models.add("x", ModelSpec("org/m", api_base=server.url, server="mlx"))
    options = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1}
    prompt = replace(ASK, sampling=Sampling(**options, seed=7, logprobs=True))
    server.script = streams([*said("a", logprobs=AS_ID), usage_chunk()])
    generation = session.generate(prompt, "x")
    assert [(it.text, it.logprob) for it in generation.choices[0].logprobs] == [("", -0.5)]
    assert {**options, "seed": 7, "logprobs": True}.items() <= server.last.body.items()
    session.generate(Prompt((Message("user", "a"),), Sampling(logprobs=True), completion=True), "x")
    assert server.last.body["logprobs"] is True


@pytest.mark.parametrize(
    ("sampling", "option"), [(Sampling(n=2, temperature=0.7), "-n"), (Sampling(json_schema=SCHEMA), "--json-schema")]
)
def test_mlx_is_not_asked_for_what_it_ignores(
    session: Session, server: Endpoint, sampling: Sampling, option: str
) -> None:
    session.models.add("x", ModelSpec("org/m", api_base=server.url, server="mlx"))
    generation = session.generate(replace(ASK, sampling=sampling), "x")
    assert generation.status == "refused"
    assert f"ignores {option}" in str(generation.error)
    assert server.asked == []
