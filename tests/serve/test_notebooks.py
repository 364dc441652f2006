"""Notebooks on a shared engine: a run that client and server both record counts once, with one ledger and with two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tests.commands import command_in
from tests.kernels import is_told, running_kernel
from tests.serve.gateways import Served, serving
from tokmagic.core.budget import Budget
from tokmagic.core.files import sqlite_url
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import Selection
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import ModelError
from tokmagic.explain.readers import reader_for
from tokmagic.ledgers import Ledger
from tokmagic.runs.session import Session

# The prompt is free, each of an answer's five tokens costs two cents: a request holds and costs $0.10.
TEN_CENTS = Rates(Decimal(0), Decimal(20_000), source="test")
DIME = Decimal("0.10")
ASK = Prompt((Message("user", "Count."),), Sampling(max_tokens=5))
NOTEBOOK = "/books/one.ipynb"
Make = Callable[..., Session]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()


@pytest.fixture
def served(tmp_path: Path, ledger_url: str) -> Iterator[Served]:
    with serving(tmp_path, rates=TEN_CENTS, usd=Decimal(1), ledger=ledger_url) as found:
        yield found


@pytest.fixture
def notebook(served: Served, make_session: Make, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A notebook of the key's user on the server's ledger."""
    monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", served.secret)
    monkeypatch.setenv("LOGNAME", "ada")
    session = make_session(model="tiny", engine_url=served.url, cache=False)
    session.notebook = NOTEBOOK
    return session


def spent(ledger: Ledger, served: Served) -> dict[str, Decimal]:
    """What each budget counts."""
    held = [*ledger.budgets("ada", NOTEBOOK), *ledger.budgets("ada", None, served.key.key_id)]
    standings = ledger.standings(held, "ada", datetime.now())
    assert all(it.held_usd == 0 for it in standings)
    return {it.budget.scope: it.spent_usd for it in standings}


