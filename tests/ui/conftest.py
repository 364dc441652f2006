"""One server, one browser and one page for all browser tests; a notebook and a kernel for each.

They end with the last of these tests: while playwright runs, nothing else in this process can run an event loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import peer_python
from tests.ui.lab import WAIT_MS, Lab, Notebook, beside_the_project, chromium, running_lab, write_slow_script
from tokmagic.ledgers import Ledger

Start = Callable[..., Lab]
SHOTS = Path(__file__).resolve().parents[2] / ".test-results"


@pytest.fixture(scope="package")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="package")
def lab(tiny_home: Path, lab_folder: Path) -> Iterator[Lab]:
    """JupyterLab, where ``smollm2`` is a stand-in and ``scripted:slow.json`` goes on for two minutes."""
    ledger = f"sqlite:///{lab_folder}/ledger.sqlite"
    with running_lab(lab_folder / "server", TOKMAGIC_HOME=str(tiny_home), TOKMAGIC_LEDGER=ledger) as running:
        write_slow_script(running.root)
        yield running


@pytest.fixture
def start(tiny_home: Path, lab_folder: Path) -> Iterator[Start]:
    """Start another server with the same ledger; ``peer`` names the environment of others that it runs in."""
    ledger = f"sqlite:///{lab_folder}/ledger.sqlite"
    with ExitStack() as stack:

        def started(folder: Path, peer: str | None = None, **options: Any) -> Lab:
            python, env = Path(sys.executable), {"TOKMAGIC_HOME": str(tiny_home), "TOKMAGIC_LEDGER": ledger}
            if peer is not None:
                python = stack.enter_context(peer_python(peer))
                env |= beside_the_project(python)
            running = stack.enter_context(running_lab(folder, str(python), **options, **env))
            write_slow_script(running.root)
            return running

        yield started


@pytest.fixture
def ui_ledger(lab_folder: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{lab_folder}/ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="package")
def lab_page(browser: Browser, lab: Lab) -> Page:
    """JupyterLab itself, which takes the longest to open."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{lab.url}lab?token={lab.token}")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
    return page


@pytest.fixture
def open_notebook(
    lab: Lab, lab_page: Page, shots: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Notebook]]:
    """Open a notebook; afterwards a picture is taken, and the notebook is closed and its kernel ended."""
    opened: list[Notebook] = []

    def open_one(name: str) -> Notebook:
        opened.append(Notebook(lab_page, lab, name, here=True))
        return opened[-1]

    yield open_one
    for notebook in opened:
        lab_page.screenshot(path=shots / f"{request.node.name}.png")
        notebook.close()


@pytest.fixture
def shots() -> Path:
    """Where screenshots go, for people to look at."""
    SHOTS.mkdir(exist_ok=True)
    return SHOTS
