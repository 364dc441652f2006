"""What a client gets: OpenAI's shapes, with counts, cost and times that are the row's own."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serve.gateways import WORDS, Served, scripted, serving
from tokmagic.core.stream import Finished, FinishReason, Logprob, Started, Token, Usage
from tokmagic.engines.scripted import Script, ScriptedEngine

TEXT = "".join(WORDS)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Count."}]}
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
# 12 input tokens at 1 USD per 1M, 5 output tokens at 2.
COST = "0.000022"


def counts(usage: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in usage.items() if name != "tokmagic"}


def test_a_chat(served: Served) -> None:
    answer = served.post("/v1/chat/completions", CHAT).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert counts(answer["usage"]) == USAGE
    own = answer["usage"]["tokmagic"]
    assert (own["cost_usd"], own["cost_source"], own["status"]) == (COST, "measured", "ok")
    row = served.ledger.run(own["run_id"])
    assert row is not None
    assert row.reading.cost.usd == Decimal(COST)
    assert (row.user, row.team, row.key, row.session) == (
        "ada",
        "research",
        served.key.key_id,
        served.gateway.session_id,
    )
    assert own["ttft_s"] == row.reading.ttft_s
    assert answer["metrics"]["mean_itl_ms"] == pytest.approx((row.reading.itl_mean_s or 0) * 1e3)


def test_a_streamed_chat(served: Served) -> None:
    chunks = served.stream("/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}})
    assert chunks.pop() == "[DONE]"
    last = chunks.pop()
    assert last["choices"] == []
    assert counts(last["usage"]) == USAGE
    assert last["usage"]["tokmagic"]["cost_usd"] == COST
    assert all(chunk["usage"] is None for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stream_without_usage_has_none(served: Served) -> None:
    chunks = served.stream("/v1/chat/completions", CHAT | {"stream": True})
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert all(chunk["choices"] for chunk in chunks[:-1])


def test_continuous_usage_counts_up_with_each_chunk(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = served.stream("/v1/chat/completions", CHAT | {"stream": True, "stream_options": options})[:-1]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4, 5, 5, 5]


def test_a_limit_ends_the_answer_with_length(served: Served) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = served.post("/v1/chat/completions", CHAT | {name: 2}).json()
        assert answer["choices"][0]["message"]["content"] == "".join(WORDS[:2])
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("reason", "told", "status"),
    [
        ("stop", "stop", "completed"),
        ("length", "length", "incomplete"),
        ("content_filter", "content_filter", "incomplete"),
        ("other", "stop", "completed"),
        (None, "stop", "completed"),  # nobody said it
    ],
)
def test_a_model_that_ended_by_itself_was_not_cut(
    tmp_path: Path, reason: FinishReason | None, told: str, status: str
) -> None:
    asked = Usage.measured(12, reasoning_tokens=0)
    finished = Finished(9, (reason,), replace(asked, output_tokens=1), device_s=1e-9)
    engine = ScriptedEngine("tiny", [Script((Started(0, asked, 0), Token(1, WORDS[0], 1), finished))])
    with serving(tmp_path, engine) as served:
        for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"model": "tiny", "prompt": "Count:"})):
            assert served.post(path, body).json()["choices"][0]["finish_reason"] == told
            chunks = served.stream(path, body | {"stream": True})[:-1]
            assert [it for chunk in chunks if (it := chunk["choices"][0]["finish_reason"])] == [told]
        assert served.post("/v1/responses", {"model": "tiny", "input": "Count."}).json()["status"] == status
        assert {row.finish_reason for row in served.rows()} == {reason}


def test_a_completion(served: Served) -> None:
    body = {"model": "tiny", "prompt": "Count:"}
    answer = served.post("/v1/completions", body).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    assert counts(answer["usage"]) == USAGE
    chunks = served.stream("/v1/completions", body | {"stream": True})[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT


def test_each_of_several_completions_has_offsets_of_its_own(tmp_path: Path) -> None:
    tokens = [Token(1 + at, text, at, at % 2, logprobs=(Logprob(text, -0.5),)) for at, text in enumerate(WORDS[:4])]
    asked = Usage.measured(12, reasoning_tokens=0)
    finished = Finished(9, ("stop", "stop"), replace(asked, output_tokens=4), device_s=1e-9)
    engine = ScriptedEngine("tiny", [Script((Started(0, asked, 0), *tokens, finished))])
    body = {"model": "tiny", "prompt": "Count:", "n": 2, "logprobs": 0}
    with serving(tmp_path, engine) as served:
        whole = served.post("/v1/completions", body).json()["choices"]
        assert [it["logprobs"]["text_offset"] for it in whole] == [[0, 3], [0, 4]]
        chunks = served.stream("/v1/completions", body | {"stream": True})[:-1]
        told = [
            (it["index"], it["logprobs"]["text_offset"]) for chunk in chunks for it in chunk["choices"] if it["text"]
        ]
        assert told == [(0, [0]), (1, [0]), (0, [3]), (1, [4])]


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "Count:"})])
def test_a_log_probability_that_json_cannot_say_costs_nobody_the_answer(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    given = (-0.5, -math.inf, math.nan)
    tokens = [Token(1 + at, WORDS[at], at, logprobs=(Logprob(WORDS[at], it),)) for at, it in enumerate(given)]
    asked = Usage.measured(12, reasoning_tokens=0)
    finished = Finished(9, ("stop",), replace(asked, output_tokens=3), device_s=1e-9)
    engine = ScriptedEngine("tiny", [Script((Started(0, asked, 0), *tokens, finished))])
    with serving(tmp_path, engine) as served:
        asks = body | {"logprobs": True if path.startswith("/v1/chat") else 0}
        answer = served.post(path, asks)
        assert answer.status_code == 200, answer.text
        chunks = served.stream(path, asks | {"stream": True})[:-1]
    streamed = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    for told in (_logprobs([answer.json()["choices"][0]["logprobs"]]), _logprobs(streamed)):
        assert told == [-0.5, -9999.0, None]


def _logprobs(of: list[dict[str, Any]]) -> list[float | None]:
    """The numbers of a chat's or a completion's log probabilities."""
    return [
        number
        for it in of
        for number in it.get("token_logprobs") or [token["logprob"] for token in it.get("content", ())]
    ]


CACHED = {"cached_tokens": 10, "cache_write_tokens": 50}


@pytest.mark.parametrize(
    ("path", "body", "details", "expected"),
    [
        ("responses", {"input": "Count."}, "input_tokens_details", [CACHED, {**CACHED, "cache_write_tokens": 0}]),
        ("chat/completions", CHAT, "prompt_tokens_details", [CACHED, {"cached_tokens": 10}]),
        ("completions", {"prompt": "Count."}, "prompt_tokens_details", [CACHED, {"cached_tokens": 10}]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_was_written_to_a_cache_is_told_where_it_is_known(
    path: str, body: dict[str, Any], details: str, expected: list[Any], stream: bool, tmp_path: Path
) -> None:
    reported: dict[str, Any] = {"input_source": "reported", "output_source": "reported"}
    known = Usage(input_tokens=100, output_tokens=0, cached_input_tokens=10, cache_write_input_tokens=50, **reported)
    asked = [known, replace(known, cache_write_input_tokens=None)]
    scripts = [Script((Started(0, it), Finished(9, ("stop",), replace(it, output_tokens=2)))) for it in asked]
    options = {"stream": True} if path == "responses" else {"stream": True, "stream_options": {"include_usage": True}}
    with serving(tmp_path, ScriptedEngine("tiny", scripts)) as served:
        for told in expected:
            if stream:
                last = [it for it in served.stream(f"/v1/{path}", body | options) if it != "[DONE]"][-1]
                usage = last["response"]["usage"] if path == "responses" else last["usage"]
            else:
                usage = served.post(f"/v1/{path}", body).json()["usage"]
            assert usage[details] == told


def test_a_response_has_no_sum_of_what_is_not_known(tmp_path: Path) -> None:
    unknown = Script((Started(0, Usage()), Finished(9, ("stop",), Usage(output_tokens=2))))
    with serving(tmp_path, ScriptedEngine("tiny", [unknown])) as served:
        told = served.post("/v1/responses", {"input": "Count."}).json()["usage"]
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == (None, 2, None)


def test_a_response(served: Served) -> None:
    body = {"model": "tiny", "input": "Count.", "instructions": "Be brief."}
    answer = served.post("/v1/responses", body).json()
    assert (answer["object"], answer["status"]) == ("response", "completed")
    assert answer["output"][0]["content"][0]["text"] == TEXT
    assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (12, 5)
    assert answer["usage"]["tokmagic"]["cost_usd"] == COST


def test_a_streamed_response_has_its_events_in_order(served: Served) -> None:
    events = served.stream("/v1/responses", {"model": "tiny", "input": "Count.", "stream": True})
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 5,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    assert events[-1]["response"]["usage"]["total_tokens"] == 17


def test_what_is_served_is_listed(served: Served) -> None:
    listed = served.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    told = listed["data"][0]["tokmagic"]
    assert told["state"] == "ready"
    assert told["rates"] == {"input": "1", "output": "2", "source": "test"}
    assert told["users"] == {}
    assert told["requests"] == {"running": 0, "waiting": 0}
    without = dict.fromkeys(["cap_usd", "left_usd", "cap_tokens", "left_tokens"])
    assert told["key"] == {"name": served.key.name, "team": "research", **without}
    assert served.get("/v1/models/tiny").json() == listed["data"][0]


def test_a_key_is_told_what_is_left_of_its_own_budget_alone(tmp_path: Path) -> None:
    with serving(tmp_path, usd=Decimal("0.5")) as served:
        _, other = served.ledger.keys.add("other", "ben", None, Decimal(3), 1000)
        cost = Decimal(served.post("/v1/chat/completions", CHAT).json()["usage"]["tokmagic"]["cost_usd"])
        told = served.get("/v1/models/tiny").json()["tokmagic"]["key"]
        assert (told["cap_usd"], Decimal(told["left_usd"])) == ("0.5", Decimal("0.5") - cost)
        headers = {"authorization": f"Bearer {other}"}
        told = served.client.get("/v1/models/tiny", headers=headers).json()["tokmagic"]["key"]
        assert told == {
            "name": "other",
            "team": None,
            "cap_usd": "3",
            "left_usd": "3",
            "cap_tokens": 1000,
            "left_tokens": 1000,
        }


def test_the_model_need_not_be_named_where_there_is_one(served: Served) -> None:
    answer = served.post("/v1/chat/completions", {"messages": CHAT["messages"]}).json()
    assert answer["model"] == "tiny"


def test_messages_in_parts_and_a_developers_message(served: Served) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Count"}, {"type": "text", "text": " to five."}]},
    ]
    assert served.post("/v1/chat/completions", {"model": "tiny", "messages": messages}).status_code == 200


def test_a_client_that_names_its_run_is_counted_once(served: Served) -> None:
    run_id = "0123456789abcdef" * 2
    answer = served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id=run_id).json()
    row = served.ledger.run(answer["usage"]["tokmagic"]["run_id"])
    assert row is not None
    assert (row.client_run_id, row.duplicate) == (run_id, False)  # no such row is in this ledger


def test_the_metrics_have_vllms_names(served: Served) -> None:
    served.post("/v1/chat/completions", CHAT)
    text = served.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    asked = sum(record.reading.usage.input_tokens or 0 for record in served.ended)
    assert float(values['vllm:prompt_tokens_total{model_name="tiny"}']) == asked
    assert 'vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="tiny"}' in values
    assert float(values['tokmagic:cost_usd_total{model_name="tiny",team="research"}']) > 0
    assert served.secret not in text
    assert served.key.name not in text


def test_the_share_of_cache_hits_is_of_those_that_are_known(tmp_path: Path) -> None:
    scripts = []
    for cached in (40, None):
        usage = replace(Usage.measured(100, 1), cached_input_tokens=cached)
        scripts.append(Script((Started(0, usage), Token(1, "One", 1), Finished(2, ("stop",), usage))))
    with serving(tmp_path, ScriptedEngine("tiny", scripts)) as served:
        for _ in scripts:
            served.post("/v1/chat/completions", CHAT)
        text = served.get("/metrics").text
    for name, tokens in (("prefix_cache_queries", 100), ("prefix_cache_hits", 40), ("prompt_tokens", 200)):
        assert f'vllm:{name}_total{{model_name="tiny"}} {tokens}.0' in text


def test_a_run_can_be_looked_up_by_its_key_alone(served: Served) -> None:
    run_id = uuid.uuid4().hex
    answer = served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id=run_id)
    own = answer.json()["usage"]
    served_as = own["tokmagic"]["run_id"]
    assert answer.headers["x-tokmagic-server-run-id"] == answer.headers["x-request-id"] == served_as
    for name in (run_id, served_as):
        told = served.get(f"/v1/runs/{name}").json()
        assert (told["id"], told["status"], told["model"]) == (served_as, "ok", "tiny")
        assert told["usage"] == own | {"tokmagic": own["tokmagic"] | {"waited_s": None}}
    _, other = served.ledger.keys.add("another", "ada")
    for secret, name in ((other, served_as), (other, run_id), (served.secret, uuid.uuid4().hex)):
        refused = served.client.get(f"/v1/runs/{name}", headers={"authorization": f"Bearer {secret}"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "run_not_found")
    assert served.get("/v1/runs/mine").status_code == 400
    assert served.client.get(f"/v1/runs/{served_as}").status_code == 401


@pytest.mark.slow
def test_a_streams_run_can_be_looked_up_while_it_goes_on(tmp_path: Path) -> None:
    slow = scripted(pace=1.0, ttft_s=1.0, itl_s=0.2)
    with serving(tmp_path, slow) as served:
        auth = {"authorization": f"Bearer {served.secret}"}
        content = json.dumps(CHAT | {"stream": True})
        with served.client.stream("POST", "/v1/chat/completions", content=content, headers=auth) as answer:
            url = f"{served.url}/v1/runs/{answer.headers['x-tokmagic-server-run-id']}"
            told = httpx2.get(url, headers=auth, trust_env=False).json()
            answer.read()
        assert (told["status"], told["usage"]) == ("running", None)
        assert httpx2.get(url, headers=auth, trust_env=False).json()["status"] == "ok"


def test_health_needs_no_key(served: Served) -> None:
    assert served.client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/models/tiny"])
def test_nothing_else_answers_without_one(served: Served, path: str) -> None:
    refused = served.client.get(path)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "missing_api_key"
    assert refused.headers["www-authenticate"] == "Bearer"


def test_a_refusal_is_counted_by_its_code(tmp_path: Path) -> None:
    with serving(tmp_path, usd=Decimal("0.0000001")) as served:
        assert served.post("/v1/chat/completions", CHAT).status_code == 402
        assert served.post("/v1/chat/completions", CHAT | {"model": "none"}).status_code == 404
        lines = served.get("/metrics").text.splitlines()
        for code, status in (("insufficient_quota", 402), ("model_not_found", 404)):
            assert f'tokmagic:rejected_requests_total{{code="{code}",status="{status}"}} 1.0' in lines
