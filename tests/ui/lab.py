"""A real JupyterLab on loopback and a real Chromium in front of it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from playwright.sync_api import Browser, Locator, Page, TimeoutError, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0
WAIT_MS = 90_000.0
SLOW_TOKENS = 6000
"""Of ``scripted:slow.json``: it goes on for two minutes, longer than anything waits, so that only a stop ends it."""
PALETTE_TRIES = 10
PALETTE_MS = 5_000.0
CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# --no-sandbox: containers give no user namespaces. The rest keeps Chromium off the network.
CHROME_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Lab:
    """A running server: notebooks live in ``root``."""

    url: str
    token: str
    root: Path

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the server's REST API and return its JSON."""
        request = urllib.request.Request(
            f"{self.url}api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def end_sessions(self) -> None:
        """Shut every kernel down."""
        for session in self.api("GET", "sessions"):
            self.api("DELETE", f"sessions/{session['id']}")

    def kernel_id(self) -> str:
        """The id of the only kernel."""
        (session,) = self.api("GET", "sessions")
        return str(session["kernel"]["id"])

    def notebook(self, name: str, cells: list[str]) -> str:
        """Write a notebook of code cells and return its name."""
        content = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"cell-{index}",
                    "metadata": {},
                    "execution_count": None,
                    "outputs": [],
                    "source": source,
                }
                for index, source in enumerate(cells)
            ],
        }
        (self.root / name).write_text(json.dumps(content), encoding="utf-8")
        return name


def write_slow_script(folder: Path) -> None:
    """Write ``slow.json``, fifty words a second."""
    script = {"pieces": ["word "] * SLOW_TOKENS, "ttft_s": 0.05, "itl_s": 0.02, "pace": 1}
    (folder / "slow.json").write_text(json.dumps(script), encoding="utf-8")


@contextmanager
def running_lab(
    folder: Path, python: str = sys.executable, *, app: str = "jupyterlab", flags: Sequence[str] = (), **env: str
) -> Iterator[Lab]:
    """Start the JupyterLab of ``python`` with settings and runtime files of its own; ended by its process id.

    ``app`` is another module that starts a server; ``flags`` are added to its command line.
    """
    own = files_of(folder)
    root, token = folder / "root", secrets.token_hex(16)
    log = (folder / "lab.log").open("wb")
    quiet = ["--no-browser", "--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={token}"]
    process = subprocess.Popen(
        [python, "-m", app, *quiet, *flags_of(folder), *flags],
        env={**os.environ, **own, **env},
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=root,
    )
    try:
        yield Lab(_wait_for_url(process, folder / "runtime", folder / "lab.log"), token, root)
    finally:
        # The first SIGINT asks at a terminal; SIGTERM ends server and kernels alike.
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # collaboration's server may wait for a thread of its own for ever
            process.kill()
            process.wait()
        log.close()


def files_of(folder: Path) -> dict[str, str]:
    """Make the folders of a server in ``folder``, and return the variables that name them."""
    for name in ("root", "runtime"):
        (folder / name).mkdir(parents=True)
    _write_setting(folder, "notification", {"fetchNews": "false", "checkForUpdates": False})
    return {
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }


def flags_of(folder: Path) -> list[str]:
    """What any server is started with: its notebooks are in ``folder``, and a page's app can be driven by a test."""
    exposed = [f"--{name}.expose_app_in_browser=True" for name in ("LabApp", "JupyterNotebookApp")]
    return [f"--ServerApp.root_dir={folder / 'root'}", "--allow-root", *exposed]


