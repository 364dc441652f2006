"""The row of a comparison: live, opened, stopped, and there after a reload, a restart and without a kernel."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.ui.lab import Lab, Notebook
from tests.ui.test_sidebar import LOAD, look
from tokmagic.core.record import Selection
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
# Its tenth answer waits for the file "go", so that the comparison goes on for as long as somebody looks at it.
HELD = """import pathlib, time
scored = []
def held(answer, item):
    scored.append(item)
    while len(scored) > 9 and not pathlib.Path("go").exists():
        time.sleep(0.05)
    return item["a"] in answer"""
DATA = f"{LOAD}\nquestions = [{{'q': f'Question {{n}}', 'a': 'word'}} for n in range(ITEMS)]"
COMPARE = """%%compare --over questions --score {score} --max-tokens {tokens} --concurrency 1
--- variant terse
In one word: {{{{ q }}}}
--- variant a longer name with which a row must get along
Think first. Then answer: {{{{ q }}}}"""


def cells(items: int, tokens: int, score: str = "contains(a)") -> list[str]:
    return [f"{DATA.replace('ITEMS', str(items))}\n{HELD}", COMPARE.format(tokens=tokens, score=score)]


@pytest.mark.slow
def test_a_comparison_is_one_live_row_that_opens(lab: Lab, open_notebook: Open, ui_ledger: Ledger, shots: Path) -> None:
    notebook = open_notebook(lab.notebook("compared.ipynb", cells(8, 2, "held")))
    page, panel = notebook.page, notebook.panel
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    row.wait("running")
    first = row.run_id
    note = panel.locator(f"[data-note-for='{first}']")
    note.get_by_text("to come").wait_for()
    assert "2 variants × 8 items" in note.inner_text()
    assert "of 16 runs" in note.inner_text()
    row.locator.click()
    opened = panel.locator("[data-opened='cell-1']")
    opened.locator("[data-part='terse'] [data-field='score'][data-value='1']").wait_for()
    # The progress line under the cell says the same.
    page.locator(".jp-Notebook .jp-Cell").nth(1).get_by_text("so far; to come: about $").wait_for()
    page.screenshot(path=shots / "compared-running.png")

    # The page is loaded anew: it goes on as the same row.
    notebook.reload()
    row.wait("running")
    assert row.run_id == first
    (lab.root / "go").touch()
    row.wait("ok")
    assert row.run_id == first
    assert panel.locator("tr[data-cell-id]").count() == 1
    row.locator.click()
    runs = ui_ledger.runs(Selection(cell_id="cell-1", status="ok"))[-16:]
    assert row.raw("cost") == str(sum((it.reading.cost.usd or Decimal(0) for it in runs), Decimal(0)))
    for part in ("terse", "a longer name with which a row must get along"):
        assert opened.locator(f"[data-part='{part}'] [data-field='runs']").inner_text() == "8 of 8"
        assert opened.locator(f"[data-part='{part}'] [data-field='score']").inner_text() == "100.0\u00a0%"
    with notebook.narrow():
        assert notebook.sticking_out() == []
        page.screenshot(path=shots / "compared-narrow.png")
    look(notebook, shots, "compared")


@pytest.mark.slow
def test_a_comparison_that_is_stopped_stays_through_a_restart(lab: Lab, open_notebook: Open) -> None:
    notebook = open_notebook(lab.notebook("stopped-comparison.ipynb", cells(20, 20)))
    panel = notebook.panel
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    row.wait_output_above(30)
    panel.get_by_role("button", name="Stop the run of cell").click()
    row.wait("interrupted")
    notebook.page.get_by_text("call it again to go on").wait_for()
    cost, note = row.raw("cost"), panel.locator(f"[data-note-for='{row.run_id}']").inner_text()
    assert note.endswith(" · interrupted")
    lab.api("POST", f"kernels/{lab.kernel_id()}/restart")
    notebook.wait_connection("not-loaded")
    assert row.raw("cost") == cost
    # Another page knows it from the ledger alone.
    notebook.reload()
    notebook.run(0)
    notebook.wait_connection("ready")
    row.wait("interrupted")
    assert row.raw("cost") == cost
    row.locator.click()
    terse = panel.locator("[data-part='terse']")
    assert int(terse.locator("[data-field='runs']").get_attribute("data-value") or 0) > 0
    assert terse.locator("[data-field='score']").inner_text() == "—"


@pytest.mark.slow
def test_a_comparison_is_read_from_the_notebook_without_a_kernel(lab: Lab, open_notebook: Open) -> None:
    name = lab.notebook("kept-comparison.ipynb", cells(2, 2))
    notebook = open_notebook(name)
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    row.wait("ok")
    notebook.wait_run(1)
    first, cost = row.run_id, row.raw("cost")
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    notebook.page.wait_for_function(
        "() => !window.jupyterapp.shell.currentWidget.context.model.dirty",
    )
    lab.end_sessions()
    notebook.reload()
    row.wait("ok")
    assert (row.run_id, row.raw("cost")) == (first, cost)
    row.locator.click()
    terse = notebook.panel.locator("[data-opened='cell-1'] [data-part='terse']")
    assert terse.locator("[data-field='score']").inner_text() == "100.0\u00a0%"
