"""The servers of others that the endpoint engine is tested against: they are there, and answer as they did.

`tests/fixtures/peers` holds recordings of their answers. If a test here fails after an upgrade, record anew.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.peers.cases import CASES, USAGE, Asked, answer
from tests.peers.recordings import Recording, recorded
from tests.peers.servers import CANNED, MOCKED_ERRORS, Peer

pytestmark = [pytest.mark.outside, pytest.mark.model]

# The servers themselves, without tokmagic.

FIXTURES = {
    "transformers": "transformers_serve",
    "litellm": "litellm_proxy",
    "llama.cpp": "llama_cpp",
    "mlx": "mlx_server",
}


def ask(peer: Peer, **body: object) -> Any:
    response = answer(peer, Asked(body))
    assert response.status == 200, response.body
    return json.loads(response.body)


def events(recording: Recording) -> list[str]:
    """The data of each event of a stream, without comments."""
    lines = [line for line in recording.body.decode().split("\n") if not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines if line)
    return [line.removeprefix("data: ") for line in lines if line]


def shape(value: object) -> object:
    """Which keys and which types a JSON value has."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def shapes(recording: Recording) -> list[object]:
    """The shapes of what was sent, each once: how many tokens come, and of which answer, depends on the processor."""
    kind = recording.headers["content-type"]
    if kind.startswith("text/plain"):
        return [recording.body]
    sent = events(recording) if kind.startswith("text/event-stream") else [recording.body]
    found: list[object] = []
    for data in sent:
        one = data if data == "[DONE]" else shape(json.loads(data))
        if one not in found:
            found.append(one)
    return sorted(found, key=str)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_it_answers_as_recorded(request: pytest.FixtureRequest, name: str, case: str) -> None:
    peer: Peer = request.getfixturevalue(FIXTURES[name])
    now, then = answer(peer, CASES[name][case]), recorded(f"{name}/{case}")
    assert (now.status, now.headers.keys()) == (then.status, then.headers.keys())
    assert shapes(now) == shapes(then)


@pytest.fixture(params=FIXTURES.values())
def peer(request: pytest.FixtureRequest) -> Peer:
    peer = request.getfixturevalue(request.param)
    assert isinstance(peer, Peer)
    return peer


def test_a_plain_answer_carries_its_usage(peer: Peer) -> None:
    said = ask(peer)
    assert said["choices"][0]["message"]["content"]
    assert said["choices"][0]["finish_reason"] == "length"
    assert said["usage"].items() >= {"prompt_tokens": 34, "completion_tokens": 6, "total_tokens": 40}.items()


def test_transformers_streams_usage_with_the_reason_and_no_done(transformers_serve: Peer) -> None:
    *pieces, last = [json.loads(data) for data in events(answer(transformers_serve, Asked({"stream": True})))]
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"] == {"prompt_tokens": 34, "completion_tokens": 6, "total_tokens": 40}


def test_litellm_streams_usage_after_the_reason_if_asked(litellm_proxy: Peer) -> None:
    *_, reason, usage, done = events(answer(litellm_proxy, Asked(USAGE)))
    assert json.loads(reason)["choices"][0]["finish_reason"] == "length"
    assert json.loads(usage)["choices"] == [{"index": 0, "delta": {}}]
    assert json.loads(usage)["usage"]["completion_tokens"] == 6
    assert done == "[DONE]"


def test_litellm_streams_no_usage_unasked(litellm_proxy: Peer) -> None:
    *pieces, done = events(answer(litellm_proxy, Asked({"stream": True})))
    assert done == "[DONE]"
    assert not any("usage" in json.loads(piece) for piece in pieces)


def test_litellm_tells_its_cost_in_a_header_or_in_a_streams_usage(litellm_proxy: Peer) -> None:
    header = "x-litellm-response-cost"
    whole = answer(litellm_proxy, Asked({"model": "priced"}))
    assert float(whole.headers[header]) > 0
    assert "cost" not in json.loads(whole.body)["usage"]
    stream = answer(litellm_proxy, Asked({**USAGE, "model": "priced"}))
    assert header not in stream.headers
    assert json.loads(events(stream)[-2])["usage"]["cost"] > 0
    assert header not in answer(litellm_proxy, Asked()).headers  # it has no price for this model


def test_litellm_answers_and_fails_as_told(litellm_proxy: Peer) -> None:
    assert ask(litellm_proxy, model="canned")["choices"][0]["message"]["content"] == CANNED
    failures = {name: answer(litellm_proxy, Asked({"model": name})) for name in (*MOCKED_ERRORS, "unreachable")}
    statuses = {name: failure.status for name, failure in failures.items()}
    assert statuses == {"limited": 429, "broken": 500, "too-long": 400, "unreachable": 500}
