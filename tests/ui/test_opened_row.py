"""A row that is opened: its runs, its answer's tokens, what it differs in, and what can be done with it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.ui.lab import WAIT_MS, Lab, Notebook
from tests.ui.test_sidebar import look
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
LOAD = "%load_ext tokmagic\n%price smollm2 --input 0.15 --output 0.60"
PROMPT = "%%generate --no-cache --max-tokens {}\n--- system\nBe brief.\n--- user\nWhy is the sky blue?"


COPIED = """async wanted => {
    const text = await navigator.clipboard.readText();
    return text.includes(wanted) ? text : null;
}"""


@pytest.mark.slow
def test_a_row_opens_on_its_runs_and_their_tokens(
    lab: Lab, open_notebook: Open, ui_ledger: Ledger, shots: Path
) -> None:
    notebook = open_notebook(lab.notebook("opened.ipynb", [LOAD, PROMPT.format(20), "x = 1"]))
    page, panel = notebook.page, notebook.panel
    notebook.run(0)
    notebook.wait_connection("ready")
    row = notebook.row("cell-1")
    notebook.run(1)
    row.wait("ok")
    first = row.run_id

    # By keyboard: the row's own button, with Enter.
    panel.get_by_role("button", name="Runs of cell").focus()
    page.keyboard.press("Enter")
    opened = panel.locator("[data-opened='cell-1']")
    opened.locator(".tm-Answer .tm-Shade").first.wait_for()
    assert "run 1 of 1" in opened.inner_text()
    answer = ui_ledger.texts(first)
    assert answer is not None
    assert opened.locator(".tm-AnswerText").text_content() == answer[1]

    # It follows its cell: another run is another bar, and what changed is said.
    notebook.write(1)
    page.keyboard.type(" And the sea?")
    page.keyboard.press("Control+Enter")
    opened.get_by_text("run 2 of 2").wait_for()
    row.wait("ok")
    opened.locator(".tm-Diff").get_by_text("+ Why is the sky blue? And the sea?").wait_for()
    # The second run's bar is there once that run has a cost.
    expect(opened.locator("[data-plot='cost'] rect")).to_have_count(2, timeout=WAIT_MS)
    opened.get_by_text("Prompt", exact=True).click()
    opened.get_by_role("row", name="template overhead").wait_for()
    look(notebook, shots, "opened")
    opened.get_by_role("button", name="The run before").click()
    opened.get_by_text("run 1 of 2").wait_for()

    opened.get_by_role("button", name="Copy as Python").click()
    page.context.grant_permissions(["clipboard-read"])
    # The clipboard takes it a moment later.
    copied = page.wait_for_function(COPIED, arg="Why is the sky blue?").json_value()
    ast.parse(copied)

    opened.get_by_role("button", name="Run again").click()
    opened.get_by_text("run 3 of 3").wait_for()
    row.wait("ok")
    assert row.run_id != first

    opened.get_by_role("button", name="Pin").click()
    panel.locator("tr[data-pinned][data-cell-id='cell-1']").wait_for()
    with notebook.narrow():
        page.screenshot(path=shots / "opened-narrow.png")
        assert notebook.sticking_out() == []
    panel.locator("tr[data-cell-id='cell-1']").locator("[data-field='input']").click()
    opened.wait_for(state="detached")
