"""The forecast of Run All: asked for by button and command, and met by the runs that follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ui.lab import Draft, Lab, Notebook
from tests.ui.test_sidebar import SCRIPTED, look
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
# A scripted prompt has 12 tokens, so that a run of N more costs $0.001 × (12 + N).
CELLS = [
    SCRIPTED,
    "%budget notebook 0.1",
    "%%generate --no-cache --max-tokens 8\nOne.",
    "%%generate --no-cache --max-tokens 8\nTwo.",
    "%%generate --model nobody\nThree.",
    "%budget off",
]


@pytest.mark.slow
def test_run_all_is_forecast_before_it_runs(lab: Lab, open_notebook: Open, ui_ledger: Ledger, shots: Path) -> None:
    notebook = open_notebook(lab.notebook("forecast.ipynb", CELLS))
    panel = notebook.panel
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    notebook.wait_run(1)
    panel.get_by_role("button", name="Forecast Run All").click()
    forecast = panel.locator(".tm-Forecast[data-done='true']")
    forecast.wait_for()
    interval = forecast.locator("[data-field='interval']")
    assert (interval.get_attribute("data-low"), interval.get_attribute("data-high")) == ("0.024", "")
    assert "2 cells never ran" in forecast.inner_text()
    assert "1 cell is unknown" in forecast.inner_text()
    assert forecast.locator("[data-verdict='may-exceed']").count() == 1, "of a cell that is unknown nobody knows"

    runs = 2
    for index in (2, 3) * runs:
        row = notebook.row(f"cell-{index}")
        before = row.run_id if row.locator.count() else ""
        notebook.run(index)
        notebook.page.locator(f"{row.selector}:not([data-run-id='{before}'])").wait_for()
        row.wait("ok")
        notebook.wait_run(index)
        notebook.page.wait_for_function(
            "index => !document.querySelectorAll('.jp-Notebook .jp-Cell')[index].textContent.includes('[*]')", arg=index
        )
    panel.get_by_role("button", name="Again").click()
    forecast.locator("[data-field='likely'][data-value='0.04']").wait_for()
    assert (interval.get_attribute("data-low"), interval.get_attribute("data-high")) == ("0.04", "")
    # $0.02 is left of $0.10, and the second cell may cost that much after the first one did.
    assert "cell" in forecast.locator("[data-verdict='exceeds']").inner_text()
    forecast.get_by_text("3 prompt cells").click()
    notebook.write(2)
    Draft(notebook).locator.locator("[data-field='likely']").wait_for()
    look(notebook, shots, "forecast")
    forecast.get_by_role("button", name="Close the forecast").click()
    forecast.wait_for(state="detached")
    notebook.command("Forecast what running all cells will cost")
    forecast.wait_for()
    notebook.run(5)
    panel.locator("[data-budget='notebook']").wait_for(state="detached")
    assert len([run for run in ui_ledger.runs() if str(run.notebook).endswith("forecast.ipynb")]) == 2 * runs
