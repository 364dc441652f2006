"""How answers arrive: streams under other names, and characters of which each half comes in its own chunk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.engines.endpoints import ASK, ENDS, GREEDY, REPORTED, Ask, counts, several, until_stamped
from tests.servers import ANSWER, USAGE, Asked, Endpoint, Wire, chunk, streams, usage_chunk, whole
from tokmagic.runs.session import Session

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
def test_a_stream_by_any_other_name_is_read_as_one(ask: Ask, session: Session, kind: str, before: str) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream(kind)
        for letter in before.encode():
            wire.send(bytes([letter]))
        for part in (chunk("Hé"), chunk("llo"), chunk(reason="stop"), usage_chunk()):
            wire.event(part)
            until_stamped(session)
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


# The server's own times

VLLM = {
    "time_to_first_token_ms": 85.2,
    "generation_time_ms": 1240.5,
    "queue_time_ms": 12.2,
    "mean_itl_ms": 9.1,
    "tokens_per_second": 103.2,
}
LLAMA_CPP = {"cache_n": 60, "prompt_n": 8, "prompt_ms": 43.25, "predicted_ms": 238.75, "predicted_per_token_ms": 9.55}
TIMES: dict[str, tuple[dict[str, Any], dict[str, float] | None]] = {
    "vLLM": ({"metrics": VLLM}, {"queue_s": 0.0122, "prefill_s": 0.073, "itl_mean_s": 0.0091}),
    "llama.cpp": ({"timings": LLAMA_CPP}, {"prefill_s": 0.04325, "itl_mean_s": 0.00955}),
    "Groq": (
        {"usage": USAGE | {"queue_time": 0.25, "prompt_time": 0.002, "completion_time": 0.4}},
        {"queue_s": 0.25, "prefill_s": 0.002},
    ),
    "parts are null": ({"metrics": VLLM | {"mean_itl_ms": None, "queue_time_ms": None}}, None),
    "impossible": ({"timings": {"prompt_ms": -1, "predicted_per_token_ms": "x"}}, None),
    "none": ({"metrics": None, "timings": {}}, None),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", TIMES)
def test_a_servers_own_times_are_read(session: Session, ask: Ask, name: str, stream: bool) -> None:
    beside, expected = TIMES[name]
    if stream:
        generation = ask(streams([*ANSWER[:-1], usage_chunk() | beside]))
    else:
        body = whole("Hello!") | beside
        generation = ask(lambda _asked, wire: wire.answer(200, body), replace(ASK, stream=False))
    (row,) = session.ledger().runs()
    assert row.env.get("server_times") == (None if expected is None else pytest.approx(expected))
    told = expected or {}
    assert generation.reading.queue_s == (pytest.approx(told["queue_s"]) if "queue_s" in told else None)
    if not stream:
        itl_s = generation.reading.itl_mean_s
        assert itl_s == (pytest.approx(told["itl_mean_s"]) if "itl_mean_s" in told else None)
    assert (row.reading.queue_s, row.reading.itl_mean_s) == (generation.reading.queue_s, generation.reading.itl_mean_s)
