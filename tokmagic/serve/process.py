"""``tokmagic serve`` as a process: its address, its signals, its log, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokmagic.core.money import Rates, plain
from tokmagic.core.record import RunRecord
from tokmagic.engines.base import Progress
from tokmagic.errors import UsageError
from tokmagic.serve.app import build
from tokmagic.serve.gateway import Gateway
from tokmagic.serve.metrics import Metrics

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_LAST_WORDS_S = 10
_log = logging.getLogger("tokmagic.serve")
Listening = Callable[[str, Mapping[str, Rates]], None]
"""Told the URL, and what is charged for each model, once requests are answered."""


def serve(
    gateway: Gateway,
    metrics: Metrics,
    *,
    host: str,
    port: int,
    drain_s: int,
    progress: Progress,
    listening: Listening,
) -> None:
    """Load the models and answer requests until SIGTERM or an interrupt, then let what runs end within ``drain_s``.

    ``listening`` is told the URL and the models' rates once requests are answered. Raises UsageError where the
    address cannot be had, and TokmagicError where a model or the ledger cannot.
    """
    with bound(host, port) as listener:
        try:
            gateway.load(progress)
            # uvicorn raises again the signal that ended it; by then all is done that it asks for.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda _number, _frame: None)
            url, rates = f"http://{shown(listener)}", gateway.rates()
            asyncio.run(_answer(gateway, metrics, listener, drain_s, lambda: listening(url, rates)))
        finally:
            gateway.close()


async def _answer(
    gateway: Gateway, metrics: Metrics, listener: socket.socket, drain_s: int, ready: Callable[[], None]
) -> None:
    metrics.watch(gateway)
    config = uvicorn.Config(
        build(gateway, metrics),
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        # What runs is stopped before, so that its clients are told: this is for those that do not read.
        timeout_graceful_shutdown=drain_s + _LAST_WORDS_S,
        server_header=False,
    )
    server = _Server(config, gateway, drain_s, ready)
    await server.serve(sockets=[listener])


class _Connection(H11Protocol):
    """Closed where no whole head of a request comes in time: whoever needs no key for it could take all connections."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def handle_events(self) -> None:
        super().handle_events()
        if self._late is not None and not self._idle:
            self._late.cancel()
            self._late = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._idle:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()

    @property
    def _idle(self) -> bool:
        cycle = self.cycle
        return cycle is None or bool(cycle.response_complete)

    def _wait_for_head(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(_KEEP_ALIVE_S, self.transport.close)


class _Server(uvicorn.Server):
    """Tells when it answers, and says at once when it stops: load balancers look at /health."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_s: int, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._drain_s = drain_s
        self._ready = ready
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets what runs end, the second stops it and tells its clients, the third waits for none."""
        self._signals += 1
        if self._signals == 2:
            # Not here: a signal may come while its own thread has a lock.
            asyncio.get_running_loop().call_soon_threadsafe(self._gateway.stop_all)
        elif self._signals > 2:
            self.force_exit = True
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.drain()
        asyncio.get_running_loop().call_later(self._drain_s, self._gateway.stop_all)
        await super().shutdown(sockets)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address. Raises UsageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host} is no address of this machine: {error}; give --host 127.0.0.1") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"{host}:{port} cannot be had: {getattr(error, 'strerror', None) or error}; another server may run there, "
            "give another --port"
        ) from None
    return listener


@contextmanager
def kept(host: str, port: int) -> Iterator[tuple[int, str]]:
    """A port that is free, and its URL; it is kept for a server that binds it with SO_REUSEPORT. Raises UsageError.

    No connection that starts and no other server gets it meanwhile. Nothing is answered there before that server does.
    """
    with bound(host, port) as listener:
        family, address, url = listener.family, listener.getsockname(), f"http://{shown(listener)}"
    with socket.socket(family, socket.SOCK_STREAM) as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(address)
        yield address[1], url


def shown(listener: socket.socket) -> str:
    """A socket's address and port as they stand in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class JsonLines(logging.Formatter):
    """One JSON object a line: the moment, the level, what happened, and the fields of a run; never a prompt."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def log_to_stderr() -> None:
    """Write what the server logs to stderr, a JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.captureWarnings(True)
    for name in ("tokmagic", "uvicorn", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("tokmagic").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def log_run(record: RunRecord, waited_s: float) -> None:
    """Log a settled row."""
    reading = record.reading
    fields = {
        "run_id": record.run_id,
        "client_run_id": record.client_run_id,
        "key": record.key,
        "user": record.user,
        "team": record.team,
        "model": record.info.name,
        "status": record.status,
        "finish_reason": record.finish_reason,
        "error": record.error,
        "input_tokens": reading.usage.input_tokens,
        "cached_input_tokens": reading.usage.cached_input_tokens,
        "output_tokens": reading.usage.output_tokens,
        "cost_usd": plain(reading.cost.usd),
        "waited_s": round(waited_s, 6),
        "ttft_s": reading.ttft_s,
        "latency_s": reading.latency_s,
        "device_s": reading.device_s,
        "energy_j": record.energy_j,
    }
    _log.info("run", extra={"fields": fields})
