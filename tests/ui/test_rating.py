"""A person scores a comparison's answers in the cell: one at a time, without a word on the variant."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ui.lab import Lab, Notebook
from tests.ui.test_sidebar import THEMES

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
LOAD = """%load_ext tokmagic
%model add s scripted
%model use s
questions = [{"q": "What is the capital of France?"}, {"q": "What is <b>2 + 2</b>?"}]"""
COMPARE = """%%compare --over questions --score "human('Is it right?')" --into found --max-tokens {}
--- variant terse
In one word: {{{{ q }}}}
--- variant reasoned
Think. {{{{ q }}}}"""


@pytest.mark.slow
def test_answers_are_rated_in_the_cell_blind_to_the_variant(lab: Lab, open_notebook: Open, shots: Path) -> None:
    # The model says the same to all: each item's answers are one to rate.
    cells = [LOAD, COMPARE.format(9), "found", "found.rating().left"]
    notebook = open_notebook(lab.notebook("rating.ipynb", cells))
    page = notebook.page
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    output = page.locator(".jp-Notebook .jp-Cell").nth(1).locator(".jp-Cell-outputArea")
    output.get_by_text("0 of 2 answers rated").wait_for()
    widget = output.locator(".jp-OutputArea-child", has_text="answers rated")
    buttons = {name: widget.get_by_role("button", name=name, exact=True) for name in ("Yes", "No", "Later", "Undo")}
    asked = widget.inner_text()
    assert "Is it right?" in asked
    assert not re.search("terse|reasoned|In one word|Think", asked)
    assert "What is <b>2 + 2</b>?" in asked or "capital of France" in asked
    for theme, name in THEMES.items():
        notebook.set_theme(theme)
        page.screenshot(path=shots / f"rating-{name}.png")
    assert buttons["Undo"].is_disabled()

    first = "France" in asked
    buttons["Later"].click()
    output.get_by_text("2 + 2" if first else "capital of France").first.wait_for()
    buttons["Yes"].click()
    output.get_by_text("1 of 2 answers rated").wait_for()
    # By keyboard, too.
    buttons["No"].focus()
    page.keyboard.press("Enter")
    output.get_by_text("2 of 2 answers rated").wait_for()
    output.get_by_text("All are rated").wait_for()
    for name, button in buttons.items():
        assert button.is_disabled() == (name != "Undo"), name
    buttons["Undo"].click()
    output.get_by_text("1 of 2 answers rated").wait_for()
    assert buttons["Yes"].is_enabled()

    # What is rated counts, and is still known where the cell runs again.
    notebook.run(2)
    shown = page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".jp-Cell-outputArea")
    shown.get_by_text("2 answers wait for a person's rating").wait_for()
    assert "100.0%" in shown.inner_text()
    notebook.run(1)
    output.get_by_text("1 of 2 answers rated").wait_for()
    notebook.run(3)
    page.locator(".jp-Notebook .jp-Cell").nth(3).locator(".jp-Cell-outputArea").get_by_text("1", exact=True).wait_for()
