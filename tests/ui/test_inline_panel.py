"""`%tokmagic panel` in a real browser: the sidebar's view in a cell's output, live while cells run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from tests.ui.conftest import Start
from tests.ui.kept import assert_shows_the_ledger
from tests.ui.lab import Lab, Notebook
from tests.ui.test_accessibility import check, open_all
from tests.ui.test_sidebar import LOAD, LONG
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model, pytest.mark.slow, pytest.mark.outside]

EVIL = '<img src=x onerror="window.hacked = 1"><style>* {display: none}</style> [a](javascript:window.hacked=1)'
LEFT = """
import ipywidgets
print("panels:", sum("Panel" in type(it).__name__ for it in list(ipywidgets.widgets.widget._instances.values())))
"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1400, "height": 1100})
    yield opened
    opened.close()


def panel_of(page: Page) -> Locator:
    return page.locator(".jp-OutputArea .tm-Inline")


def row_of(panel: Locator, cell_id: str, status: str) -> Locator:
    found = panel.locator(f"tr[data-cell-id='{cell_id}'][data-status='{status}']")
    found.wait_for()
    return found


def run_and_stop(notebook: Notebook, panel: Locator) -> None:
    """Run a prompt to its end and stop another in the panel; the first cell that generates is the third."""
    notebook.run(2)
    row_of(panel, "cell-2", "ok")
    notebook.run(3)
    row_of(panel, "cell-3", "running")
    notebook.page.wait_for_function(
        "() => Number(document.querySelector(\".tm-Inline [data-cell-id='cell-3'] [data-field='output']\")"
        "?.dataset.value) > 5"
    )
    panel.get_by_role("button", name="Stop the run of cell").click()
    row_of(panel, "cell-3", "interrupted")
    notebook.wait_run(3)


def test_it_shows_what_the_sidebar_shows_and_stops_a_run(
    start: Start, page: Page, ui_ledger: Ledger, tmp_path: Path, shots: Path
) -> None:
    lab: Lab = start(tmp_path / "server", "notebook")
    script = {"pieces": [EVIL[i : i + 9] for i in range(0, len(EVIL), 9)]}
    (lab.root / "evil.json").write_text(json.dumps(script), encoding="utf-8")
    load = f"{LOAD}\n%budget notebook 0.01\n%model add evil scripted:evil.json"
    prompts = ["%%generate --max-tokens 8\nHi.", LONG, "%%generate --model evil\nHi."]
    notebook = Notebook(page, lab, lab.notebook("inline.ipynb", [load, "%tokmagic panel", *prompts, LEFT]))
    panel = panel_of(page)
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    panel.get_by_text("No prompt has run yet").wait_for()
    run_and_stop(notebook, panel)
    notebook.run(4)
    row_of(panel, "cell-4", "ok")
    for view in (panel, notebook.panel):
        assert_shows_the_ledger(view, ui_ledger, "inline.ipynb")
    labels = panel.locator("tr.tm-Row .tm-Cell").all_inner_texts()
    assert [label.split("\n")[0].strip(" ✓⊘") for label in labels] == ["3", "4", "5"], "the notebook's own numbers"

    panel.locator("tr[data-cell-id='cell-4'] .tm-Open").click()
    panel.get_by_text("window.hacked").first.wait_for()
    assert panel.locator("img, style, script, a").count() == 0
    assert page.evaluate("() => window.hacked") is None
    open_all(panel)
    panel.scroll_into_view_if_needed()
    check(notebook, shots, "inline", rules={"button-name", "color-contrast", "svg-img-alt"}, root=".tm-Inline")

    # Run again, it is one panel in the page and in the kernel.
    notebook.run(1)
    notebook.page.wait_for_function("() => document.querySelectorAll('.tm-Inline').length === 1")
    notebook.run(5)
    page.get_by_text("panels: 1").wait_for()
    assert_shows_the_ledger(panel, ui_ledger, "inline.ipynb")

    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    panel.scroll_into_view_if_needed()  # out of sight it is not drawn
    panel.get_by_text("This panel has lost its kernel").wait_for()
    row_of(panel, "cell-2", "ok")
    lab.end_sessions()


def test_in_notebook_7(start: Start, page: Page, ui_ledger: Ledger, tmp_path: Path, shots: Path) -> None:
    lab = start(tmp_path / "server", "notebook", app="notebook")
    name = lab.notebook("seventh.ipynb", [LOAD, "%tokmagic panel", "%%generate --max-tokens 8\nHi.", LONG])
    notebook = Notebook(page, lab, "", at=f"notebooks/{name}")
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    panel = panel_of(page)
    panel.wait_for()
    run_and_stop(notebook, panel)
    page.screenshot(path=shots / "inline-notebook-7.png")
    assert_shows_the_ledger(panel, ui_ledger, name)

    # In the page's language, without a language pack.
    page.evaluate("() => { document.documentElement.lang = 'zh-CN'; }")
    notebook.run(1)
    panel.get_by_text("已中断").first.wait_for()
    page.screenshot(path=shots / "inline-chinese.png")
    lab.end_sessions()
