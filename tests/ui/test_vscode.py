"""`%tokmagic panel` in the bundle by which VS Code renders widgets, in a page that stands in for its Jupyter extension.

VS Code itself cannot be driven here: tests/peers/vscode says what the page does in its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocket, expect

from tests.conftest import ROOT, peer_folder
from tests.ui.kept import assert_shows_the_ledger
from tests.ui.lab import SLOW_TOKENS, WAIT_MS, Lab, running_lab, write_slow_script
from tests.ui.test_sidebar import CONTRAST
from tokmagic.ledgers import Ledger

pytestmark = [pytest.mark.ui, pytest.mark.slow, pytest.mark.outside]

SOURCES = ROOT / "tests" / "peers" / "vscode"
NOTEBOOK = "/home/ada/costs.ipynb"
# VS Code tells a kernel which notebook it runs by this variable.
LOAD = f"__vsc_ipynb_file__ = {NOTEBOOK!r}\n%load_ext tokmagic\n%budget notebook 0.01"
LONG = f"%%generate --model scripted:slow.json --max-tokens {SLOW_TOKENS}\nA long story."
BESIDE = "import ipywidgets, tokmagic\nipywidgets.HBox([tokmagic.panel(), ipywidgets.Label('Beside it.')])"
PRICES = '[models]\nscripted = {input = 0.15, output = 0.60}\n"scripted:slow.json" = {input = 0.15, output = 0.60}\n'

SHARED = {"charts-orange": "#d18616", "errorForeground": "#f85149", "editor-font-family": "monospace"}
THEMES = {
    "vscode-light": {
        **SHARED,
        "editor-background": "#ffffff",
        "editor-foreground": "#3b3b3b",
        "foreground": "#3b3b3b",
        "descriptionForeground": "#3b3b3b",
        "focusBorder": "#005fb8",
        "charts-green": "#388a34",
    },
    "vscode-high-contrast": {
        **SHARED,
        "editor-background": "#000000",
        "editor-foreground": "#ffffff",
        "foreground": "#ffffff",
        "descriptionForeground": "#ffffffb3",
        "focusBorder": "#f38518",
        "errorForeground": "#f48771",
        "charts-green": "#89d185",
    },
    "vscode-dark": {
        **SHARED,
        "editor-background": "#1f1f1f",
        "editor-foreground": "#cccccc",
        "foreground": "#cccccc",
        "descriptionForeground": "#9d9d9d",
        "focusBorder": "#0078d4",
        "charts-green": "#89d185",
    },
}
"""Colours like those of VS Code's Light Modern, Dark High Contrast and Dark Modern, by the class of the page's body."""
WEAR = """([name, theme]) => {
    document.body.className = name;
    const { style } = document.documentElement;
    for (const [key, value] of Object.entries(theme)) style.setProperty(`--vscode-${key}`, value);
    return getComputedStyle(document.body).backgroundColor;
}"""
# As the head has one where a model's bills and its counts disagree.
NOTICE = """it => {
    const notice = it.querySelector(".tm-Head").appendChild(document.createElement("div"));
    notice.className = "tm-Notice";
    notice.textContent = "A notice.";
}"""
WIDTH = "it => it.getBoundingClientRect().width"
GROUND = "it => getComputedStyle(it).backgroundColor"


class Editor:
    """A notebook of VS Code's: cells run one after another, and the page shows the widgets that they show."""

    def __init__(self, page: Page, lab: Lab) -> None:
        self.page, self.lab = page, lab
        self.errors: list[str] = []
        self.sent: list[str] = []
        self._kernel: dict[str, Any] = lab.api("POST", "kernels", {"name": "python3"})
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", self._follow)
        page.goto(f"{lab.url}static/page.html")
        page.evaluate("([token, kernel]) => vscode.connect(token, kernel)", [lab.token, self._kernel])

    def _follow(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: self.sent.append(frame if isinstance(frame, str) else readable(frame)))

    @property
    def panel(self) -> Locator:
        return self.page.locator(".tm-Inline")

    def start(self, number: int, source: str) -> None:
        """Begin to run a cell; VS Code names it by an address."""
        arg = [source, f"vscode-notebook-cell:{NOTEBOOK}#W{number}sZmlsZQ%3D%3D"]
        self.page.evaluate("([source, id]) => { window.ended = vscode.run(source, id); }", arg)

    def end(self) -> str:
        """Wait for the end of the cell that runs, and return whether it was ok."""
        return str(self.page.evaluate("() => window.ended"))

    def run(self, number: int, source: str) -> str:
        self.start(number, source)
        return self.end()

    def row(self, number: int, status: str) -> Locator:
        return self.panel.locator(f"tr.tm-Row[data-cell-id*='#W{number}s'][data-status='{status}']")

    def interrupt(self) -> None:
        self.lab.api("POST", f"kernels/{self._kernel['id']}/interrupt")

    def wear(self, theme: str) -> str:
        """Change the theme, and return the ground that notebooks have in it."""
        return str(self.page.evaluate(WEAR, [theme, THEMES[theme]]))


def readable(frame: bytes) -> str:
    """A message as it goes to a kernel: JSON, after the places of its parts."""
    return frame.decode(errors="replace")


