"""The draft line in a real browser: what is typed is counted before it runs, and as the run counts it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import WebSocket

from tests.ui.lab import Draft, Lab, Notebook
from tests.ui.test_sidebar import LONG
from tokmagic.core.prompt import Message, Prompt
from tokmagic.runs.session import Session

pytestmark = [pytest.mark.ui, pytest.mark.model]

Open = Callable[..., Notebook]
LOAD = "%load_ext tokmagic\n%price smollm2 --input 0.15 --output 0.60\nsubject = 'a lighthouse keeper'"
DRAFT = re.compile(r'"type": ?"draft"')
PROMPT = "%%generate --max-tokens 8 --temperature 0\nTell me of {{ subject }}"


@pytest.fixture
def tokens_of(make_session: Callable[..., Session], tiny_home: Path) -> Callable[[str], int]:
    """How many tokens a prompt has: while its count still follows the keys, none that is shown need be the last."""
    engine = make_session(home=str(tiny_home)).models.engine("smollm2")
    return lambda text: engine.count(Prompt((Message("user", text),)))


@pytest.mark.slow
def test_the_count_follows_what_is_typed_and_is_the_runs(
    lab: Lab, open_notebook: Open, tokens_of: Callable[[str], int], shots: Path, request: pytest.FixtureRequest
) -> None:
    notebook = open_notebook(lab.notebook("draft.ipynb", [LOAD, PROMPT, "x = 1"]))
    draft = Draft(notebook)
    notebook.write(1)
    assert draft.locator.count() == 0, "a kernel without the extension knows no drafts"
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.wait_run(0)
    assert draft.locator.count() == 0, "the cell that is active is no prompt"

    notebook.write(1)
    before = draft.wait_counted("cell-1")
    assert draft.shown("output") == "+ up to 8 out"
    notebook.page.keyboard.type(", of the sea and of 🚀 ships")
    typed = tokens_of("Tell me of a lighthouse keeper, of the sea and of 🚀 ships")
    assert typed > before
    draft.wait_input(typed)
    notebook.page.keyboard.type("\n{{ subject.upper() }}")
    draft.locator.locator("[data-source='estimated']").wait_for()
    assert draft.shown("input").startswith("~")
    for _ in range(len("\n{{ subject.upper() }}")):
        notebook.page.keyboard.press("Backspace")
    draft.wait_input(typed)
    notebook.page.screenshot(path=shots / f"{request.node.name}-light.png")

    low, high = draft.costs()
    notebook.run(1)
    row = notebook.row("cell-1")
    row.wait("ok")
    assert row.raw("input") == str(typed)
    assert low < float(row.raw("cost")) <= high
    # Once the model is loaded its context is known.
    draft.locator.get_by_text("context").wait_for()

    notebook.write(2)
    draft.locator.wait_for(state="detached")
    notebook.page.keyboard.type("\n%%generate")
    notebook.write(1)
    draft.wait_counted("cell-1")
    notebook.set_theme("JupyterLab Dark")
    notebook.page.screenshot(path=shots / f"{request.node.name}-dark.png")
    notebook.set_theme("JupyterLab Light")


@pytest.mark.slow
def test_a_draft_is_counted_while_another_cell_generates(lab: Lab, open_notebook: Open) -> None:
    # The stand-in's longest answer would end within seconds where the machine is quick. Its tokenizer is there before:
    # what that has to import is imported between cells.
    long = "%model load smollm2\n%model add slow scripted:slow.json\n%price slow --input 0.15 --output 0.60"
    cells = [f"{LOAD}\n{long}", LONG.replace("--max", "--model slow --max"), PROMPT]
    notebook = open_notebook(lab.notebook("busy.ipynb", cells))
    notebook.run(0)
    notebook.wait_connection("ready")
    notebook.run(1)
    row = notebook.row("cell-1")
    streamed = row.wait_output_above(2)
    draft = Draft(notebook)
    notebook.write(2)
    before = draft.wait_counted("cell-2")
    notebook.page.keyboard.type(" and of ships")
    draft.wait_input_above(before)
    row.wait("running")
    row.wait_output_above(streamed)
    notebook.panel.get_by_role("button", name="Stop the run of cell").click()
    row.wait("interrupted")


@pytest.mark.slow
def test_nothing_is_asked_while_the_sidebar_is_hidden(lab: Lab, open_notebook: Open) -> None:
    notebook = open_notebook(lab.notebook("hidden.ipynb", [LOAD, PROMPT]))
    draft = Draft(notebook)
    notebook.run(0)
    notebook.wait_connection("ready")
    asked: list[str | bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: asked.append(frame) if DRAFT.search(str(frame)) else None)

    # From the next page on each message to the kernel is seen.
    notebook.page.on("websocket", listen)
    notebook.reload()
    notebook.write(1)
    before = draft.wait_counted("cell-1")
    assert asked
    # Not from the palette: a notebook that JupyterLab has just restored takes the focus from it.
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-right-area')")
    notebook.panel.wait_for(state="hidden")
    notebook.write(1)
    seen = len(asked)
    notebook.page.keyboard.type(" and of ships", delay=20)
    assert len(asked) == seen
    notebook.command("Show what prompts cost")
    draft.wait_input_above(before)
    assert seen < len(asked) <= seen + 2, "what was typed meanwhile is told at once"
