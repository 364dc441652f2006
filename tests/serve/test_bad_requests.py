"""What cannot be answered is refused in OpenAI's shape, with what is wrong and how to fix it; nothing is paid."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.gateways import Served

USER = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": USER}

CHATS = "/v1/chat/completions"
UNSUPPORTED = ("unsupported_parameter", "leave it out")

# Body beside a good chat's, status, code, the field that is named, words of the message.
REFUSED: list[tuple[dict[str, Any], int, str, str | None, str]] = [
    ({"model": "none"}, 404, "model_not_found", "model", "known: tiny"),
    ({"messages": []}, 400, "invalid_value", "messages", "the prompt is empty"),
    ({"messages": [{"role": "user", "content": ""}]}, 400, "invalid_value", "messages", "the prompt is empty"),
    ({"messages": "Hi"}, 400, "invalid_type", "messages", "valid array"),
    ({"messages": [{"role": "tool", "content": "4"}]}, 400, "unsupported_value", "messages.0.role", "use system"),
    ({"messages": [{"role": "user"}]}, 400, "invalid_value", "messages.0.content", "missing"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported_value", None, "only text"),
    ({"temperature": "hot"}, 400, "invalid_type", "temperature", "valid number"),
    ({"temperature": -1}, 400, "invalid_value", "temperature", "temperature is -1"),
    ({"temperature": 1e300}, 400, "invalid_value", "temperature", "temperature is 1e+300"),
    ({"max_tokens": 0}, 400, "invalid_value", "max_tokens", "max_tokens is 0"),
    ({"max_tokens": 10**30}, 400, "invalid_value", "max_tokens", "max_tokens is 1.00e+30"),
    ({"max_tokens": 1.5}, 400, "invalid_type", "max_tokens", "valid integer"),
    ({"n": 1000}, 400, "invalid_value", "n", "at most 128"),
    ({"top_p": 2}, 400, "invalid_value", "top_p", "top_p is 2"),
    ({"stop": [""]}, 400, "invalid_value", "stop", "stop is empty"),
    ({"stop": 3}, 400, "invalid_type", "stop", "stop: input should be a text or a list"),
    ({"stop": ["a", 3]}, 400, "invalid_type", "stop.1", "stop.1: input should be a valid string"),
    ({"messages": [{"role": "user", "content": 4}]}, 400, "invalid_type", "messages.0.content", "a text or a list"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, 400, "invalid_type", "messages.0.content.0", "an object"),
    ({"stop": ["a"] * 65}, 400, "invalid_value", "stop", "stop is given 65 times; give at most 64 texts"),
    ({"n": 10**400}, 400, "invalid_value", "n", "at most 128"),
    ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools", "leave it out"),
    ({"logit_bias": {"1": 5}}, 400, "unsupported_parameter", "logit_bias", "leave it out"),
    ({"frequency_penalty": 0.5}, 400, "unsupported_parameter", "frequency_penalty", "leave it out"),
    ({"top_logprobs": 5}, 400, "unsupported_parameter", "top_logprobs", "give 0"),
    ({"min_tokens": 3, "max_tokens": 2}, 400, "invalid_value", "min_tokens", "from 0 to max_tokens, 2"),
    ({"min_tokens": 5000}, 400, "invalid_value", "min_tokens", "from 0 to max_tokens, 4,096"),
    ({"min_tokens": -1}, 400, "invalid_value", "min_tokens", "give a whole number from 0"),
    (
        {"min_tokens": 3, "response_format": {"type": "json_object"}},
        400,
        "invalid_value",
        None,
        "leave out min_tokens or the schema",
    ),
    (
        {"min_tokens": 3, "max_tokens": 3, "response_format": {"type": "json_object"}},
        400,
        "invalid_value",
        None,
        "leave out min_tokens or the schema",
    ),
    (
        {"ignore_eos": True, "response_format": {"type": "json_object"}},
        400,
        "invalid_value",
        None,
        "leave out ignore_eos or the schema",
    ),
    ({"response_format": {"type": "xml"}}, 400, "invalid_type", "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, 400, "invalid_value", "response_format.json_schema", "missing"),
]


@pytest.mark.parametrize(("change", "status", "code", "param", "words"), REFUSED)
def test_a_bad_field(
    served: Served, change: dict[str, Any], status: int, code: str, param: str | None, words: str
) -> None:
    before = len(served.rows())
    refused = served.post("/v1/chat/completions", CHAT | change)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (status, code), error
    assert words in error["message"]
    assert param is None or error["param"] == param
    assert "\n" not in error["message"]
    assert len(served.rows()) == before


@pytest.mark.parametrize(
    "field",
    [
        {"user": "ada"},
        {"frequency_penalty": 0},
        {"tools": []},
        {"logit_bias": {}},
        {"presence_penalty": 0.0},
        {"top_k": -1},
        {"min_p": 0},
        {"metadata": {"a": "b"}},
        {"tool_choice": "none"},
    ],
)
def test_a_field_that_asks_for_nothing_may_stand_there(served: Served, field: dict[str, Any]) -> None:
    assert served.post("/v1/chat/completions", CHAT | field).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/chat/completions", b"{", "the body is not JSON"),
        ("/v1/chat/completions", b"", "the body is not JSON"),
        ("/v1/chat/completions", b"[]", "the body"),
        ("/v1/chat/completions", b"\xff\xfe", "the body is not JSON"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "one request for each"),
        ("/v1/completions", {"prompt": []}, "the prompt is empty"),
        ("/v1/completions", {"prompt": 3}, "prompt: input should be a text or a list"),
        ("/v1/completions", {"prompt": ["a", 3]}, "prompt.1: input should be a valid string"),
        ("/v1/completions", {"prompt": [1, 2]}, "send the text that they stand for"),
        ("/v1/completions", {"prompt": [[1, 2]]}, "send the text that they stand for"),
        ("/v1/completions", {"prompt": "a", "logprobs": 5}, "give 0"),
        ("/v1/completions", {"prompt": "a", "echo": True}, "echo is not supported"),
        ("/v1/responses", {"input": 3}, "input: input should be a text or a list"),
        ("/v1/responses", {"input": [{"content": 3}]}, "input.0.content: input should be a text or a list"),
        ("/v1/responses", {"input": [{"role": 3}]}, "input.0.role: input should be a valid string"),
        ("/v1/responses", {"input": "a", "previous_response_id": "resp_1"}, "send the conversation"),
        ("/v1/responses", {"input": "a", "n": 2}, "one answer"),
        ("/v1/responses", {"input": "a", "background": True}, "stream it"),
        ("/tokenize", {"model": "tiny"}, "give prompt or messages"),
        ("/tokenize", {"model": "tiny", "prompt": "a"}, "has no tokenizer"),
    ],
)
def test_a_bad_body(served: Served, path: str, body: Any, words: str) -> None:
    refused = served.post(path, body)
    assert refused.status_code == 400
    assert words in refused.json()["error"]["message"]


def test_a_body_over_the_limit(served: Served) -> None:
    text = "x" * (served.gateway.bounds.body_bytes + 1)
    refused = served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")


def _nested(depth: int) -> bytes:
    return b'{"messages":[{"role":"user","content":"Hi"}],"x":' + b"[" * depth + b"]" * depth + b"}"


def _schema(properties: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(properties)}}


def _formed(properties: int) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"schema": _schema(properties)}}
    return CHAT | {"response_format": form}


# Bodies within the limit of bytes that would take long to read or to follow: path, body, code, words of the message.
HEAVY: dict[str, tuple[str, Any, str, str]] = {
    "100,000 messages": (CHATS, {"messages": USER * 100_000}, "too_many_values", "send fewer messages"),
    "100,000 messages of another kind": (CHATS, {"messages": [1] * 100_000}, "too_many_values", "more than 20,000"),
    "100,000 parts": (
        CHATS,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]},
        "too_many_values",
        "more than 20,000 fields and items",
    ),
    "700,000 stop texts": (CHATS, CHAT | {"stop": ["a"] * 700_000}, "too_many_values", "more than 20,000"),
    "many stop texts": (CHATS, CHAT | {"stop": ["a"] * 15_000}, "invalid_value", "give at most 64 texts"),
    "a long logit_bias": (CHATS, CHAT | {"logit_bias": {str(it): 1 for it in range(200_000)}}, "too_many_values", ""),
    "a logit_bias": (CHATS, CHAT | {"logit_bias": {str(it): 1 for it in range(10_000)}}, *UNSUPPORTED),
    "many tools": (CHATS, CHAT | {"tools": [{"type": "function"}] * 100_000}, "too_many_values", ""),
    "some tools": (CHATS, CHAT | {"tools": [{"type": "function"}] * 5_000}, *UNSUPPORTED),
    "many fields": (CHATS, CHAT | {f"x{number}": 0 for number in range(200_000)}, "too_many_values", ""),
    "deep": (CHATS, _nested(150), *UNSUPPORTED),
    "too deep": (CHATS, _nested(10_000), "invalid_json", "recursion limit"),
    "a million deep": (CHATS, _nested(1_000_000), "too_many_values", ""),
    "a number of a million digits": (CHATS, b'{"n":1' + b"0" * 1_000_000 + b"}", "invalid_json", "out of range"),
    "a long schema": (CHATS, _formed(3_000), "invalid_value", "at most 32,768"),
    "a longer schema": (CHATS, _formed(50_000), "too_many_values", ""),
    "a long schema of a response": (
        "/v1/responses",
        {"input": "Hi", "text": {"format": {"type": "json_schema", "schema": _schema(3_000)}}},
        "invalid_value",
        "text.format.schema has",
    ),
    "many messages of a response": ("/v1/responses", {"input": USER * 100_000}, "too_many_values", ""),
    "many prompts": ("/v1/completions", {"prompt": ["a"] * 700_000}, "too_many_values", ""),
    "some prompts": ("/v1/completions", {"prompt": ["a"] * 10_000}, "invalid_value", "one request for each"),
    "many messages to count": ("/tokenize", {"messages": USER * 100_000}, "too_many_values", ""),
    "a text cut off": (CHATS, b'{"messages":"' + b'\\"' * 1_900_000, "invalid_json", ""),
    "ids that are none": ("/detokenize", {"tokens": ["a"] * 700_000}, "invalid_type", "tokens.0"),
    "too many ids": ("/detokenize", {"tokens": [1] * 1_200_000}, "too_many_values", "more than 1,000,000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HEAVY)
def test_a_body_that_would_take_long(served: Served, case: str) -> None:
    path, body, code, words = HEAVY[case]
    refused = served.post(path, body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, code), error
    assert words in error["message"]
    assert len(refused.text) < 5_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": USER * 4_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 'a, [b] {"c"} ' * 250_000}]}),
        ("/v1/chat/completions", CHAT | {"stop": ["stop"] * 64}),
        ("/v1/completions", {"prompt": '\\"' * 1_000_000}),
    ],
)
def test_a_large_body_is_answered(served: Served, path: str, body: Any) -> None:
    assert served.post(path, body).status_code == 200


@pytest.mark.parametrize("field", [{"model": "x" * 100_000}, {"x" * 100_000: 1}])
def test_an_error_does_not_repeat_a_whole_body(served: Served, field: dict[str, Any]) -> None:
    refused = served.post("/v1/chat/completions", CHAT | field)
    assert refused.status_code in (400, 404)
    assert "xxx" in refused.json()["error"]["message"]
    assert len(refused.text) < 10_000


@pytest.mark.parametrize("secret", ["tm-wrong", "tm-" + "x" * 5000])
def test_a_wrong_key(served: Served, secret: str) -> None:
    refused = served.post("/v1/chat/completions", CHAT, secret=secret)
    assert refused.status_code == 401
    assert secret not in refused.text


def test_a_revoked_key(served: Served) -> None:
    _, secret = served.ledger.keys.add("leaver")
    assert served.post("/v1/chat/completions", CHAT, secret=secret).status_code == 200
    served.ledger.keys.revoke("leaver")
    refused = served.post("/v1/chat/completions", CHAT, secret=secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert refused.json()["error"]["message"].endswith("tokmagic key add makes another one")


def test_a_run_id_that_is_none(served: Served) -> None:
    refused = served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id="mine")
    assert refused.status_code == 400
    assert "32 hexadecimal digits" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/none", 404), ("GET", "/v1/completions", 405)])
def test_a_path_that_is_not_served(served: Served, method: str, path: str, status: int) -> None:
    refused = served.client.request(method, path)
    assert refused.status_code == status
    told = (
        "there is no /v1/none here; OpenAI's API is below /v1" if status == 404 else "/v1/completions does not take GET"
    )
    assert refused.json()["error"]["message"] == told
    assert refused.json()["error"]["code"] == "not_found"
