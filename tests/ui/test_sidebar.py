"""The sidebar in a real browser, over a real kernel."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.ui.lab import SLOW_TOKENS, Lab, Notebook
from tokmagic.ledgers import Ledger
from tokmagic.reports.exports import export_lines

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
LONG = f"%%generate --max-tokens {SLOW_TOKENS}\nWrite a very long story about a lighthouse keeper and the sea."
LOAD = "%load_ext tokmagic\n%model add slow scripted:slow.json\n%model use slow\n%price slow --input 0.15 --output 0.60"


def exported(ledger: Ledger, run_id: str) -> dict[str, Any]:
    """A run as ``tokmagic export`` prints it."""
    rows = [json.loads(line) for line in export_lines(ledger.runs(), "jsonl")]
    (row,) = [row for row in rows if row["run_id"] == run_id]
    return dict(row)


def number(text: str) -> float | None:
    return float(text) if text else None


def test_the_quickstarts_first_generation(lab: Lab, open_notebook: Open, ui_ledger: Ledger) -> None:
    shutil.copy(ROOT / "notebooks" / "01_quickstart.ipynb", lab.root)
    notebook = open_notebook("01_quickstart.ipynb")
    notebook.wait_connection("not-loaded")
    assert "%load_ext tokmagic" in notebook.panel.inner_text()
    notebook.run(1)
    notebook.wait_connection("ready")
    notebook.run(3)
    notebook.run(4)
    row = notebook.row("quickstart-04")
    row.wait("ok")

    saved = exported(ui_ledger, row.run_id)
    assert saved["cell_id"] == "quickstart-04"
    assert row.raw("input") == str(saved["input_tokens"])
    assert row.raw("output") == str(saved["output_tokens"])
    assert row.raw("cost") == saved["cost_usd"]
    assert number(row.raw("ttft")) == saved["ttft_s"]
    assert number(row.raw("itl")) == saved["itl_mean_s"]
    assert row.shown("output") == str(saved["output_tokens"])
    assert row.shown("ttft") == f"{saved['ttft_s']:.2f}s"
    assert re.fullmatch(r"\$0\.00\d+", row.shown("cost"))
    total = notebook.panel.locator("[data-total='notebook'] [data-field='cost']")
    assert total.get_attribute("data-value") == saved["cost_usd"]
    assert notebook.panel.locator("[data-model-state='ready']").inner_text().startswith("●\nsmollm2")


@pytest.mark.slow
def test_an_interrupted_cell_says_so(lab: Lab, open_notebook: Open, ui_ledger: Ledger, shots: Path) -> None:
    notebook = open_notebook(lab.notebook("interrupt.ipynb", [LOAD, LONG]))
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    seen = [row.wait_output_above(5)]
    for _ in range(3):
        seen.append(row.wait_output_above(seen[-1]))
    row.wait("running")
    notebook.page.screenshot(path=shots / "streaming-light.png")
    lab.api("POST", f"kernels/{lab.kernel_id()}/interrupt")
    row.wait("interrupted")
    assert notebook.panel.get_by_text("interrupted").count() == 1
    saved = exported(ui_ledger, row.run_id)
    assert saved["status"] == "interrupted"
    assert row.raw("output") == str(saved["output_tokens"])
    assert seen[-1] <= saved["output_tokens"] < SLOW_TOKENS
    assert row.raw("cost") == saved["cost_usd"]


@pytest.mark.slow
def test_the_stop_button_stops_one_run(lab: Lab, open_notebook: Open, ui_ledger: Ledger) -> None:
    notebook = open_notebook(lab.notebook("stop.ipynb", [LOAD, LONG]))
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    row.wait_output_above(5)
    notebook.panel.get_by_role("button", name="Stop the run of cell").click()
    row.wait("interrupted")
    assert exported(ui_ledger, row.run_id)["output_tokens"] < SLOW_TOKENS


@pytest.mark.slow
def test_a_restart_keeps_ended_rows_and_interrupts_running_ones(
    lab: Lab, open_notebook: Open, ui_ledger: Ledger
) -> None:
    notebook = open_notebook(lab.notebook("restart.ipynb", [LOAD, "%%generate --max-tokens 8\nHi.", LONG]))
    notebook.run(0)
    notebook.wait_connection("ready")
    ended, running = notebook.row("cell-1"), notebook.row("cell-2")
    notebook.run(1)
    ended.wait("ok")
    first = (ended.run_id, ended.raw("output"), ended.raw("cost"))
    notebook.run(2)
    running.wait_output_above(5)
    lab.api("POST", f"kernels/{lab.kernel_id()}/restart")
    running.wait("interrupted")
    killed = running.run_id
    notebook.wait_connection("not-loaded")
    assert (ended.run_id, ended.raw("output"), ended.raw("cost")) == first

    notebook.run(0)
    notebook.wait_connection("ready")
    assert exported(ui_ledger, killed)["status"] == "interrupted"
    notebook.run(1)
    notebook.page.wait_for_function(
        "([selector, old]) => document.querySelector(selector)?.dataset.runId !== old", arg=[ended.selector, first[0]]
    )
    ended.wait("ok")
    assert exported(ui_ledger, ended.run_id)["status"] == "ok"
    assert (running.run_id, running.locator.get_attribute("data-status")) == (killed, "interrupted")


@pytest.mark.slow
def test_a_reload_in_mid_generation_goes_on(lab: Lab, open_notebook: Open, ui_ledger: Ledger) -> None:
    notebook = open_notebook(lab.notebook("reload.ipynb", [LOAD, LONG]))
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    before = row.wait_output_above(5)
    run_id = row.run_id
    notebook.reload()
    seen = [row.wait_output_above(before)]
    assert row.run_id == run_id
    assert row.locator.get_attribute("data-status") == "running"
    for _ in range(2):
        seen.append(row.wait_output_above(seen[-1]))
    notebook.panel.get_by_role("button", name="Stop the run of cell").click()
    row.wait("interrupted")
    saved = exported(ui_ledger, run_id)
    assert row.raw("output") == str(saved["output_tokens"])
    assert row.raw("cost") == saved["cost_usd"]


CONTRAST = """root => {
    const rgb = text => {
        const found = (text.match(/[\\d.]+/g) ?? []).map(Number);
        // What was mixed is told in shares of 1.
        return text.startsWith("color(srgb") ? found.map((v, i) => i < 3 ? v * 255 : v) : found;
    };
    const over = ([r, g, b, alpha = 1], ground) => [r, g, b].map((v, i) => v * alpha + ground[i] * (1 - alpha));
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = node => {
        if (!node) return [255, 255, 255];
        const colour = rgb(getComputedStyle(node).backgroundColor);
        if (colour.length === 3 || colour[3] === 1) return colour;
        return over(colour, ground(node.parentElement ?? node.getRootNode().host));
    };
    const found = [];
    const within = typeof root === "string" ? document.querySelector(root) : root;
    for (const node of within.querySelectorAll("*")) {
        const own = [...node.childNodes].some(it => it.nodeType === 3 && it.textContent.trim());
        if (!own || node.closest("[aria-hidden]")) continue;
        const back = ground(node);
        const [a, b] = [light(over(rgb(getComputedStyle(node).color), back)), light(back)];
        found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.trim()]);
    }
    return found.sort((x, y) => x[0] - y[0])[0];
}"""
STATES = [
    LOAD,
    "%%generate --max-tokens 20\nExplain in a few sentences why the sky is blue.",
    "%%generate --max-tokens 600 --budget 0.0001\nWhy is the sky blue, and the sea?",
    LONG,
]


THEMES = {"JupyterLab Dark": "dark", "JupyterLab Dark High Contrast": "contrast", "JupyterLab Light": "light"}
"""Each with its word in a picture's name; last the one that pages are opened with."""


