"""The sidebar elsewhere than in one JupyterLab at the root of a server: what it shows in the end is the ledger's."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ViewportSize

from tests.conftest import peer_python
from tests.peers.hub import PEER, running_hub
from tests.ui.conftest import Start
from tests.ui.kept import assert_shows_the_ledger
from tests.ui.lab import WAIT_MS, Lab, Notebook, beside_the_project, files_of, flags_of, write_slow_script
from tests.ui.test_sidebar import LOAD, LONG
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model, pytest.mark.slow]

SIZE: ViewportSize = {"width": 1400, "height": 900}
CELLS = [LOAD, "%%generate --max-tokens 8\nHi.", LONG]


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
    page = browser.new_page(viewport=SIZE)
    notebook = Notebook(page, lab, lab.notebook("hub.ipynb", CELLS))
    run_and_stop(notebook, notebook)
    page.screenshot(path=shots / "base-url.png")
    assert_shows_the_ledger(notebook.panel, ui_ledger, "hub.ipynb")
    lab.end_sessions()
    page.close()


@pytest.mark.outside
def test_behind_a_hub(
    tiny_home: Path, lab_folder: Path, browser: Browser, ui_ledger: Ledger, tmp_path: Path, shots: Path
) -> None:
    """A user signs in at a real JupyterHub, which starts a server for them behind its proxy."""
    folder = tmp_path / "server"
    with peer_python(PEER) as python:
        own = files_of(folder) | beside_the_project(python)
        own |= {"TOKMAGIC_HOME": str(tiny_home), "TOKMAGIC_LEDGER": f"sqlite:///{lab_folder}/ledger.sqlite"}
        server = [str(python), "-m", "jupyterhub.singleuser", "--ServerApp.default_url=/lab", *flags_of(folder)]
        with running_hub(tmp_path, server, own) as hub, closing(browser.new_context(viewport=SIZE)) as context:
            lab = Lab(f"{hub.url}/user/ann/", hub.start("ann"), folder / "root")
            write_slow_script(lab.root)
            page = context.new_page()
            page.set_default_timeout(WAIT_MS)
            page.goto(f"{hub.url}/hub/login")
            page.get_by_label("Username").fill("ann")
            page.get_by_label("Password").fill(hub.password)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/user/ann/lab**")
            notebook = Notebook(page, lab, "", at=f"lab/tree/{lab.notebook('signed-in.ipynb', CELLS)}")
            run_and_stop(notebook, notebook)
            page.screenshot(path=shots / "hub.png")
            assert_shows_the_ledger(notebook.panel, ui_ledger, "signed-in.ipynb")
            lab.end_sessions()


@pytest.mark.outside
def test_in_notebook_7(start: Start, browser: Browser, ui_ledger: Ledger, tmp_path: Path, shots: Path) -> None:
    lab = start(tmp_path / "server", "notebook", app="notebook")
    page = browser.new_page(viewport=SIZE)
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
    contexts = [browser.new_context(viewport=SIZE) for _ in range(2)]
    ann, bob = (Notebook(context.new_page(), lab, name) for context in contexts)
    run_and_stop(ann, stopping=bob)
    bob.row("cell-1").wait("ok")
    for who, notebook in (("ann", ann), ("bob", bob)):
        notebook.page.screenshot(path=shots / f"together-{who}.png")
        assert_shows_the_ledger(notebook.panel, ui_ledger, name)
    lab.end_sessions()
    for context in contexts:
        context.close()
