"""The endpoint engine on what servers of other people's making really sent, played back byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.peers.recordings import FOLDER, names, recorded
from tests.servers import Asked, Endpoint, Wire, serve
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Name three colours."),), Sampling(max_tokens=6))
Make = Callable[..., Session]
Play = Callable[[str], Generation]
REQUESTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "requests.json").read_text(encoding="utf-8"))

# (text's beginning, finish reason, input, output, source of both)
WHOLE = {
    "transformers/plain": ("1. Red: This is", "length", 34, 6, "reported"),
    "transformers/stream": ("1. Red: This is", "length", 34, 6, "reported"),
    "transformers/stream_usage": ("1. Red: This is", "length", 34, 6, "reported"),
    "litellm/plain": ("1. Red: This is", "length", 34, 6, "reported"),
    "litellm/stream_usage": ("1. Red: This is", "length", 34, 6, "reported"),
    "litellm/completion_stream": ("", "length", None, 3, "reported"),
    "litellm/canned_two_choices": ("One two", "stop", 10, 20, "reported"),
    "litellm/canned_stream_usage": ("One two", "stop", 11, 11, "reported"),
    "litellm/priced_plain": ("1. Red: This is", "length", 34, 6, "reported"),
    "litellm/priced_stream_usage": ("1. Red: This is", "length", 34, 6, "reported"),
    "llama.cpp/plain": ("1. Red: This is", "length", 34, 6, "reported"),
    "llama.cpp/stream_usage": ("1. Red: This is", "length", 34, 6, "reported"),
    "llama.cpp/stop_text": ("1. ", "stop", 34, 5, "reported"),
    "llama.cpp/two_choices_stream": ("", "length", 34, 12, "reported"),
    "llama.cpp/json_schema": ('{\n  "red"', "stop", 34, 16, "reported"),
    "llama.cpp/logprobs": ("1.", "length", 34, 2, "reported"),
    "llama.cpp/logprobs_stream": ("1.", "length", 34, 2, "reported"),
    "mlx/plain": ("1. Red: This is", "length", 34, 6, "reported"),
    "mlx/stream_usage": ("1. Red: This is", "length", 34, 6, "reported"),
    "mlx/stop_text": ("1. his is", "length", 34, 10, "reported"),  # cut out by the server, which went on
    "mlx/two_choices": ("", "length", 34, 6, "reported"),
    "mlx/json_schema": ("1. Red: This is", "length", 34, 30, "reported"),
    "mlx/logprobs": ("1.", "length", 34, 2, "reported"),
    "mlx/logprobs_stream": ("1.", "length", 34, 2, "reported"),
}
IGNORED = {
    "mlx/two_choices": ["-n"],
    "mlx/two_choices_stream": ["-n"],
    "mlx/json_schema": ["--json-schema"],
    "mlx/logprobs_stream": ["--logprobs"],
    "transformers/two_choices": ["-n"],
    "transformers/json_schema": ["--json-schema"],
    # What it made up is more than it was allowed.
    "litellm/canned": ["--max-tokens"],
    "litellm/canned_stream_usage": ["--max-tokens"],
    "litellm/canned_two_choices": ["--max-tokens"],
}
ONE_OF_TWO = (
    "llama.cpp/two_choices",
    "litellm/priced_two_choices",
    "litellm/priced_two_choices_stream",
    "litellm/canned_two_choices_stream",
)
"""Answers whose usage is one's of two."""
COSTS = {
    "litellm/priced_plain": ("0.000094", False),
    "litellm/priced_stream_usage": ("0.0000643", False),
    "litellm/priced_two_choices": ("0.0000643", True),
    "litellm/priced_two_choices_stream": ("0.0000643", True),
    "litellm/plain": (None, False),
}
"""The cost that the proxy reports of its ``priced`` model, and whether ours is another."""
TIMED = {
    "llama.cpp/plain": ("prefill_s", "itl_mean_s"),
    "llama.cpp/stream_usage": ("prefill_s", "itl_mean_s"),
    "litellm/priced_plain": ("prefill_s", "itl_mean_s"),
    "litellm/priced_stream_usage": (),  # it drops them
    "mlx/plain": (),
}
"""Which times of its own a server tells."""
FAILED = {
    "transformers/bad_json": "JSON decode error",
    "transformers/unknown_field": "top_k",
    "transformers/unknown_model": "no-such-model",
    "transformers/no_messages": "Internal Server Error",
    "transformers/error_in_stream": "must be greater than 0",
    "litellm/error_in_stream": "error occurred during streaming",
    "litellm/unknown_model": "no-such-model",
    "litellm/wrong_key": "No connected db",
    "litellm/missing_key": "401",
    "litellm/missing_key_without_prisma": "Internal Server Error",
    "litellm/limited": "429",
    "litellm/too_long": "ContextWindowExceededError",
}


