"""The way to a server and back: which failures are tried again, whom a proxy stands before, how much is taken in."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest
import trustme

from tests.engines.endpoints import ASK, Ask, in_turn, status
from tests.servers import ANSWER, ROLE, Asked, Endpoint, Script, Wire, chunk, serve, streams, usage_chunk, whole
from tokmagic.core.prompt import Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.endpoint import reader
from tokmagic.engines.endpoint.addresses import is_this_machine
from tokmagic.engines.endpoint.limits import Limits
from tokmagic.engines.endpoint.reader import Reader
from tokmagic.runs.session import Session

# Failures that are tried again


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 507, 520, 521, 522, 523, 524, 525, 529, 530, 598, 599, 425])
def test_every_failure_of_a_server_is_tried_again(ask: Ask, server: Endpoint, code: int) -> None:
    generation = ask(in_turn(status(code, Retry_After="0"), streams(ANSWER)))
    assert (generation.status, generation.reading.attempts, len(server.asked)) == ("ok", 2, 2)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 413, 422])
def test_what_the_client_did_wrong_is_not(ask: Ask, server: Endpoint, code: int) -> None:
    assert ask(status(code)).status == "failed"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("code", "text", "bound"),
    [
        *[(code, "no", "at_least") for code in (408, 502, 504, 520, 522, 524, 598, 599)],
        (503, "upstream request timeout", "at_least"),
        (500, "Request timed out.", "at_least"),
        *[(code, "no", "exact") for code in (429, 500, 503, 521, 529)],
    ],
)
def test_a_gateway_that_gave_up_may_have_let_a_server_work(ask: Ask, code: int, text: str, bound: str) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}
    well = streams([*ANSWER[:-1], usage_chunk(usage)])
    generation = ask(in_turn(status(code, text, Retry_After="0"), well))
    assert (generation.cost.usd, generation.cost.bound) == (Decimal("0.000042"), bound)


# Proxies


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A proxy that every address is to be reached by."""
    with serve(status(400, "proxied")) as endpoint:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, endpoint.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield endpoint


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "127.0.1.1", "0x7f.1", "0177.0.0.1", "2130706433", "0.0.0.0", "LOCALHOST", "[::1]", "[::]"],
)
def test_no_proxy_stands_between_this_machine_and_itself(
    session: Session, server: Endpoint, proxy: Endpoint, host: str
) -> None:
    port = server.url.rpartition(":")[2]
    session.models.add("here", ModelSpec("org/m", api_base=f"http://{host}:{port}"))
    assert "proxied" not in str(session.generate(ASK, "here").error)
    assert proxy.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "::1",
        "0:0:0:0:0:0:0:1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::",
        "0",
        "127.0.0.1.",
        "127。0。0。1",
        "１２７.0.0.1",
        "017700000001",
        "0x7F000001",
        "a.localhost",
        "Localhost.LocalDomain",
        socket.gethostname(),
    ],
)
def test_this_machine_is_known_in_all_spellings(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host",
    ["128.0.0.1", "192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7", "localhost.example", "127.example", "1.example", "x"],
)
def test_another_machine_is_none_of_them(host: str) -> None:
    assert not is_this_machine(host)


def test_another_machine_is_reached_by_the_proxy(session: Session, proxy: Endpoint) -> None:
    session.models.add("far", ModelSpec("org/m", api_base="http://192.0.2.7/v1"))
    assert "proxied" in str(session.generate(ASK, "far").error)
    assert len(proxy.asked) == 1


