"""The endpoint engine where a server is busy, breaks off, or answers something else: counts, cost and status hold."""

from __future__ import annotations

import os
import signal
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.engines.endpoints import ASK, REPORTED, Ask, Make, counts, in_turn, status, until
from tests.servers import ANSWER, ROLE, Asked, Endpoint, Script, Wire, chunk, serve, streams, usage_chunk, whole
from tokmagic import reports as report
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import Selection
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.endpoint import engine
from tokmagic.engines.endpoint.stream import EndpointStream
from tokmagic.errors import GenerationInterrupted, UsageError
from tokmagic.runs.session import Session

# Attempts


def test_busy_then_failing_then_well_is_one_run_at_one_cost(ask: Ask, server: Endpoint, session: Session) -> None:
    generation = ask(in_turn(status(429, Retry_After="0"), status(500, Retry_After="0"), streams(ANSWER)))
    assert (generation.status, generation.reading.attempts, generation.cost.usd) == ("ok", 3, Decimal("0.000042"))
    assert len(server.asked) == 3
    assert len(session.ledger().runs()) == 1


def test_attempts_end(ask: Ask, server: Endpoint, session: Session) -> None:
    session.settings.attempts = 2
    generation = ask(status(503, "overloaded", Retry_After="0"))
    assert (generation.status, generation.reading.attempts, len(server.asked)) == ("failed", 2, 2)
    assert "503: overloaded" in str(generation.error)
    assert "tried 2 times" in str(generation.error)
    assert generation.cost.usd == 0


def test_a_long_wait_is_left_to_the_person(ask: Ask, server: Endpoint) -> None:
    generation = ask(status(429, "slow down", Retry_After="3600"))
    assert generation.status == "failed"
    assert "3600 s" in str(generation.error)
    assert len(server.asked) == 1


def test_a_spent_quota_is_not_asked_again(ask: Ask, server: Endpoint) -> None:
    said = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    generation = ask(lambda _asked, wire: wire.answer(429, said))
    assert "insufficient_quota" in str(generation.error)
    assert len(server.asked) == 1


def interrupted_between_attempts(session: Session, code: int) -> Script:
    """Turn the first attempt away, and interrupt this process once the next one is waited for."""

    def waits() -> bool:
        streams: list[Any] = [run._stream for run in session._under_way._running.values()]
        return any(stream._reader.attempts and not stream._reader.reached for stream in streams)

    def script(asked: Asked, wire: Wire) -> None:
        status(code, Retry_After="30")(asked, wire)
        until(waits)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    return script


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True], ids=["", "which another thread is woken by"])
def test_waiting_for_the_next_attempt_can_be_interrupted(session: Session, server: Endpoint, elsewhere: bool) -> None:
    server.script = interrupted_between_attempts(session, 429)
    began_s = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK if elsewhere else signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        generation = session.generate(ASK, "m")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    assert len(server.asked) == 1, "the next attempt is 30 s away"
    assert time.monotonic() - began_s < 25, "and nobody waited for it"
    assert generation.status == "interrupted"


# Answers that break


