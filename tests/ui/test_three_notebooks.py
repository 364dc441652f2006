"""Three notebooks stream from three kernels at once: each row is its own, and in the end the ledger's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.ui.lab import Lab, Notebook
from tests.ui.test_sidebar import LOAD, exported
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model, pytest.mark.slow]

Open = Callable[..., Notebook]
NAMES = ["left", "middle", "right"]
PROMPT = "%%generate --no-cache --max-tokens {}\nGo on."
LIMITS = {"left": 2000, "middle": 2030, "right": 2060}
"""Forty seconds, in which each of them has to be seen while it runs."""
SHOW = """async name => {
    const { shell } = window.jupyterapp;
    const panel = [...shell.widgets("main")].find(it => it.title.label === `${name}.ipynb`);
    shell.activateById(panel.id);
    await panel.sessionContext.ready;
    // It becomes the current one when it gets the focus, which is later.
    while (shell.currentWidget !== panel) await new Promise(resolve => setTimeout(resolve, 20));
}"""
RUN = """index => {
    const { shell, commands } = window.jupyterapp;
    shell.currentWidget.content.activeCellIndex = index;
    void commands.execute("notebook:run-cell");
}"""


def test_each_row_is_right_while_three_notebooks_stream(lab: Lab, open_notebook: Open, ui_ledger: Ledger) -> None:
    for name in NAMES:
        # Cells of their own ids: a row of another notebook would stand out.
        path = lab.root / lab.notebook(f"{name}.ipynb", [LOAD, PROMPT.format(LIMITS[name])])
        path.write_text(path.read_text(encoding="utf-8").replace("cell-", f"{name}-"), encoding="utf-8")
    notebook = open_notebook("left.ipynb")
    page, panel = notebook.page, notebook.panel
    for name in NAMES[1:]:
        page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', { path })", f"{name}.ipynb")
    for name in NAMES:
        page.evaluate(SHOW, name)
        notebook.wait_connection("not-loaded")
        page.evaluate(RUN, 0)
        notebook.wait_connection("ready")
    for name in NAMES:
        page.evaluate(SHOW, name)
        page.evaluate(RUN, 1)

    seen: dict[str, list[int]] = {name: [] for name in NAMES}
    runs: dict[str, str] = {}
    for _ in range(2):
        for name in NAMES:
            page.evaluate(SHOW, name)
            row = notebook.row(f"{name}-1")
            row.wait("running")
            seen[name].append(row.wait_output_above(max(seen[name], default=0)))
            runs[name] = row.run_id
            assert panel.locator("tr[data-cell-id]").count() == 1
    assert len(set(runs.values())) == 3
    assert all(first < second for first, second in seen.values())

    saved: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        page.evaluate(SHOW, name)
        row = notebook.row(f"{name}-1")
        row.wait("ok")
        saved[name] = exported(ui_ledger, runs[name])
        assert row.run_id == runs[name]
        assert int(row.raw("output")) == saved[name]["output_tokens"] == LIMITS[name]
        assert row.raw("input") == str(saved[name]["input_tokens"])
        assert row.raw("cost") == saved[name]["cost_usd"]
        total = panel.locator("[data-total='notebook'] [data-field='cost']")
        assert total.get_attribute("data-value") == saved[name]["cost_usd"]
    # They did run at once.
    began, ended = (max(it["started_at"] for it in saved.values()), min(it["finished_at"] for it in saved.values()))
    assert began < ended
