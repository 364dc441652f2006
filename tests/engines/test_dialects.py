"""What servers send in other words and places: usage, ends that are none, empty events, reasoning, half characters."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.endpoints import ASK, RATES, REPORTED, Ask, counts
from tests.servers import ANSWER, ROLE, USAGE, Asked, Endpoint, Script, Wire, chunk, streams, usage_chunk, whole
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Token
from tokmagic.engines.endpoint.answers import read_answer
from tokmagic.engines.endpoint.usage import read_usages
from tokmagic.errors import EndpointError
from tokmagic.runs.session import Session

Chunks = list[dict[str, Any] | str]
GREEDY = replace(ASK, sampling=Sampling(temperature=0.0))
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def in_choice(base: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The same chunk with more in its only choice."""
    return base | {"choices": [base["choices"][0] | fields]}


def several(n: int, **more: Any) -> Prompt:
    return replace(ASK, sampling=Sampling(n=n, temperature=0.7), **more)


# Where a usage is

PLACES: dict[str, Chunks] = {
    "in the finishing choice": [chunk("Hello!"), in_choice(chunk(reason="stop"), usage=USAGE)],
    "under a vendor's own key": [chunk("Hello!"), chunk(reason="stop", x_groq={"id": "r", "usage": USAGE})],
    "under a key that nobody knows": [chunk("Hello!"), chunk(reason="stop", x_new={"usage": USAGE})],
    "in Google's words": [
        chunk("Hello!"),
        chunk(reason="stop", usageMetadata={"promptTokenCount": 12, "candidatesTokenCount": 3, "totalTokenCount": 15}),
    ],
    "in Bedrock's words": [
        chunk("Hello!"),
        chunk(reason="stop", **{"amazon-bedrock-invocationMetrics": {"inputTokenCount": 12, "outputTokenCount": 3}}),
    ],
    "twice": [chunk("Hello!"), in_choice(chunk(reason="stop"), usage=USAGE), usage_chunk()],
    "beside zeros": [chunk("Hello!"), in_choice(chunk(reason="stop", usage=ZEROS), usage=USAGE)],
    "before zeros": [chunk("Hello!"), chunk(reason="stop", usage=USAGE), usage_chunk(ZEROS)],
    "in two halves": [
        chunk("Hello!", usage={"input_tokens": 12, "output_tokens": 1}),
        chunk(reason="stop", usage={"output_tokens": 3}),
    ],
    "after zeros in every chunk": [
        chunk("Hel", usage=ZEROS),
        chunk("lo!", usage=ZEROS),
        chunk(reason="stop", usage=USAGE),
    ],
    "empty ones beside it": [
        chunk("Hello!", usage={}),
        in_choice(chunk(reason="stop", usage=USAGE), usage=None),
        usage_chunk({}),
    ],
}


@pytest.mark.parametrize("name", PLACES)
def test_a_usage_is_found_where_it_is(ask: Ask, name: str) -> None:
    generation = ask(streams(PLACES[name]))
    assert (counts(generation), generation.cost.anomaly, generation.cost.bound) == (REPORTED, None, "exact")


def test_a_usage_in_the_choice_of_a_whole_answer_is_found(ask: Ask) -> None:
    body = in_choice(whole("Hello!", usage=None), usage=USAGE)
    assert counts(ask(lambda _asked, wire: wire.answer(200, body), replace(ASK, stream=False))) == REPORTED


