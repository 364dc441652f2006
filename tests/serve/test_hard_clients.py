"""Clients that behave badly, and many at once: the others go on, nothing is lost, nothing stays held."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import Message

from tests.examples import THOROUGH
from tests.serve.gateways import RATES, WORDS, Held, Served, events, scripted, serving
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import Selection
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import NewerLedgerError
from tokmagic.ledgers import Ledger
from tokmagic.serve import gateway
from tokmagic.serve.app import build
from tokmagic.serve.gateway import Bounds
from tokmagic.serve.metrics import Metrics

LOAD_S = 120.0 if THOROUGH else 20.0
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 100_000}


def until(holds: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def request(served: Served, body: Any, *, length: int | None = None) -> bytes:
    """A request as it goes over the wire; ``length`` is what it says of its body."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.secret}\r\n"
        f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    )
    return head.encode() + content


def connect(served: Served, receive_bytes: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect(("127.0.0.1", int(served.url.rsplit(":", 1)[1])))
    return client


@pytest.mark.slow
def test_a_client_that_never_reads_is_left_and_its_run_settled(tmp_path: Path) -> None:
    long = scripted(words=[" " + "w" * 400] * 30_000, itl_s=0.0)
    with serving(tmp_path, long, bounds=Bounds(send_timeout_s=0.5)) as served:
        with connect(served, 4096) as client:
            client.sendall(request(served, CHAT | {"stream": True}))
            assert until(lambda: bool(served.ended))
            assert until(lambda: served.gateway.turns.running == 0)
            assert served.post("/v1/chat/completions", CHAT | {"max_tokens": 2}).status_code == 200
        statuses = {row.status for row in served.rows()}
        assert statuses <= {"ok", "interrupted"}


@pytest.mark.slow
def test_a_client_that_leaves_while_it_waits_starts_nothing(tmp_path: Path) -> None:
    held = Held()
    with serving(tmp_path, held, bounds=Bounds(at_once=1)) as served, ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.post, "/v1/chat/completions", CHAT)
        assert until(lambda: served.gateway.turns.running == 1)
        with connect(served) as client:
            client.sendall(request(served, CHAT))
            assert until(lambda: served.gateway.turns.waiting == 1)
        assert until(lambda: served.gateway.turns.waiting == 0)
        held.go_on.set()
        assert first.result().status_code == 200
        assert until(lambda: served.gateway.turns.running == 0)
        assert len(served.rows()) == 1


def test_a_key_that_is_revoked_while_its_request_waits_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_FRESH_S", 0.0)
    held = Held()
    with serving(tmp_path, held, bounds=Bounds(at_once=1)) as served, ThreadPoolExecutor(2) as pool:
        running = pool.submit(served.post, "/v1/chat/completions", CHAT)
        assert until(lambda: bool(served.rows()))
        waiting = pool.submit(served.post, "/v1/chat/completions", CHAT)
        assert until(lambda: served.gateway.turns.waiting == 1)
        served.ledger.keys.revoke(served.key.key_id)
        held.go_on.set()
        assert running.result().status_code == 200  # what is being answered goes on
        refused = waiting.result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert [row.status for row in served.rows()] == ["ok"]
        assert until(lambda: served.gateway.turns.running == 0)


def test_a_client_that_leaves_before_the_first_token_is_settled(tmp_path: Path) -> None:
    with serving(tmp_path, Held()) as served:
        with connect(served) as client:
            client.sendall(request(served, CHAT))
            assert until(lambda: served.gateway.turns.running == 1)
            assert until(lambda: bool(served.rows()))
        assert until(lambda: served.gateway.turns.running == 0)
        (row,) = served.rows()
        assert (row.status, row.reading.usage.output_tokens) == ("interrupted", 0)


@pytest.mark.parametrize("passes", range(6))
def test_a_client_that_leaves_just_as_a_piece_is_sent_stops_its_run(tmp_path: Path, passes: int) -> None:
    """Whichever pass of the event loop hears of it: before the piece is sent, in the same one, or after it."""
    slow = scripted(words=[" w"] * 2000, pace=1.0, ttft_s=0.01, itl_s=0.005)
    with serving(tmp_path, slow) as served:
        asyncio.run(_leaving(served, passes))
        assert until(lambda: bool(served.ended))
        (row,) = served.ended
        assert row.status == "interrupted"
        assert (row.reading.usage.output_tokens or 0) < 1000