def look(notebook: Notebook, shots: Path, name: str, fill: str | None = None) -> None:
    """Take a picture in each theme, where all text can be read; a budget's bar has the theme's colour ``fill``."""
    for theme, shot in THEMES.items():
        notebook.set_theme(theme)
        ratio, text = notebook.page.evaluate(CONTRAST, "#tokmagic-panel")
        notebook.page.screenshot(path=shots / f"{name}-{shot}.png")
        assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.1f} in {theme}"
        assert fill is None or notebook.page.evaluate(FILL, fill), theme


@pytest.mark.slow
def test_every_state_can_be_read_in_each_theme(lab: Lab, open_notebook: Open, shots: Path) -> None:
    notebook = open_notebook(lab.notebook("states.ipynb", STATES))
    notebook.run(0)
    notebook.wait_connection("ready")
    for index, status in ((1, "ok"), (2, "refused"), (3, "running")):
        notebook.run(index)
        notebook.row(f"cell-{index}").wait(status)
    notebook.row("cell-3").wait_output_above(20)
    look(notebook, shots, "sidebar")
    notebook.row("cell-3").wait("running")


SCRIPTED = """%load_ext tokmagic
%model add s scripted
%model use s
%price s --input 1000 --output 1000"""
CAPS = """%budget month 20
%budget cell 0.03 --tokens 2000
%budget notebook 0.05 --warn 0.5"""
# A scripted prompt has 12 tokens, so that a run of N more costs $0.001 × (12 + N).
SPENDING = [
    SCRIPTED,
    CAPS,
    "%%generate --max-tokens 3\nThree more.",
    "%%generate --max-tokens 3\nAnd three.",
    "%%generate --max-tokens 18\nToo many.",
    "%%generate --max-tokens 8\nWhat is left.",
    "%budget off",
]
FILL = """name => {
    const probe = document.body.appendChild(document.createElement("div"));
    probe.style.color = `var(${name})`;
    const wanted = getComputedStyle(probe).color;
    probe.remove();
    const fill = document.querySelector("#tokmagic-panel [data-budget='notebook'] .tm-BarFill");
    return getComputedStyle(fill).backgroundColor === wanted;
}"""
GROUND = "selector => getComputedStyle(document.querySelector(selector)).backgroundColor"


