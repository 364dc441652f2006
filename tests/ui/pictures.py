"""Takes the documentation's pictures: `make pictures` writes docs/images/*.png.

Real cells in a real JupyterLab, with the default model at temperature 0 where an answer is seen, so that only times and
what follows from them differ from one run to the next. Paths of the machine that takes them are shown as a reader's.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.conftest import ROOT
from tests.ui.lab import Draft, Lab, Notebook, chromium, running_lab
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.local.store import pull

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 150_000
COLOURS = (128, 64, 32, 16)
SCALE = 1.5
"""Device pixels for each of the page's."""
PATIENCE_MS = 600_000.0

LOAD = "%load_ext tokmagic\n%price smollm2 --input 0.15 --output 0.60"
RULES = 'rules = "Answer in one sentence of at most twenty words, name your source, and never make one up. " * 2'
CITY = 'city = "Lisbon"'
GUIDE = """%%generate --max-tokens 60 --temperature 0 --into trip
--- system
You are a travel guide. Answer in one short sentence.
--- user
What is {{ city }} known for?"""
WORD = "%%generate --max-tokens 60 --temperature 0\nWhat is a token, in one sentence?"
TOKENS = "%%tokens\n--- system\nYou are a travel guide. {{ rules }}\n--- user\nWhy visit {{ city }}?"
SAMPLES = """import tokmagic

for seed in range(5):
    tokmagic.generate("Name three rivers.", max_tokens=40, temperature=0.8, seed=seed, tags=["draft"])"""

CELLS: list[tuple[str, str]] = [
    ("", f"{LOAD}\n{RULES}\n{CITY}\n%model load smollm2"),
    ("", "%budget day 5"),
    ("generate", GUIDE),
    ("dry-run", "%%generate --dry-run --max-tokens 300\nWhy visit {{ city }}?"),
    ("tokens", TOKENS),
    ("model", "%model add small HuggingFaceTB/SmolLM2-135M-Instruct --quant nf4"),
    ("price", "%price smollm2 --as openai/gpt-5-mini"),
    ("", "%price smollm2 --as off"),
    ("", WORD),
    ("cached", WORD),
    ("", WORD.replace("--temp", "--no-cache --temp")),
    ("", SAMPLES),
    ("budget", "%budget notebook 0.001 --warn 0.25"),
    ("cache", "%cache"),
    ("cost", "%cost"),
    ("cost-by", "%cost by tag"),
    ("cost-project", "%cost project --calls 1e6/day"),
    ("cost-plot", "%cost plot"),
    ("cost-waste", "%cost waste"),
    ("tokmagic", "%tokmagic doctor"),
    ("", "%budget off"),
    ("", "# Active at the end, so that no picture has its border."),
]
"""The picture that a cell gives (none: the cell is only run), and its source."""

Words = Sequence[tuple[str, str]]
"""Texts of this machine, and what is shown in their place."""
Take = Callable[[Browser, Lab, Words], None]

REPLACE = """([cell, words]) => {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    for (let node = texts.nextNode(); node; node = texts.nextNode())
        for (const [from, to] of words) node.data = node.data.split(from).join(to);
}"""