async def _leaving(served: Served, passes: int) -> None:
    """Ask by ASGI, and leave that many passes of the loop before the third piece has been sent."""
    body = json.dumps(CHAT | {"stream": True}).encode()
    headers = [(b"authorization", f"Bearer {served.secret}".encode())]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": headers,
        "query_string": b"",
    }
    asked, left, pieces = False, asyncio.Event(), 0

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal pieces
        pieces += message["type"] == "http.response.body"
        if pieces == 3:
            left.set()
            for _ in range(passes):
                await asyncio.sleep(0)

    await build(served.gateway, Metrics())(scope, receive, send)


def test_a_body_that_does_not_come(tmp_path: Path) -> None:
    with serving(tmp_path, bounds=Bounds(body_timeout_s=0.3)) as served:
        with connect(served) as client:
            client.sendall(request(served, CHAT, length=10_000))
            client.settimeout(20)
            assert b"408" in client.recv(1000)
        with connect(served) as client:
            client.sendall(request(served, CHAT, length=10_000))
            time.sleep(0.1)
        assert served.post("/v1/chat/completions", CHAT).status_code == 200
        assert len(served.rows()) == 1


def test_a_thousand_idle_connections_leave_room_for_one_more(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        idle = [connect(served) for _ in range(1000)]
        try:
            for client in idle[::2]:
                client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
            assert served.post("/v1/chat/completions", CHAT).status_code == 200
        finally:
            for client in idle:
                client.close()


def test_a_flood_of_headers_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as served, connect(served) as client:
        client.settimeout(20)
        with suppress(OSError):
            client.sendall(
                b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100_000))
            )
        with suppress(OSError):
            assert client.recv(100).startswith(b"HTTP/1.1 4")
        assert served.client.get("/health").status_code == 200


def test_one_key_with_many_requests_does_not_hold_up_another(tmp_path: Path) -> None:
    held = Held(at_once="Mine.")
    with serving(tmp_path, held, bounds=Bounds(at_once=2, waiting=500)) as served, ThreadPoolExecutor(61) as pool:
        _, other = served.ledger.keys.add("other", "bob")
        many = [pool.submit(served.post, "/v1/chat/completions", CHAT) for _ in range(60)]
        assert until(lambda: served.gateway.turns.waiting == 58)
        mine = CHAT | {"messages": [{"role": "user", "content": "Mine."}]}
        one = pool.submit(served.post, "/v1/chat/completions", mine, secret=other)
        assert until(lambda: served.gateway.turns.waiting == 59)
        # Where one of those that run ends, its turn is the other key's.
        next(iter(served.gateway._calls)).stop()
        assert one.result().status_code == 200
        assert sum(it.done() for it in many) <= 1
        held.go_on.set()
        assert sorted(Counter(it.result().status_code for it in many).values()) == [1, 59]


@pytest.mark.slow
def test_over_the_queue(tmp_path: Path) -> None:
    held = Held()
    with serving(tmp_path, held, bounds=Bounds(at_once=1, waiting=1)) as served, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.post, "/v1/chat/completions", CHAT) for _ in range(8)]
        assert until(lambda: sum(it.done() for it in asked) == 6)
        held.go_on.set()
        refused = [it for it in (its.result() for its in asked) if it.status_code == 429]
        assert len(refused) == 6
        assert {it.json()["error"]["code"] for it in refused} == {"queue_full"}
        assert all(1 <= int(it.headers["retry-after"]) <= 60 for it in refused)


