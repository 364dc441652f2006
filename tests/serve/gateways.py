"""A gateway over scripted models at a port of this machine, and what a client of it needs."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from tokmagic.core.config import TokMagic
from tokmagic.core.files import sqlite_url
from tokmagic.core.keys import Key
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import RunRecord
from tokmagic.core.stream import Event
from tokmagic.engines.base import Engine
from tokmagic.engines.registry import Models
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream
from tokmagic.ledgers import Ledger
from tokmagic.prices import PriceBook
from tokmagic.serve.app import build
from tokmagic.serve.gateway import Bounds, Gateway
from tokmagic.serve.metrics import Metrics

RATES = Rates(Decimal(1), Decimal(2), source="test")
WORDS = ("One", " two", " three", " four", " five.")


@dataclass
class Served:
    """A gateway that answers, and one key for it."""

    url: str
    gateway: Gateway
    key: Key
    secret: str
    client: httpx2.Client
    ended: list[RunRecord] = field(default_factory=list)
    waited: dict[str, float] = field(default_factory=dict)
    """By run id, how long each had waited until its engine was asked, in seconds."""

    @property
    def ledger(self) -> Ledger:
        return self.gateway.ledger()

    def post(self, path: str, body: Any, *, secret: str | None = None, **headers: str) -> httpx2.Response:
        """Send a request with the key, or with another one."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        auth = {"authorization": f"Bearer {self.secret if secret is None else secret}"}
        content = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.post(path, content=content, headers=auth | named)

    def get(self, path: str) -> httpx2.Response:
        return self.client.get(path, headers={"authorization": f"Bearer {self.secret}"})

    def stream(self, path: str, body: Any, **headers: str) -> list[Any]:
        """The objects of a streamed answer; ``[DONE]`` as it stands."""
        response = self.post(path, body, **headers)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response.text)

    def rows(self) -> list[RunRecord]:
        return self.ledger.runs()


def events(text: str) -> list[Any]:
    """The data of server-sent events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class ScriptedModels(Models):
    """A registry whose models are at hand."""

    def __init__(self, settings: TokMagic, engines: Sequence[Engine]) -> None:
        super().__init__(settings)
        for engine in engines:
            self.put(engine)

    def put(self, engine: Engine) -> None:
        from tokmagic.engines.base import ModelSpec

        name = engine.info.name
        self.add(name, ModelSpec("scripted"))
        self._engines[name] = engine


def scripted(name: str = "tiny", *, pace: float = 0.0, words: Sequence[str] = WORDS, **given: Any) -> ScriptedEngine:
    """A model that answers with these words, each a token."""
    return ScriptedEngine(name, [Script.of_text(words, pace=pace, **given)])


class Held(ScriptedEngine):
    """A model that takes prompts and answers when ``go_on`` is set: a test has done by then what comes before."""

    def __init__(self, name: str = "tiny", at_once: str | None = None) -> None:
        """A prompt with the text ``at_once`` does not wait."""
        super().__init__(name, [Script.of_text(WORDS)])
        self.go_on = threading.Event()
        self._at_once = at_once

    def stream(self, prompt: Prompt) -> ScriptedStream:
        if prompt.messages[-1].content == self._at_once:
            return super().stream(prompt)
        return HeldStream(self._peek(), prompt.sampling.max_tokens, self.go_on)


class HeldStream(ScriptedStream):
    """Waits before its first token until it may go on, or is closed."""

    def __init__(self, script: Script, max_tokens: int, go_on: threading.Event) -> None:
        super().__init__(script, max_tokens)
        self._go_on = go_on

    def __next__(self) -> Event:
        while self._position and not self._closed.is_set() and not self._go_on.wait(0.01):
            pass
        return super().__next__()


@contextmanager
def serving(
    folder: Path,
    *engines: Engine,
    rates: Rates | None = None,
    bounds: Bounds | None = None,
    usd: Any = None,
    ledger: str | None = None,
    hold: str = "worst",
) -> Iterator[Served]:
    """Serve these models, by a ledger in ``folder``, with a key that may spend ``usd`` in all."""
    url = ledger or sqlite_url(folder / "ledger.sqlite")
    settings = TokMagic(home=str(folder), ledger=url, store_text=False, hold=hold)
    prices = PriceBook(lambda: "")
    given = engines or (scripted(),)
    for engine in given:
        prices.set(engine.info.name, rates or RATES)
    metrics = Metrics()
    rows: list[RunRecord] = []
    waited: dict[str, float] = {}

    def ended(record: RunRecord, waited_s: float) -> None:
        metrics.ended(record, waited_s)
        waited[record.run_id] = waited_s
        rows.append(record)

    gateway = Gateway(
        settings,
        [engine.info.name for engine in given],
        models=ScriptedModels(settings, given),
        prices=prices,
        bounds=bounds,
        ended=ended,
    )
    metrics.watch(gateway)
    gateway.load(lambda _doing, _share: None)
    key, secret = gateway.ledger().keys.add(f"test {uuid.uuid4().hex}", "ada", "research", usd)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    config = uvicorn.Config(
        build(gateway, metrics), http="h11", ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
    assert server.started, "the server has not started"
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        try:
            yield Served(url, gateway, key, secret, client, rows, waited)
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            gateway.close()
            listener.close()
    assert not thread.is_alive()