def wait_budget(notebook: Notebook, level: str, now: int) -> str:
    """Wait until the bar of the notebook's budget stands at ``now`` percent, and return what its line says."""
    line = notebook.panel.locator("[data-budget='notebook']")
    line.locator(f"[data-level='{level}'] [role='meter'][aria-valuenow='{now}']").wait_for()
    return " ".join(line.inner_text().split())


@pytest.mark.slow
def test_a_budget_fills_up_warns_and_refuses(lab: Lab, open_notebook: Open, shots: Path) -> None:
    notebook = open_notebook(lab.notebook("budget.ipynb", SPENDING))
    notebook.run(0)
    notebook.wait_connection("ready")
    page, panel = notebook.page, notebook.panel

    notebook.run(1)
    assert wait_budget(notebook, "ok", 0) == "$0 of $0.05 0 %"
    assert panel.get_by_text("each run up to $0.03").count() == 1
    assert panel.locator("[data-budget='month'] [role='meter']").get_attribute("aria-label") == "Budget: Month"

    notebook.run(2)
    assert wait_budget(notebook, "ok", 30) == "$0.0150 of $0.05 30 %"
    look(notebook, shots, "budget-ok", "--jp-success-color1")
    notebook.run(3)
    assert wait_budget(notebook, "warning", 60) == "$0.0300 of $0.05 60 % ⚠\ufe0e warning"

    notebook.run(4)
    refused = notebook.row("cell-4")
    refused.wait("refused")
    note = panel.locator(f"[data-note-for='{refused.run_id}']").inner_text()
    assert note.startswith(
        "refused: this run may cost up to $0.0300, the notebook's budget of $0.0500 has $0.0200 left"
    )
    wait_budget(notebook, "warning", 60)
    look(notebook, shots, "budget-warning", "--jp-warn-color1")

    notebook.run(5)
    notebook.row("cell-5").wait("ok")
    assert wait_budget(notebook, "used-up", 100) == "$0.0500 of $0.05 100 % ⚠\ufe0e used up"
    total = panel.locator("[data-total='notebook'] [data-field='cost']")
    assert total.get_attribute("data-value") == "0.05"
    look(notebook, shots, "budget-used-up", "--jp-error-color1")

    page.emulate_media(forced_colors="active")
    for theme, shot in THEMES.items():
        notebook.set_theme(theme)
        page.screenshot(path=shots / f"budget-forced-{shot}.png")
        assert page.evaluate(GROUND, "#tokmagic-panel .tm-BarFill") != page.evaluate(GROUND, "#tokmagic-panel"), theme
    page.emulate_media(forced_colors="none")
    notebook.run(6)
    panel.locator("[data-budget='month']").wait_for(state="detached")


