"""What a request waited for before its engine was asked, as its answer and the metrics tell it."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.serve.gateways import Held, Served, serving
from tokmagic.serve.gateway import Bounds

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 5}
PAUSE_S = 0.25


def ask(served: Served) -> dict[str, Any]:
    response = served.post("/v1/chat/completions", CHAT)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def when(seen: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.005)


@contextmanager
def held_up_by_a_ledger(folder: Path) -> Iterator[tuple[Served, Future[dict[str, Any]]]]:
    """A request whose hold is waited for, as somebody else writes to the ledger."""
    with serving(folder, usd=Decimal(1)) as served, ThreadPoolExecutor(1) as pool:
        with closing(sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = pool.submit(ask, served)
            when(lambda: served.gateway.turns.running)
            time.sleep(PAUSE_S)
            other.execute("ROLLBACK")
        yield served, asked


@contextmanager
def held_up_by_its_turn(folder: Path) -> Iterator[tuple[Served, Future[dict[str, Any]]]]:
    """A request that waits until the one before it has ended."""
    model = Held()
    with serving(folder, model, bounds=Bounds(at_once=1)) as served, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, served)
        when(lambda: served.gateway.turns.running)
        second = pool.submit(ask, served)
        when(lambda: served.gateway.turns.waiting)
        time.sleep(PAUSE_S)
        model.go_on.set()
        first.result()
        yield served, second


@pytest.mark.parametrize("held_up", [held_up_by_a_ledger, held_up_by_its_turn])
def test_all_that_a_request_waits_for_is_told(held_up: Any, tmp_path: Path) -> None:
    with held_up(tmp_path) as (served, asked):
        answer = asked.result()
        own, times = answer["usage"]["tokmagic"], answer["metrics"]
        assert own["waited_s"] >= PAUSE_S
        assert times["queue_time_ms"] == pytest.approx(1e3 * (own["waited_s"] + (own["queue_s"] or 0)))
        assert times["time_to_first_token_ms"] == pytest.approx(1e3 * (own["waited_s"] + own["ttft_s"]))
        assert served.waited[own["run_id"]] == own["waited_s"]
        shown = served.get("/metrics").text.splitlines()
        (total,) = (line for line in shown if line.startswith("vllm:time_to_first_token_seconds_sum"))
        assert float(total.rsplit(" ", 1)[-1]) >= PAUSE_S


def test_what_runs_and_waits_is_told_of_each_model(tmp_path: Path) -> None:
    """As vLLM tells it: tools ask for one model's requests by this label, and see none where it is missing."""

    def under_way(served: Served) -> dict[tuple[str, str], float]:
        lines = re.findall(r'vllm:num_requests_(\w+){model_name="(\w+)"} (.*)', served.get("/metrics").text)
        return {(state, model): float(value) for state, model, value in lines}

    models = Held(name="one"), Held(name="other")
    none = dict.fromkeys(((state, it.info.name) for state in ("running", "waiting") for it in models), 0.0)
    with serving(tmp_path, *models, bounds=Bounds(at_once=2)) as served, ThreadPoolExecutor(4) as pool:
        assert under_way(served) == none
        asked = []
        for at, name in enumerate(("one", "other", "other", "other")):
            asked.append(pool.submit(served.post, "/v1/chat/completions", CHAT | {"model": name}))
            when(lambda at=at: served.gateway.turns.running + served.gateway.turns.waiting > at)
        told = {("running", "one"): 1, ("running", "other"): 1, ("waiting", "one"): 0, ("waiting", "other"): 2}
        assert under_way(served) == told
        for model in models:
            model.go_on.set()
        assert [it.result().status_code for it in asked] == [200] * 4
        when(lambda: not served.gateway.turns.running)
        assert under_way(served) == none


@pytest.mark.slow
def test_how_long_a_client_takes_to_send_its_body_is_none_of_it(tmp_path: Path) -> None:
    pause_s = 1.0
    body = json.dumps(CHAT).encode()
    with serving(tmp_path) as served:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {served.secret}\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with closing(socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[-1])))) as client:
            client.sendall(head.encode() + body[:10])
            time.sleep(pause_s)
            client.sendall(body[10:])
            answer = b"".join(iter(lambda: client.recv(2**16), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        (waited_s,) = served.waited.values()
        assert 0 < waited_s < pause_s
