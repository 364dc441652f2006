"""``tokmagic serve`` as a process: what it needs to start, its end in order, and its sudden death."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from tests.examples import first, some
from tests.serve.gateways import events
from tokmagic.core.files import sqlite_url
from tokmagic.ledgers import Ledger
from tokmagic.serve import process as process_module

PIECES = [f" w{number}" for number in range(400)]
BODY = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 400, "stream": True}


class Process:
    """A server of its own process, over a scripted model that takes eight seconds to answer, or as long as is given."""

    def __init__(self, folder: Path, *options: str, answers_s: float = 8.0) -> None:
        self.folder = folder
        self.ledger_url = sqlite_url(folder / "ledger.sqlite")
        script = folder / "script.json"
        script.write_text(json.dumps({"pieces": PIECES, "ttft_s": 0.05, "itl_s": answers_s / len(PIECES), "pace": 1.0}))
        self.env = os.environ | {"TOKMAGIC_HOME": str(folder), "TOKMAGIC_LEDGER": self.ledger_url}
        command = [sys.executable, "-m", "tokmagic.cli", "serve", f"scripted:{script}", "--port", "0", *options]
        self.child = subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
        )
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if " at " not in line:
            self.child.kill()
            raise AssertionError(f"it has not started: {line}{self.child.communicate()[1]}")
        self.troubles: list[httpx2.HTTPError] = []
        """What broke a client's connection."""
        self.heard: list[str] = []
        """What the clients have read so far."""
        self.url = line.rsplit(" at ", 1)[-1].strip().removesuffix("/v1")

    def ask(self, secret: str, said: threading.Event | None = None) -> str:
        """The text of a streamed answer, as far as it came."""
        text, auth = "", {"authorization": f"Bearer {secret}"}
        try:
            with (
                httpx2.Client(timeout=60, trust_env=False) as client,
                client.stream(
                    "POST", f"{self.url}/v1/chat/completions", content=json.dumps(BODY), headers=auth
                ) as response,
            ):
                for piece in response.iter_text():
                    text += piece
                    self.heard.append(piece)
                    if said is not None:
                        said.set()
        except httpx2.HTTPError as trouble:
            self.troubles.append(trouble)
        return text

    def wait_until_it_drains(self) -> None:
        """Wait until it takes no more connections: the first signal was heard, and a second one is another."""
        address = ("127.0.0.1", int(self.url.rsplit(":", 1)[1]))
        with suppress(ConnectionRefusedError):
            while True:
                socket.create_connection(address, timeout=60).close()
                time.sleep(0.02)

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal and wait; what was logged."""
        self.child.send_signal(number)
        _, errors = self.child.communicate(timeout=120)
        return self.child.returncode, errors


def key_in(folder: Path) -> str:
    ledger = Ledger(sqlite_url(folder / "ledger.sqlite"))
    _, secret = ledger.keys.add("test", "ada")
    ledger.close()
    return secret


@contextmanager
def process(folder: Path, *options: str, answers_s: float = 8.0) -> Iterator[Process]:
    started = Process(folder, *options, answers_s=answers_s)
    try:
        yield started
    finally:
        if started.child.poll() is None:
            started.child.kill()
            started.child.communicate()


def asking(server: Process, secret: str) -> tuple[threading.Thread, list[str]]:
    """A client in mid-answer."""
    said, texts = threading.Event(), []
    thread = threading.Thread(target=lambda: texts.append(server.ask(secret, said)))
    thread.start()
    assert said.wait(60), (server.troubles, texts, server.child.poll())
    return thread, texts


@pytest.mark.slow
def test_sigterm_lets_what_runs_end(tmp_path: Path) -> None:
    secret = key_in(tmp_path)
    with process(tmp_path) as server:
        thread, texts = asking(server, secret)
        status, log = server.end(signal.SIGTERM)
        thread.join(60)
        assert status == 0, log
        assert events(texts[0])[-1] == "[DONE]"
        told = [json.loads(line) for line in log.splitlines()]
        assert [line["status"] for line in told if line["message"] == "run"] == ["ok"]
        assert secret not in log
        assert "Count." not in log
    (row,) = Ledger(server.ledger_url).runs()
    assert (row.status, row.reading.usage.output_tokens) == ("ok", 400)


@pytest.mark.slow
def test_what_outlasts_the_drain_is_stopped_and_its_client_told_what_it_cost(tmp_path: Path) -> None:
    secret = key_in(tmp_path)
    with process(tmp_path, "--drain", "1", "--gpu-hour", "1") as server:
        thread, texts = asking(server, secret)
        status, log = server.end(signal.SIGTERM)
        thread.join(60)
        assert status == 0, log
    last = events(texts[0])[-1]
    assert last["error"]["code"] == "interrupted"
    (row,) = Ledger(server.ledger_url).runs()
    assert row.status == "interrupted"
    assert last["usage"]["completion_tokens"] == row.reading.usage.output_tokens


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_waits_no_longer_and_tells_the_clients(tmp_path: Path, number: signal.Signals) -> None:
    secret = key_in(tmp_path)
    with process(tmp_path, "--drain", "120", answers_s=120) as server:
        thread, texts = asking(server, secret)
        server.child.send_signal(number)
        server.wait_until_it_drains()
        began = time.monotonic()
        code, log = server.end(number)
        thread.join()
        assert (code, time.monotonic() - began < 60) == (0, True)
        last = events(texts[0])[-1]
        assert last["error"]["code"] == "interrupted"
        assert "Traceback" not in log
    (row,) = Ledger(server.ledger_url).runs()
    assert last["usage"]["completion_tokens"] == row.reading.usage.output_tokens


@pytest.mark.slow
def test_a_body_that_does_not_come_holds_up_no_end(tmp_path: Path) -> None:
    secret = key_in(tmp_path)
    with process(tmp_path, "--drain", "60") as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
            client.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 100"), "it waits for the body"
            client.sendall(b"{")
            began = time.monotonic()
            code, log = server.end(signal.SIGTERM)
            assert (code, time.monotonic() - began < 30) == (0, True)
            assert client.recv(1000).startswith(b"HTTP/1.1 503")
        assert "Traceback" not in log


@pytest.mark.slow
def test_a_connection_without_a_request_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_KEEP_ALIVE_S", 0.5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1)  # an answer may take longer
        await JSONResponse({})(scope, receive, send)

    config = uvicorn.Config(app, http=process_module._Connection, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    head = b"GET / HTTP/1.1\r\nHost: x\r\n"
    cases = ((b"", b""), (head, b""), (head + b"\r\n" + head, b"HTTP/1.1 200 OK"))
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as clients:
        sent = [clients.enter_context(socket.create_connection(listener.getsockname(), timeout=60)) for _ in cases]
        for client, (text, _) in zip(sent, cases, strict=True):
            client.sendall(text)  # before it is taken, or it might be closed by then
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            for client, (_, got) in zip(sent, cases, strict=True):
                answer = b"".join(iter(lambda of=client: of.recv(1000), b""))  # type: ignore[misc]
                assert answer[: len(got) or None] == got
        finally:
            server.should_exit = True
            thread.join()


def checkpoint(server: Process) -> int:
    """Wait until the row that runs has counts, and its client has read as many; how many these are."""
    until, seen = time.monotonic() + 60, 0
    with closing(Ledger(server.ledger_url)) as ledger:
        while not seen and time.monotonic() < until:
            time.sleep(0.02)
            seen = sum(row.reading.usage.output_tokens or 0 for row in ledger.runs())
    while words_in("".join(server.heard)) < seen and time.monotonic() < until:
        time.sleep(0.02)
    return seen


def words_in(text: str) -> int:
    return text.count('"content":" w')


def test_sigkill_loses_no_row_and_holds_nothing(tmp_path: Path) -> None:
    secret = key_in(tmp_path)
    with process(tmp_path, "--input", "1", "--output", "2") as server:
        thread, texts = asking(server, secret)
        seen = checkpoint(server)
        server.end(signal.SIGKILL)
        thread.join(60)
    ledger = Ledger(server.ledger_url)
    (row,) = ledger.runs()
    assert row.status == "interrupted"
    assert 1 <= seen <= (row.reading.usage.output_tokens or 0) <= words_in(texts[0])
    with process(tmp_path, "--input", "1", "--output", "2") as again:
        assert httpx2.get(f"{again.url}/health", trust_env=False).status_code == 200


@pytest.mark.slow
def test_sigkill_at_random_moments_under_load(tmp_path: Path) -> None:
    """Each request that had begun has one row, with at most what its client saw, and nothing stays held."""
    secret, draw = key_in(tmp_path), random.Random(17)
    seen: list[str] = []
    for _ in range(some(30)):
        with process(tmp_path, "--input", "1", "--output", "2", "--concurrency", "4") as server:
            clients = [threading.Thread(target=lambda: seen.append(server.ask(secret))) for _ in range(8)]
            for client in clients:
                client.start()
            time.sleep(draw.uniform(0.0, 1.5))
            server.end(signal.SIGKILL)
            for client in clients:
                client.join(60)
    ledger = Ledger(sqlite_url(tmp_path / "ledger.sqlite"))
    rows = ledger.runs()
    assert {row.status for row in rows} == {"interrupted"}
    # A client that heard of an answer has a row; one whose row had just begun may have heard nothing.
    heard = {text.split("chatcmpl-")[1][:32] for text in seen if "chatcmpl-" in text}
    assert heard <= {row.run_id for row in rows}
    assert len(rows) == len({row.run_id for row in rows}) <= 8 * some(30)
    (key,) = ledger.keys.all()
    with process(tmp_path, "--input", "1", "--output", "2"):
        held = [row for row in ledger.runs() if row.status == "running"]
        assert (held, key.revoked_at) == ([], None)


def refused(folder: Path, *options: str) -> str:
    env = os.environ | {"TOKMAGIC_HOME": str(folder), "TOKMAGIC_LEDGER": sqlite_url(folder / "ledger.sqlite")}
    done = subprocess.run(
        [sys.executable, "-m", "tokmagic.cli", "serve", *options],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("revoked", [False, True], ids=["no key", "only a revoked one"])
def test_without_a_valid_key_it_does_not_start(tmp_path: Path, revoked: bool) -> None:
    if revoked:
        key_in(tmp_path)
        with closing(Ledger(sqlite_url(tmp_path / "ledger.sqlite"))) as ledger:
            ledger.keys.revoke("test")
    said = refused(tmp_path, "scripted", "--host", "0.0.0.0")
    assert "has no valid key, so every request would be refused; make one: tokmagic key add NAME" in said


@pytest.mark.parametrize(
    ("options", "words"),
    first(
        1,
        [
            ((), "no price is known, so keys with a cap in USD are refused; give --gpu-hour, or --input and --output"),
            (("--input", "1", "--output", "2"), "$1.00 in, $2.00 out per 1M tokens (command line)"),
            (("--gpu-hour", "0.5"), "$0.5000 per hour of the device (command line)"),
        ],
    ),
)
def test_at_its_start_it_says_what_it_charges(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    key_in(tmp_path)
    with process(tmp_path, *options) as server:
        assert server.child.stdout is not None
        assert server.child.stdout.readline() == f"scripted:{tmp_path / 'script.json'}: {words}\n"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    key_in(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(tmp_path, "scripted", "--port", str(taken.getsockname()[1]))
    assert "give another --port" in said


@pytest.mark.parametrize(
    ("options", "words"),
    first(
        2,
        [
            (("none",), "model 'none' is unknown"),
            (("scripted", "--host", "no.such.host.invalid"), "no address of this machine"),
            (("scripted", "--port", "70000"), "--port is 70000"),
            (("scripted", "--concurrency", "0"), "--concurrency is 0"),
            (("--api-base", "http://127.0.0.1:1/v1"), "name the endpoint's model"),
        ],
    ),
)
def test_what_cannot_be_served(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    key_in(tmp_path)
    assert words in refused(tmp_path, *options)


def test_a_kept_port_is_had_only_by_a_server_that_shares_it() -> None:
    with process_module.kept("127.0.0.1", 0) as (port, url):
        assert url == f"http://127.0.0.1:{port}"
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.socket() as server, socket.socket() as client:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            client.connect(("127.0.0.1", port))
            with closing(server.accept()[0]) as accepted:
                assert accepted.getsockname()[1] == port
