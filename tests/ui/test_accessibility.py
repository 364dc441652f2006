"""axe-core over each state of the panel in each theme, and all that the panel does by keyboard alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.conftest import ROOT
from tests.ui.lab import WAIT_MS, Lab, Notebook
from tests.ui.saved_rows import told, written
from tests.ui.test_sidebar import CAPS, CONTRAST, SCRIPTED, THEMES

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
AXE = ROOT / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
WIRE = ROOT / "tests" / "fixtures" / "wire"
# What is around the panel is JupyterLab's. Its container hides what overflows it and has no height, so that axe would
# take all in it for hidden and look at no contrast.
RUN = """async root => {
    document.querySelector(".jp-ThemedContainer").style.overflow = "visible";
    document.querySelector(root).scrollTop = 0;
    const { passes, violations, incomplete } = await axe.run({ include: [[root]] });
    const told = found => found.flatMap(({ id, nodes }) => nodes.map(it => [
        id, it.target.join(" "), [...it.any, ...it.all, ...it.none].map(check => check.message).join(" ")
    ]));
    return { checked: passes.map(it => it.id), violations: told(violations), incomplete: told(incomplete) };
}"""
REVIEWED = {
    # Signs beside words, or with a name in words. Their contrast is measured below, as that of all text is.
    ("color-contrast", "Element content contains only non-text characters"),
    ("label-content-name-mismatch", "Unable to determine if the visible text is part of the accessible name"),
    # Text that was scrolled below the head of the table, which stays in sight, and beyond the panel's edge.
    *(
        ("color-contrast", f"Element's background color could not be determined because {why} by another element")
        for why in ("it's partially obscured", "it is overlapped")
    ),
}
"""What axe leaves to people (``incomplete``), and was looked at."""
EMIT = """message => {
    const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
    const content = { comm_id: "stand-in", data: message };
    kernel.iopubMessage.emit({ header: { msg_type: "comm_msg" }, parent_header: {}, content });
}"""
BUSY = "%%generate --no-cache --max-tokens 4\nHi."
CELLS = [
    SCRIPTED,
    CAPS,
    BUSY,
    "%%generate --max-tokens 18\nToo many.",
    "%%generate --model nobody\nThree.",
    "%budget off",
]
FOCUSED = """() => {
    const { activeElement: it } = document;
    return it.closest("#tokmagic-panel") === null ? null : it.getAttribute("aria-label") ?? it.textContent.trim();
}"""
# A sign that a person sees: an outline of some width in a colour that is none of the ground's.
OUTLINED = """() => {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
}"""


def check(notebook: Notebook, shots: Path, name: str, *, rules: set[str], root: str = "#tokmagic-panel") -> None:
    """Nothing is found in any theme, beside what was reviewed; by ``rules`` there must have been something to check."""
    page = notebook.page
    page.evaluate(AXE.read_text(encoding="utf-8"))
    for theme, shot in THEMES.items():
        notebook.set_theme(theme)
        told = page.evaluate(RUN, root)
        page.screenshot(path=shots / f"axe-{name}-{shot}.png")
        assert told["violations"] == [], f"{name} in {theme}"
        assert [it for it in told["incomplete"] if (it[0], it[2]) not in REVIEWED] == [], f"{name} in {theme}"
        assert rules <= set(told["checked"])
        ratio, text = page.evaluate(CONTRAST, root)
        assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.1f} in {theme}"


def open_all(panel: Locator) -> None:
    """Unfold all that open rows have, once the kernel has told of them: before that they have less."""
    expect(panel.locator(".tm-Opened")).not_to_have_count(0, timeout=WAIT_MS)
    expect(panel.locator(".tm-Opened [data-telling]")).to_have_count(0, timeout=WAIT_MS)
    for summary in panel.locator(".tm-Opened summary").all():
        summary.click()


@pytest.mark.slow
def test_axe_finds_nothing_in_any_state_and_theme(lab: Lab, open_notebook: Open, shots: Path) -> None:
    notebook = open_notebook(lab.notebook("axe.ipynb", CELLS))
    panel = notebook.panel
    notebook.wait_connection("not-loaded")
    check(notebook, shots, "empty", rules={"button-name", "color-contrast"})

    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    for index, status in ((2, "ok"), (3, "ok")):
        notebook.run(index)
        notebook.row(f"cell-{index}").wait(status)
    notebook.write(3)
    notebook.page.keyboard.type(" And more.")
    notebook.run(3)
    notebook.row("cell-3").wait("refused")
    panel.locator(".tm-Draft").wait_for()
    check(notebook, shots, "rows", rules={"button-name", "color-contrast", "aria-meter-name"})

    for name in ("Runs of cell 3", "Runs of cell 5"):
        panel.get_by_role("button", name=name, exact=True).click()
    open_all(panel)
    panel.locator(".tm-Answer .tm-Shade").first.wait_for()
    check(notebook, shots, "opened", rules={"button-name", "color-contrast", "svg-img-alt"})

    panel.get_by_role("button", name="Forecast Run All").click()
    forecast = panel.locator(".tm-Forecast[data-done='true']")
    forecast.wait_for()
    forecast.locator("summary").click()
    panel.get_by_role("button", name="model", exact=True).click()
    panel.locator("[data-group='s']").wait_for()
    check(notebook, shots, "forecast", rules={"button-name", "color-contrast"})

    # As a kernel tells of a GPU and of a shared engine; the runs are those of this one.
    model, _ = json.loads((WIRE / "gpu.json").read_text(encoding="utf-8"))
    at, _ = json.loads((WIRE / "shared.json").read_text(encoding="utf-8"))
    message: dict[str, Any] = json.loads((WIRE / "streaming.json").read_text(encoding="utf-8"))
    message |= {"model": model | {"shared": at["shared"]}, "seq": 1, "session": "another"}
    notebook.page.evaluate(EMIT, message)
    panel.locator(".tm-Gpu").wait_for()
    panel.locator(".tm-Share").wait_for()
    check(notebook, shots, "head", rules={"button-name", "color-contrast", "role-img-alt"})
    with notebook.narrow():
        notebook.page.screenshot(path=shots / "axe-head-narrow.png")
        assert notebook.sticking_out() == []
    # The month's budget would hold for other notebooks, too.
    notebook.run(5)
    notebook.wait_run(5)


@pytest.mark.slow
def test_all_of_it_is_reached_and_done_by_keyboard(lab: Lab, open_notebook: Open) -> None:
    notebook = open_notebook(lab.notebook("keys.ipynb", [SCRIPTED, BUSY, BUSY.replace("Hi", "Ho")]))
    page, panel = notebook.page, notebook.panel
    notebook.run(0)
    notebook.wait_connection("ready")
    for index in (1, 2):
        notebook.run(index)
        notebook.row(f"cell-{index}").wait("ok")
        notebook.wait_run(index)

    reached: list[str] = []

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.evaluate(FOCUSED)
            if focused is not None:
                reached.append(focused)
                assert page.evaluate(OUTLINED), f"the focus on {focused!r} is not seen"
            if focused == name:
                return
        raise AssertionError(f"Tab does not lead to {name!r}, only to {reached}")

    panel.get_by_role("button", name="Forecast Run All").focus()
    page.keyboard.press("Enter")
    panel.locator(".tm-Forecast[data-done='true']").wait_for()
    panel.get_by_role("button", name="Again").focus()
    tab_to("Close the forecast")
    tab_to("2 prompt cells")
    page.keyboard.press("Enter")
    tab_to("Go to cell 2")
    tab_to("Runs of cell 2")
    page.keyboard.press("Space")
    panel.locator("[data-opened='cell-1'] .tm-Answer .tm-Shade").first.wait_for()
    for name in ("Go to cell 2: done", "Run again", "Pin", "Copy as Python", "Copy as curl", "Prompt", "Parameters"):
        tab_to(name)
    page.keyboard.press("Enter")
    panel.locator("[data-opened='cell-1']").get_by_text("model_id").wait_for()
    tab_to("Runs of cell 3")
    page.keyboard.press("ArrowUp")
    page.wait_for_function(f"() => ({FOCUSED})() === 'Runs of cell 2'")
    for name in ("cell", "model", "day", "CSV", "JSONL"):
        tab_to(name)
    # To the cell, and by the palette back to its row.
    panel.get_by_role("button", name="Go to cell 2:").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.closest('.jp-Notebook') !== null")
    assert page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex") == 1
    notebook.command("Pin or unpin the row of the active cell")
    panel.locator("tr[data-cell-id='cell-1'][data-pinned]").wait_for()


@pytest.mark.slow
def test_a_saved_notebook_without_its_kernel_has_no_findings_either(lab: Lab, open_notebook: Open, shots: Path) -> None:
    rows = [
        told("counted", input_source="estimated", finish_reason="length"),
        told("unpriced", cost=None),
        told("cached", cost="0", status="cached", saved_usd="0.0000123", cost_bound="at_most"),
        told("failed", cost=None, tokens=(5, None), status="failed", error="RuntimeError: no"),
        told("stopped", status="interrupted", finish_reason="budget", error="stopped at $0.01"),
    ]
    notebook = open_notebook(written(lab.root, "axe-saved.ipynb", rows))
    notebook.row("stopped").wait("interrupted")
    check(notebook, shots, "saved", rules={"button-name", "color-contrast"})