def test_a_certificate_of_ones_own_is_trusted_on_this_machine(
    session: Session, proxy: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, file = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve(streams(ANSWER), context) as secure:
        session.models.add("secure", ModelSpec("org/m", api_base=secure.url))
        assert session.generate(ASK, "secure").status == "ok"
    assert proxy.asked == []


def test_certificates_are_read_once_and_again_when_they_change(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other, authority, file = trustme.CA(), trustme.CA(), tmp_path / "authority.pem"
    reads: list[int] = []
    read = httpx2.create_ssl_context
    monkeypatch.setattr(httpx2, "create_ssl_context", lambda: reads.append(1) or read())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def asked(times: int) -> list[str]:
        with serve(streams(ANSWER), context) as secure:
            sessions = [make_session() for _ in range(times)]
            for session in sessions:
                session.models.add("secure", ModelSpec("org/m", api_base=secure.url))
            return [str(session.generate(ASK, "secure", cache=False).error) for session in sessions]

    other.cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert all("its certificate cannot be trusted" in it for it in asked(2))
    authority.cert_pem.write_to_path(file)
    os.utime(file, ns=(1, 1))  # within one tick of the clock
    assert asked(3) == ["None"] * 3
    assert len(reads) == 2
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    (said,) = asked(1)
    assert "the environment's proxy or certificates cannot be used" in said
    assert "SSL_CERT_FILE" in said
    with serve(streams(ANSWER)) as plain:
        session = make_session()
        session.models.add("plain", ModelSpec("org/m", api_base=plain.url))
        assert session.generate(ASK, "plain", cache=False).status == "ok", "nobody speaks TLS there"


# How much is taken in

_ANSWER = b'{"choices":[{"index":0,"message":{"content":"Hello!"},"finish_reason":"stop"}]}'
_EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"Hello!"},"finish_reason":"stop"}]}\n\n'


def _raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


COMPRESSED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip by its old name": ("x-gzip", gzip.compress),
    "two texts": ("gzip", lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", _raw),
    "twice": ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    "not at all": ("identity", lambda data: data),
}


@pytest.mark.parametrize("body", [_ANSWER, _EVENTS])
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_answer_is_read(ask: Ask, name: str, body: bytes) -> None:
    encoding, compress = COMPRESSED[name]
    assert ask(lambda _asked, wire: wire.answer(200, compress(body), Content_Encoding=encoding)).text == "Hello!"


@pytest.mark.parametrize(
    ("encoding", "data", "says"),
    [
        ("br", b"x", "which was not asked for"),
        ("gzip", b"plain", "cannot be decompressed"),
        ("gzip,gzip,gzip,gzip", b"", "asked"),
    ],
)
def test_what_cannot_be_decompressed_is_said(ask: Ask, encoding: str, data: bytes, says: str) -> None:
    generation = ask(lambda _asked, wire: wire.answer(200, data, Content_Encoding=encoding))
    assert generation.status == "failed"
    assert says in str(generation.error)


def _as_answer(content: bytes) -> bytes:
    return b'{"choices":[{"index":0,"message":{"content":"' + content + b'"},"finish_reason":"stop"}]}'


