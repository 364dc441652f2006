"""A notebook of a thousand generated cells: only some rows are drawn, and each can be reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.ui.lab import WAIT_MS, Lab, Notebook
from tests.ui.saved_rows import generated, tokens_of, written
from tests.ui.test_sidebar import SCRIPTED, exported
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
COUNT = 1000
MOST_DRAWN = 120
ROWS = """() => [...document.querySelectorAll("#tokmagic-panel tr[data-cell-id]")].map(line => ({
    id: line.dataset.cellId,
    line: Number(line.getAttribute("aria-rowindex")),
    input: line.querySelector("[data-field='input']").dataset.value,
    output: line.querySelector("[data-field='output']").dataset.value,
    seen: (({top, bottom}, panel) => bottom > panel.top && top < panel.bottom)(
        line.getBoundingClientRect(), document.querySelector("#tokmagic-panel").getBoundingClientRect())
}))"""
# No room that stands for rows is in sight.
FILLED = """() => {
    const panel = document.querySelector("#tokmagic-panel").getBoundingClientRect();
    return [...document.querySelectorAll("#tokmagic-panel .tm-Gap")].every(gap => {
        const {top, bottom} = gap.getBoundingClientRect();
        return bottom <= panel.top || top >= panel.bottom;
    });
}"""
SCROLL = "to => { document.querySelector('#tokmagic-panel').scrollTop = to; }"
SCROLLED = """() => {
    const panel = document.querySelector("#tokmagic-panel");
    return [panel.scrollTop, panel.clientHeight, panel.scrollHeight];
}"""
IN_VIEW = """node => {
    const {top, bottom} = node.getBoundingClientRect();
    return top > 0 && bottom < window.innerHeight;
}"""
FOCUSED = "() => document.activeElement.getAttribute('aria-label')"
ACTIVE = "() => window.jupyterapp.shell.currentWidget.content.activeCell.model.id"


def drawn(notebook: Notebook) -> list[dict[str, Any]]:
    """The rows that are drawn, once none of those in sight is missing."""
    notebook.page.wait_for_function(FILLED)
    rows: list[dict[str, Any]] = notebook.page.evaluate(ROWS)
    assert len(rows) <= MOST_DRAWN
    return rows


def scroll(notebook: Notebook, to: float) -> None:
    notebook.page.evaluate(SCROLL, to)


@pytest.mark.slow
def test_scrolling_shows_each_row_with_its_own_numbers(lab: Lab, open_notebook: Open, shots: Path) -> None:
    notebook = open_notebook(written(lab.root, "many.ipynb", generated(COUNT)))
    notebook.row("cell-0").wait("ok")
    table = notebook.panel.locator(".tm-Rows")
    assert table.get_attribute("aria-rowcount") == str(COUNT + 1)
    seen: dict[str, dict[str, Any]] = {}
    at = 0.0
    while len(seen) < COUNT:
        before = len(seen)
        seen |= {row["id"]: row for row in drawn(notebook) if row["seen"]}
        assert len(seen) > before, f"nothing new at {at}"
        _, height, _ = notebook.page.evaluate(SCROLLED)
        at += height - 60
        scroll(notebook, at)
    for index in range(COUNT):
        row = seen[f"cell-{index}"]
        assert (int(row["input"]), int(row["output"])) == tokens_of(index)
        assert row["line"] == index + 2
    notebook.page.screenshot(path=shots / "many-end.png")
    # In one step to anywhere, as by dragging the scroll bar.
    _, height, whole = notebook.page.evaluate(SCROLLED)
    for share in (0.5, 0.1, 0.9, 0.0):
        scroll(notebook, share * (whole - height))
        assert len([row for row in drawn(notebook) if row["seen"]]) > 10


@pytest.mark.slow
def test_go_to_cell_open_and_keys_reach_rows_far_away(lab: Lab, open_notebook: Open, shots: Path) -> None:
    notebook = open_notebook(written(lab.root, "far.ipynb", generated(COUNT)))
    page, panel = notebook.page, notebook.panel
    notebook.row("cell-0").wait("ok")
    scroll(notebook, 28 * 100)
    drawn(notebook)
    panel.get_by_role("button", name="Go to cell 105:").click()
    page.wait_for_function(f"() => ({ACTIVE})() === 'cell-104'")
    active = page.locator(".jp-Notebook .jp-Cell.jp-mod-active")
    active.get_by_text("Say something of cell 104.").wait_for()
    page.wait_for_function(IN_VIEW, arg=active.element_handle())

    scroll(notebook, 28 * 700)
    drawn(notebook)
    panel.get_by_role("button", name="Runs of cell 705", exact=True).click()
    opened = panel.locator("[data-opened='cell-704']")
    opened.get_by_text("Parameters").click()
    page.screenshot(path=shots / "many-opened.png")
    scroll(notebook, 0)
    assert drawn(notebook)[0]["id"] == "cell-0"
    scroll(notebook, 28 * 720)
    rows = {row["id"]: row for row in drawn(notebook)}
    # Below the open row, which is one line more and higher than others.
    assert rows["cell-730"]["line"] == 730 + 3
    assert opened.get_by_text("model", exact=True).is_visible(), "what was unfolded in it still is"

    panel.get_by_role("button", name="Runs of cell 731", exact=True).focus()
    for key, cell in (("ArrowDown", 732), ("End", 1000), ("ArrowUp", 999), ("PageUp", 989), ("Home", 1)):
        page.keyboard.press(key)
        page.wait_for_function(f"name => ({FOCUSED})() === name", arg=f"Runs of cell {cell}")
        assert next(row for row in drawn(notebook) if row["id"] == f"cell-{cell - 1}")["seen"]
    # By Tab alone, over the edge of what was drawn at first.
    for cell in range(1, 60):
        assert page.evaluate(FOCUSED) == f"Runs of cell {cell}"
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED).startswith(f"Go to cell {cell}:")
        panel.locator(f"tr[data-cell-id='cell-{cell}']").wait_for(state="attached")  # Tab reaches what is drawn
        page.keyboard.press("Tab")


@pytest.mark.slow
def test_a_row_out_of_sight_is_right_when_it_is_scrolled_to(
    lab: Lab, open_notebook: Open, ui_ledger: Ledger, shots: Path
) -> None:
    setup = {"cell_type": "code", "id": "setup", "source": SCRIPTED, "outputs": [], "metadata": {}}
    cells = [{**setup, "execution_count": None}, *generated(COUNT, "Say.")]
    notebook = open_notebook(written(lab.root, "unseen.ipynb", cells))
    page = notebook.page
    notebook.row("cell-0").wait("ok")
    notebook.run(0)
    notebook.wait_connection("ready")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:move-cursor-down')")
    # The last cell is run while the panel shows the first.
    page.evaluate("""async () => {
        const notebook = window.jupyterapp.shell.currentWidget.content;
        notebook.activeCellIndex = notebook.widgets.length - 1;
        await window.jupyterapp.commands.execute('notebook:run-cell');
    }""")
    # Until its run has ended: the sums tell of one that goes on, too.
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget.content.activeCell.model.executionCount === 2")
    (run,) = [run for run in ui_ledger.runs() if (run.notebook or "").endswith("unseen.ipynb")]
    saved = exported(ui_ledger, run.run_id)
    total = notebook.panel.locator("[data-total='notebook'] [data-field='output']")
    expect(total).to_have_attribute("data-value", str(saved["output_tokens"]), timeout=WAIT_MS)
    assert notebook.row(f"cell-{COUNT - 1}").locator.count() == 0
    assert drawn(notebook)[0]["id"] == "cell-0"
    scroll(notebook, 28.0 * 2 * COUNT)
    row = notebook.row(f"cell-{COUNT - 1}")
    page.locator(f"{row.selector}[data-run-id='{run.run_id}'][data-status='ok']").wait_for()
    last = drawn(notebook)[-1]
    page.screenshot(path=shots / "many-updated.png")
    assert last["id"] == f"cell-{COUNT - 1}"
    assert (last["input"], last["output"]) == (str(saved["input_tokens"]), str(saved["output_tokens"]))
    assert row.raw("cost") == saved["cost_usd"]