@pytest.fixture
def editor(tmp_path: Path, browser: Browser) -> Iterator[Editor]:
    (tmp_path / "prices.toml").write_text(PRICES, encoding="utf-8")
    variables = {
        "TOKMAGIC_HOME": str(tmp_path / "home"),
        "TOKMAGIC_CONFIG": os.devnull,
        "TOKMAGIC_LEDGER": f"sqlite:///{tmp_path}/ledger.sqlite",
        "TOKMAGIC_PRICES": str(tmp_path / "prices.toml"),
        "TOKMAGIC_MODEL": "scripted",
    }
    with peer_folder("vscode") as packages:
        assemble(packages, tmp_path / "static")
        flags = [f"--ServerApp.extra_static_paths={str(tmp_path / 'static')!r}"]
        with running_lab(tmp_path / "server", flags=flags, **variables) as lab:
            write_slow_script(lab.root)
            page = browser.new_page(viewport={"width": 900, "height": 900})
            opened = Editor(page, lab)
            opened.wear("vscode-light")
            yield opened
            page.close()


def assemble(packages: Path, folder: Path) -> None:
    """Put into a folder what VS Code gives its page, with the nbextension of the kernel's anywidget."""
    build = ["node", str(SOURCES / "build.mjs"), str(folder)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=WAIT_MS / 1000)
    shutil.copy(SOURCES / "page.html", folder)
    for package in packages.glob("*.tgz"):
        with tarfile.open(package) as archive:
            archive.extractall(folder / "packages" / package.name, filter="data")
    for name in ("dist/ipywidgets.js", "require.js", "css"):
        (found,) = (folder / "packages").glob(f"*/package/{name}")
        found.rename(folder / found.name)
    shutil.rmtree(folder / "packages")
    nbextensions = Path(sysconfig.get_path("data")) / "share" / "jupyter" / "nbextensions"
    shutil.copytree(nbextensions / "anywidget", folder / "nbextensions" / "anywidget")


def assert_can_be_read(editor: Editor, shots: Path, name: str) -> None:
    for theme in THEMES:
        ground = editor.wear(theme)
        ratio, text = editor.panel.evaluate(CONTRAST)
        editor.page.screenshot(path=shots / f"{theme}-{name}.png")
        assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.1f} in {theme}"
        assert editor.panel.evaluate(GROUND) == ground, theme


def test_a_panel_where_vs_code_renders_it(editor: Editor, tmp_path: Path, shots: Path) -> None:
    page, panel = editor.page, editor.panel
    assert editor.run(0, LOAD) == "ok"
    assert editor.run(1, "%tokmagic panel") == "ok"
    panel.get_by_text("No prompt has run yet").wait_for()
    assert editor.run(2, "%%generate --max-tokens 8\nHi.") == "ok"
    editor.row(2, "ok").wait_for()

    # Live while a cell runs, whose kernel hears a stop only afterwards, since VS Code has no subshells.
    editor.start(3, LONG)
    output = editor.row(3, "running").locator("[data-field='output']")
    first = output.get_attribute("data-value") or ""
    expect(output).not_to_have_attribute("data-value", first, timeout=WAIT_MS)
    run_id = editor.row(3, "running").get_attribute("data-run-id")
    panel.get_by_role("button", name="Stop the run of cell").click()
    unheard = panel.get_by_text("The kernel hears this only when its cell has ended")
    unheard.wait_for()
    panel.evaluate(NOTICE)
    assert_can_be_read(editor, shots, "running")
    (stop,) = [it for it in editor.sent if '"type":"stop"' in it]
    assert f'"run_id":"{run_id}"' in stop
    editor.interrupt()
    assert editor.end() == "error"
    editor.row(3, "interrupted").wait_for()
    expect(unheard).to_have_count(0)

    assert editor.run(4, "%%generate --max-tokens 600000\nToo dear.") == "error"
    editor.row(4, "refused").wait_for()
    with closing(Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as ledger:
        assert_shows_the_ledger(panel, ledger, NOTEBOOK)
    editor.row(3, "interrupted").locator(".tm-Open").click()
    panel.locator(".tm-Opened .tm-Answer").wait_for()
    assert_can_be_read(editor, shots, "ended")

    # Beside other widgets, which VS Code has on white, the panel has its own ground.
    assert editor.run(1, BESIDE) == "ok"
    expect(panel).to_have_count(1, timeout=WAIT_MS)
    page.get_by_text("Beside it.").wait_for()
    assert panel.evaluate(WIDTH) == 560
    assert_can_be_read(editor, shots, "beside")
    white = page.locator(".cell-output-ipywidget-background:has(.tm-Inline)").first
    assert white.evaluate(GROUND) == "rgb(255, 255, 255)"
    assert editor.errors == []
    assert page.evaluate("failures") == []

    # VS Code tells no widget that the kernel was started anew: the panel finds it out when it has something to say.
    editor.start(5, LONG)
    editor.row(5, "running").wait_for()
    page.evaluate("() => vscode.restarted()")
    panel.get_by_role("button", name="Stop the run of cell").click()
    panel.get_by_text("This panel has lost its kernel").wait_for()
    editor.row(5, "interrupted").wait_for()
