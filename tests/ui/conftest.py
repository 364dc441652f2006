"""One server and one browser for all browser tests; a fresh kernel, workspace and profile for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.ui.lab import Lab, Notebook, chromium, running_lab
from tokmagic.ledgers import Ledger

SHOTS = Path(__file__).resolve().parents[2] / ".test-results"


@pytest.fixture(scope="module")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def lab(model_home: Path, lab_folder: Path) -> Iterator[Lab]:
    ledger = f"sqlite:///{lab_folder}/ledger.sqlite"
    with running_lab(lab_folder / "server", TOKMAGIC_HOME=str(model_home), TOKMAGIC_LEDGER=ledger) as running:
        yield running


@pytest.fixture
def ui_ledger(lab_folder: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{lab_folder}/ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def open_notebook(
    lab: Lab, browser: Browser, shots: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    """Open notebooks; afterwards a picture is taken, and their kernels and pages are ended."""
    contexts: list[BrowserContext] = []

    def open_one(name: str, *, workspace: str | None = None) -> Notebook:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        contexts.append(context)
        return Notebook(context.new_page(), lab, name, workspace=workspace)

    yield open_one
    for number, context in enumerate(contexts):
        context.pages[0].screenshot(path=shots / f"{request.node.name}-{number}.png")
        context.close()
    lab.end_sessions()


@pytest.fixture
def shots() -> Path:
    """Where screenshots go, for people to look at."""
    SHOTS.mkdir(exist_ok=True)
    return SHOTS
