"""The default model on a pool: exact counts, a second replica under load, and one that dies in mid-answer."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from tests.pool.pools import Pool, chat, pool, said, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.model]

OPTIONS = ("--replicas", "1:2", "--cpus-per-replica", "0.1", "--concurrency", "2", "--queue", "20")
QUICK = ("--scale-up-after", "2", "--scale-down-after", "4", "--drain", "20")
RATES = ("--input", "1", "--output", "2")


def cost(input_tokens: int, output_tokens: int) -> Decimal:
    return (input_tokens + 2 * output_tokens) * Decimal("0.000001")


def counted(served: Pool) -> int:
    """How many tokens the gateway counts for the question."""
    with served.client() as client:
        found = client.post("/tokenize", content=json.dumps({"messages": chat()["messages"]})).json()
    return int(found["count"])


def test_it_grows_under_load_shrinks_again_and_a_killed_replica_loses_no_money(
    pool_python: Path, model_home: Path, tmp_path: Path
) -> None:
    with pool(pool_python, tmp_path, "smollm2", *OPTIONS, *QUICK, *RATES, home=model_home) as served:
        question = counted(served)
        answers = [served.ask(max_tokens=8, temperature=0).json() for _ in range(2)]
        assert len({it["choices"][0]["message"]["content"] for it in answers}) == 1
        for usage in (it["usage"] for it in answers):
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (question, 8)
            row = served.row(usage["tokmagic"]["run_id"])
            assert row.reading.cost.usd == Decimal(usage["tokmagic"]["cost_usd"]) == cost(question, 8)

        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                assert served.ask(max_tokens=40, ignore_eos=True).status_code == 200

        with ThreadPoolExecutor(6) as clients:
            working = [clients.submit(load) for _ in range(6)]
            try:
                wait_for(lambda: len(served.processes("model-0")) == 2, 180)
            finally:
                stop.set()
            for it in working:
                it.result()
        wait_for(lambda: len(served.processes("model-0")) == 1, 180)

        heard = threading.Event()
        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(
                served.stream, lambda event: said(event) and heard.set(), max_tokens=2000, ignore_eos=True
            )
            assert heard.wait(120)
            served.kill("model-0")
            last = asked.result()[-1]
        assert last["error"]["code"] == "upstream_error"
        told, generated = last["usage"]["tokmagic"], last["usage"]["completion_tokens"]
        row = served.row(told["run_id"])
        assert (row.status, row.reading.usage.output_tokens) == ("failed", generated)
        assert row.reading.cost.usd == Decimal(told["cost_usd"]) == cost(question, generated)
        assert served.ask(max_tokens=5, ignore_eos=True).json()["usage"]["completion_tokens"] == 5
        rows = served.rows()
        assert {row.status for row in rows} == {"ok", "failed"}
        assert len(served.left() if served.end() == 0 else []) == 0
