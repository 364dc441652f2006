"""A key's money: what is let in, what is refused, and that what clients are told is what the ledger has."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.serve.gateways import Held, Served, events, scripted, serving
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import Selection, Sum
from tokmagic.engines.registry import open_engine, shared_spec
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream
from tokmagic.serve.gateway import Bounds

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 5}
# The prompt is free, each of an answer's five tokens costs two cents: a request holds and costs $0.10.
TEN_CENTS = Rates(Decimal(0), Decimal(20_000), source="test")


def ask(served: Served, body: dict[str, Any] = CHAT) -> tuple[int, dict[str, Any]]:
    response = served.post("/v1/chat/completions", body)
    return response.status_code, response.json()


def test_a_key_that_is_used_up_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with serving(tmp_path, rates=TEN_CENTS, usd=Decimal("0.25")) as served:
        assert [ask(served)[0] for _ in range(3)] == [200, 200, 402]
        status, told = ask(served)
        error = told["error"]
        assert (status, error["type"], error["code"]) == (402, "insufficient_quota", "insufficient_quota")
        assert "$0.10" in error["message"]
        assert "$0.0500 left" in error["message"]
        assert "$0.2000 spent" in error["message"]


@pytest.mark.slow
def test_what_only_other_requests_hold_comes_back(tmp_path: Path) -> None:
    held = Held()
    with serving(tmp_path, held, rates=TEN_CENTS, usd=Decimal("0.15")) as served:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, served)
            _wait_for_row(served)
            refused = served.post("/v1/chat/completions", CHAT)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_held")
            assert int(refused.headers["retry-after"]) >= 1
            held.go_on.set()
            assert first.result()[0] == 200
        # It cost what it held, so now the key is used up.
        assert ask(served)[0] == 402


def _wait_for_row(served: Served) -> None:
    until = threading.Event()
    for _ in range(6000):
        if served.ledger.runs():
            return
        until.wait(0.01)
    raise AssertionError("no run began")


def many_at_once(gateways: list[Served], secret: str, requests: int) -> Decimal:
    """Ask all gateways at the same time; what the clients were told that it cost."""
    auth = {"authorization": f"Bearer {secret}"}

    def one(number: int) -> tuple[int, dict[str, Any]]:
        served = gateways[number % len(gateways)]
        response = served.client.post("/v1/chat/completions", content=json.dumps(CHAT), headers=auth)
        return response.status_code, response.json()

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(one, range(requests)))
    assert Counter(status for status, _ in answers).keys() <= {200, 402, 429}
    paid = [told for status, told in answers if status == 200]
    assert len(paid) == 50
    return sum((Decimal(answer["usage"]["tokmagic"]["cost_usd"]) for answer in paid), Decimal(0))


def check_settled(served: Served, told: Decimal, requests: int) -> None:
    rows = served.rows()
    assert Counter(row.status for row in rows) == {"ok": 50, "refused": requests - 50}
    assert Sum.of(rows).cost_usd == served.ledger.totals(Selection()).cost_usd == told == Decimal(5)
    held = served.ledger.budgets("ada", None, served.key.key_id)
    (standing,) = served.ledger.standings(held, "ada", datetime.now())
    assert (standing.held_usd, standing.spent_usd) == (0, told)


@pytest.mark.parametrize("requests", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_requests_at_once_against_one_key(tmp_path: Path, requests: int) -> None:
    with serving(tmp_path, rates=TEN_CENTS, usd=Decimal(5), bounds=Bounds(waiting=requests)) as served:
        check_settled(served, many_at_once([served], served.secret, requests), requests)


@pytest.mark.postgres
def test_many_requests_at_once_at_two_gateways_over_one_postgresql(tmp_path: Path, postgres_url: str) -> None:
    given: dict[str, Any] = {"rates": TEN_CENTS, "bounds": Bounds(waiting=1000), "ledger": postgres_url}
    with (
        serving(tmp_path / "one", usd=Decimal(5), **given) as one,
        serving(tmp_path / "two", usd=Decimal(5), **given) as two,
    ):
        check_settled(one, many_at_once([one, two], one.secret, 1000), 1000)


def test_a_client_that_leaves_pays_for_what_was_generated(tmp_path: Path) -> None:
    words = [f" w{number}" for number in range(2000)]
    paced = scripted(words=words, pace=1.0, ttft_s=0.05, itl_s=0.02)
    with serving(tmp_path, paced, rates=TEN_CENTS) as served:
        body = CHAT | {"stream": True, "max_tokens": 2000}
        auth = {"authorization": f"Bearer {served.secret}"}
        with served.client.stream("POST", "/v1/chat/completions", content=json.dumps(body), headers=auth) as response:
            pieces = response.iter_lines()
            seen = 0
            for line in pieces:
                seen += '"content":" w' in line
                if seen == 5:
                    break
        row = _settled(served)
        assert row.status == "interrupted"
        counted = row.reading.usage.output_tokens or 0
        assert 5 <= counted < 1000
        assert row.reading.cost.usd == counted * Decimal("0.02")


def _settled(served: Served) -> Any:
    wait = threading.Event()
    for _ in range(6000):
        if served.ended:
            return served.ended[-1]
        wait.wait(0.01)
    raise AssertionError("the run was not settled")


@pytest.mark.slow
def test_a_budget_that_ends_in_mid_answer_cuts_it(tmp_path: Path) -> None:
    # Set aside is what most answers take; this one takes more than the key has.
    short, long = Script.of_text([" w"] * 2), Script.of_text([" w"] * 40)
    engine = ScriptedEngine("tiny", [*[short] * 20, long])
    with serving(tmp_path, engine, rates=TEN_CENTS, usd=Decimal("1.00"), hold="p95") as served:
        for _ in range(20):
            assert ask(served, CHAT | {"max_tokens": 40})[1]["usage"]["completion_tokens"] == 2
        status, told = ask(served, CHAT | {"max_tokens": 40})
        assert (status, told["choices"][0]["finish_reason"]) == (200, "length")
        assert "a budget is used up" in told["usage"]["tokmagic"]["stopped"]
        # 20 answers of four cents have left 20 cents: ten tokens.
        assert told["usage"]["completion_tokens"] == 10
        assert served.rows()[-1].finish_reason == "budget"
        assert served.ledger.totals(Selection()).cost_usd == Decimal(1)


class TwoAnswers(ScriptedEngine):
    """A model of which, when it is stopped, one answer has ended and the other has not."""

    def stream(self, prompt: Prompt) -> ScriptedStream:
        stream = super().stream(prompt)
        cut = stream._cut
        stream._cut = lambda reason: replace(cut(reason), reasons=("stop", reason))  # type: ignore[method-assign]
        return stream


@pytest.mark.slow
def test_of_several_answers_each_ends_once_where_a_budget_cuts_them(tmp_path: Path) -> None:
    engine = TwoAnswers("tiny", [*[Script.of_text([" w"] * 2)] * 20, Script.of_text([" w"] * 40)])
    with serving(tmp_path, engine, rates=TEN_CENTS, usd=Decimal("1.00"), hold="p95") as served:
        for _ in range(20):
            assert ask(served, CHAT | {"max_tokens": 40})[0] == 200
        chunks = served.stream("/v1/chat/completions", CHAT | {"max_tokens": 40, "n": 2, "stream": True})
        choices = [it for chunk in chunks[:-1] for it in chunk["choices"]]
        ends = [(it["index"], it["finish_reason"]) for it in choices if it["finish_reason"]]
        assert ends == [(0, "stop"), (1, "length")]
        assert served.rows()[-1].finish_reason == "budget"


def test_an_engine_that_fails_in_mid_stream_is_told_with_what_it_cost(tmp_path: Path) -> None:
    engine = ScriptedEngine("tiny", [Script.of_text([" a", " b"], error="the device is gone")])
    with serving(tmp_path, engine, rates=TEN_CENTS) as served:
        chunks = served.stream("/v1/chat/completions", CHAT | {"stream": True})
        assert chunks[-1]["error"]["message"] == "the device is gone"
        assert chunks[-1]["usage"]["completion_tokens"] == 2
        assert chunks[-1]["usage"]["tokmagic"]["cost_usd"] == "0.04"
        failed = served.post("/v1/chat/completions", CHAT)
        assert failed.status_code == 500
        assert failed.json()["error"]["message"] == "the device is gone"
        assert failed.json()["usage"]["tokmagic"]["cost_usd"] == "0.04"
        assert failed.headers["x-request-id"] == served.rows()[-1].run_id
        assert [row.status for row in served.rows()] == ["failed", "failed"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_budget_of_an_engine_behind_it_refuses_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool, path: str
) -> None:
    """Streamed too, where the answer has begun by then: without the error it would pass for an empty one."""
    (tmp_path / "behind").mkdir()
    with serving(tmp_path / "behind", rates=TEN_CENTS, usd=Decimal("0.05")) as behind:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", behind.secret)
        engine = open_engine("tiny", shared_spec("tiny", behind.url), TokMagic(home=str(tmp_path), attempts=1))
        with serving(tmp_path, engine) as served:
            asked = {"/v1/responses": {"input": "Count.", "max_output_tokens": 5}}.get(path, CHAT)
            answer = served.post(path, asked | {"model": "tiny", "stream": stream})
            told = events(answer.text)[-1] if stream else answer.json()
            assert answer.status_code == (200 if stream else 402)
            assert "$0.0500 left" in told["error"]["message"]
            assert told["error"]["code"] == "insufficient_quota"
            assert [row.status for row in (*served.rows(), *behind.rows())] == ["refused", "refused"]


def test_a_run_without_a_price_does_not_slip_past_a_cap(tmp_path: Path) -> None:
    with serving(tmp_path, rates=Rates(source="none"), usd=Decimal(5)) as served:
        status, told = ask(served)
        assert (status, told["error"]["code"]) == (402, "insufficient_quota")
        assert "the price of this run is unknown" in told["error"]["message"]
        _, uncapped = served.ledger.keys.add("uncapped", "ada")
        assert served.post("/v1/chat/completions", CHAT, secret=uncapped).status_code == 200


def test_the_first_runs_of_a_model_that_is_paid_by_its_devices_time_are_let_in_and_watched(tmp_path: Path) -> None:
    """Their price is known; how long a token takes is known from the first run on, which somebody has to make."""
    by_hour = Rates(device_hour=Decimal(3600), source="test")  # a dollar a second
    long = scripted(words=[" w"] * 100, ttft_s=0.1, itl_s=0.01)
    with serving(tmp_path, long, rates=by_hour, usd=Decimal("0.5")) as served:
        status, told = ask(served, CHAT | {"max_tokens": 100})
        assert (status, told["choices"][0]["finish_reason"]) == (200, "length")
        assert "a budget is used up" in told["usage"]["tokmagic"]["stopped"]
        (row,) = served.rows()
        assert (row.finish_reason, row.reading.cost.usd) == ("budget", Decimal("0.5"))
        assert ask(served)[0] == 402


def test_each_key_sees_only_its_own_budget(tmp_path: Path) -> None:
    with serving(tmp_path, rates=TEN_CENTS, usd=Decimal("0.10")) as served:
        _, other = served.ledger.keys.add("other", "bob", "research", Decimal("0.10"))
        assert ask(served)[0] == 200
        assert ask(served)[0] == 402
        assert served.post("/v1/chat/completions", CHAT, secret=other).status_code == 200


def test_a_run_whose_client_has_a_row_here_is_summed_once(tmp_path: Path) -> None:
    with serving(tmp_path, rates=TEN_CENTS, usd=Decimal(1)) as served:
        ask(served)
        (ended,) = served.rows()
        refused = served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id=ended.run_id)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "X-Tokmagic-Run-Id")
        # Stands for the client's row.
        clients = replace(ended, run_id="0123456789abcdef" * 2, status="running", key=None, team=None)
        served.ledger.begin(clients)
        answer = served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id=clients.run_id).json()
        row = served.ledger.run(answer["usage"]["tokmagic"]["run_id"])
        assert row is not None
        assert row.duplicate
        served.ledger.settle(replace(clients, status="ok"))
        assert served.ledger.totals(Selection()).cost_usd == Decimal("0.20")
        (standing,) = served.ledger.standings(
            served.ledger.budgets("ada", None, served.key.key_id), "ada", datetime.now()
        )
        assert standing.spent_usd == Decimal("0.20")


def test_of_several_attempts_the_last_that_was_let_in_is_looked_up(tmp_path: Path) -> None:
    """It is asked for what it cost by a client whose next attempt a budget refused."""
    engine = ScriptedEngine("tiny", [Script.of_text([" a", " b"], error="the device is gone")])
    with serving(tmp_path, engine, rates=TEN_CENTS, usd=Decimal("0.12")) as served:
        asks = uuid.uuid4().hex
        answers = [served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id=asks) for _ in range(2)]
        assert [it.status_code for it in answers] == [500, 402]
        told = served.get(f"/v1/runs/{asks}").json()
        assert (told["status"], told["usage"]["tokmagic"]["cost_usd"]) == ("failed", "0.04")
        refused = served.rows()[-1]
        assert served.get(f"/v1/runs/{refused.run_id}").json()["status"] == "refused"


@pytest.mark.slow
def test_a_run_of_the_server_itself_is_no_clients_row(tmp_path: Path) -> None:
    held = Held()
    with serving(tmp_path, held, rates=TEN_CENTS, usd=Decimal(1)) as served, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, served)
        _wait_for_row(served)
        (row,) = served.rows()
        # Its user's budgets would not be asked for whatever names a run that goes on.
        refused = served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id=row.run_id)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "X-Tokmagic-Run-Id")
        held.go_on.set()
        assert first.result()[0] == 200
        # Another gateway's run may ask, where the model is at a server.
        for server, status in ((None, 400), ("gateway.test", 200)):
            info = replace(row.info, server=server)
            asks = replace(
                row, run_id=uuid.uuid4().hex, key="other", session="other", info=info, env={"server": server}
            )
            served.ledger.begin(asks)
            answer = served.post("/v1/chat/completions", CHAT, x_tokmagic_run_id=asks.run_id)
            assert answer.status_code == status, answer.text
        assert [it.duplicate for it in served.rows() if it.key == served.key.key_id] == [False, True]


@pytest.mark.parametrize("usd", [None, Decimal(1)])
def test_nothing_runs_that_cannot_be_recorded(tmp_path: Path, usd: Decimal | None) -> None:
    with serving(tmp_path, usd=usd, bounds=Bounds(ledger_s=0.1)) as served:
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for stream in (False, True):
                status, told = ask(served, CHAT | {"stream": stream})
                assert (status, told["error"]["code"]) == (503, "ledger_unavailable")
                assert "choices" not in told
            other.execute("ROLLBACK")
        assert ask(served)[0] == 200
        assert [row.status for row in served.rows()] == ["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("usd", [None, Decimal(1)])
def test_while_the_ledger_is_locked_everybody_is_soon_told_to_come_back(tmp_path: Path, usd: Decimal | None) -> None:
    """More requests than the ledger has connections: none waits for the waiting of the others."""
    slow = scripted(pace=1.0, ttft_s=0.1, itl_s=0.2)
    with serving(tmp_path, slow, usd=usd, bounds=Bounds(ledger_s=1.0)) as served, ThreadPoolExecutor(41) as pool:
        running = pool.submit(ask, served)
        _wait_for_row(served)
        # Twenty times what one takes, and half of what all take one after another.
        served.client.timeout = 20 * 1.0
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answers = list(pool.map(lambda _: served.post("/v1/chat/completions", CHAT), range(40)))
            assert running.result()[0] == 200
            other.execute("ROLLBACK")
        told = {(it.status_code, it.json()["error"]["code"], it.headers["retry-after"]) for it in answers}
        assert told == {(503, "ledger_unavailable", "5")}
        assert ask(served)[0] == 200
        # The end of what ran meanwhile was owed, and is paid.
        assert [row.status for row in served.rows()] == ["ok", "ok"]


def test_texts_are_not_kept_where_the_ledger_keeps_none(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        answer = ask(served)[1]
        assert served.ledger.texts(answer["usage"]["tokmagic"]["run_id"]) is None


def test_events_of_a_stream_are_parsed(tmp_path: Path) -> None:
    assert events("data: {}\n\ndata: [DONE]\n\n") == [{}, "[DONE]"]
