"""The sidebar elsewhere than in one JupyterLab at the root of a server: what it shows in the end is the ledger's."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.ui.conftest import Start
from tests.ui.kept import assert_shows_the_ledger
from tests.ui.lab import Lab, Notebook
from tests.ui.test_sidebar import LOAD, LONG
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model, pytest.mark.slow]

CELLS = [LOAD, "%%generate --max-tokens 8\nHi.", LONG.format(600)]


def run_and_stop(notebook: Notebook, stopping: Notebook) -> None:
    """Run a prompt to its end and another until somebody stops it."""
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    notebook.row("cell-1").wait("ok")
    notebook.run(2)
    for it in {notebook, stopping}:
        it.row("cell-2").wait_output_above(5)
    stopping.panel.get_by_role("button", name="Stop the run of cell").click()
    for it in {notebook, stopping}:
        it.row("cell-2").wait("interrupted")
    notebook.wait_run(2)


def test_under_a_base_url_as_behind_a_hub(
    start: Start, browser: Browser, ui_ledger: Ledger, tmp_path: Path, shots: Path
) -> None:
    lab = start(tmp_path / "server", flags=["--ServerApp.base_url=/user/ann/"])
    assert lab.url.endswith("/user/ann/")
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    notebook = Notebook(page, lab, lab.notebook("hub.ipynb", CELLS))
    run_and_stop(notebook, notebook)
    page.screenshot(path=shots / "base-url.png")
    assert_shows_the_ledger(notebook.panel, ui_ledger, "hub.ipynb")
    lab.end_sessions()
    page.close()


@pytest.mark.outside
def test_in_notebook_7(start: Start, browser: Browser, ui_ledger: Ledger, tmp_path: Path, shots: Path) -> None:
    lab = start(tmp_path / "server", "notebook", app="notebook")
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    notebook = Notebook(page, lab, "", at=f"notebooks/{lab.notebook('seven.ipynb', CELLS)}")
    notebook.panel.locator(".tm-Head").wait_for()
    run_and_stop(notebook, notebook)
    page.screenshot(path=shots / "notebook-7.png")
    assert_shows_the_ledger(notebook.panel, ui_ledger, "seven.ipynb")
    lab.end_sessions()
    page.close()


@pytest.mark.outside
def test_two_clients_in_real_time_collaboration(
    start: Start, browser: Browser, ui_ledger: Ledger, tmp_path: Path, shots: Path
) -> None:
    lab: Lab = start(tmp_path / "server", "collaboration")
    name = lab.notebook("together.ipynb", CELLS)
    contexts = [browser.new_context(viewport={"width": 1400, "height": 900}) for _ in range(2)]
    ann, bob = (Notebook(context.new_page(), lab, name) for context in contexts)
    run_and_stop(ann, stopping=bob)
    bob.row("cell-1").wait("ok")
    for who, notebook in (("ann", ann), ("bob", bob)):
        notebook.page.screenshot(path=shots / f"together-{who}.png")
        assert_shows_the_ledger(notebook.panel, ui_ledger, name)
    lab.end_sessions()
    for context in contexts:
        context.close()