LARGE: dict[str, Callable[[int], bytes]] = {
    "text": lambda size: _as_answer(b"a" * size),
    "blanks": lambda size: b" " * size,
    "empty lists": lambda size: b'{"choices":[' + b"[]," * (size // 3) + b"[]]}",
    "objects": lambda size: b'{"choices":[' + b'{"a":0},' * (size // 8) + b"{}]}",
    "one event": lambda size: b"data: " + b"a" * size,
    "small events": lambda size: b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * (size // 47),
    "log probabilities": lambda size: (
        (
            b'data: {"choices":[{"delta":{},"logprobs":{"content":['
            + b'{"token":"a","logprob":-1},' * 100
            + b'{"token":"a","logprob":-1}]}}]}\n\n'
        )
        * (size // 2700)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", LARGE)
def test_an_answer_is_left_where_it_is_too_large(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str, packed: bool
) -> None:
    """With low limits: a body of 0.4 MB is far beyond them, and what is kept of it is not."""
    low = Limits(body_bytes=2**16, values=2_000, kept_bytes=2**17)
    monkeypatch.setattr(Limits, "of", classmethod(lambda _cls, _sampling: low))
    body = LARGE[name](400_000)
    data, encoding = (gzip.compress(body), "gzip") if packed else (body, "identity")
    kind = "text/event-stream" if body.startswith(b"data") else "application/json"
    script: Script = lambda _asked, wire: wire.answer(200, data, Content_Type=kind, Content_Encoding=encoding)  # noqa: E731
    ask()  # what is imported and read at the first run is not what is measured
    tracemalloc.start()
    try:
        generation = ask(script)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert generation.status == "failed"
    assert peak < 3 * 2**20 + len(data)


def test_limits_leave_room_for_any_honest_answer() -> None:
    usual, logprobs = Limits.of(Sampling()), Limits.of(Sampling(max_tokens=32_000, n=4, logprobs=True))
    assert (usual.body_bytes, logprobs.body_bytes) == (2 * 2**20 + 64 * 256, 2 * 2**20 + 576 * 128_000)
    assert usual.kept_bytes > 200_000 * 110, "two hundred thousand tokens of reasoning"


def test_a_large_answer_is_taken_where_it_was_asked_for(ask: Ask) -> None:
    text = "word " * 600_000
    generation = ask(
        lambda _asked, wire: wire.answer(200, whole(text, usage=None)),
        replace(ASK, stream=False, sampling=Sampling(max_tokens=600_000)),
    )
    assert (generation.text, generation.status) == (text, "ok")


# Silence

_CLIENT = """
import os, sys
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.session import Session
session = Session(TokMagic(home=sys.argv[2], ledger=f"sqlite:///{sys.argv[2]}/l.sqlite", silence_timeout_s=2.0))
session.models.add("m", ModelSpec("org/m", api_base=sys.argv[1]))
generation = session.generate(Prompt((Message("user", str(os.getpid())),)), "m")
print(generation.status, generation.text)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no process can be stopped")
def test_what_came_in_time_is_no_silence_for_a_process_that_was_stopped(tmp_path: Path) -> None:
    def script(asked: Asked, wire: Wire) -> None:
        process = int(asked.body["messages"][0]["content"])
        wire.open_stream()
        wire.event(chunk("Hel"))
        time.sleep(0.1)
        os.kill(process, signal.SIGSTOP)
        for part in ANSWER[2:]:
            wire.event(part)
        time.sleep(2.2)
        os.kill(process, signal.SIGCONT)
        wire.end()

    with serve(script) as server:
        command = [sys.executable, "-c", _CLIENT, server.url, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "ok Hello!\n"


def test_comments_that_go_on_do_not_put_silence_off(ask: Ask, session: Session) -> None:
    session.settings.silence_timeout_s = 0.3
    hung_up = threading.Event()

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(chunk("Hel"))
        until = time.monotonic() + 60
        try:
            while time.monotonic() < until:
                wire.send(": waiting\n\n")
                time.sleep(0.002)
        except OSError:
            hung_up.set()

    assert "for 0.3 s" in str(ask(script).error)
    assert hung_up.wait(60)


# Stopped between two attempts


def test_a_stop_between_two_attempts_begins_none_or_says_that_it_may_be_billed(
    session: Session, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that stops the run was kept waiting just when it had seen that nothing goes on at the server."""
    waits, asked_again, hangs_up = threading.Event(), threading.Event(), Reader.hang_up

    def second(_asked: Asked, wire: Wire) -> None:
        asked_again.set()
        wire.open_stream()
        wire.wait_for_hangup()

    def hang_up(it: Reader) -> None:
        asked_again.wait(2)
        hangs_up(it)

    def stop() -> None:
        assert waits.wait(60)
        (row,) = session.changes().rows
        session.stop(row.run_id)

    def backoff_s(_attempt: int) -> float:
        waits.set()
        return 0.5

    monkeypatch.setattr(reader, "_backoff_s", backoff_s)
    monkeypatch.setattr(Reader, "hang_up", hang_up)
    server.script = in_turn(status(503), second)
    stopper = threading.Thread(target=stop)
    stopper.start()
    generation = session.generate(ASK, "m")
    stopper.join()
    assert generation.status == "interrupted"
    # What the first attempt came to is billed by nobody.
    assert (len(server.asked), generation.cost.usd, generation.cost.bound) == (1, Decimal(0), "exact")


# In the middle of an answer it forks a child.
PARENT = """
import os, sys, time
from tests.engines.endpoints import ASK
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.session import Session

class Forks:
    child = 0

    def token(self, _text):
        if not self.child:
            self.child = os.fork()
            if self.child == 0:
                time.sleep(120)
                os._exit(0)
            print(self.child, flush=True)

session = Session(TokMagic(home=sys.argv[1]))
session.models.add("m", ModelSpec("org/m", api_base=sys.argv[2]))
session.generate(ASK, "m", watcher=Forks())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_server_sees_a_killed_client_go_while_its_child_lives(server: Endpoint, tmp_path: Path) -> None:
    went = threading.Event()

    def endless(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        wire.event(ROLE)
        wire.event(chunk("a"))
        if wire.gone.wait(60):
            went.set()

    server.script = endless
    command = [sys.executable, "-W", "ignore", "-c", PARENT, str(tmp_path), server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.kill()
            assert went.wait(30)
            os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)