def test_what_an_attempt_cost_that_was_made_again_is_in_the_sums_of_its_user(
    tmp_path: Path, ledger_url: str, make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model fails at the second token, and the client asks once more."""
    failing = Script.of_text([" a", " b"], input_tokens=2, error="the device is gone")
    engine = ScriptedEngine("tiny", [failing, Script.of_text([" a", " b", " c"], input_tokens=2)])
    with serving(tmp_path, engine, rates=TEN_CENTS, usd=Decimal(1), ledger=ledger_url) as served:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", served.secret)
        monkeypatch.setenv("LOGNAME", "ada")
        session = make_session(model="tiny", engine_url=served.url, cache=False)
        session.notebook = NOTEBOOK
        served.ledger.set_budget(Budget("day", Decimal(5), user="ada"))
        generation = session.generate(replace(ASK, stream=False))
        assert (generation.status, generation.record.reading.attempts) == ("ok", 2)
        rows = served.rows()
        assert [(row.status, row.duplicate) for row in rows] == [("ok", False), ("failed", False), ("ok", True)]
        failed_usd = rows[1].reading.cost.usd
        assert failed_usd
        both = (generation.cost.usd or 0) + failed_usd
        assert served.ledger.totals(Selection()).cost_usd == both
        assert spent(served.ledger, served) == {"day": both, "key": both}


def test_with_one_ledger_every_sum_counts_a_run_once_and_its_keys_counts_it_too(
    served: Served, notebook: Session
) -> None:
    ledger = served.ledger
    ledger.set_budget(Budget("day", Decimal(5), user="ada"))
    ledger.set_budget(Budget("notebook", Decimal(5), notebook=NOTEBOOK))
    assert [notebook.generate(ASK, cell_id="a").cost.usd for _ in range(3)] == [DIME] * 3
    rows = ledger.runs()
    assert [(row.duplicate, row.reading.cost.usd) for row in rows] == [(False, DIME), (True, DIME)] * 3
    assert {row.client_run_id for row in rows if row.duplicate} == {row.run_id for row in rows if not row.duplicate}
    assert ledger.totals(Selection()).cost_usd == 3 * DIME
    assert ledger.totals(notebook.selection).runs == 3
    assert spent(ledger, served) == {"day": 3 * DIME, "notebook": 3 * DIME, "key": 3 * DIME}
    view = notebook.everything(NOTEBOOK, widgets=False)
    assert view.notebook_totals is not None
    assert view.day_totals is not None
    assert view.notebook_totals.cost_usd == view.day_totals.cost_usd == 3 * DIME
    assert [row.cell_id for row in view.rows] == ["a"]
    assert {it.budget.scope: it.spent_usd for it in view.budgets} == {"day": 3 * DIME, "notebook": 3 * DIME}


def test_the_days_budget_is_asked_once(served: Served, notebook: Session) -> None:
    """What the client holds for a run is not held by its server a second time."""
    served.ledger.set_budget(Budget("day", Decimal("0.25"), user="ada"))
    assert [notebook.generate(ASK).status for _ in range(3)] == ["ok", "ok", "refused"]
    assert served.ledger.totals(Selection()).cost_usd == 2 * DIME


def test_an_interrupted_run_counts_once(served: Served, notebook: Session) -> None:
    class Watcher:
        def token(self, text: str) -> None:
            if text:
                raise KeyboardInterrupt

    stopped = notebook.generate(ASK, watcher=Watcher())
    served.gateway.close()  # waits for the server's row
    mine, servers = served.ledger.runs()
    assert (mine.run_id, servers.client_run_id, servers.duplicate) == (stopped.run_id, stopped.run_id, True)
    assert served.ledger.totals(Selection()).cost_usd == mine.reading.cost.usd


def test_with_two_ledgers_each_counts_it(tmp_path: Path, make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    there = sqlite_url(tmp_path / "there.sqlite")
    with serving(tmp_path, rates=TEN_CENTS, usd=Decimal(1), ledger=there) as served:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", served.secret)
        session = make_session(model="tiny", engine_url=served.url)
        generation = session.generate(ASK)
        (mine,), (servers,) = session.ledger().runs(), served.ledger.runs()
        assert (servers.client_run_id, servers.duplicate) == (mine.run_id, False)
        assert mine.env["server_run_id"] == servers.run_id
        sums = session.ledger().totals(Selection()), served.ledger.totals(Selection())
        assert [it.cost_usd for it in sums] == [DIME, DIME] == [generation.cost.usd] * 2
        assert spent(served.ledger, served) == {"key": DIME}
        # Moved into one they are one run.
        from tokmagic.ledgers.move import move

        move(session.ledger(), served.ledger)
        assert served.ledger.totals(Selection()).cost_usd == DIME


def test_what_a_bench_sends_is_its_rows(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = command_in(tmp_path, capsys)
    given = {"TOKMAGIC_ENGINE_URL": served.url, "TOKMAGIC_ENGINE_KEY": served.secret}
    given |= {"TOKMAGIC_LEDGER": served.gateway.settings.ledger}
    done = command("bench", "tiny", "--requests", "2", "--concurrency", "1", "--output-tokens", "2", **given)
    assert done.returncode == 0, done.stderr
    rows = served.ledger.runs()
    mine, servers = ([row for row in rows if bool(row.key) is key] for key in (False, True))
    assert {row.client_run_id for row in servers} <= {row.run_id for row in mine} | {None}
    measured = [row for row in servers if row.client_run_id is not None]
    assert len(measured) >= 2
    assert all(row.duplicate for row in measured)


def test_the_command_runs_a_prompt_there(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", served.secret)
    words = ("run", "-m", "tiny", "--engine", served.url, "--api-key-name", "SOME_KEY", "--max-tokens", "5")
    done = command_in(tmp_path / "own", capsys)(*words, "--json", text="Count.")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cost_usd"] == "0.1"
    done = command_in(tmp_path / "own", capsys)(*words, "--api-base", served.url, text="Count.")
    assert done.returncode == 2
    assert "leave out --api-base and --server" in done.stderr
    done = command_in(tmp_path / "own", capsys)("run", "--engine", served.url, text="Count.")
    assert "name the endpoint's model with -m" in done.stderr


def test_tokens_of_a_model_without_a_tokenizer_here_are_not_guessed(served: Served, notebook: Session) -> None:
    with pytest.raises(ModelError, match="the shared engine counts for it"):
        reader_for(notebook.models, "tiny")


@pytest.mark.slow
def test_in_a_real_kernel_reports_and_sidebar_count_it_once(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = served.gateway.settings.ledger
    given = {"TOKMAGIC_LEDGER": url, "TOKMAGIC_HOME": str(tmp_path), "TOKMAGIC_CACHE": "off"}
    given |= {"TOKMAGIC_ENGINE_URL": served.url, "TOKMAGIC_ENGINE_KEY": served.secret, "LOGNAME": "ada"}
    with running_kernel(**given, JPY_SESSION_NAME=NOTEBOOK) as kernel:
        assert kernel.run("%load_ext tokmagic\n%model use tiny\n%budget day 1").ok
        for cell in ("a", "b"):
            ran = kernel.run("%%generate --max-tokens 5\nCount.", cell_id=cell, until=is_told(cell))
            assert ran.ok, ran.error
        sums = ran.snapshots[-1]["totals"]
        assert (sums["notebook"]["cost_usd"], sums["day"]["cost_usd"], sums["day"]["runs"]) == ("0.2", "0.2", 2)
        cost = kernel.run("%cost")
        assert "$0.2000" in cost.displays[-1]["data"]["text/plain"]
        budget = kernel.run("%budget").displays[-1]["data"]["text/plain"]
        assert "$0.2000" in budget
        models = kernel.run("%model").displays[-1]["data"]["text/plain"]
        assert f"shared engine {served.url}: tiny (loaded, idle)" in models
        info = kernel.run("%model info tiny").displays[-1]["data"]["text/plain"]
        assert "loaded, idle" in info
    with closing(Ledger(url)) as ledger:
        assert ledger.totals(Selection()).cost_usd == Decimal("0.20")
        assert spent(ledger, served)["key"] == Decimal("0.20")
    report = command_in(tmp_path, capsys)("report", "--by", "notebook", "--json", TOKMAGIC_LEDGER=url)
    told = json.loads(report.stdout)
    assert [row["cost_usd"] for row in told if row.get("notebook") == NOTEBOOK] == ["0.2"]