def test_a_disconnect_in_mid_stream_keeps_what_arrived(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in (ROLE, chunk("Once upon"), chunk(" a time")):
            wire.event(part)
        wire.drop()

    generation = ask(script)
    assert (generation.text, generation.status, generation.finish_reason) == ("Once upon a time", "failed", "error")
    assert (generation.usage.output_source, generation.usage.input_source) == ("estimated", "estimated")
    assert (generation.usage.output_tokens or 0) > 0
    assert generation.cost.bound == "at_least"
    assert generation.reading.attempts == 1
    assert "before the answer's end" in str(generation.error)


def test_a_stream_that_just_ends_is_no_whole_answer(ask: Ask) -> None:
    generation = ask(streams([ROLE, chunk("Once")], done=False))
    assert (generation.text, generation.status) == ("Once", "failed")


def test_a_disconnect_after_the_finish_reason_took_nothing_away(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in (chunk("Hello"), chunk(reason="stop")):
            wire.event(part)
        wire.drop()

    generation = ask(script)
    assert (generation.text, generation.status, generation.cost.bound) == ("Hello", "ok", "exact")


@pytest.mark.parametrize(
    ("garbage", "says"),
    [
        ("{not json", "'{not json'"),
        ("[1, 2]", "[1, 2]"),
        ('{"choices": 7}', "choices"),
        ('{"choices": [{"index": -9, "delta": {"content": "x"}}]}', "choice -9"),
        ('{"error": {"message": "the GPU\\nfell off"}}', "the GPU fell off"),
        ("[" * 5000, "JSON"),
    ],
)
def test_garbage_in_mid_stream_keeps_what_arrived(ask: Ask, garbage: str, says: str) -> None:
    generation = ask(streams([chunk("Hello"), garbage, chunk(" unseen"), chunk(reason="stop")]))
    assert (generation.text, generation.status) == ("Hello", "failed")
    assert says in str(generation.error)
    assert "\n" not in str(generation.error)
    assert generation.cost.bound == "at_least"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (["nonsense"], ("estimated", None, "estimated")),
        ({"prompt_tokens": -5, "completion_tokens": 3}, ("estimated", 3, "reported")),
        ({"prompt_tokens": 12, "completion_tokens": 10**30}, ("reported", None, "estimated")),
        (
            {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 150}},
            ("reported", 5, "reported"),
        ),
    ],
)
def test_of_a_usage_that_cannot_be_what_can_be_stands_and_the_rest_is_our_own(
    ask: Ask, session: Session, usage: Any, expected: tuple[str, int | None, str]
) -> None:
    generation = ask(streams([chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)]))
    input_source, output_tokens, output_source = expected
    assert generation.status == "ok"
    assert generation.cost.anomaly is not None
    assert (generation.usage.input_source, generation.usage.output_source) == (input_source, output_source)
    assert output_tokens is None or generation.usage.output_tokens == output_tokens
    assert generation.cost.usd is not None
    assert generation.cost.usd > 0
    assert (generation.cost.source, generation.cost.bound) != ("reported", "exact")
    (row,) = session.ledger().runs()
    assert row.reading.cost.anomaly == generation.cost.anomaly


def test_more_tokens_than_bytes_are_billed_and_flagged(ask: Ask) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 90_000}
    generation = ask(streams([chunk("Hello!"), chunk(reason="stop"), usage_chunk(usage)]))
    assert counts(generation) == (12, "reported", 90_000, "reported")
    assert "90,000 output tokens" in str(generation.cost.anomaly)


def test_a_server_that_trickles_is_left(ask: Ask, session: Session) -> None:
    """Comments and blank events keep a connection open for ever; they are no answer."""
    session.settings.first_token_timeout_s = 0.5
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        try:
            for _ in range(2000):
                wire.send(": still here\n\n")
                wire.event({"object": "chat.completion.chunk", "choices": []})
                wire.event(ROLE)
                time.sleep(0.05)
        except OSError:
            hung_up.set()

    generation = ask(script)
    assert generation.status == "failed"
    assert "no answer for 0.5 s" in str(generation.error)
    assert hung_up.wait(60)


def test_a_head_that_trickles_is_left(ask: Ask, session: Session) -> None:
    session.settings.first_token_timeout_s = 0.5
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        try:
            for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 2000:
                wire._handler.wfile.write(bytes([letter]))
                time.sleep(0.05)
        except OSError:
            hung_up.set()

    assert ask(script).status == "failed"
    assert hung_up.wait(60)


def test_silence_in_mid_stream_keeps_what_arrived(ask: Ask, session: Session) -> None:
    session.settings.silence_timeout_s = 0.5
    hung_up: list[bool] = []

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Once"))
        hung_up.append(wire.wait_for_hangup())

    generation = ask(script)
    assert (generation.text, generation.status) == ("Once", "failed")
    assert "for 0.5 s" in str(generation.error)