@pytest.mark.parametrize(
    ("first", "input_source"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 0, "total_tokens": 12}, "reported"),
        ({"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 13}, "reported"),
        (ZEROS, "estimated"),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_usage_in_the_first_chunk_alone_counts_no_more_than_it_saw(
    ask: Ask, first: dict[str, Any], input_source: str, cut: bool
) -> None:
    parts = [chunk("One", usage=first), *(chunk(f" word{number}") for number in range(20))]
    generation = ask(streams([*parts, *([] if cut else [chunk(reason="stop")])], done=not cut))
    usage = generation.usage
    assert (usage.input_source, usage.output_source) == (input_source, "estimated")
    assert (usage.input_tokens or 0) > 5
    assert (usage.output_tokens or 0) > 15
    assert (generation.status, generation.cost.bound) == (("failed", "at_least") if cut else ("ok", "exact"))


def test_zeros_at_the_end_are_zeros_and_marked(ask: Ask) -> None:
    generation = ask(streams([chunk("Hello there, you"), chunk(reason="stop"), usage_chunk(ZEROS)]))
    assert counts(generation) == (0, "reported", 0, "reported")
    assert generation.cost.anomaly is not None
    assert generation.cost.bound == "at_least"


def test_a_server_that_says_0_at_first_is_stopped_at_the_cap(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("", usage={"prompt_tokens": 12, "completion_tokens": 0}))
        for _ in range(2_000):
            wire.event(chunk(" word"))
            time.sleep(0.001)
        wire.end()

    generation = ask(script, replace(ASK, sampling=Sampling(max_tokens=10)), budget="0.002")
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    assert generation.cost.usd is not None
    assert generation.cost.usd < Decimal("0.003")


# Several answers


def running(index: int, text: str, output: int, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 12, "completion_tokens": output, "total_tokens": 12 + output}
    return chunk(text, index=index, usage=usage, **more)


TOTAL = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
ENDS = [chunk(reason="stop"), chunk(reason="stop", index=1)]
TWO: dict[str, Chunks] = {
    "in every chunk, of its choice": [
        running(0, "a", 4),
        running(1, "b", 2),
        running(0, "c", 6),
        running(1, "d", 3),
        *ENDS,
    ],
    "in every chunk, and all of it": [running(0, "a", 4), running(1, "b", 3), *ENDS, usage_chunk(TOTAL)],
    "at the end": [chunk("a"), chunk("b", index=1), *ENDS, usage_chunk(TOTAL)],
    "after each answer": [
        chunk("a"),
        chunk("b", index=1),
        chunk(reason="stop", index=1),
        usage_chunk({"prompt_tokens": 12, "completion_tokens": 3}),
        chunk(reason="stop"),
        usage_chunk({"prompt_tokens": 12, "completion_tokens": 6}),
    ],
    "after several": [
        chunk("a"),
        chunk("b", index=1),
        *ENDS[:1],
        usage_chunk({"prompt_tokens": 12, "completion_tokens": 6}),
        *ENDS[1:],
        usage_chunk({"prompt_tokens": 12, "completion_tokens": 3}),
    ],
    "in each choice": [
        chunk("a"),
        chunk("b", index=1),
        in_choice(chunk(reason="stop"), usage={"prompt_tokens": 12, "completion_tokens": 6}),
        in_choice(chunk(reason="stop", index=1), usage={"prompt_tokens": 12, "completion_tokens": 3}),
    ],
    "beside the last end": [chunk("a"), chunk("b", index=1), ENDS[0], ENDS[1] | {"usage": TOTAL}],
}


@pytest.mark.parametrize("name", TWO)
def test_a_usage_of_several_answers_is_of_all_of_them(ask: Ask, name: str) -> None:
    generation = ask(streams(TWO[name]), several(2))
    assert (counts(generation), generation.cost.anomaly) == ((12, "reported", 9, "reported"), None)


def test_the_live_sum_is_over_the_answers(session: Session, server: Endpoint) -> None:
    seen: list[int | None] = []

    class Watch:
        def token(self, _text: str) -> None:
            (row,) = session.changes().rows
            seen.append(row.reading.usage.output_tokens)

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in (
            running(0, "a", 4),
            running(1, "b", 2),
            running(0, "c", 6),
            running(1, "d", 3),
            running(0, "e", 7),
        ):
            wire.event(part)
            time.sleep(0.02)
        for part in (*ENDS, usage_chunk(TOTAL)):
            wire.event(part)
        wire.end()

    server.script = script
    session.generate(several(2), "m", watcher=Watch())
    assert seen == [4, 8, 10]


ONE_OF_THREE = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}
TEXTS = ["one two three four five", "six seven eight nine ten", "red green blue white black"]


def three_whole(_asked: Asked, wire: Wire) -> None:
    choices = [
        {"index": number, "message": {"content": text}, "finish_reason": "stop"} for number, text in enumerate(TEXTS)
    ]
    wire.answer(200, {"object": "chat.completion", "choices": choices, "usage": ONE_OF_THREE})


def three_streamed(asked: Asked, wire: Wire) -> None:
    words = [chunk(f" {word}", index=number) for number, text in enumerate(TEXTS) for word in text.split()]
    ends = [chunk(reason="stop", index=number) for number in range(3)]
    streams([*words, *ends, usage_chunk(ONE_OF_THREE)])(asked, wire)


@pytest.mark.parametrize("stream", [True, False])
def test_a_usage_of_one_answer_is_none_of_three(ask: Ask, stream: bool) -> None:
    generation = ask(three_streamed if stream else three_whole, several(3, stream=stream))
    assert (generation.usage.output_tokens or 0) >= 15
    assert generation.usage.output_source == generation.cost.source == "estimated"
    assert "3 answers" in str(generation.cost.anomaly)


# Counts that somebody made up


@pytest.mark.parametrize(
    ("prompt", "answer", "usage", "odd"),
    [
        ("word " * 1000, "Hello!", {"prompt_tokens": 10, "completion_tokens": 3}, True),
        ("word " * 1000, "Hello!", {"prompt_tokens": 1010, "completion_tokens": 3}, False),
        ("天気" * 500, "Hello!", {"prompt_tokens": 10, "completion_tokens": 3}, True),
        ("天気" * 500, "Hello!", {"prompt_tokens": 700, "completion_tokens": 3}, False),
        ("погода " * 200, "Hello!", {"prompt_tokens": 420, "completion_tokens": 3}, False),
        ("-" * 5000, "Hello!", {"prompt_tokens": 90, "completion_tokens": 3}, False),
        ("Hi", "word " * 1000, {"prompt_tokens": 9, "completion_tokens": 20}, True),
        ("Hi", "word " * 1000, {"prompt_tokens": 9, "completion_tokens": 1001}, False),
        ("Hi", "Hello!", {"prompt_tokens": 0, "completion_tokens": 3}, True),
    ],
)
def test_a_usage_far_off_the_texts_is_marked(
    ask: Ask, prompt: str, answer: str, usage: dict[str, Any], odd: bool
) -> None:
    asked = Prompt((Message("user", prompt),), Sampling(max_tokens=2000))
    generation = ask(streams([chunk(answer), chunk(reason="stop"), usage_chunk(usage)]), asked)
    assert generation.usage.input_tokens == usage["prompt_tokens"]
    assert (generation.cost.anomaly is not None, generation.cost.bound) == (
        (True, "at_least") if odd else (False, "exact")
    )


# Ends, and what is none


@pytest.mark.parametrize("word", ["", "null", "None", "NOT_FINISHED", "FINISH_REASON_UNSPECIFIED", False])
def test_a_word_that_ends_nothing_is_no_end(ask: Ask, word: Any) -> None:
    running = [in_choice(chunk(text), finish_reason=word) for text in ("Once", " upon")]
    generation = ask(streams(running, done=False), GREEDY)
    assert (generation.text, generation.status, generation.finish_reason) == ("Once upon", "failed", "error")
    assert generation.cost.bound == "at_least"
    generation = ask(streams([*running, chunk(reason="stop"), usage_chunk()]), GREEDY)
    assert (generation.status, generation.finish_reason, counts(generation)) == ("ok", "stop", REPORTED)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("stop", ("stop", "STOP", "eos_token", "end_turn", "COMPLETE", "stop-sequence")),
        ("length", ("length", "MAX_TOKENS", "max_output_tokens", "model_length", "model_context_window_exceeded")),
        ("length", ("token_limit", "ERROR_LIMIT", "max_tokens_reached", "max_completion_tokens", "max_length")),
        ("content_filter", ("content_filter", "refusal", "SAFETY", "RECITATION", "sensitive", "guardrail_intervened")),
        ("content_filter", ("PROHIBITED_CONTENT", "IMAGE_SAFETY", "content-filter", "ERROR_TOXIC", "BLOCKLIST")),
        ("other", ("tool_calls", "function_call", "odd")),
    ],
)
def test_a_servers_words_for_an_end(ask: Ask, told: str, words: tuple[str, ...]) -> None:
    for word in words:
        generation = ask(streams([chunk("a"), chunk(reason=word), usage_chunk()]))
        assert (generation.finish_reason, generation.status) == (told, "ok"), word


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "error": (chunk(reason="error"), "'error'"),
    "abort": (chunk(reason="abort"), "'abort'"),
    "a word like it": (chunk(reason="network_error"), "'network_error'"),
    "a word unlike it": (chunk(reason="insufficient_system_resource"), "'insufficient_system_resource'"),
    "another word unlike it": (chunk(reason="USER_CANCEL"), "'USER_CANCEL'"),
    "a limit of another kind": (chunk(reason="rate_limit_exceeded"), "'rate_limit_exceeded'"),
    "with its own words": (
        in_choice(chunk(reason="error"), error={"code": 502, "message": "the GPU fell off"}),
        "fell off",
    ),
    "with its own words alone": (in_choice(chunk(" more"), error={"message": "the GPU fell off"}), "fell off"),
    "with the words of its server": (in_choice(chunk(reason="error"), native_finish_reason="OVERLOADED"), "OVERLOADED"),
    "as an object": (in_choice(chunk(), finish_reason={"type": "abort", "message": "the GPU fell off"}), "fell off"),
    "in the delta": (
        {"choices": [{"index": 0, "delta": {"error": "the GPU fell off"}, "finish_reason": "stop"}]},
        "fell off",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_choice_that_failed_is_a_failed_run(ask: Ask, server: Endpoint, name: str) -> None:
    failure, says = FAILURES[name]
    generation = ask(streams([chunk("Once"), failure, usage_chunk()]), GREEDY)
    assert (generation.status, generation.finish_reason) == ("failed", "error")
    assert generation.text.startswith("Once")
    assert says in str(generation.error)
    assert "\n" not in str(generation.error)
    assert generation.cost.bound == "at_least"
    assert ask(prompt=GREEDY).status == "failed", "it is not cached"
    assert len(server.asked) == 2


def test_a_whole_answer_that_failed_is_a_failed_run(ask: Ask) -> None:
    body = in_choice(whole("Once", reason="error"), error={"message": "the GPU fell off"})
    generation = ask(lambda _asked, wire: wire.answer(200, body), replace(GREEDY, stream=False))
    assert (generation.status, generation.text) == ("failed", "Once")
    assert "fell off" in str(generation.error)


REPORTS: list[dict[str, Any]] = [
    {"object": "error", "message": "the GPU fell off", "code": 500},
    {"type": "error", "error": {"type": "overloaded_error", "message": "the GPU fell off"}},
    {"error": "the GPU fell off"},
    {"errors": [{"message": "the GPU fell off"}]},
    {"detail": "the GPU fell off"},
    {"code": "InternalError", "message": "the GPU fell off", "request_id": "7"},
    {"id": "7", "error_code": 336, "error_msg": "the GPU fell off"},
    {"id": "7", "choices": None, "base_resp": {"status_code": 1000, "status_msg": "the GPU fell off"}},
]


@pytest.mark.parametrize(
    ("stream", "report"), [*((True, report) for report in REPORTS), (False, REPORTS[0]), (False, REPORTS[5])]
)
def test_what_a_server_reports_at_http_200_is_a_failure(ask: Ask, stream: bool, report: dict[str, Any]) -> None:
    script: Script = streams([chunk("Once"), report]) if stream else lambda _asked, wire: wire.answer(200, report)
    generation = ask(script, replace(GREEDY, stream=stream))
    assert (generation.status, generation.text) == ("failed", "Once" if stream else "")
    assert "the GPU fell off" in str(generation.error)


def test_an_event_called_error_is_one(ask: Ask) -> None:
    for data in ("the GPU fell off", '{"message": "the GPU fell off"}'):

        def script(_asked: Asked, wire: Wire, data: str = data) -> None:
            wire.open_stream()
            wire.event(chunk("Once"))
            wire.send(f"event: error\ndata: {data}\n\n")
            wire.end()

        generation = ask(script)
        assert (generation.status, generation.text) == ("failed", "Once")
        assert "the GPU fell off" in str(generation.error)


@pytest.mark.parametrize(
    "parts",
    [
        [chunk("I can"), chunk(reason="content_filter"), usage_chunk()],
        [chunk("I can"), chunk(reason="refusal"), usage_chunk()],
        [
            {"choices": [{"index": 0, "delta": {"refusal": "I can"}, "finish_reason": None}]},
            chunk(reason="stop"),
            usage_chunk(),
        ],
        [
            {"choices": [{"index": 0, "delta": {"content": [{"type": "refusal", "refusal": "I can"}]}}]},
            chunk(reason="stop"),
            usage_chunk(),
        ],
    ],
)
def test_a_refusal_is_told_as_one_and_not_cached(ask: Ask, server: Endpoint, parts: Chunks) -> None:
    for _ in range(2):
        generation = ask(streams(parts), GREEDY)
        assert (generation.status, generation.text) == ("ok", "I can")
        assert generation.finish_reason == "content_filter"
        assert generation.footer.endswith("refused by the provider")
    assert len(server.asked) == 2


# Events that carry nothing

NOTHING: Chunks = [
    "null",
    "{}",
    "[]",
    '""',
    '{"type": "ping"}',
    '{"type": "response.created", "response": {"id": "r"}}',
    '{"object": "chat.completion.chunk", "choices": null}',
    '{"object": "chat.completion.chunk", "choices": [], "error": null}',
    '{"choices": [null]}',
    '{"choices": [{"index": null, "delta": {}}]}',
    '{"choices": [], "error": ""}',
    '{"choices": [], "error": {}}',
    '{"choices": [], "error": {"code": 0, "message": ""}}',
    '{"choices": [], "error": {"code": null, "message": null}, "errors": []}',
    '{"choices": [], "base_resp": {"status_code": 0, "status_msg": "success"}}',
    '{"type": "status", "message": "2 are before you"}',
    '{"choices": [{"index": 0, "delta": {"content": null}, "error": null, "finish_reason": null}]}',
]


def test_events_that_carry_nothing_are_skipped(ask: Ask) -> None:
    generation = ask(streams([*NOTHING, *ANSWER[:2], *NOTHING, *ANSWER[2:], *NOTHING]))
    assert (generation.error, generation.text, counts(generation)) == (None, "Hello!", REPORTED)


def test_a_named_event_in_words_is_skipped(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.send("event: ping\ndata: still here\n\n")
        for part in ANSWER:
            wire.event(part)
        wire.end()

    assert ask(script).text == "Hello!"


def test_events_that_carry_nothing_are_no_answer(ask: Ask) -> None:
    generation = ask(streams(NOTHING))
    assert (generation.status, generation.text) == ("failed", "")
    assert "without sending any" in str(generation.error)


# How an answer begins


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("application/json", ""),
        ("text/plain; charset=latin-1", ": hello\n\n"),
        ("application/octet-stream", "\n\n"),
        ("", "event: x\n"),
        ("text/event-stream", "\ufeff"),
    ],
)
def test_a_stream_by_any_other_name_is_read_as_one(ask: Ask, kind: str, before: str) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream(kind)
        for letter in before.encode():
            wire.send(bytes([letter]))
        for part in (chunk("Hé"), chunk("llo"), chunk(reason="stop"), usage_chunk()):
            wire.event(part)
            time.sleep(0.05)
        wire.end()

    generation = ask(script)
    assert (generation.text, generation.status, counts(generation)) == ("Héllo", "ok", REPORTED)
    assert (generation.reading.latency_s or 0) > (generation.reading.ttft_s or 0), (
        "its pieces were stamped as they came"
    )


