"""A whole pool on this machine: replicas that come, go and die, and a gateway that counts as if there were one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.pool.pools import Pool, chat, pool, said, script, wait_for
from tests.serve.gateways import scripted, serving
from tokmagic.core.money import Rates

pytestmark = pytest.mark.slow

WORDS = [f" w{number}" for number in range(400)]
SLOW = {"pieces": WORDS, "input_tokens": 7, "ttft_s": 0.05, "itl_s": 0.02, "pace": 1.0}
FAST = {"pieces": ["One", " two", " three."], "input_tokens": 3}


@pytest.fixture(scope="module")
def served(pool_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Two models, the first with one to two replicas of two requests each."""
    folder = tmp_path_factory.mktemp("pool")
    names = [script(folder, "slow", **SLOW), script(folder, "fast", **FAST)]
    options = ["--replicas", "1:2", "--cpus-per-replica", "0.1", "--concurrency", "2", "--queue", "4", "--drain", "20"]
    quick = ["--scale-up-after", "2", "--scale-down-after", "4"]
    with pool(pool_python, folder, *names, *options, *quick, "--input", "1", "--output", "2") as started:
        started.models = names  # type: ignore[attr-defined]
        yield started


def model(served: Pool, number: int) -> str:
    return str(served.models[number])  # type: ignore[attr-defined]


