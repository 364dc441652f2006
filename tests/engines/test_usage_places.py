"""Where and when usage comes: early, late, in pieces, of one answer of several; and what somebody made up."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.engines.endpoints import ASK, ENDS, RATES, REPORTED, Ask, Chunks, Follower, counts, in_choice, several
from tests.examples import examples
from tests.servers import ROLE, USAGE, Asked, Endpoint, Wire, chunk, streams, usage_chunk, whole
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Finished
from tokmagic.runs.session import Session

ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

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


def test_a_server_that_says_0_at_first_is_stopped_at_the_cap(ask: Ask, session: Session) -> None:
    follower = Follower(session)

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("", usage={"prompt_tokens": 12, "completion_tokens": 0}))
        for number in range(2_000):
            wire.event(chunk(" word"))
            follower.wait(number - 20)
        wire.end()

    generation = ask(script, replace(ASK, sampling=Sampling(max_tokens=10)), budget="0.002", watcher=follower)
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    assert generation.cost.usd is not None
    assert generation.cost.usd < Decimal("0.003")


# Several answers


def running(index: int, text: str, output: int, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 12, "completion_tokens": output, "total_tokens": 12 + output}
    return chunk(text, index=index, usage=usage, **more)


TOTAL = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
TWO: dict[str, Chunks] = {
    "in every chunk, of its choice": [
        running(0, "a", 4),
        running(1, "b", 2),
        running(0, "c", 6),
        running(1, "d", 3),
        *ENDS,
    ],
    "in every chunk, and all of it": [running(0, "a", 4), running(1, "b", 3), *ENDS, usage_chunk(TOTAL)],
    "in every chunk, and all of it beside an empty choice": [
        running(0, "a", 4),
        running(1, "b", 3),
        *ENDS,
        chunk(usage=TOTAL),
    ],
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


DENSE = ["1,2,3,", "4,5,6,", "7,8,9,"]


@pytest.mark.parametrize(
    ("generated", "texts", "expected"),
    [
        (6, DENSE, (10, "estimated")),  # llama.cpp's: 6, and two by their length
        (18, DENSE, (18, "reported")),  # times of one answer, a usage of all
        (None, DENSE, (18, "reported")),
        (6, DENSE[:1], (6, "reported")),
    ],
    ids=["of one", "of all", "without times", "one came"],
)
def test_a_usage_beside_the_times_of_one_answer_is_of_that_one(
    ask: Ask, generated: int | None, texts: list[str], expected: tuple[int, str]
) -> None:
    choices = [
        {"index": number, "message": {"content": text}, "finish_reason": "length"} for number, text in enumerate(texts)
    ]
    output = 6 if generated == 6 else 18
    body = {
        "choices": choices,
        "usage": {"prompt_tokens": 12, "completion_tokens": output, "total_tokens": 12 + output},
        "timings": {"predicted_n": 6, "predicted_per_token_ms": 9.5} if generated is not None else {},
    }
    generation = ask(lambda _asked, wire: wire.answer(200, body), several(3, stream=False))
    assert (generation.usage.output_tokens, generation.usage.output_source) == expected
    assert generation.cost.source == expected[1]
    assert ("for 1 of 3 answers" in str(generation.cost.anomaly)) is (expected[1] == "estimated")


STYLES = ("in every chunk", "after each answer", "in each choice", "at the end", "beside the last end")


@examples(60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.data())
def test_in_whatever_order_answers_and_usages_come_the_sum_is_right(
    session: Session, server: Endpoint, n: int, data: st.DataObject
) -> None:
    style, prompt_tokens = data.draw(st.sampled_from(STYLES)), data.draw(st.integers(1, 99))
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    order = data.draw(st.permutations([choice for choice in range(n) for _ in range(lengths[choice] + 1)]))

    def used(output: int) -> dict[str, Any]:
        return {"prompt_tokens": prompt_tokens, "completion_tokens": output, "total_tokens": prompt_tokens + output}

    parts: Chunks = []
    sent = [0] * n
    for choice in order:
        ends = sent[choice] == lengths[choice]
        sent[choice] += not ends
        part = chunk(None if ends else " a", index=choice, reason="stop" if ends else None)
        if style == "in every chunk":
            part["usage"] = used(sent[choice])
        elif style == "in each choice" and ends:
            part = in_choice(part, usage=used(sent[choice]))
        parts.append(part)
        if style == "after each answer" and ends:
            parts.append(usage_chunk(used(sent[choice])))
    if style == "at the end":
        parts.append(usage_chunk(used(sum(lengths))))
    elif style == "beside the last end":
        parts[-1] = chunk(index=order[-1], reason="stop", usage=used(sum(lengths)))
    server.script = streams(parts)
    *_, last = session.models.engine("m").stream(several(n))
    assert isinstance(last, Finished)
    usage = last.usage
    assert (usage.input_tokens, usage.output_tokens, usage.output_source) == (prompt_tokens, sum(lengths), "reported")
    assert last.anomaly is None


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


def test_a_bill_by_the_sum(ask: Ask, session: Session) -> None:
    """xAI's reasoning stands beside the output, and is billed."""
    session.prices.set("m", replace(RATES, cached=Decimal("0.1")))
    usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 434}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 400}, "prompt_tokens_details": {"cached_tokens": 0}}
    generation = ask(streams([ROLE, chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)]))
    assert (generation.usage.output_tokens, generation.usage.output_source) == (404, "reported")
    assert (generation.cost.usd, generation.cost.bound) == (Decimal("0.00407"), "exact")