def test_a_whole_answer_by_the_name_of_a_stream_is_read_as_one(ask: Ask) -> None:
    assert (
        ask(lambda _asked, wire: wire.answer(200, whole("Hello!"), Content_Type="text/event-stream")).text == "Hello!"
    )


def test_a_last_event_needs_no_blank_line(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in ANSWER[:-1]:
            wire.event(part)
        wire.send(f'data: {{"choices": [], "usage": {str(USAGE).replace(chr(39), chr(34))}}}')
        wire.end(done=False)

    assert counts(ask(script)) == REPORTED


# Characters in halves

HALVES: dict[str, tuple[list[str], str]] = {
    "in two chunks": (["Hi \\ud83d", "\\ude00!"], "Hi 😀!"),
    "in one": (["Hi \\ud83d\\ude00!"], "Hi 😀!"),
    "over an empty one": (["Hi \\ud83d", "", "\\ude00!"], "Hi 😀!"),
    "each alone": (["\\ud83d", "\\ude00"], "😀"),
    "the first alone": (["Hi \\ud83d", "!"], "Hi \ufffd!"),
    "the first at the end": (["Hi \\ud83d"], "Hi \ufffd"),
    "the second alone": (["Hi \\ude00!"], "Hi \ufffd!"),
}


@pytest.mark.parametrize("name", HALVES)
def test_the_halves_of_a_character_are_joined(ask: Ask, session: Session, server: Endpoint, name: str) -> None:
    texts, expected = HALVES[name]
    parts = [f'{{"choices": [{{"index": 0, "delta": {{"content": "{text}"}}}}]}}' for text in texts]
    shown: list[str] = []

    class Watch:
        def token(self, text: str) -> None:
            shown.append(text)

    for status in ("ok", "cached"):
        generation = ask(streams([*parts, chunk(reason="stop"), usage_chunk()]), GREEDY, watcher=Watch())
        assert (generation.status, generation.text) == (status, expected)
    assert "".join(shown) == 2 * expected
    "".join(shown).encode()
    assert len(server.asked) == 1
    texts_kept = session.ledger().texts(generation.record.replay_of or "")
    assert texts_kept is not None
    assert texts_kept[1] == expected


def test_halves_are_joined_answer_by_answer(ask: Ask) -> None:
    halves = [(0, "\\ud83d"), (1, "\\ud83d"), (0, "\\ude00"), (1, "\\ude01")]
    parts = [f'{{"choices": [{{"index": {index}, "delta": {{"content": "{text}"}}}}]}}' for index, text in halves]
    generation = ask(streams([*parts, *ENDS, usage_chunk()]), several(2))
    assert [choice.text for choice in generation.choices] == ["😀", "😁"]


# Reasoning

THOUGHTS: dict[str, dict[str, Any]] = {
    "a field": {"reasoning_content": "Hm. "},
    "another field": {"reasoning": "Hm. "},
    "ollama's": {"thinking": "Hm. "},
    "mistral's parts": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}]}]},
    "anthropic's parts": {"content": [{"type": "thinking", "thinking": "Hm. ", "signature": "s"}]},
    "parts called reasoning": {"content": [{"type": "reasoning", "text": "Hm. "}]},
    "parts called reasoning_text": {"content": [{"type": "reasoning_text", "text": "Hm. "}]},
    "a part with a summary": {
        "content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm. "}]}]
    },
    "a thought": {"content": [{"text": "Hm. ", "thought": True}]},
    "google's mark": {"content": "Hm. ", "extra_content": {"google": {"thought": True}}},
    "details": {"reasoning_details": [{"type": "reasoning.text", "text": "Hm. ", "format": "f"}]},
    "details in a summary": {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm. "}]},
    "litellm's blocks": {"thinking_blocks": [{"type": "thinking", "thinking": "Hm. "}]},
    "in several fields": {
        "content": "",
        "reasoning": "Hm. ",
        "reasoning_content": "Hm. ",
        "reasoning_details": [{"type": "reasoning.text", "text": "Hm. "}],
    },
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_reasoning_is_content_and_kept_apart_from_the_answer(session: Session, server: Endpoint, name: str) -> None:
    thought = {"choices": [{"index": 0, "delta": THOUGHTS[name], "finish_reason": None}]}
    server.script = streams([ROLE, thought, *ANSWER[1:]])
    tokens = [event for event in session.models.engine("m").stream(ASK) if isinstance(event, Token)]
    assert [(token.reasoning, token.text) for token in tokens] == [("Hm. ", ""), ("", "Hel"), ("", "lo"), ("", "!")]
    assert tokens[0].has_content, "it stops the clocks"


def test_the_first_part_of_reasoning_is_the_first_token(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event({"choices": [{"index": 0, "delta": THOUGHTS["mistral's parts"], "finish_reason": None}]})
        time.sleep(0.2)
        for part in ANSWER[1:-1]:
            wire.event(part)
        wire.end()

    reading = ask(script).reading
    assert (reading.latency_s or 0) - (reading.ttft_s or 0) >= 0.1


def test_silence_after_reasoning_is_one_in_mid_answer(ask: Ask, session: Session) -> None:
    session.settings.silence_timeout_s = 0.2

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event({"choices": [{"index": 0, "delta": THOUGHTS["mistral's parts"], "finish_reason": None}]})
        wire.wait_for_hangup()

    assert "more of the answer for 0.2 s" in str(ask(script).error)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}]}, {"type": "text", "text": "Hello!"}],
        [{"type": "reasoning", "text": "Hm. "}, {"type": "output_text", "text": "Hello!"}],
        [{"type": "redacted_thinking", "data": "QUJD"}, {"type": "text", "text": "Hello!"}],
        [{"type": "reasoning.encrypted", "data": "QUJD"}, "Hello!"],
        [{"text": "Hm. ", "thought": True}, {"text": "Hello!"}],
        {"type": "text", "text": "Hello!"},
    ],
)
def test_the_parts_of_a_whole_answer_are_told_apart(ask: Ask, content: Any) -> None:
    body = whole("", usage=USAGE)
    body["choices"][0]["message"]["content"] = content
    generation = ask(lambda _asked, wire: wire.answer(200, body), replace(ASK, stream=False))
    assert (generation.text, counts(generation)) == ("Hello!", REPORTED)


