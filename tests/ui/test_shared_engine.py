"""A notebook at a real shared engine: what its sidebar shows is what both ledgers keep."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.serve.gateways import Served, scripted, serving
from tests.ui.kept import assert_shows_the_ledger
from tests.ui.lab import Lab, Notebook
from tokmagic.core.money import plain
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model, pytest.mark.slow]

CAP = Decimal("0.0015")
"""Room for one answer of 600 tokens, not for one of 1,000."""


def wait_settled(served: Served) -> None:
    """Wait until the gateway, too, is done with each request: it hears a moment later that a client has gone."""
    until = time.monotonic() + 90
    while served.gateway.held_usd and time.monotonic() < until:
        time.sleep(0.05)
    assert served.gateway.held_usd == 0


def test_a_run_at_a_shared_engine_is_shown_as_the_engine_bills_it(
    lab: Lab, open_notebook: Callable[[str], Notebook], ui_ledger: Ledger, tmp_path: Path
) -> None:
    # It goes on for two minutes, for longer than anything here waits.
    slow = scripted(words=[" word"] * 600, pace=1.0, ttft_s=0.05, itl_s=0.2)
    with serving(tmp_path, slow, usd=CAP) as served:
        load = (
            f"%env TOKMAGIC_ENGINE_KEY={served.secret}\n%load_ext tokmagic\n"
            f"%model add team tiny --engine {served.url}\n%model use team"
        )
        prompts = [f"%%generate --max-tokens {most}\nCount." for most in (8, 600, 1000)]
        notebook = open_notebook(lab.notebook("team.ipynb", [load, *prompts]))
        notebook.run(0)
        notebook.wait_connection("ready")
        notebook.run(1)
        notebook.row("cell-1").wait("ok")

        notebook.run(2)
        notebook.row("cell-2").wait_output_above(20)
        share = notebook.panel.locator(".tm-Share")
        share.get_by_text("in use: ada 1").wait_for()
        assert "1 request runs" in share.locator("[data-field='requests']").inner_text()
        assert f"key {served.key.name} · team research" == share.locator("[data-field='key']").inner_text()
        notebook.panel.get_by_role("button", name="Stop the run of cell").click()
        notebook.row("cell-2").wait("interrupted")
        notebook.wait_run(2)
        wait_settled(served)

        notebook.run(3)
        refused = notebook.row("cell-3")
        refused.wait("refused")
        assert "key's budget" in refused.locator.inner_text()
        notebook.wait_run(3)
        # The head is read anew once a prompt has ended, so it tells what is left after all three.
        rows = served.rows()
        left = CAP - sum(row.reading.cost.usd or 0 for row in rows)
        share.locator(f"[data-field='left'][data-value='{plain(left)}']").wait_for()

        assert_shows_the_ledger(notebook.panel, ui_ledger, "team.ipynb")
        here = [run for run in ui_ledger.runs() if (run.notebook or "").endswith("team.ipynb")]
        billed = [row for row in rows if row.status != "refused"]
        assert [row.status for row in billed] == ["ok", "interrupted"]
        assert {(run.run_id, run.reading.cost.usd) for run in here if run.status != "refused"} == {
            (row.client_run_id, row.reading.cost.usd) for row in billed
        }
        assert all(row.user == "ada" for row in rows)
        wait_settled(served)
