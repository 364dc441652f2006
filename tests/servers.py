"""A real HTTP server on loopback that answers as a test writes it, down to the bytes on the wire."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


@dataclass
class Asked:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: Any


class Gone:
    """Whether the client has hung up: all of its request was read, so what else could be read is its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def wait(self, seconds: float) -> bool:
        """Wait so long for it."""
        try:
            return bool(select.select([self._connection], [], [], seconds)[0])
        except (OSError, ValueError):  # it was closed here
            return True


class Wire:
    """The answering end of one connection."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self.gone = Gone(handler.connection)

    def answer(self, status: int, body: bytes | str | dict[str, Any], **headers: str) -> None:
        """A whole answer; JSON unless it is bytes or text."""
        kind = "application/json" if isinstance(body, dict) else "text/plain"
        content = json.dumps(body) if isinstance(body, dict) else body
        data = content.encode() if isinstance(content, str) else content
        self._handler.send_response(status)
        for name, value in (
            {"Content-Type": kind} | {k.replace("_", "-").title(): v for k, v in headers.items()}
        ).items():
            self._handler.send_header(name, value)
        self._handler.send_header("Content-Length", str(len(data)))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def open_stream(self, kind: str = "text/event-stream") -> None:
        """Begin a chunked answer."""
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", kind)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def send(self, data: bytes | str) -> None:
        """One network chunk."""
        raw = data.encode() if isinstance(data, str) else data
        self._handler.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self._handler.wfile.flush()

    def event(self, data: dict[str, Any] | str) -> None:
        """One server-sent event."""
        self.send(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n")

    def end(self, *, done: bool = True) -> None:
        """End a chunked answer, with [DONE] or without."""
        if done:
            self.event("[DONE]")
        self._handler.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Break the connection off."""
        self._handler.close_connection = True
        with suppress(OSError):
            self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_hangup(self, seconds: float = 60.0) -> bool:
        """Wait until the client closes; say whether it did."""
        self._handler.connection.settimeout(seconds)
        try:
            closed = bool(self._handler.connection.recv(1) == b"")
        except TimeoutError:
            return False
        except OSError:
            closed = True
        self._handler.close_connection = True
        return closed

    def raw(self, data: bytes) -> None:
        """Bytes as they are, HTTP or not."""
        self._handler.wfile.write(data)
        self._handler.wfile.flush()
        self.drop()


Script = Callable[[Asked, Wire], None]


@dataclass
class Endpoint:
    """A running server. ``script`` answers; ``asked`` is what it was asked so far."""

    script: Script
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    @property
    def last(self) -> Asked:
        """The newest request."""
        return self.asked[-1]


@contextmanager
def serve(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Endpoint]:
    """Run a server for the block."""
    endpoint = Endpoint(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            endpoint.connections += 1
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(raw or b"null"))
            endpoint.asked.append(asked)
            with suppress(OSError):
                endpoint.script(asked, Wire(self))

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that goes away is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    endpoint.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def chunk(text: str | None = None, *, reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """A streamed chunk as OpenAI writes it; ``more`` goes beside the choices."""
    delta = {} if text is None else {"content": text}
    choices = [{"index": index, "delta": delta, "finish_reason": reason}]
    return {"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}


def usage_chunk(usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """The chunk that carries the usage and no choices."""
    return {"id": "c-1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE if usage is None else usage}


def whole(text: str, *, reason: str = "stop", usage: Any = USAGE) -> dict[str, Any]:
    """An answer that was not streamed."""
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return {"id": "c-1", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}


def streams(chunks: Sequence[dict[str, Any] | str], *, done: bool = True) -> Script:
    """A script that streams these chunks."""

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for part in chunks:
            wire.event(part)
        wire.end(done=done)

    return script


ROLE = {
    "id": "c-1",
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}],
}
ANSWER: tuple[dict[str, Any], ...] = (ROLE, chunk("Hel"), chunk("lo"), chunk("!"), chunk(reason="stop"), usage_chunk())
