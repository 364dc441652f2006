"""`tokmagic.panel()` in a real marimo: no Jupyter kernel, no magics, and a panel that lives as long as its cell."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect

from tests.conftest import peer_python
from tests.peers.servers import marimo_editor
from tests.ui.kept import assert_shows_the_sums
from tests.ui.lab import SLOW_TOKENS, WAIT_MS, write_slow_script
from tests.ui.test_sidebar import CONTRAST
from tokmagic.core.record import Selection
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.slow, pytest.mark.outside]

CELLS = {
    "load": "import tokmagic",
    "show": "tokmagic.panel()",
    "short": "tokmagic.generate('Hi.', 'scripted')",
    "long": f"tokmagic.generate('A long story.', 'scripted:slow.json', max_tokens={SLOW_TOKENS})",
    "left": """\
import ipywidgets
from tokmagic.runs.api import session

shown = sum("Panel" in type(it).__name__ for it in list(ipywidgets.widgets.widget._instances.values()))
print("panels:", shown, "told:", len(session().channel._listeners))""",
}
"""By their names. A cell that names ``tokmagic`` makes marimo run the one that imports it first."""
PRICES = """
[models]
scripted = {input = 0.15, output = 0.60}
"scripted:slow.json" = {input = 0.15, output = 0.60}
"""
SHORT = 19
"""Output tokens of the built-in answer."""


class Marimo:
    """A marimo notebook open in a page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.set_default_timeout(WAIT_MS)
        # On a busy machine a page of marimo 0.25.2 was seen to stay empty: then it is loaded anew, as a person does.
        for last in (False, False, True):
            page.goto(url)
            try:
                self.cell("load").locator(".cm-content").wait_for(timeout=WAIT_MS if last else WAIT_MS / 3)
                break
            except TimeoutError:
                if last:
                    raise

    @property
    def panel(self) -> Locator:
        return self.page.locator(".tm-Inline")

    def cell(self, name: str) -> Locator:
        return self.page.locator(f".marimo-cell:has([data-cell-name='{name}']), .marimo-cell[data-cell-name='{name}']")

    def run(self, name: str) -> None:
        """Run a cell, as a click into it and Ctrl+Enter do; does not wait for its end."""
        self.cell(name).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def shown(self, field: str) -> str:
        """A value of the notebook's sums, before it was made short for the eye."""
        return self._field(field).get_attribute("data-value") or ""

    def wait_output(self, count: int) -> None:
        expect(self._field("output")).to_have_attribute("data-value", str(count), timeout=WAIT_MS)

    def wait_output_above(self, count: int) -> int:
        """Wait until the sums show more output tokens than ``count``, and return how many."""
        # Looked for anew each time: another drawing may have another element.
        until = time.monotonic() + WAIT_MS / 1000
        while (shown := int(self.shown("output") or 0)) <= count and time.monotonic() < until:
            self.page.wait_for_timeout(50)
        assert shown > count
        return shown

    def _field(self, name: str) -> Locator:
        return self.panel.locator(f"[data-total='notebook'] [data-field='{name}']")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def marimo(tmp_path: Path, browser: Browser) -> Iterator[Marimo]:
    with peer_python("marimo"), started(tmp_path) as url:
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        yield Marimo(page, url)
        page.close()


@contextmanager
def started(folder: Path) -> Iterator[str]:
    write(folder)
    variables = {
        "TOKMAGIC_HOME": str(folder / "home"),
        "TOKMAGIC_CONFIG": os.devnull,
        "TOKMAGIC_LEDGER": f"sqlite:///{folder}/ledger.sqlite",
        "TOKMAGIC_PRICES": str(folder / "prices.toml"),
        "TOKMAGIC_MODEL": "scripted",
    }
    with marimo_editor(folder, "costs.py", variables) as url:
        yield url


def write(folder: Path) -> None:
    """Write a notebook in marimo's format, and what its cells read. Its colours are those that the page prefers."""
    cells = [
        f"@app.cell\ndef {name}({'' if name == 'load' else 'tokmagic'}):\n{indented(text)}\n    return"
        f"{' (tokmagic,)' if name == 'load' else ''}\n"
        for name, text in CELLS.items()
    ]
    notebook = ["import marimo\n\napp = marimo.App()\n", *cells, 'if __name__ == "__main__":\n    app.run()\n']
    (folder / "costs.py").write_text("\n\n".join(notebook), encoding="utf-8")
    write_slow_script(folder)
    (folder / "prices.toml").write_text(PRICES, encoding="utf-8")
    (folder / ".marimo.toml").write_text('[display]\ntheme = "system"\n', encoding="utf-8")


def indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.split("\n"))


def test_a_panel_in_marimo(marimo: Marimo, ledger: Ledger, shots: Path) -> None:
    page, panel = marimo.page, marimo.panel
    marimo.run("show")
    panel.get_by_text("No prompt has run yet").wait_for()
    assert panel.locator("pre").inner_text() == "tokmagic.generate('…')", "there are no magics"

    marimo.run("short")
    panel.get_by_text("are in the sums").wait_for()
    marimo.wait_output(SHORT)
    assert_shows_the_sums(panel, ledger, Selection())

    # Live while another cell runs, also in a page that is loaded anew meanwhile.
    marimo.run("long")
    first = marimo.wait_output_above(SHORT)
    second = marimo.wait_output_above(first)
    page.reload()
    panel.wait_for()
    assert marimo.wait_output_above(second) < SHORT + SLOW_TOKENS
    # A run of no cell has no row, and so no ■: marimo's own button stops it.
    assert panel.locator("tr.tm-Row").count() == 0
    assert panel.get_by_role("button", name="Stop").count() == 0
    page.get_by_test_id("interrupt-button").click()
    marimo.cell("long").get_by_text("GenerationInterrupted").wait_for()
    (stopped,) = ledger.runs(Selection(status="interrupted"))
    output = stopped.reading.usage.output_tokens or 0
    assert 0 < output < SLOW_TOKENS
    marimo.wait_output(SHORT + output)
    assert_shows_the_sums(panel, ledger, Selection())

    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.locator(f"body.{scheme}").wait_for()
        ratio, text = panel.evaluate(CONTRAST)
        page.screenshot(path=shots / f"marimo-{scheme}.png")
        assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.1f} in marimo's {scheme} theme"


def test_a_cell_that_runs_again_replaces_its_panel(marimo: Marimo, ledger: Ledger) -> None:
    panel = marimo.panel
    for number in (1, 2, 3):
        marimo.run("show")
        panel.wait_for()
        marimo.run("short")
        marimo.wait_output(number * SHORT)
        expect(panel).to_have_count(1, timeout=WAIT_MS)
    marimo.run("left")
    marimo.page.get_by_text("panels: 1 told: 1").wait_for()
    assert_shows_the_sums(panel, ledger, Selection())
