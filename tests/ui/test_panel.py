"""What else the panel does: empty states that mend themselves, sums by group, files, and Chinese."""

from __future__ import annotations

import csv
import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.lab import WAIT_MS, Lab, Notebook
from tests.ui.saved_rows import told, written
from tests.ui.test_sidebar import SCRIPTED, look
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]


@pytest.mark.slow
def test_empty_states_are_mended_by_their_buttons(lab: Lab, open_notebook: Open, shots: Path) -> None:
    notebook = open_notebook(lab.notebook("empty.ipynb", ["x = 1"]))
    panel = notebook.panel
    notebook.wait_connection("not-loaded")
    look(notebook, shots, "empty")
    panel.get_by_role("button", name="Insert it at the top").click()
    cells = notebook.page.locator(".jp-Notebook .jp-Cell")
    expect(cells.nth(0).locator(".cm-content")).to_have_text("%load_ext tokmagic", timeout=WAIT_MS)
    # The new cell gets the focus a moment later: until then the keys are the button's.
    notebook.page.wait_for_function("() => document.activeElement.closest('.jp-Notebook') !== null")
    notebook.page.keyboard.press("Control+Enter")
    notebook.wait_connection("ready")
    panel.get_by_role("button", name="Insert such a cell").click()
    assert cells.nth(1).locator(".cm-content").inner_text().startswith("%%generate")


@pytest.mark.slow
def test_sums_by_model_and_files_are_the_ledgers(
    lab: Lab, open_notebook: Open, ui_ledger: Ledger, shots: Path, tmp_path: Path
) -> None:
    prompt = "%%generate --no-cache --max-tokens {}\nHi."
    notebook = open_notebook(lab.notebook("sums.ipynb", [SCRIPTED, prompt.format(3), prompt.format(4)]))
    page, panel = notebook.page, notebook.panel
    notebook.run(0)
    notebook.wait_connection("ready")
    for index in (1, 2):
        notebook.run(index)
        notebook.row(f"cell-{index}").wait("ok")
    panel.get_by_role("button", name="model", exact=True).click()
    group = panel.locator("[data-group='s']")
    group.wait_for()
    assert group.locator("[data-field='cost']").get_attribute("data-value") == "0.031"
    assert "2 runs" in group.inner_text()
    panel.get_by_role("button", name="cell", exact=True).click()
    panel.locator("[data-group='cell-2']").wait_for()
    look(notebook, shots, "grouped")

    saved = {}
    for form in ("CSV", "JSONL"):
        with page.expect_download() as download:
            panel.get_by_role("button", name=form, exact=True).click()
        assert download.value.suggested_filename == f"sums-costs.{form.lower()}"
        saved[form] = tmp_path / form
        download.value.save_as(saved[form])
    told = list(csv.DictReader(saved["CSV"].open(encoding="utf-8", newline="")))
    lines = [json.loads(line) for line in saved["JSONL"].read_text(encoding="utf-8").splitlines()]
    runs = {run.run_id: run for run in ui_ledger.runs()}
    assert [row["cell_id"] for row in told] == [row["cell_id"] for row in lines] == ["cell-1", "cell-2"]
    for row, line in zip(told, lines, strict=True):
        run = runs[row["run_id"]]
        assert row["cost_usd"] == line["cost_usd"] == str(run.reading.cost.usd)
        assert int(row["output_tokens"]) == line["output_tokens"] == run.reading.usage.output_tokens


BIG = {"tokens": (123_456, 98_765), "itl_mean_s": 12.345, "ttft_s": 123.4, "latency_s": 1234.5}
# What rows, sums and messages show at their longest.
WIDE = [
    told("small", cost="0.0000000123456", tokens=(9999, 9999), cost_bound="at_least", cost_source="estimated"),
    told("dear", cost="123456.78", finish_reason="length", **BIG),
    told("counted", cost="0.0000161", tokens=(999_949, 9876), itl_mean_s=0.9876, input_source="estimated"),
    told("unpriced", cost=None, tokens=(27, 20), model="a-model/with-a-very-long-name-and-no-blank-in-it"),
    told("cached", cost="0", status="cached", saved_usd="0.0000123", cost_bound="at_most"),
    told("failed", cost=None, tokens=(5, None), status="failed", error="RuntimeError:" + "x" * 80),
]


@pytest.mark.slow
def test_at_250_pixels_nothing_scrolls_sideways(lab: Lab, open_notebook: Open, shots: Path) -> None:
    notebook = open_notebook(written(lab.root, "wide.ipynb", WIDE))
    notebook.row("dear").wait("ok")
    with notebook.narrow():
        notebook.page.screenshot(path=shots / "narrow.png")
        assert notebook.sticking_out() == []


@pytest.mark.slow
def test_it_speaks_chinese_without_a_language_pack(lab: Lab, browser: Browser, shots: Path) -> None:
    setting = lab.root.parent / "settings" / "@jupyterlab" / "translation-extension" / "plugin.jupyterlab-settings"
    setting.parent.mkdir(parents=True, exist_ok=True)
    setting.write_text(json.dumps({"locale": "zh_CN"}), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    try:
        name = lab.notebook(f"{secrets.token_hex(2)}.ipynb", [SCRIPTED, "%%generate --max-tokens 3\nHi."])
        notebook = Notebook(page, lab, name)
        notebook.run(0)
        notebook.wait_connection("ready")
        notebook.run(1)
        notebook.row("cell-1").wait("ok")
        notebook.panel.get_by_role("button", name="单元格 2 的运行").click()
        notebook.panel.locator(".tm-Answer").get_by_text("回答").wait_for()
        page.screenshot(path=shots / "chinese-light.png")
    finally:
        setting.unlink()
        page.close()
        lab.end_sessions()
