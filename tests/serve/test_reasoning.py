"""Reasoning that an engine shows reaches clients, streamed and whole alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.serve.gateways import Served, serving
from tokmagic.core.stream import Finished, Started, Token, Usage
from tokmagic.engines.scripted import Script, ScriptedEngine

ASKED = Usage.measured(7, reasoning_tokens=2)
EVENTS = (
    Started(0, ASKED, 0),
    Token(1, "", 1, reasoning="Count"),
    Token(2, "", 2, reasoning=" first."),
    Token(3, "One", 3),
    Token(4, " two", 4),
    Finished(5, ("stop",), replace(ASKED, output_tokens=4), ("!",), device_s=1e-9),
)
THOUGHT, ANSWER = "Count first.", "One two!"
CHAT = {"messages": [{"role": "user", "content": "Count."}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    engine = ScriptedEngine("tiny", [Script(EVENTS)])
    with serving(tmp_path_factory.mktemp("reasoning"), engine) as found:
        yield found


def test_a_chat(served: Served) -> None:
    (choice,) = served.post("/v1/chat/completions", CHAT).json()["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": ANSWER,
        "refusal": None,
        "reasoning_content": THOUGHT,
    }


def test_a_streamed_chat(served: Served) -> None:
    chunks = served.stream("/v1/chat/completions", CHAT | {"stream": True})[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(it.get("reasoning_content", "") for it in deltas) == THOUGHT
    assert "".join(it.get("content", "") for it in deltas) == ANSWER


def test_a_response(served: Served) -> None:
    answer = served.post("/v1/responses", {"input": "Count."}).json()
    thought, message = answer["output"]
    assert (thought["type"], thought["status"], thought["summary"]) == ("reasoning", "completed", [])
    assert thought["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    assert message["content"][0]["text"] == ANSWER
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


def test_a_streamed_response(served: Served) -> None:
    events = served.stream("/v1/responses", {"input": "Count.", "stream": True})
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    places = {(event["item_id"][:3], event["output_index"]) for event in events if "item_id" in event}
    assert places == {("rs_", 0), ("msg", 1)}
    done = {event["type"]: event["text"] for event in events if "text" in event}
    assert done == {"response.reasoning_text.done": THOUGHT, "response.output_text.done": ANSWER}
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_an_answer_may_be_handed_back_with_its_reasoning(served: Served) -> None:
    output = served.post("/v1/responses", {"input": "Count."}).json()["output"]
    again = [{"role": "user", "content": "Count."}, *output, {"role": "user", "content": "And on."}]
    assert served.post("/v1/responses", {"input": again}).status_code == 200
    told = served.post("/v1/responses", {"input": [*again, {"content": "Whose?"}]}).json()["error"]
    assert told["param"] == "input.4.role"


def test_reasoning_alone_still_has_an_empty_message(served: Served) -> None:
    body = {"input": "Count.", "max_output_tokens": 2}
    whole = served.post("/v1/responses", body).json()
    events = served.stream("/v1/responses", body | {"stream": True})
    for response in (whole, events[-1]["response"]):
        assert [item["content"][0]["text"] for item in response["output"]] == [THOUGHT, ""]
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