def save(name: str, png: bytes) -> None:
    """Write a picture with as many colours as fit its size. Raises RuntimeError where none do."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        small = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        if small.tell() <= MOST_BYTES:
            (IMAGES / f"{name}.png").write_bytes(small.getvalue())
            print(f"{name}.png {picture.width}×{picture.height} {small.tell() / 1000:.0f} kB")  # noqa: T201
            return
    raise RuntimeError(f"{name}.png has {small.tell():,} bytes with {COLOURS[-1]} colours; show less")


def open_page(browser: Browser, lab: Lab, name: str, width: int, height: int) -> Notebook:
    context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=SCALE)
    notebook = Notebook(context.new_page(), lab, name)
    notebook.page.set_default_timeout(PATIENCE_MS)
    notebook.page.keyboard.press("Control+b")  # the list of files makes room
    return notebook


def shoot_cell(notebook: Notebook, index: int, name: str, words: Words) -> None:
    """A picture of one cell with its output, none of it active."""
    cell = notebook.page.locator(".jp-Notebook .jp-Cell").nth(index)
    cell.evaluate("(cell, words) => (" + REPLACE + ")([cell, words])", [list(pair) for pair in words])
    notebook.page.mouse.move(0, 0)
    save(name, cell.screenshot(animations="disabled"))


def run_cell(notebook: Notebook, index: int) -> None:
    notebook.run(index)
    notebook.wait_run(index)
    error = notebook.page.locator(".jp-Notebook .jp-Cell").nth(index).locator("[data-mime-type*='error']")
    if error.count():
        raise RuntimeError(f"cell {index} ended in an error: {error.inner_text()}")


def magics(browser: Browser, lab: Lab, words: Words) -> None:
    """Each magic with its output."""
    notebook = open_page(browser, lab, lab.notebook("trip.ipynb", [source for _, source in CELLS]), 1500, 5200)
    for index in range(len(CELLS)):
        run_cell(notebook, index)
        if index == 0:
            notebook.wait_connection("ready")
    for index, (name, _) in enumerate(CELLS):
        if name:
            shoot_cell(notebook, index, name, words)
    notebook.page.context.close()
    lab.end_sessions()


def comparison(browser: Browser, lab: Lab, _words: Words) -> None:
    """A notebook beside its earlier version."""
    cells = [LOAD, WORD, "%cost compare earlier.ipynb", "x = 1"]
    notebook = open_page(browser, lab, lab.notebook("summary.ipynb", cells), 1500, 1200)
    run_cell(notebook, 0)
    notebook.wait_connection("ready")
    run_cell(notebook, 1)
    notebook.row("cell-1").wait("ok")
    saved = lab.root / "summary.ipynb"
    _save_notebook(notebook, saved)
    shutil.copy(saved, lab.root / "earlier.ipynb")
    notebook.write(1)
    notebook.page.keyboard.type(" Then give three examples.")
    run_cell(notebook, 1)
    notebook.page.wait_for_timeout(1000)
    _save_notebook(notebook, saved)
    run_cell(notebook, 2)
    notebook.write(3)
    shoot_cell(notebook, 2, "cost-compare", [])
    notebook.page.context.close()
    lab.end_sessions()


def _save_notebook(notebook: Notebook, path: Path) -> None:
    before = path.stat().st_mtime_ns
    notebook.page.keyboard.press("Control+s")
    for _ in range(100):
        if path.stat().st_mtime_ns != before:
            return
        notebook.page.wait_for_timeout(100)
    raise RuntimeError(f"{path.name} was not saved")


def sidebar(browser: Browser, lab: Lab, _words: Words, *, theme: str, name: str) -> None:
    """The whole window while a cell runs under a budget."""
    story = "%%generate --max-tokens 600\nTell a long story of a lighthouse."
    cells = [f"{LOAD}\n%budget notebook 0.0008\n{CITY}", GUIDE, WORD, story]
    notebook = open_page(browser, lab, lab.notebook(f"{name}.ipynb", cells), 1240, 720)
    notebook.set_theme(theme)
    run_cell(notebook, 0)
    notebook.wait_connection("ready")
    for index in (1, 2):
        run_cell(notebook, index)
    notebook.run(3)
    notebook.row("cell-3").wait_output_above(20)
    save(name, notebook.page.screenshot(animations="disabled"))
    notebook.set_theme("JupyterLab Light")
    notebook.page.context.close()
    lab.end_sessions()


def panel(
    browser: Browser, lab: Lab, _words: Words, *, name: str, wide: int = 1240, narrow: bool = False, locale: str = ""
) -> None:
    """The panel alone, a row of it open: in its narrowest form, or in another language."""
    if locale:
        setting = lab.root.parent / "settings" / "@jupyterlab" / "translation-extension" / "plugin.jupyterlab-settings"
        setting.parent.mkdir(parents=True)
        setting.write_text(json.dumps({"locale": locale}), encoding="utf-8")
    cells = [f"{LOAD}\n%budget notebook 0.0008\n{CITY}", GUIDE, WORD, "%%generate --max-tokens 2000\nWhy?"]
    notebook = open_page(browser, lab, lab.notebook(f"{name}.ipynb", cells), wide, 900)
    run_cell(notebook, 0)
    notebook.wait_connection("ready")
    for index in (1, 2):
        run_cell(notebook, index)
    notebook.run(3)
    notebook.row("cell-3").wait("refused")
    notebook.panel.locator("tr[data-cell-id='cell-2'] .tm-Open").click()
    notebook.panel.locator(".tm-Answer .tm-Shade").first.wait_for()
    if narrow:
        with notebook.narrow():
            save(name, notebook.panel.screenshot(animations="disabled"))
    else:
        save(name, notebook.panel.screenshot(animations="disabled"))
    notebook.page.context.close()
    lab.end_sessions()


def draft(browser: Browser, lab: Lab, _words: Words) -> None:
    """What a prompt would take while it is written."""
    cells = [f"{LOAD}\n{CITY}", WORD, GUIDE]
    notebook = open_page(browser, lab, lab.notebook("draft.ipynb", cells), 1240, 560)
    run_cell(notebook, 0)
    notebook.wait_connection("ready")
    run_cell(notebook, 1)
    notebook.write(2)
    Draft(notebook).wait_counted("cell-2")
    save("draft", notebook.page.screenshot(animations="disabled"))
    notebook.page.context.close()
    lab.end_sessions()


def main(wanted: Sequence[str]) -> None:
    """Take the pictures named, or all: magics, compare, light, dark, narrow, chinese, draft."""
    IMAGES.mkdir(exist_ok=True)
    home = Path(TokMagic().home)
    pull(ModelSpec("smollm2"), TokMagic(home=str(home)), lambda _doing, _share: None)
    takes: dict[str, Take] = {
        "magics": magics,
        "compare": comparison,
        "light": partial(sidebar, theme="JupyterLab Light", name="sidebar-light"),
        "dark": partial(sidebar, theme="JupyterLab Dark", name="sidebar-dark"),
        "narrow": partial(panel, name="sidebar-narrow", wide=900, narrow=True),
        "chinese": partial(panel, name="sidebar-chinese", locale="zh_CN"),
        "draft": draft,
    }
    with tempfile.TemporaryDirectory(prefix="tokmagic-pictures-") as folder, chromium() as browser:
        for take in wanted or takes:
            # A ledger and a server of its own: sums and pictures do not depend on what was taken before.
            place = Path(folder) / take
            place.mkdir()
            words = [
                (str(place / "ledger.sqlite"), "/home/me/.local/share/tokmagic/ledger.sqlite"),
                (str(home), "/home/me/.local/share/tokmagic"),
                (sys.prefix, "/home/me/tokmagic/.venv"),
                (str(ROOT), "/home/me/tokmagic"),
            ]
            with running_lab(
                place / "server",
                TOKMAGIC_HOME=str(home),
                TOKMAGIC_LEDGER=f"sqlite:///{place}/ledger.sqlite",
                LOGNAME="me",
            ) as lab:
                takes[take](browser, lab, words)


if __name__ == "__main__":
    main(sys.argv[1:])