def beside_the_project(python: Path) -> dict[str, str]:
    """What a server needs whose Python sees the project's packages: JupyterLab's files are in another prefix."""
    project = Path(sysconfig.get_path("data"))
    paths = {"JUPYTER_PATH": project / "share" / "jupyter", "JUPYTER_CONFIG_PATH": project / "etc" / "jupyter"}
    own = python.parent.parent
    return {
        **{name: os.pathsep.join(filter(None, [os.environ.get(name), str(it)])) for name, it in paths.items()},
        "JUPYTERLAB_DIR": str(project / "share" / "jupyter" / "lab"),
        "PATH": os.pathsep.join([str(own / "bin"), os.environ["PATH"]]),
        # Where the project is installed by a path to its sources, that path is not seen from another environment.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


def _write_setting(folder: Path, plugin: str, values: dict[str, Any]) -> None:
    path = folder / "settings" / "@jupyterlab" / "apputils-extension" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def _wait_for_url(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    info = runtime / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if info.is_file() and (text := info.read_text(encoding="utf-8")).endswith("}"):
            url = str(json.loads(text)["url"])
            if _accepts(url):  # the file is there a moment before
                return url
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}")


def _accepts(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser, headless."""
    found = next((path for name in CHROMES if (path := shutil.which(name))), None)
    if found is None:
        raise RuntimeError(f"no browser found; install one of {', '.join(CHROMES)} (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=CHROME_FLAGS)
        yield browser
        browser.close()


class Notebook:
    """One notebook open in one page, as a person sees it; ``here`` where the page shows JupyterLab already.

    ``at`` is the address of a notebook at another front end, relative to the server's.
    """

    def __init__(self, page: Page, lab: Lab, name: str, *, here: bool = False, at: str | None = None) -> None:
        self.page = page
        self.lab = lab
        self.name = name
        self._reloaded = False
        page.set_default_timeout(WAIT_MS)
        if here:
            page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', {path})", name)
        else:
            at = at or f"lab/workspaces/{secrets.token_hex(4)}/tree/{quote(name)}"
            page.goto(f"{lab.url}{at}?token={lab.token}")
        self.wait_ready()

    def close(self) -> None:
        """Close it, saved or not, and end its kernel."""
        self._dispose()
        if self._reloaded:
            # JupyterLab may yet open what its workspace and the page's address name, this notebook, once more.
            self.page.goto(f"{self.lab.url}lab?reset")
            self.page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
            self._dispose()
        self.page.locator(".jp-Notebook").wait_for(state="detached")
        self.lab.end_sessions()

    def _dispose(self) -> None:
        self.page.evaluate("() => [...window.jupyterapp.shell.widgets('main')].forEach(it => it.dispose())")

    def reload(self) -> None:
        """Load the page anew, as a person does."""
        self._reloaded = True
        self.page.reload()
        self.page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the cells are drawn, the kernel has answered and the sidebar knows of it."""
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.panel.locator(":is([data-connection='not-loaded'], [data-connection='ready'])").wait_for(state="attached")

    @property
    def panel(self) -> Locator:
        return self.page.locator("#tokmagic-panel")

    def wait_connection(self, state: str) -> None:
        self.panel.locator(f"[data-connection='{state}']").wait_for(state="attached")

    def run(self, index: int) -> None:
        """Run a cell, as a click into it and Ctrl+Enter do; does not wait for its end."""
        self._enter(index)
        self.page.keyboard.press("Control+Enter")

    def write(self, index: int) -> None:
        """Put the cursor at the end of a cell."""
        self._enter(index)
        self.page.keyboard.press("Control+End")

    def _enter(self, index: int) -> None:
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(index)
        cell.locator(".jp-InputArea-editor").click()

    def wait_run(self, index: int) -> None:
        """Wait until a cell has its number, which it gets at its end."""
        self.page.wait_for_function(
            """index => /\\[\\d+\\]/.test(document.querySelectorAll('.jp-Notebook .jp-Cell')[index]
                .querySelector('.jp-InputPrompt').textContent)""",
            arg=index,
        )

    def row(self, cell_id: str) -> Row:
        return Row(self, cell_id)

    def command(self, label: str) -> None:
        """Run a command from the palette."""
        palette = self.page.locator("#modal-command-palette")
        first = palette.locator(".lm-CommandPalette-item.lm-mod-active", has_text=label)
        for _ in range(PALETTE_TRIES):
            self.page.keyboard.press("Control+Shift+C")
            # It hides where the focus goes elsewhere, as it does when JupyterLab has just restored a notebook: before
            # it is written in, or after.
            with suppress(TimeoutError):
                palette.locator("input").fill(label, timeout=PALETTE_MS)
                first.wait_for(timeout=PALETTE_MS)
                self.page.keyboard.press("Enter")
                return
        raise RuntimeError(f"the palette did not stay open for {label!r}")

    @contextmanager
    def narrow(self) -> Iterator[None]:
        """The narrowest panel there is, in a window of 900 px; then as it was."""
        self.page.set_viewport_size({"width": 900, "height": 900})
        try:
            # The layout follows the window a moment later, and may take its own sizes back: it is told until it stays.
            self.page.wait_for_function(NARROWED)
            yield
        finally:
            self.page.set_viewport_size({"width": 1400, "height": 900})
            self.page.evaluate(SIZES, [1, 3, 1.4])

    def sticking_out(self) -> list[str]:
        """What reaches beyond the panel's right edge, so that the panel scrolls sideways."""
        found: list[str] = self.page.evaluate(STICKING_OUT)
        return found

    def set_theme(self, name: str) -> None:
        """Change the page's theme."""
        self.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        self.page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")
        # JupyterLab covers the page while it changes themes, and fades that out.
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")


SIZES = "sizes => window.jupyterapp.shell._hsplitPanel.setRelativeSizes(sizes)"
NARROWED = f"""() => {{
    const panel = document.querySelector("#tokmagic-panel");
    if (window.jupyterapp.shell.node.clientWidth === 900 && panel.clientWidth <= 250) return true;
    ({SIZES})([1, 4, 1]);
    return false;
}}"""
STICKING_OUT = """() => {
    const panel = document.querySelector("#tokmagic-panel");
    const edge = panel.getBoundingClientRect().left + panel.clientWidth;
    return [...panel.querySelectorAll("*")]
        .filter(it => it.getBoundingClientRect().right > edge + 0.5)
        .map(it => `${it.tagName}.${it.className} by ${it.getBoundingClientRect().right - edge}: ${it.textContent}`);
}"""


class Row:
    """A cell's row in the sidebar."""

    def __init__(self, notebook: Notebook, cell_id: str) -> None:
        self.selector = f"#tokmagic-panel tr[data-cell-id='{cell_id}']"
        self.page = notebook.page
        self.locator = self.page.locator(self.selector)

    def wait(self, status: str) -> None:
        self.page.locator(f"{self.selector}[data-status='{status}']").wait_for()

    @property
    def run_id(self) -> str:
        return self.locator.get_attribute("data-run-id") or ""

    def raw(self, field: str) -> str:
        """The value behind a column, before it was made short for the eye."""
        return self.locator.locator(f"[data-field='{field}']").get_attribute("data-value") or ""

    def shown(self, field: str) -> str:
        return self.locator.locator(f"[data-field='{field}']").inner_text()

    def wait_output_above(self, count: int) -> int:
        """Wait until the row shows more output tokens than ``count``, and return how many."""
        found = self.page.wait_for_function(
            """([selector, count]) => {
                const value = document.querySelector(selector + " [data-field='output']")?.dataset.value;
                return value && Number(value) > count ? Number(value) : null;
            }""",
            arg=[self.selector, count],
        )
        return int(found.json_value())


class Draft:
    """The sidebar's draft of the cell that is being written."""

    def __init__(self, notebook: Notebook) -> None:
        self.page = notebook.page
        self.locator = self.page.locator("#tokmagic-panel .tm-Draft")

    def wait_counted(self, cell_id: str) -> int:
        """Wait for a cell's count by the model's own tokenizer, and return it."""
        section = f".tm-Draft[data-cell-id='{cell_id}'][data-state='counted']"
        self.page.locator(f"{section} [data-source='counted']").wait_for()
        return int(self.raw("input"))

    def wait_input(self, count: int) -> None:
        """Wait until the draft shows so many input tokens, by the model's own tokenizer."""
        self.locator.locator(f"[data-source='counted'][data-value='{count}']").wait_for()

    def wait_input_above(self, count: int) -> int:
        """Wait until the draft has come to rest above ``count`` input tokens, and return how many."""
        found = self.page.wait_for_function(
            """count => {
                const value = document.querySelector(".tm-Draft [data-field='input']")?.dataset.value;
                const still = value === window.tokmagicSeen;
                window.tokmagicSeen = value;
                return value && still && Number(value) > count ? Number(value) : null;
            }""",
            arg=count,
            polling=500,
        )
        return int(found.json_value())

    def raw(self, field: str) -> str:
        """The value behind a field, before it was made short for the eye."""
        return self._field(field).get_attribute("data-value") or ""

    def shown(self, field: str) -> str:
        return self._field(field).inner_text().strip()

    def costs(self) -> tuple[float, float]:
        """The span of costs, in USD."""
        low, high = (self._field("cost").get_attribute(f"data-{end}") or "nan" for end in ("low", "high"))
        return float(low), float(high)

    def _field(self, field: str) -> Locator:
        return self.locator.locator(f"[data-field='{field}']")
