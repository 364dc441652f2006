"""The endpoint engine on what servers of other people's making really sent, played back byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.peers.recordings import names, recorded
from tests.servers import Asked, Endpoint, Wire, serve
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Name three colours."),), Sampling(max_tokens=6))
Make = Callable[..., Session]
Play = Callable[[str], Generation]

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
}
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


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(lambda _asked, wire: wire.drop()) as endpoint:
        yield endpoint


@pytest.fixture
def play(make_session: Make, server: Endpoint) -> Play:
    session = make_session(attempts=1)
    session.models.add("m", ModelSpec("org/m", api_base=server.url))

    def run(name: str) -> Generation:
        recording = recorded(name)
        kind = recording.headers["content-type"]

        def script(_asked: Asked, wire: Wire) -> None:
            if not kind.startswith("text/event-stream"):
                wire.answer(recording.status, recording.body, Content_Type=kind)
                return
            wire.open_stream(kind)
            for event in recording.body.split(b"\n\n"):
                if event:
                    wire.send(event + b"\n\n")
            wire.end(done=False)

        server.script = script
        two = replace(ASK, sampling=replace(ASK.sampling, n=2))
        return session.generate(two if "two_choices" in name else ASK, "m")

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
        # The proxy's usage for two canned answers is one's.
        assert (generation.cost.anomaly is None) == (name != "litellm/canned_two_choices_stream"), name