def test_an_interrupt_closes_the_connection_and_counts_what_arrived(session: Session, server: Endpoint) -> None:
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Once upon"))
        if wire.wait_for_hangup():
            hung_up.set()

    class Interrupt:
        def token(self, _text: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    server.script = script
    generation = session.generate(ASK, "m", watcher=Interrupt())
    assert hung_up.wait(60)
    assert (generation.status, generation.finish_reason) == ("interrupted", "interrupted")
    assert generation.cost.bound == "at_least"
    assert (generation.usage.output_tokens or 0) > 0
    with pytest.raises(GenerationInterrupted):
        generation.raise_for_status()


def test_an_interrupt_before_the_first_byte_closes_the_connection(session: Session, server: Endpoint) -> None:
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        if wire.wait_for_hangup():
            hung_up.set()

    server.script = script
    assert session.generate(ASK, "m").status == "interrupted"
    assert hung_up.wait(60)
    server.script = streams(ANSWER)
    assert session.generate(ASK, "m").status == "ok"


def test_an_early_usage_is_not_the_last_word(ask: Ask) -> None:
    early = {"prompt_tokens": 12, "completion_tokens": 0}
    parts = [chunk("One", usage=early), *(chunk(f" word{number}") for number in range(20)), chunk(reason="stop")]
    generation = ask(streams(parts))
    assert generation.usage.output_source == "estimated"
    assert (generation.usage.output_tokens or 0) > 15


def test_usage_in_each_chunk_counts_what_that_chunk_carries(ask: Ask) -> None:
    parts = [chunk("a", usage={"prompt_tokens": 12, "completion_tokens": 1})]
    parts += [chunk("b", reason="stop", usage={"prompt_tokens": 12, "completion_tokens": 2})]
    assert counts(ask(streams(parts))) == (12, "reported", 2, "reported")


def test_an_attempt_that_the_server_may_bill_makes_the_cost_a_lower_bound(ask: Ask, session: Session) -> None:
    session.settings.attempts = 2
    generation = ask(in_turn(lambda _asked, wire: wire.drop(), streams(ANSWER)))
    assert (generation.status, generation.reading.attempts) == ("ok", 2)
    assert (generation.cost.usd, generation.cost.bound) == (Decimal("0.000042"), "at_least")
    generation = ask(status(504, Retry_After="0"))
    assert (generation.status, generation.cost.bound) == ("failed", "at_least")
    assert generation.cost.usd is not None
    assert generation.cost.usd > 0
    at_todays = report.repriced(session.ledger(), Selection(), session.prices).rows[-1]
    assert (at_todays[1], at_todays[2][:2], at_todays[3][:2]) == ("2", "~≥", "~≥")


@pytest.mark.slow
def test_stopping_while_the_next_attempt_is_waited_for_costs_nothing(session: Session, server: Endpoint) -> None:
    server.script = interrupted_between_attempts(session, 503)
    assert session.generate(ASK, "m").cost.usd == 0


def test_what_fails_while_showing_an_answer_hangs_up(session: Session, server: Endpoint) -> None:
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Once upon"))
        if wire.wait_for_hangup():
            hung_up.set()

    class Broken:
        def token(self, _text: str) -> None:
            raise BrokenPipeError

    server.script = script
    generation = session.generate(ASK, "m", watcher=Broken())
    assert hung_up.wait(60)
    assert (generation.status, generation.finish_reason, generation.cost.bound) == ("failed", "error", "at_least")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(session: Session, server: Endpoint) -> None:
    def echo(asked: Asked, wire: Wire) -> None:
        streams([chunk(asked.body["messages"][-1]["content"]), chunk(reason="stop"), usage_chunk()])(asked, wire)

    def ask(name: str) -> bool:
        return session.generate(Prompt((Message("user", name),)), "m").text == name

    server.script = echo
    assert ask("before")
    children = []
    for child in range(2):
        pid = os.fork()
        if pid == 0:
            good = False
            try:
                good = all(ask(f"child {child} {number}") for number in range(5))
            finally:
                os._exit(0 if good else 1)
        children.append(pid)
    assert all(ask(f"parent {number}") for number in range(5))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]


@pytest.mark.model
def test_a_template_that_refuses_what_the_server_takes_takes_nothing_away(
    make_session: Make, server: Endpoint, model_home: Path, tmp_path: Path
) -> None:
    (folder,) = (model_home / "models").glob("HuggingFaceTB--*[!k]")
    strict = tmp_path / "strict"
    strict.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (strict / path.name).write_bytes(path.read_bytes())
    (strict / "model.safetensors").write_bytes(b"")
    (strict / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}", encoding="utf-8")
    session = make_session(home=str(model_home))
    session.models.add("m", ModelSpec("org/m", api_base=server.url, tokenizer=str(strict)))
    for _ in range(2):
        generation = session.generate(ASK, "m")
        assert (generation.status, counts(generation)) == ("ok", REPORTED)
        assert generation.record.local_input_tokens is None


