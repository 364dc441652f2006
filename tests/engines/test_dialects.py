"""What servers send in other words: ends that are none, failures, empty events, reasoning, half characters."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.endpoints import ASK, GREEDY, REPORTED, Ask, Chunks, counts, in_choice, several, until_stamped
from tests.servers import ANSWER, ROLE, USAGE, Asked, Endpoint, Script, Wire, chunk, streams, usage_chunk, whole
from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.core.stream import Token
from tokmagic.engines.endpoint.answers import read_answer
from tokmagic.engines.endpoint.usage import read_usages
from tokmagic.errors import EndpointError
from tokmagic.runs.session import Session
from tokmagic.tokens.tokenizer import rough_count_text

# Ends, and what is none


@pytest.mark.parametrize("word", ["", "null", "None", "NOT_FINISHED", "FINISH_REASON_UNSPECIFIED", False])
def test_a_word_that_ends_nothing_is_no_end(ask: Ask, word: Any) -> None:
    running = [in_choice(chunk(text), finish_reason=word) for text in ("Once", " upon")]
    generation = ask(streams(running, done=False), GREEDY)
    assert (generation.text, generation.status, generation.finish_reason) == ("Once upon", "failed", "error")
    assert generation.cost.bound == "at_least"
    generation = ask(streams([*running, chunk(reason="stop"), usage_chunk()]), GREEDY)
    assert (generation.status, generation.finish_reason, counts(generation)) == ("ok", "stop", REPORTED)


STOPS = replace(ASK, sampling=Sampling(stop=(" time",)))
UNSAID: dict[str, tuple[Script, Prompt, str | None]] = {
    "a stream": (streams([ROLE, chunk("Once"), chunk(" upon"), usage_chunk()]), ASK, None),
    "a stream with words that end nothing": (
        streams([in_choice(chunk("Once upon"), finish_reason="null"), usage_chunk()]),
        ASK,
        None,
    ),
    "a whole answer with null": (
        lambda _asked, wire: wire.answer(200, in_choice(whole("Once upon"), finish_reason=None)),
        replace(ASK, stream=False),
        None,
    ),
    "a whole answer without the field": (
        lambda _asked, wire: wire.answer(
            200, whole("") | {"choices": [{"index": 0, "message": {"content": "Once upon"}}]}
        ),
        replace(ASK, stream=False),
        None,
    ),
    "a stop text that is seen here": (streams([chunk("Once upon"), chunk(" time"), usage_chunk()]), STOPS, "stop"),
}
"""Answers that their server ended without a reason, and what is known of that."""


@pytest.mark.parametrize("name", UNSAID)
def test_a_reason_that_nobody_gave_is_not_known(ask: Ask, session: Session, name: str) -> None:
    script, prompt, reason = UNSAID[name]
    generation = ask(script, prompt)
    assert (generation.text, generation.status, counts(generation)) == ("Once upon", "ok", REPORTED)
    assert (generation.finish_reason, generation.choices[0].finish_reason) == (reason, reason)
    assert generation.cost.bound == "exact"
    (row,) = session.ledger().runs()
    assert row.finish_reason == reason


def test_of_several_answers_each_has_the_reason_that_was_given(ask: Ask) -> None:
    generation = ask(streams([chunk("a"), chunk("b", index=1), chunk(reason="length", index=1)]), several(2))
    assert [choice.finish_reason for choice in generation.choices] == [None, "length"]


def test_an_answer_without_a_reason_is_cached(ask: Ask) -> None:
    script = streams([chunk("Once"), usage_chunk()])
    found = [ask(script, GREEDY) for _ in range(2)]
    assert [(it.status, it.text, it.finish_reason) for it in found] == [("ok", "Once", None), ("cached", "Once", None)]


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
    {"type": "BadRequestError", "message": "the GPU fell off", "code": 400},
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
    '{"type": "status", "code": 7, "message": "2 are before you"}',
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


def test_the_first_part_of_reasoning_is_the_first_token(ask: Ask, session: Session) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event({"choices": [{"index": 0, "delta": THOUGHTS["mistral's parts"], "finish_reason": None}]})
        until_stamped(session)
        time.sleep(0.2)
        for part in ANSWER[1:-1]:
            wire.event(part)
        wire.end()

    reading = ask(script).reading
    assert (reading.latency_s or 0) - (reading.ttft_s or 0) >= 0.2


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


# Calls of tools, which no text shows

PLACE = {"name": "weather_at", "arguments": '{"place": "Chiang Mai", "unit": "celsius"}'}
CALLS: dict[str, list[dict[str, Any]]] = {
    "a call": [{"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": PLACE}]}],
    "one after another": [
        {"role": "assistant", "content": None, "tool_calls": [{"index": 0, "function": {"name": PLACE["name"]}}]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in PLACE["arguments"].split(" ")),
    ],
    "several": [{"tool_calls": [{"index": at, "function": {"name": name}} for at, name in enumerate(PLACE.values())]}],
    "the older way": [{"content": None, "function_call": PLACE}],
    "with an object": [{"tool_calls": [{"function": PLACE | {"arguments": {"place": "Chiang Mai", "unit": "°C"}}}]}],
    "a tool of one's own": [{"tool_calls": [{"type": "custom", "custom": {"name": "run", "input": "x = 1 " * 9}}]}],
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_a_tool_is_estimated_where_the_server_counts_nothing(ask: Ask, name: str, stream: bool) -> None:
    deltas = CALLS[name]
    if stream:
        parts = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        generation = ask(streams([*parts, chunk(reason="tool_calls")]))
    else:
        gathered = [call for delta in deltas for call in delta.get("tool_calls", ())]
        message = {"content": None} | ({"tool_calls": gathered} if gathered else deltas[0])
        body = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
        generation = ask(lambda _asked, wire: wire.answer(200, body), replace(ASK, stream=False))
    assert (generation.text, generation.status, generation.finish_reason) == ("", "ok", "other")
    assert 10 <= (generation.usage.output_tokens or 0) <= 30
    assert generation.usage.output_source == generation.cost.source == "estimated"
    assert generation.reading.ttft_s is not None, "it stops the clock"


def test_a_call_of_a_tool_is_counted_beside_what_a_server_reports(ask: Ask) -> None:
    call = {"choices": [{"index": 0, "delta": CALLS["a call"][0], "finish_reason": "tool_calls"}]}
    assert counts(ask(streams([call, usage_chunk()]))) == REPORTED


def test_a_call_that_breaks_off_is_not_asked_for_again(ask: Ask, server: Endpoint) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event({"choices": [{"index": 0, "delta": CALLS["a call"][0], "finish_reason": None}]})
        wire.drop()

    generation = ask(script)
    assert (generation.status, generation.cost.bound, len(server.asked)) == ("failed", "at_least", 1)
    assert (generation.usage.output_tokens or 0) >= 10


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


# Several choices in one object


def _listed(indexes: tuple[Any, ...], texts: tuple[str, ...], reason: str | None, where: str) -> list[dict[str, Any]]:
    """Choices as they stand in an object; an index of None is left out."""
    made = [{where: {"content": text}, "finish_reason": reason} for text in texts]
    return [it if index is None else it | {"index": index} for index, it in zip(indexes, made, strict=True)]


IN_ORDER, REVERSED = ["Hello", "there"], ["there", "Hello"]
INDEXES: list[tuple[tuple[Any, ...], list[str], tuple[bool, ...]]] = [
    ((0, 1), IN_ORDER, (False, True)),
    ((1, 0), REVERSED, (False, True)),
    ((None, None), IN_ORDER, (False, True)),
    ((None, 1), IN_ORDER, (False, True)),
    (("0", "1"), IN_ORDER, (False, True)),
    ((1, 2), IN_ORDER, (False, True)),
    ((0, 0), IN_ORDER, (False,)),
]


@pytest.mark.parametrize(
    ("indexes", "answers", "streamed"),
    [(indexes, answers, streamed) for indexes, answers, ways in INDEXES for streamed in ways],
)
def test_choices_that_no_index_tells_apart_are_told_apart_by_their_places(
    ask: Ask, indexes: tuple[Any, ...], answers: list[str], streamed: bool
) -> None:
    """What a proxy makes of several answers that it gathered."""
    usage = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}
    if streamed:
        pieces = (("Hel", "the"), ("lo", "re"))
        objects = [{"id": "c", "choices": _listed(indexes, texts, None, "delta")} for texts in pieces]
        end = {"id": "c", "choices": _listed(indexes, ("", ""), "stop", "delta")}
        script = streams([*objects, end, {"id": "c", "choices": [], "usage": usage}])
    else:
        gathered = {"id": "c", "choices": _listed(indexes, ("Hello", "there"), "stop", "message"), "usage": usage}

        def script(_asked: Asked, wire: Wire) -> None:
            wire.answer(200, gathered)

    generation = ask(script, several(2, stream=streamed))
    assert [(it.text, it.finish_reason) for it in generation.choices] == [(text, "stop") for text in answers]
    assert (generation.usage.output_tokens, generation.usage.output_source) == (6, "reported")
    assert generation.record.env.get("ignored_options") is None


def test_an_event_may_hold_two_pieces_of_one_choice(ask: Ask) -> None:
    objects = [{"id": "c", "choices": _listed((at, at), ("Hel", "lo"), None, "delta")} for at in (0, 1)]
    ends = {"id": "c", "choices": _listed((0, 1), ("", ""), "stop", "delta")}
    generation = ask(streams([*objects, ends, usage_chunk()]), several(2))
    assert [it.text for it in generation.choices] == ["Hello", "Hello"]


# More answers than were asked for

TWO_TEXTS, THREE_TEXTS = ("Hello", "there"), ("Hello", "there", "you")
UNASKED: list[tuple[int, tuple[Any, ...], tuple[str, ...], list[str]]] = [
    (1, (0, 1), TWO_TEXTS, ["Hello"]),
    (1, (0, 1, 7), THREE_TEXTS, ["Hello"]),
    (2, (0, 1, 2), THREE_TEXTS, ["Hello", "there"]),
    (2, (1, 2, 3), THREE_TEXTS, ["there", "Hello"]),
    (1, (1,), ("Hello",), ["Hello"]),
]
FIRST_COME = (1, (1, 0), TWO_TEXTS, ["Hello"])
IN_ONE = [
    (1, (1, 0), TWO_TEXTS, ["there"]),
    (1, (None, None), TWO_TEXTS, ["Hello"]),
    (2, (0, 0, 0), THREE_TEXTS, ["Hello", "there"]),
]
"""Told apart by their places where they stand in one object, and what was asked for has the first choice."""


@pytest.mark.parametrize("told", [True, False], ids=["usage", "no usage"])
@pytest.mark.parametrize(
    ("stream", "n", "indexes", "texts", "answers"),
    [*((True, *row) for row in (*UNASKED, FIRST_COME)), *((False, *row) for row in (*UNASKED, *IN_ONE))],
)
def test_answers_that_were_not_asked_for_are_counted_and_told(
    ask: Ask, stream: bool, n: int, indexes: tuple[Any, ...], texts: tuple[str, ...], answers: list[str], told: bool
) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}
    if stream:
        pieces = [chunk(text, index=index) for index, text in zip(indexes, texts, strict=True)]
        ends = [chunk(reason="stop", index=index) for index in indexes]
        script = streams([*pieces, *ends, *([usage_chunk(usage)] if told else [])])
    else:
        body = {"object": "chat.completion", "choices": _listed(indexes, texts, "stop", "message")}

        def script(_asked: Asked, wire: Wire) -> None:
            wire.answer(200, body | ({"usage": usage} if told else {}))

    generation = ask(script, several(n, stream=stream))
    assert (generation.status, [it.text for it in generation.choices]) == ("ok", answers)
    output = generation.usage.output_tokens, generation.usage.output_source
    assert output == ((6, "reported") if told else (sum(map(rough_count_text, texts)), "estimated"))
    more = len(texts) - n
    said = f"the server sent {more} answer{'s' * (more > 1)} that were not asked for" if more else None
    assert (generation.cost.anomaly, "ignored -n" in generation.footer) == (said, more > 0)


@pytest.mark.parametrize("n", [1, 2])
def test_a_connection_that_breaks_in_an_answer_that_was_not_asked_for_took_nothing_away(ask: Ask, n: int) -> None:
    asked = [chunk("Hello", reason="stop", index=number) for number in range(n)]
    generation = ask(streams([*asked, chunk("there", index=n)], done=False), several(n))
    assert (generation.status, [it.text for it in generation.choices]) == ("ok", ["Hello"] * n)
    assert generation.cost.bound == "at_least", "the server may have gone on"


@pytest.mark.parametrize(
    "choices",
    [
        [{"index": -1, "message": {"content": "Hello"}}],
        [{"index": "first", "message": {"content": "Hello"}}],
        [{"message": {"content": "Hello"}}, "there"],
        [{"message": {"content": "Hello"}}] * 100,
    ],
    ids=["negative", "text", "no object", "too many"],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_usage_beside_choices_that_cannot_be_is_billed(ask: Ask, choices: list[Any], stream: bool) -> None:
    body = {"object": "chat.completion", "choices": choices, "usage": USAGE}
    script = streams([chunk("Hel"), body]) if stream else lambda _asked, wire: wire.answer(200, body)
    generation = ask(script, replace(ASK, stream=stream))
    assert (generation.status, generation.text) == ("failed", "Hel" if stream else "")
    assert "choice" in str(generation.error)
    assert "reports" not in str(generation.error)
    assert counts(generation) == REPORTED
    assert generation.cost.bound == "at_least"
