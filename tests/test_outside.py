"""The servers of others that the endpoint engine is tested against: they are there, and answer as they did.

`tests/fixtures/peers` holds recordings of their answers. If a test here fails after an upgrade, record anew.
"""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.peers.servers import CANNED, Peer

pytestmark = [pytest.mark.outside, pytest.mark.model]

QUESTION = [{"role": "user", "content": "Name three colours."}]


def ask(peer: Peer, **body: object) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {peer.key}"} if peer.key else {}
    asked = {"model": peer.model, "messages": QUESTION, "max_tokens": 6, "temperature": 0, **body}
    return httpx2.post(f"{peer.base_url}/chat/completions", json=asked, headers=headers, timeout=60, trust_env=False)


def sse(response: httpx2.Response) -> list[str]:
    """The data of each event in a stream."""
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line]


@pytest.fixture(params=["transformers_serve", "litellm_proxy"])
def peer(request: pytest.FixtureRequest) -> Peer:
    peer = request.getfixturevalue(request.param)
    assert isinstance(peer, Peer)
    return peer


def test_a_plain_answer_carries_its_usage(peer: Peer) -> None:
    answer = ask(peer).raise_for_status().json()
    assert answer["choices"][0]["message"]["content"].startswith("1. Red")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 34, "completion_tokens": 6, "total_tokens": 40}


def test_transformers_streams_usage_with_the_reason_and_no_done(transformers_serve: Peer) -> None:
    *pieces, last = [json.loads(data) for data in sse(ask(transformers_serve, stream=True).raise_for_status())]
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces).startswith("1. Red")
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"] == {"prompt_tokens": 34, "completion_tokens": 6, "total_tokens": 40}


def test_litellm_streams_usage_after_the_reason_if_asked(litellm_proxy: Peer) -> None:
    *_, reason, usage, done = sse(ask(litellm_proxy, stream=True, stream_options={"include_usage": True}))
    assert json.loads(reason)["choices"][0]["finish_reason"] == "length"
    assert json.loads(usage)["choices"] == [{"index": 0, "delta": {}}]
    assert json.loads(usage)["usage"]["completion_tokens"] == 6
    assert done == "[DONE]"


def test_litellm_streams_no_usage_unasked(litellm_proxy: Peer) -> None:
    *pieces, done = sse(ask(litellm_proxy, stream=True))
    assert done == "[DONE]"
    assert len(pieces) == 8  # role, six tokens, reason
    assert not any("usage" in piece for piece in pieces)


def test_litellm_answers_and_fails_as_told(litellm_proxy: Peer) -> None:
    assert ask(litellm_proxy, model="canned").json()["choices"][0]["message"]["content"] == CANNED
    failures = {name: ask(litellm_proxy, model=name) for name in ("limited", "broken", "too-long", "unreachable")}
    assert {name: answer.status_code for name, answer in failures.items()} == {
        "limited": 429,
        "broken": 500,
        "too-long": 400,
        "unreachable": 500,
    }
    assert all(answer.json()["error"]["code"] == str(answer.status_code) for answer in failures.values())
