"""Replicas and the gateway of a pool, killed at random moments under load: no row is lost, none is billed twice."""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.pool.pools import Pool, pool, script, wait_for
from tokmagic.core.money import plain
from tokmagic.core.record import Selection
from tokmagic.ledgers import Ledger

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("TOKMAGIC_TEST_KILLS", "6"))
CLIENTS = 6
SLOW = {
    "pieces": [f" w{number}" for number in range(100)],
    "input_tokens": 7,
    "ttft_s": 0.05,
    "itl_s": 0.02,
    "pace": 1.0,
}


class Client:
    """Asks again and again, and keeps what it was told of each run."""

    def __init__(self, served: Pool) -> None:
        self.served = served
        self.heard: set[str] = set()
        self.told: dict[str, Any] = {}

    def ask(self) -> None:
        def listen(event: Any) -> None:
            if event == "[DONE]":
                return
            if "id" in event:
                self.heard.add(event["id"].removeprefix("chatcmpl-"))
            if (usage := event.get("usage")) and "tokmagic" in usage:
                self.told[usage["tokmagic"]["run_id"]] = usage["tokmagic"]["cost_usd"]

        try:
            self.served.stream(listen, max_tokens=100)
        except (httpx2.HTTPError, AssertionError):  # the gateway is gone, or has no replica yet
            time.sleep(0.1)


def answers(served: Pool) -> bool:
    try:
        return served.ask(max_tokens=1).status_code == 200
    except httpx2.HTTPError:
        return False


def test_replicas_and_gateways_that_are_killed_at_random_moments(pool_python: Path, tmp_path: Path) -> None:
    draw = random.Random(23)
    options = ("--replicas", "2", "--cpus-per-replica", "0.1", "--concurrency", "4", "--queue", "20")
    with pool(pool_python, tmp_path, script(tmp_path, "slow", **SLOW), *options, "--input", "1", "--output", "2") as it:
        over = threading.Event()
        clients = [Client(it) for _ in range(CLIENTS)]

        def work(client: Client) -> None:
            while not over.is_set():
                client.ask()

        threads = [threading.Thread(target=work, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for number in range(KILLS):
            time.sleep(draw.uniform(0.0, 3.0))
            it.kill("gateway" if number % 2 else "model-0")
            wait_for(lambda: answers(it), 120)
        over.set()
        for thread in threads:
            thread.join(120)
        # Runs of a gateway that was killed are settled by whoever looks after them next.
        rows = wait_for(lambda: [] if any(row.status == "running" for row in it.rows()) else it.rows(), 60)
        ledger = Ledger(it.ledger_url)
        (standing,) = ledger.standings(ledger.budgets("ada", None, it.key.key_id), "ada", datetime.now())
        total = ledger.totals(Selection()).cost_usd
        ledger.close()
    assert len(rows) == len({row.run_id for row in rows})
    assert set().union(*(client.heard for client in clients)) <= {row.run_id for row in rows}
    costs = {row.run_id: row.reading.cost for row in rows}
    for run_id, usd in (told for client in clients for told in client.told.items()):
        # Of one that no replica took nothing is known, here as there.
        assert plain(costs[run_id].usd) == usd
    assert {row.status for row in rows} <= {"ok", "failed", "interrupted", "refused"}
    spent = sum(cost.usd or 0 for cost in costs.values())
    assert (standing.held_usd, standing.spent_usd, total) == (0, spent, spent)
