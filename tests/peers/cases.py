"""What the servers of others are asked, and asking it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2

from tests.peers.recordings import Recording
from tests.peers.servers import MOCKED_ERRORS, Peer

KEPT_HEADERS = (
    "content-type",
    "connection",
    "retry-after",
    "www-authenticate",
    "x-request-id",
    "x-litellm-call-id",
    "x-litellm-response-cost",
)
CHAT = "/chat/completions"
STREAM: dict[str, object] = {"stream": True}
USAGE: dict[str, object] = {"stream": True, "stream_options": {"include_usage": True}}
SCHEMA = {"type": "object", "properties": {"red": {"type": "integer"}}, "required": ["red"]}
FORMAT: dict[str, object] = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}


@dataclass(frozen=True)
class Asked:
    """One request: ``body`` replaces fields of a short question; None removes one; text is sent as it is."""

    body: Mapping[str, object] | str = field(default_factory=dict)
    path: str = CHAT
    key: str | None = "right"
    kill_after: int | None = None
    """End the process that runs the model when so many events have come."""

    @property
    def method(self) -> str:
        return "GET" if self.path == "/models" else "POST"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


COMMON = {
    "plain": Asked(),
    "stream": Asked(STREAM),
    "stream_usage": Asked(USAGE),
    "end_of_sequence": Asked({**USAGE, "messages": user("Say hi."), "max_tokens": 80}),
    "stop": Asked({**USAGE, "stop": [":"]}),
    "multibyte": Asked({**USAGE, "messages": user("Repeat exactly: 🦊🦊 naïve 漢字"), "max_tokens": 12}),
    "two_choices": Asked({"n": 2}),
    "json_schema": Asked(FORMAT),
    "completion": Asked({"messages": None, "prompt": "The sea is", "max_tokens": 3}, path="/completions"),
    "completion_stream": Asked(
        {**USAGE, "messages": None, "prompt": "The sea is", "max_tokens": 3}, path="/completions"
    ),
    "models": Asked(path="/models"),
    "unknown_path": Asked(path="/nowhere"),
    "unknown_model": Asked({"model": "no-such-model"}),
    "unknown_field": Asked({"top_k": 5}),
    "no_messages": Asked({"messages": None}),
    "bad_messages": Asked({"messages": "hello"}),
    "bad_json": Asked('{"model": '),
    "bad_max_tokens": Asked({"max_tokens": -1}),
    "error_in_stream": Asked({**USAGE, "max_tokens": -1}),
}
PROXY = {
    "wrong_key": Asked(key="wrong"),
    "missing_key": Asked(key=None),
    "canned": Asked({"model": "canned"}),
    "canned_stream": Asked({**STREAM, "model": "canned"}),
    "canned_stream_usage": Asked({**USAGE, "model": "canned"}),
    "canned_two_choices": Asked({"model": "canned", "n": 2}),
    "canned_two_choices_stream": Asked({**USAGE, "model": "canned", "n": 2}),
    **{name.replace("-", "_"): Asked({**USAGE, "model": name}) for name in (*MOCKED_ERRORS, "unreachable")},
}
CHATS: dict[str, Mapping[str, object]] = {
    "plain": {},
    "stream": STREAM,
    "stream_usage": USAGE,
    "stop_text": {**USAGE, "stop": ["Red: T"], "max_tokens": 10},
    "two_choices": {"n": 2, "temperature": 0.7},
    "two_choices_stream": {**USAGE, "n": 2, "temperature": 0.7},
    "json_schema": {**FORMAT, "max_tokens": 30},
    "logprobs": {"logprobs": True, "max_tokens": 2},
    "logprobs_stream": {**USAGE, "logprobs": True, "max_tokens": 2},
}
BASIC = {name: Asked(body) for name, body in CHATS.items()}
PRICED = {
    f"priced_{name}": Asked({**CHATS[name], "model": "priced"})
    for name in ("plain", "stream_usage", "two_choices", "two_choices_stream")
}
CASES = {
    "transformers": COMMON,
    "litellm": {**COMMON, **PROXY, **PRICED},
    "llama.cpp": BASIC,
    "mlx": BASIC,
}
"""What each server is asked, by the names of the recordings."""
SERVER_DIES = {"server_dies": Asked({**USAGE, "max_tokens": 400}, kill_after=4)}
"""Asked apart, since it costs the server that runs the model its life."""


def body_of(model: str, asked: Asked) -> str:
    """What is sent: a short question, changed as asked."""
    if isinstance(asked.body, str):
        return asked.body
    question: dict[str, object] = {
        "model": model,
        "messages": user("Name three colours."),
        "max_tokens": 6,
        "temperature": 0,
    }
    changed = {name: value for name, value in {**question, **asked.body}.items() if value is not None}
    return json.dumps(changed, ensure_ascii=False)


def answer(peer: Peer, asked: Asked, model_pid: int | None = None) -> Recording:
    """Ask ``peer`` and keep what comes, also if the connection breaks."""
    key = peer.key if asked.key == "right" else asked.key
    headers = {"accept-encoding": "identity", "content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    body = b""
    client = httpx2.Client(headers=headers, timeout=120, trust_env=False)
    content = body_of(peer.model, asked) if asked.method == "POST" else None
    with client, client.stream(asked.method, peer.base_url + asked.path, content=content) as response:
        try:
            for piece in response.iter_raw():
                body += piece
                if model_pid is not None and body.count(b"data:") == asked.kill_after:
                    os.kill(model_pid, signal.SIGKILL)
        except httpx2.RemoteProtocolError:
            pass  # cut off: the recording ends where the answer did
        kept = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        return Recording(response.status_code, kept, body)