@pytest.mark.slow
def test_many_clients_of_which_a_third_leave(tmp_path: Path) -> None:
    """Every request has one row, no count is wrong, nothing stays held, and the clients were told what the rows say."""
    words = [f" w{number}" for number in range(60)]
    paced = scripted(words=words, pace=1.0, ttft_s=0.02, itl_s=0.005)
    told: list[tuple[str, Decimal]] = []
    left = threading.Semaphore(0)
    lock = threading.Lock()

    def client(number: int, served: Served, end: float) -> int:
        draw, asked = random.Random(number), 0
        auth = {"authorization": f"Bearer {served.secret}"}
        with httpx2.Client(base_url=served.url, timeout=60, trust_env=False) as http:
            while time.monotonic() < end:
                body = CHAT | {"max_tokens": draw.randint(1, 60), "stream": draw.random() < 0.8}
                body["stream_options"] = {"include_usage": True}
                asked += 1
                if draw.random() < 1 / 3:
                    with http.stream("POST", "/v1/chat/completions", content=json.dumps(body), headers=auth) as gone:
                        seen = draw.randint(0, 20)
                        for _ in gone.iter_lines():
                            seen -= 1
                            if seen < 0:
                                break
                    left.release()
                    continue
                response = http.post("/v1/chat/completions", content=json.dumps(body), headers=auth)
                assert response.status_code == 200, response.text
                usage = (events(response.text)[-2] if body["stream"] else response.json())["usage"]
                assert usage["completion_tokens"] == body["max_tokens"]
                with lock:
                    told.append((usage["tokmagic"]["run_id"], Decimal(usage["tokmagic"]["cost_usd"])))
        return asked

    with serving(tmp_path, paced, usd=Decimal(1000), bounds=Bounds(waiting=500)) as served:
        end = time.monotonic() + LOAD_S
        with ThreadPoolExecutor(32) as pool:
            asked = sum(pool.map(lambda number: client(number, served, end), range(32)))
        assert until(lambda: served.gateway.turns.running == 0)
        rows = {row.run_id: row for row in served.rows()}
        assert all(row.status in ("ok", "interrupted") for row in rows.values())
        # A client that leaves before its turn has begun has no row.
        assert asked - _value(left) <= len(rows) <= asked
        for run_id, cost in told:
            assert rows[run_id].reading.cost.usd == cost
        for row in rows.values():
            output = row.reading.usage.output_tokens or 0
            assert row.reading.cost.usd == (12 * RATES.input + output * RATES.output) / 1_000_000  # type: ignore[operator]
        total = sum(row.reading.cost.usd or 0 for row in rows.values())
        assert served.ledger.totals(Selection()).cost_usd == total
        held = served.ledger.budgets("ada", None, served.key.key_id)
        (standing,) = served.ledger.standings(held, "ada", datetime.now())
        assert (standing.held_usd, standing.spent_usd) == (0, total)


def _value(semaphore: threading.Semaphore) -> int:
    count = 0
    while semaphore.acquire(blocking=False):
        count += 1
    return count


def test_a_ledger_of_a_newer_version_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        ledger: Ledger = served.ledger
        with ledger.writing() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerLedgerError, match="written by a newer tokmagic"), serving(tmp_path):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_when_all_is_stopped_each_client_is_told_and_none_that_waited_begins(tmp_path: Path, stream: bool) -> None:
    slow = scripted(words=[" w"] * 2000, pace=1.0, ttft_s=0.05, itl_s=0.01)
    body = CHAT | {"stream": stream}
    with serving(tmp_path, slow, bounds=Bounds(at_once=1)) as served, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(served.post, "/v1/chat/completions", body) for _ in range(4)]
        assert until(lambda: served.gateway.turns.waiting == 3 and bool(served.rows()))
        assert until(lambda: (served.rows()[0].reading.usage.output_tokens or 0) > 1)
        served.gateway.stop_all()
        told = [events(it.text)[-1] if it.status_code == 200 else it.json() for it in (its.result() for its in asked)]
        assert sorted(it["error"]["code"] for it in told) == ["interrupted", "stopping", "stopping", "stopping"]
        (stopped,) = (it for it in told if it["error"]["code"] == "interrupted")
        (row,) = served.rows()
        assert row.status == "interrupted"
        assert Decimal(stopped["usage"]["tokmagic"]["cost_usd"]) == row.reading.cost.usd
        assert stopped["usage"]["completion_tokens"] == row.reading.usage.output_tokens
        # The server itself goes on.
        assert served.client.get("/health").status_code == 200


class Tokenizing(ScriptedEngine):
    """A model whose tokenizer is as slow as the test lets it be."""

    def __init__(self, goes_on: threading.Event) -> None:
        super().__init__("tiny", [Script.of_text(WORDS)])
        self.goes_on = goes_on

    def tokenizer(self) -> Tokenizing:
        return self

    def encode(self, _prompt: Prompt) -> list[int]:
        assert self.goes_on.wait(60)
        return [1, 2]


def test_long_texts_that_are_tokenized_hold_up_no_answer(tmp_path: Path) -> None:
    goes_on = threading.Event()
    with serving(tmp_path, Tokenizing(goes_on)) as served, ThreadPoolExecutor(60) as pool:
        try:
            asked = [pool.submit(served.post, "/tokenize", {"prompt": "Count."}) for _ in range(60)]
            time.sleep(0.5)
            assert served.post("/v1/chat/completions", CHAT).status_code == 200
            assert not any(it.done() for it in asked)
        finally:
            goes_on.set()
        assert {it.result().json()["count"] for it in asked} == {2}