@pytest.mark.slow
def test_a_run_that_a_budget_stops_says_so(lab: Lab, open_notebook: Open, tmp_path: Path) -> None:
    for name, itl_s in (("usual", 0.02), ("slower", 0.05)):
        script = {"pieces": ["word "] * 20, "ttft_s": 0.05, "itl_s": itl_s, "pace": 1}
        (lab.root / f"{name}.json").write_text(json.dumps(script), encoding="utf-8")
    # What a token took before decides what is held, so that the ledger is this test's own.
    own = f"sqlite:///{tmp_path}/ledger.sqlite"
    setup = "\n".join(
        [
            f"%env TOKMAGIC_LEDGER={own}",
            "%load_ext tokmagic",
            *(f"%model add {name} scripted:{name}.json" for name in ("usual", "slower")),
            "%model use usual",
            "%price slower --gpu-hour 3600",
        ]
    )
    # Held is at most 20 × 20 ms, as the first run took; the second takes 50 ms a token.
    runs = ["%%generate --max-tokens 20\nOn and on.", "%%generate -m slower --max-tokens 20\nOn and on."]
    notebook = open_notebook(lab.notebook("stopped.ipynb", [setup, runs[0], "%budget notebook 0.5", runs[1]]))
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    notebook.row("cell-1").wait("ok")
    notebook.run(2)
    wait_budget(notebook, "ok", 0)
    notebook.run(3)
    row = notebook.row("cell-3")
    row.wait("interrupted")
    with closing(Ledger(own)) as ledger:
        saved = exported(ledger, row.run_id)
    assert saved["finish_reason"] == "budget"
    assert saved["output_tokens"] < 20
    note = notebook.panel.locator(f"[data-note-for='{row.run_id}']")
    assert note.inner_text() == f"stopped by a budget: {saved['error']}"
    wait_budget(notebook, "used-up", 100)


@pytest.mark.slow
def test_numbers_are_told_from_those_of_an_earlier_text(lab: Lab, open_notebook: Open) -> None:
    notebook = open_notebook(lab.notebook("edited.ipynb", [LOAD, "%%generate --max-tokens 8\nHi."]))
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    row.wait("ok")
    told = notebook.panel.get_by_text("these numbers are of an earlier text")
    assert told.count() == 0
    notebook.write(1)
    notebook.page.keyboard.type("!")
    told.wait_for()
    notebook.page.keyboard.press("Backspace")
    told.wait_for(state="detached")
    # A copy has the numbers of the cell that it is of.
    rows = notebook.panel.locator("tr[data-cell-id]")
    assert rows.count() == 1
    for key in ("Escape", "c", "v"):
        notebook.page.keyboard.press(key)
    rows.nth(1).wait_for()
    assert rows.nth(1).get_attribute("data-run-id") == row.run_id
    # What became Markdown runs nothing, and its row is gone.
    for key in ("ArrowUp", "m"):
        notebook.page.keyboard.press(key)
    notebook.panel.locator("[data-cell-id='cell-1']").wait_for(state="detached")


@pytest.mark.slow
def test_rows_follow_their_cells_and_a_budget_its_notebook(
    lab: Lab, open_notebook: Open, ui_ledger: Ledger, shots: Path
) -> None:
    notebook = open_notebook(
        lab.notebook("first.ipynb", [f"{LOAD}\n%budget notebook 0.05", "%%generate --max-tokens 4\nHi."])
    )
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    notebook.row("cell-1").wait("ok")
    notebook.wait_run(1)

    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:duplicate-below')")
    rows = notebook.panel.locator(f"tr[data-run-id='{notebook.row('cell-1').run_id}']")
    rows.nth(1).wait_for()

    # As a console does, and a server that executes cells: the request names no cell.
    code = f"%%generate --max-tokens {SLOW_TOKENS}\nGo on."
    notebook.page.evaluate(
        "code => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code }); }",
        code,
    )
    running = notebook.panel.locator("tr[data-status='running']")
    running.wait_for()
    notebook.page.screenshot(path=shots / "stray-light.png")
    notebook.panel.locator(".tm-Stop").click()
    running.wait_for(state="detached")

    total = notebook.panel.locator("[data-total='notebook'] [data-field='output']")
    before = total.get_attribute("data-value")
    notebook.page.evaluate("() => window.jupyterapp.serviceManager.contents.rename('first.ipynb', 'second.ipynb')")
    notebook.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.title.label === 'second.ipynb'")
    notebook.run(1)
    notebook.page.wait_for_function(
        """before => Number(document.querySelector("[data-total='notebook'] [data-field='output']").dataset.value)
            > Number(before)""",
        arg=before,
    )
    notebook.panel.locator("[data-budget='notebook']").wait_for()
    named = {
        str(run.notebook) for run in ui_ledger.runs() if str(run.notebook).endswith(("first.ipynb", "second.ipynb"))
    }
    assert named == {str(lab.root / "second.ipynb")}