def asked_for(name: str) -> Prompt:
    """The question as it was asked, as far as tokmagic asks so."""
    body = REQUESTS.get(name, {}).get("body")
    if not isinstance(body, dict):
        return ASK
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    sampling = Sampling(
        max_tokens=max(1, body["max_tokens"]),
        n=body.get("n", 1),
        stop=tuple(body.get("stop", ())),
        logprobs=bool(body.get("logprobs")),
        json_schema=None if schema is None else json.dumps(schema),
    )
    return replace(ASK, sampling=sampling, stream=bool(body.get("stream")))


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(lambda _asked, wire: wire.drop()) as endpoint:
        yield endpoint


@pytest.fixture
def play(make_session: Make, server: Endpoint) -> Play:
    session = make_session(attempts=1)
    session.models.add("m", ModelSpec("org/m", api_base=server.url))
    session.prices.set("m", Rates(Decimal(1), Decimal(10), cached=Decimal("0.1"), source="%price"))

    def run(name: str) -> Generation:
        recording = recorded(name)
        kind = recording.headers["content-type"]

        def script(_asked: Asked, wire: Wire) -> None:
            if not kind.startswith("text/event-stream"):
                wire.answer(recording.status, recording.body, **dict(recording.headers))
                return
            wire.open_stream(kind)
            for event in recording.body.split(b"\n\n"):
                if event:
                    wire.send(event + b"\n\n")
            wire.end(done=False)

        server.script = script
        return session.generate(asked_for(name), "m")

    return run


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer(play: Play, name: str) -> None:
    text, reason, input_tokens, output_tokens, source = WHOLE[name]
    generation = play(name)
    assert generation.text.startswith(text)
    assert generation.choices[0].finish_reason == reason
    usage = generation.usage
    assert (usage.output_tokens, usage.output_source, usage.input_source) == (output_tokens, source, source)
    assert input_tokens is None or usage.input_tokens == input_tokens
    assert generation.record.env.get("ignored_options") == IGNORED.get(name)


@pytest.mark.parametrize("name", COSTS)
def test_the_proxys_own_cost_stands_beside_ours(play: Play, name: str) -> None:
    told, differs = COSTS[name]
    generation = play(name)
    kept = generation.record.env.get("reported_cost_usd")
    assert kept == told or Decimal(kept or 0) == pytest.approx(Decimal(told or 0))
    assert ("reports a cost of" in str(generation.cost.anomaly)) is differs


@pytest.mark.parametrize("name", TIMED)
def test_a_servers_own_times_are_kept(play: Play, name: str) -> None:
    env = play(name).record.env
    assert tuple(env.get("server_times", ())) == TIMED[name]


@pytest.mark.parametrize("name", ONE_OF_TWO)
def test_a_usage_of_one_answer_of_two_is_marked(play: Play, name: str) -> None:
    generation = play(name)
    assert (generation.usage.output_tokens or 0) > 6
    assert generation.cost.source == "estimated"
    assert re.search("for (1 of 2 answers|2 answers of at least)", str(generation.cost.anomaly))


@pytest.mark.parametrize("name", ["llama.cpp/logprobs", "llama.cpp/logprobs_stream", "mlx/logprobs"])
def test_log_probabilities_are_of_each_token(play: Play, name: str) -> None:
    found = play(name).choices[0].logprobs
    assert len(found) == 2
    assert [it.text for it in found] == (["1", "."] if name.startswith("llama") else ["", ""])


@pytest.mark.parametrize("name", FAILED)
def test_an_error_in_one_line(play: Play, name: str) -> None:
    generation = play(name)
    assert generation.status == "failed"
    assert FAILED[name] in str(generation.error)
    assert "\n" not in str(generation.error)


def test_every_recording_ends_in_a_row_that_is_settled(play: Play) -> None:
    for name in names():
        generation = play(name)
        assert generation.status in ("ok", "failed"), name
        assert (generation.error is None) == (generation.status == "ok"), name
        odd = name in ONE_OF_TWO or "reports a cost of" in str(generation.cost.anomaly)
        assert (generation.cost.anomaly is not None) == odd, name