def test_a_setting_that_is_none_is_refused_in_one_line(
    make_session: Make, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKMAGIC_ATTEMPTS", "0")
    session = make_session()
    session.models.add("m", ModelSpec("org/m", api_base=server.url))
    with pytest.raises(UsageError, match="TOKMAGIC_ATTEMPTS is '0'; give a whole number of attempts, at least 1"):
        session.generate(ASK, "m")
    assert server.asked == []


def test_fewer_answers_than_were_asked_for_are_told(ask: Ask) -> None:
    generation = ask(streams([chunk("a"), chunk(reason="stop"), usage_chunk()]), replace(ASK, sampling=Sampling(n=2)))
    assert [choice.finish_reason for choice in generation.choices] == ["stop", "other"]


# What is no answer


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (status(401, "bad key"), "asks for a key (401: bad key)"),
        (status(404, "no such model"), "404: no such model"),
        (status(400, "too long"), "refuses the request (400: too long)"),
        (lambda _asked, wire: wire.answer(200, "<!DOCTYPE html><p>Hi", Content_Type="text/html"), "an HTML page"),
        (lambda _asked, wire: wire.answer(404, "<html>x", Content_Type="text/html"), "404: an HTML page"),
        (lambda _asked, wire: wire.answer(200, "hello"), "'hello'"),
        (lambda _asked, wire: wire.answer(200, ""), "nothing"),
        (lambda _asked, wire: wire.answer(200, {"hello": "there"}), "not an answer of an OpenAI-compatible server"),
        (lambda _asked, wire: wire.answer(200, whole("a", usage=None) | {"choices": []}), "without sending any"),
        (lambda _asked, wire: wire.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "does not speak HTTP"),
    ],
)
def test_what_is_no_answer_is_said_in_one_line(ask: Ask, script: Script, says: str) -> None:
    generation = ask(script)
    assert generation.status == "failed"
    assert says in str(generation.error)
    assert "\n" not in str(generation.error)


def test_a_body_without_an_end_is_left(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream("application/json")
        for _ in range(100):
            wire.send(b"x" * 2**20)
        wire.end(done=False)

    generation = ask(script)
    assert generation.status == "failed"
    assert "MiB" in str(generation.error)


def test_an_event_of_ten_megabytes_is_left(ask: Ask) -> None:
    generation = ask(streams([chunk("Hello"), "x" * 10_000_000]))
    assert (generation.text, generation.status) == ("Hello", "failed")
    assert "MiB" in str(generation.error)


def test_invalid_utf8_becomes_replacement_characters(ask: Ask) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.send(b'data: {"choices": [{"index": 0, "delta": {"content": "a\xffb"}, "finish_reason": "stop"}]}\n\n')
        wire.event(usage_chunk())
        wire.end()

    assert ask(script).text == "a�b"


def test_nobody_listening(session: Session, server: Endpoint) -> None:
    session.models.add("gone", ModelSpec("org/m", api_base="http://127.0.0.1:9/v1"))
    generation = session.generate(ASK, "gone")
    assert generation.status == "failed"
    assert "nothing listens there" in str(generation.error)
    assert generation.usage.output_tokens == 0


@pytest.mark.slow
def test_a_certificate_that_nobody_vouches_for(session: Session, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve(streams(ANSWER), context) as secure:
        session.models.add("secure", ModelSpec("org/m", api_base=secure.url))
        generation = session.generate(ASK, "secure")
        assert generation.status == "failed"
        assert "certificate cannot be trusted" in str(generation.error)
        assert secure.asked == []
        session.models.add("plain", ModelSpec("org/m", api_base=secure.url.replace("https", "http")))
        assert session.generate(ASK, "plain").status == "failed"


# Interrupted as it is sent


def test_an_interrupt_while_the_request_is_sent_hangs_up_and_is_billed(
    ask: Ask, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads has begun, and the run does not have its stream yet."""
    came, hung_up = threading.Event(), threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        came.set()
        with suppress(OSError):  # it may hang up before anything is written
            wire.open_stream()
            wire.event(chunk("Hel", usage={"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 13}))
        if wire.wait_for_hangup(5):
            hung_up.set()

    class Sent(EndpointStream):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            assert came.wait(60)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(engine, "EndpointStream", Sent)
    generation = ask(script)
    assert generation.status == "interrupted"
    assert hung_up.wait(2), "nobody would have read what goes on there, and it is paid for"
    assert generation.cost.usd
    assert generation.cost.bound == "at_least"