def test_a_bill_by_the_sum(ask: Ask, session: Session) -> None:
    """xAI's reasoning stands beside the output, and is billed."""
    session.prices.set("m", replace(RATES, cached=Decimal("0.1")))
    usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 434}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 400}, "prompt_tokens_details": {"cached_tokens": 0}}
    generation = ask(streams([ROLE, chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)]))
    assert (generation.usage.output_tokens, generation.usage.output_source) == (404, "reported")
    assert (generation.cost.usd, generation.cost.bound) == (Decimal("0.00407"), "exact")


# Whatever JSON there is

WORDS = [
    "choices",
    "delta",
    "message",
    "content",
    "text",
    "type",
    "thinking",
    "reasoning",
    "finish_reason",
    "error",
    "code",
]
WORDS += [
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "index",
    "object",
    "logprobs",
    "x_groq",
    "detail",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.sampled_from(["", "a", "error", "stop", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(WORDS), JSON) | JSON, JSON, st.integers(1, 3), st.booleans())
def test_any_json_is_an_answer_or_an_error(body: Any, choice: Any, choices: int, plain: bool) -> None:
    for sent in (body, {"choices": [choice]}, {"choices": [{"delta": choice}], "usage": body}):
        try:
            answer = read_answer(sent, choices, 0, whole=plain)
        except EndpointError:
            continue
        for piece in answer.pieces:
            assert isinstance(piece.token.text, str)
            assert isinstance(piece.token.reasoning, str)
        for _, usage in answer.usages:
            read_usages([usage])
