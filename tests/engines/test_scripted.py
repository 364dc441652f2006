"""The scripted engine and stop strings: exact events, files that are no scripts, and an end that is always told."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Event, Finished, Started, Token, Usage
from tokmagic.engines.base import Engine, ModelSpec
from tokmagic.engines.quality import ms_per_token
from tokmagic.engines.registry import open_engine
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream
from tokmagic.engines.stops import StopFilter
from tokmagic.errors import ModelError
from tokmagic.runs.meter import Meter


def ask(max_tokens: int = 256) -> Prompt:
    return Prompt((Message("user", "Hi"),), Sampling(max_tokens=max_tokens))


def opened(source: str) -> Engine:
    return open_engine("s", ModelSpec(source), TokMagic(home="/nonexistent", ledger="sqlite://"))


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    return events[-1]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


@pytest.fixture
def script_file(tmp_path: Path) -> Path:
    path = tmp_path / "script.json"
    given_ = {"pieces": ["Hel", "lo ", "you", "!"], "input_tokens": 7, "ttft_s": 0.5, "itl_s": 0.25}
    path.write_text(json.dumps(given_), encoding="utf-8")
    return path


def test_the_built_in_script_answers_and_ends() -> None:
    engine = opened("scripted")
    assert (engine.info.name, engine.info.engine, engine.state) == ("s", "scripted", "ready")
    events = list(engine.stream(ask()))
    assert isinstance(events[0], Started)
    assert text_of(events).startswith("This answer is scripted")
    tokens = [event for event in events if isinstance(event, Token)]
    end = finished(events)
    assert (end.reasons, end.usage.output_tokens) == (("stop",), len(tokens))
    assert events[0].usage.input_tokens == end.usage.input_tokens == engine.count(ask())


def test_a_script_file_says_exactly_what_is_metered(script_file: Path) -> None:
    events = list(opened(f"scripted:{script_file}").stream(ask()))
    assert text_of(events) == "Hello you!"
    meter = Meter(Rates())
    for event in events:
        meter.fold(event)
    reading = meter.reading(final=True)
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (7, 4)
    assert reading.ttft_s == pytest.approx(0.5, abs=1e-9)
    assert reading.latency_s == pytest.approx(1.25, abs=1e-9)
    assert (reading.itl_mean_s, reading.itl_p50_s, reading.itl_p95_s) == pytest.approx((0.25,) * 3, abs=1e-9)
    assert reading.output_tokens_per_s == pytest.approx(4.0, abs=1e-6)


def test_the_shortest_script_has_no_words() -> None:
    events = list(ScriptedEngine("s", [Script.of_text([])]).stream(ask()))
    assert [type(event) for event in events] == [Started, Finished]
    assert finished(events).usage.output_tokens == 0


def test_scripts_take_turns_and_streams_share_nothing() -> None:
    engine = ScriptedEngine("s", [Script.of_text(["a"]), Script.of_text(["b"], input_tokens=3)])
    first, second = engine.stream(ask()), engine.stream(ask())
    assert text_of(list(second)) == "b"
    assert text_of(list(first)) == "a"
    assert text_of(list(engine.stream(ask()))) == "a"
    assert engine.count(ask()) == 3


def test_max_tokens_cuts_the_script_short(script_file: Path) -> None:
    events = list(opened(f"scripted:{script_file}").stream(ask(max_tokens=2)))
    assert text_of(events) == "Hello "
    assert (finished(events).reasons, finished(events).usage.output_tokens) == (("length",), 2)
    whole = list(opened(f"scripted:{script_file}").stream(ask(max_tokens=4)))
    assert finished(whole).reasons == ("stop",)


def test_closing_in_mid_stream_ends_it_and_counts_what_was_read(script_file: Path) -> None:
    stream = opened(f"scripted:{script_file}").stream(ask())
    seen = [next(stream), next(stream), next(stream)]
    stream.close()
    rest = list(stream)
    end = finished(rest)
    assert len(rest) == 1
    assert (end.reasons, end.usage.output_tokens, end.usage.input_tokens) == (("interrupted",), 2, 7)
    assert end.at_ns == seen[-1].at_ns  # type: ignore[union-attr]
    stream.close()
    assert list(stream) == []


def test_closing_wakes_a_paced_stream_that_waits() -> None:
    engine = ScriptedEngine("s", [Script.of_text(["never"], ttft_s=3600, pace=1)])
    stream = engine.stream(ask())
    assert isinstance(next(stream), Started)
    read: list[Event] = []
    reader = threading.Thread(target=lambda: read.extend(stream), daemon=True)
    reader.start()
    stream.close()
    reader.join(60)
    assert not reader.is_alive()
    assert finished(read).reasons == ("interrupted",)


def test_a_stream_closed_before_its_first_event_only_ends() -> None:
    stream = opened("scripted").stream(ask())
    stream.close()
    events = list(stream)
    assert finished(events).reasons == ("interrupted",)
    assert finished(events).usage.output_tokens == 0


def test_an_error_comes_after_the_words_and_only_once() -> None:
    stream = ScriptedEngine("s", [Script.of_text(["a", "b"], error="the device fell off")]).stream(ask())
    assert [type(next(stream)) for _ in range(3)] == [Started, Token, Token]
    with pytest.raises(ModelError, match="the device fell off"):
        next(stream)
    assert list(stream) == []


def test_network_pieces_are_not_counted_as_tokens() -> None:
    script = Script((Started(0, Usage(input_tokens=3)), Token(5, "two words"), Finished(9, ("stop",), Usage())))
    events = list(ScriptedEngine("s", [script]).stream(ask(max_tokens=1)))
    assert finished(events).reasons == ("stop",)


BAD = [
    (b"{", "Expecting property name enclosed in double quotes: line 1 column 2"),
    (b'{"pieces": ["a"],\n "itl_s": }', "line 2 column 11"),
    (b"", "line 1 column 1"),
    (b"{}", "pieces"),
    (b'{"pieces": ["a"], "speed": 2}', "speed"),
    (b'{"pieces": 5}', "pieces"),
    (b'{"pieces": "word"}', "pieces"),
    (b'{"pieces": ["a", 5]}', "pieces"),
    (b'{"pieces": ["a"], "itl_s": "fast"}', "itl_s"),
    (b'{"pieces": ["a"], "input_tokens": -1}', "input_tokens"),
    (b'{"pieces": ["a"], "input_tokens": "many"}', "input_tokens"),
    (b'{"pieces": ["a"], "ttft_s": NaN}', "NaN"),
    (b'{"pieces": ["a"], "ttft_s": Infinity}', "infinity"),
    (b'{"pieces": ["a"], "pace": "quick"}', "pace"),
    (b"[1, 2]", "JSON such as"),
    (b'"text"', "JSON such as"),
    (b"null", "JSON such as"),
    (b"\xff\xfe{}", "decode"),
]


@pytest.mark.parametrize(("content", "says"), BAD, ids=[repr(content) for content, _ in BAD])
def test_a_bad_script_gets_one_line_that_says_where(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        opened(f"scripted:{path}")
    message = str(caught.value)
    assert message.startswith(f"{path} is not a script: ")
    assert says in message
    assert message.endswith('give JSON such as {"pieces": ["Hello", " there"], "itl_s": 0.02}')
    assert "\n" not in message


def test_a_missing_script_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ModelError, match=f"{path} is not a script"):
            opened(f"scripted:{path}")


def filtered(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stop = StopFilter(stops)
    text = ""
    for piece in pieces:
        text += stop.push(piece)
        if stop.stopped:
            break
    return text + stop.flush(), stop.stopped


STOPS: list[tuple[tuple[str, ...], list[str], str, bool]] = [
    ((), ["all ", "of it"], "all of it", False),
    (("END",), ["before END after"], "before ", True),
    (("END",), ["before E", "N", "D after"], "before ", True),
    (("END",), ["E", "N", "ough"], "ENough", False),
    (("END",), ["the E", "N"], "the EN", False),
    (("aab",), ["a", "a", "a", "b"], "a", True),
    (("\n\n",), ["one\n", "two\n", "\nthree"], "one\ntwo", True),
    (("long stop", "stop"), ["a long ", "stop"], "a ", True),
    (("b", "abc"), ["xabc"], "x", True),
    (("b", "abc"), ["xab", "c"], "xa", True),
    (("🙂",), ["a", "", "🙂", "b"], "a", True),
    (("x",), ["x"], "", True),
]


@pytest.mark.parametrize(("stops", "pieces", "text", "stopped"), STOPS, ids=[str(case[:2]) for case in STOPS])
def test_stop_strings(stops: tuple[str, ...], pieces: list[str], text: str, stopped: bool) -> None:
    assert filtered(stops, pieces) == (text, stopped)


def test_text_is_let_go_as_soon_as_it_cannot_begin_a_stop() -> None:
    stop = StopFilter(("END", "\n\n"))
    pieces = ["Go E", "a", "st\n", "or EN", "DLESS"]
    assert [stop.push(piece) for piece in pieces] == ["Go ", "Ea", "st", "\nor ", ""]
    assert (stop.stopped, stop.push("more"), stop.flush()) == (True, "", "")


words = st.text("ab\n", max_size=12)
stop_sets = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.lists(words, max_size=8), stop_sets)
@example(["ba", "a"], ["a", "baa"])
def test_however_it_is_cut_the_text_ends_at_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    text, stopped = filtered(tuple(stops), pieces)
    whole = "".join(pieces)
    assert whole.startswith(text)
    assert stopped == any(stop in whole for stop in stops)
    assert not any(stop in text for stop in stops)
    if stopped:
        assert any(whole.startswith(stop, len(text)) for stop in stops)
    else:
        assert text == whole


def test_a_script_is_driven_from_python_too(make_session: Any) -> None:
    session = make_session(model="scripted")
    generation = session.generate(ask(max_tokens=3))
    assert (generation.text, generation.finish_reason, generation.status) == ("This answer is ", "length", "ok")
    assert generation.tokens == (0, 1, 2)


@pytest.mark.parametrize(("pieces", "ms"), [(["a", "b", "c"], 20.0), (["a"], None), ([], None)])
def test_the_speed_of_an_answer_without_two_tokens_is_unknown(pieces: list[str], ms: float | None) -> None:
    asked: list[Prompt] = []

    class Noted(ScriptedEngine):
        def stream(self, prompt: Prompt) -> ScriptedStream:
            asked.append(prompt)
            return super().stream(prompt)

    assert ms_per_token(Noted("s", [Script.of_text(pieces, itl_s=0.02)])) == ms
    assert asked[0].ignore_eos, "a model may have nothing to say"