def usage_of(events: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = events[-2]["usage"]
    return found


def test_counts_and_costs_are_those_of_one_process(served: Pool, tmp_path: Path) -> None:
    names = model(served, 0)
    pooled = usage_of(served.stream(model=names, max_tokens=30))
    rates = Rates(Decimal(1), Decimal(2), source="command line")
    with serving(
        tmp_path, scripted(words=WORDS, pace=1.0, input_tokens=7, ttft_s=0.05, itl_s=0.02), rates=rates
    ) as one:
        alone = usage_of(
            one.stream("/v1/chat/completions", chat(max_tokens=30, stream=True, stream_options={"include_usage": True}))
        )
    own, others = pooled.pop("tokmagic"), alone.pop("tokmagic")
    assert pooled == alone
    same = ("status", "cost_usd", "cost_source", "cost_bound", "input_source", "output_source", "model_id", "rates")
    assert {name: own[name] for name in same} == {name: others[name] for name in same}
    # The script's intervals to the nanosecond, though the stamps crossed two processes.
    assert (own["itl_p50_s"], own["itl_p95_s"]) == (others["itl_p50_s"], others["itl_p95_s"]) == (0.02, 0.02)
    assert own["engine"] == "pool"
    row = served.row(own["run_id"])
    assert (row.reading.usage.output_tokens, row.reading.cost.usd) == (30, Decimal("0.000067"))


def test_at_its_start_it_says_what_it_charges(served: Pool) -> None:
    assert served.child.stdout is not None
    lines = [served.child.stdout.readline() for _ in range(2)]
    assert lines == [
        f"{model(served, number)}: $1.00 in, $2.00 out per 1M tokens (command line)\n" for number in (0, 1)
    ]


def test_its_processes_give_way_to_no_other_program(served: Pool) -> None:
    """Ray would run its workers at niceness 15: starved by whatever else the machine does."""
    names = ("gateway", "model-0", "model-1")
    found = {name: {it.nice() for it in served.processes(name)} for name in names}
    assert found == {name: {psutil.Process(served.child.pid).nice()} for name in names}


def test_a_run_can_be_found_by_a_header_of_its_answer(served: Pool) -> None:
    answer = served.ask(model=model(served, 1))
    run_id = answer.headers["x-tokmagic-server-run-id"]
    assert run_id == answer.json()["usage"]["tokmagic"]["run_id"]
    # Ray Serve's proxy puts its own there.
    assert answer.headers["x-request-id"] != run_id
    with served.client() as client:
        assert client.get(f"/v1/runs/{run_id}").json()["status"] == "ok"


def test_each_model_has_replicas_of_its_own(served: Pool) -> None:
    answer = served.ask(model=model(served, 1)).json()
    assert answer["choices"][0]["message"]["content"] == "One two three."
    assert answer["usage"]["prompt_tokens"] == 3
    assert len(served.processes("model-0")) >= 1
    assert len(served.processes("model-1")) >= 1
    with served.client() as client:
        listed = client.get("/v1/models").json()["data"]
    assert [it["tokmagic"]["engine"] for it in listed] == ["pool", "pool"]


def test_without_a_key_there_is_only_health(served: Pool) -> None:
    with httpx2.Client(base_url=served.url, trust_env=False) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.post("/v1/chat/completions", content=json.dumps(chat())).status_code == 401
        assert client.get("/metrics").status_code == 401


def test_tokens_arrive_while_others_are_made(served: Pool) -> None:
    arrived: list[float] = []
    served.stream(
        lambda event: arrived.append(time.monotonic()) if said(event) else None, model=model(served, 0), max_tokens=400
    )
    assert len(arrived) == 400
    # Made within 8 s: what is buffered comes at once, in the end, and what comes late is hardly that late.
    assert arrived[-1] - arrived[0] > 4.0
    assert arrived[200] - arrived[0] > 0.5


def test_a_client_that_leaves_pays_exactly_for_what_was_generated(served: Pool) -> None:
    run_ids: list[str] = []

    def leave(event: Any) -> None:
        run_ids.append(event["id"].removeprefix("chatcmpl-"))
        if len(run_ids) == 5:
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        served.stream(leave, model=model(served, 0), max_tokens=400)
    row = served.row(run_ids[0])
    counted = row.reading.usage.output_tokens or 0
    assert row.status == "interrupted"
    assert 5 <= counted < 400
    assert row.reading.cost.usd == (7 + 2 * counted) * Decimal("0.000001")
    assert row.reading.cost.bound == "exact"


def test_its_own_queue_says_when_it_is_full(served: Pool) -> None:
    # Two models with two replicas of two requests each, and four that wait.
    with ThreadPoolExecutor(20) as clients:
        # Long enough for all of them to come before the first is answered.
        asked = [clients.submit(served.ask, model=model(served, 0), max_tokens=250) for _ in range(20)]
        answers = [it.result() for it in asked]
    assert {it.status_code for it in answers} == {200, 429}
    refused = next(it for it in answers if it.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1


def test_it_grows_under_load_and_shrinks_again(served: Pool) -> None:
    wait_for(lambda: len(served.processes("model-0")) == 1, 90)
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            served.ask(model=model(served, 0), max_tokens=50)

    with ThreadPoolExecutor(5) as clients:
        working = [clients.submit(load) for _ in range(5)]
        try:
            wait_for(lambda: len(served.processes("model-0")) == 2, 90)
        finally:
            stop.set()
        for it in working:
            it.result()
    assert len(served.processes("model-1")) == 1
    wait_for(lambda: len(served.processes("model-0")) == 1, 90)


def test_a_killed_replica_loses_no_money_and_the_next_request_works(served: Pool) -> None:
    heard = threading.Event()
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(
            served.stream, lambda event: said(event) == " w20" and heard.set(), model=model(served, 0), max_tokens=400
        )
        assert heard.wait(60)
        served.kill("model-0")
        events = asked.result()
    last = events[-1]
    assert last["error"]["code"] == "upstream_error"
    assert "was lost in mid-answer" in last["error"]["message"]
    counted = last["usage"]["completion_tokens"]
    assert counted == sum(1 for event in events if said(event)) >= 21
    told = last["usage"]["tokmagic"]
    row = served.row(told["run_id"])
    assert (row.status, row.reading.usage.output_tokens) == ("failed", counted)
    assert row.reading.cost.usd == Decimal(told["cost_usd"]) == (7 + 2 * counted) * Decimal("0.000001")
    assert row.reading.cost.bound == told["cost_bound"] == "at_least"
    assert served.ask(model=model(served, 0), max_tokens=5).json()["usage"]["completion_tokens"] == 5


def test_a_killed_gateway_loses_no_row_and_comes_back(served: Pool) -> None:
    heard = threading.Event()
    run_ids: list[str] = []

    def listen(event: Any) -> None:
        run_ids.append(event["id"].removeprefix("chatcmpl-"))
        heard.set()

    def updated() -> bool:
        """Whether its row has counts already."""
        return any(it.run_id == run_ids[0] and (it.reading.usage.output_tokens or 0) >= 1 for it in served.rows())

    def ask() -> None:
        with pytest.raises(httpx2.HTTPError):
            served.stream(listen, model=model(served, 0), max_tokens=400)

    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(ask)
        assert heard.wait(60)
        wait_for(updated)
        served.kill("gateway")
        asked.result()
    row = served.row(run_ids[0])
    assert row.status == "interrupted"
    assert 1 <= (row.reading.usage.output_tokens or 0) <= 400

    def answered() -> bool:
        try:
            return served.ask(model=model(served, 1)).status_code == 200
        except httpx2.HTTPError:
            return False

    wait_for(answered, 90)


def test_sigterm_lets_what_runs_end_and_leaves_no_process(served: Pool) -> None:
    heard = threading.Event()
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(
            served.stream, lambda event: said(event) and heard.set(), model=model(served, 0), max_tokens=200
        )
        assert heard.wait(60)
        assert served.end() == 0, served.err.read_text(encoding="utf-8")
        events = asked.result()
    assert events[-1] == "[DONE]"
    assert usage_of(events)["completion_tokens"] == 200
    assert served.left() == []
    assert served.secret not in served.err.read_text(encoding="utf-8")
    assert {row.status for row in served.rows()} <= {"ok", "interrupted", "failed", "refused"}
