"""What the sidebar takes of a browser's time and memory, in a real JupyterLab and Chromium.

``python -m benchmarks.sidebar [ROUNDS [UPDATES [MODE]]]``: the sidebar must have been built. ``MODE`` is JupyterLab's
windowing mode: by default its own default, ``contentVisibility``, where it has an observer watch every cell, which
takes time of each frame; in ``defer`` it has none; in ``full`` only cells near those in sight are on the page. Updates
are given to the page as messages of a kernel, ten a second as a kernel sends them; the time of an update is all that
the page does on its main thread until the next one: scripts, layout and painting, in milliseconds of CPU time by the
trace of Chromium. What else the machine does is not in it, nor the garbage of opening a notebook, which is collected
before.

- ``opening_added_ms``: opening a notebook of 1,000 generated cells, with the sidebar − without it.
- ``update_ms``: an update's time with 10 and with 1,000 cells, its row in sight; ``bare_ms``: the same of a change of a
  word elsewhere on the page, for which JupyterLab draws a frame. They take turns, so that both have what else the page
  does; ``own_ms``: the median of their differences, what the sidebar itself takes; ``own_ratio``: with 1,000 cells ÷
  with 10.
- ``unseen_ms``: the same with 1,000 cells where the row is far out of sight; ``hidden_ms``: with the sidebar hidden.
- ``memory_ratio``: the page's heap, garbage collected, after 11,000 updates ÷ after 1,000.
- ``long_tasks``: tasks of over 50 ms while three notebooks stream from three kernels, with the sidebar and without it.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from benchmarks import report, spread
from tests.ui.lab import WAIT_MS, Lab, chromium, running_lab
from tests.ui.saved_rows import generated, written

FEW, MANY = 10, 1000
PERIOD_MS = 100
LONG_MS = 50.0
STREAM_S = 10
WIRE = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "wire" / "streaming.json"
CATEGORIES = ["toplevel", "blink.user_timing", "disabled-by-default-devtools.timeline"]
MARK = "tokmagic"
SETTLE_MS = 5000
ATTACH_MS = 600_000.0
# In the mode full JupyterLab goes on measuring cells for about as long after it has opened a notebook of a thousand.
FULL_MS = 50_000

OPEN = """async ([path, withSidebar]) => {
    const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
    const began = performance.now();
    const panel = await window.jupyterapp.commands.execute('docmanager:open', { path });
    await panel.context.ready;
    const drawn = () => panel.node.querySelector('.jp-Cell')
        && (!withSidebar || document.querySelector("#tokmagic-panel tr[data-cell-id='cell-0']"));
    while (!drawn()) await frame();
    await frame();
    await frame();
    return performance.now() - began;
}"""
CLOSE = """async () => {
    [...window.jupyterapp.shell.widgets('main')].forEach(it => it.dispose());
    await window.jupyterapp.serviceManager.sessions.shutdownAll();
}"""
# JupyterLab adds the cells of a long notebook little by little.
ATTACHED = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    return panel.sessionContext.session?.kernel?.connectionStatus === 'connected'
        && panel.content.widgets.every(cell => cell.isAttached);
}"""
# The messages stand for those of a kernel: each says that a run has one token more. With ``bare`` each second change is
# another one instead: what any takes, for the page draws a frame.
UPDATE = """([wire, cellId, count, periodMs, runs, bare]) => {
    const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
    const node = document.querySelector('#jp-bottom-panel').appendChild(document.createElement('span'));
    window.__seq ??= 0;
    const update = () => {
        const seq = ++window.__seq;
        const rows = [{ ...wire.rows[0], cell_id: cellId, run_id: `run-${Math.floor(seq / runs)}`,
            started_at: `2026-11-30T00:00:00.${String(Math.floor(seq / runs)).padStart(6, '0')}Z`,
            output_tokens: seq, cost_usd: (seq / 1e6).toFixed(6) }];
        kernel.iopubMessage.emit({
            header: { msg_type: 'comm_msg' },
            parent_header: {},
            content: { comm_id: 'stand-in', data: { ...wire, seq, rows } }
        });
    };
    return new Promise(resolve => {
        let left = count;
        const step = () => {
            performance.mark('tokmagic');
            if (left-- <= 0) { clearInterval(timer); node.remove(); resolve(); }
            else if (bare && left % 2 === 0) node.textContent = left;
            else update();
        };
        const timer = setInterval(step, periodMs);
    });
}"""
STREAM = [
    "%load_ext tokmagic\n%model add slow scripted:slow.json\n%model use slow\n%price slow --input 0.15 --output 0.60",
    "%%generate --no-cache --max-tokens 600\nGo on.",
]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which such a share of the values is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextmanager
def lab_page(browser: Browser, folder: Path, mode: str, *, sidebar: bool) -> Iterator[tuple[Lab, Page]]:
    """A JupyterLab of its own and a page of it, with the sidebar open or without it."""
    if not sidebar:
        config = folder / "config" / "labconfig" / "page_config.json"
        config.parent.mkdir(parents=True)
        config.write_text(json.dumps({"disabledExtensions": {"tokmagic": True}}), encoding="utf-8")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": mode}), encoding="utf-8")
    env = {"TOKMAGIC_HOME": str(folder / "home"), "TOKMAGIC_LEDGER": f"sqlite:///{folder}/ledger.sqlite"}
    env["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    with running_lab(folder, **env) as lab:
        script = {"pieces": ["word "] * 600, "ttft_s": 0.05, "itl_s": 0.02, "pace": 1}
        (lab.root / "slow.json").write_text(json.dumps(script), encoding="utf-8")
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{lab.url}lab?token={lab.token}")
        page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
        assert page.locator("#tokmagic-panel").count() == sidebar
        yield lab, page
        page.close()


def opening(page: Page, lab: Lab, *, sidebar: bool) -> float:
    """Milliseconds that the notebook of many cells takes to open."""
    name = written(lab.root, "opened.ipynb", generated(MANY))
    took = float(page.evaluate(OPEN, [name, sidebar]))
    page.evaluate(CLOSE)
    return took


def tasks(trace: bytes) -> tuple[list[tuple[float, float]], list[float]]:
    """The marked page's tasks on its main thread, as start and CPU time, and its marks, all in milliseconds."""
    events = json.loads(trace)["traceEvents"]
    marks = [it for it in events if it["name"].startswith(MARK)]
    thread = marks[0]["pid"], marks[0]["tid"]
    found = [
        (it["ts"] / 1e3, it.get("tdur", it["dur"]) / 1e3)  # where the system has no clock for a thread: wall time
        for it in events
        if it["name"] == "RunTask" and it["ph"] == "X" and (it["pid"], it["tid"]) == thread
    ]
    return found, sorted(it["ts"] / 1e3 for it in marks)


def updates(browser: Browser, page: Page, wire: Any, cell: str, count: int, *, bare: bool = False) -> list[float]:
    """What each of so many updates takes of the page's main thread, in milliseconds; with ``bare`` each second one."""
    page.evaluate(UPDATE, [wire, cell, 30, PERIOD_MS, 1000, False])
    heap(page)
    page.wait_for_timeout(SETTLE_MS)
    browser.start_tracing(page=page, categories=CATEGORIES)
    page.evaluate(UPDATE, [wire, cell, count, PERIOD_MS, 1000, bare])
    ran, marks = tasks(browser.stop_tracing())
    return [sum(length for start, length in ran if begin <= start < end) for begin, end in pairwise(marks)]


def heap(page: Page) -> float:
    """The page's heap in bytes, garbage collected."""
    session = page.context.new_cdp_session(page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
    used = float(session.send("Runtime.getHeapUsage")["usedSize"])
    session.detach()
    return used


def streaming(browser: Browser, page: Page, lab: Lab) -> list[float]:
    """Three notebooks stream at once: lengths of the page's tasks in milliseconds."""
    for number in range(3):
        name = lab.notebook(f"stream-{number}.ipynb", STREAM)
        page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', { path })", name)
        page.wait_for_function(ATTACHED)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
    page.evaluate("""async () => {
        for (const panel of window.jupyterapp.shell.widgets('main')) {
            window.jupyterapp.shell.activateById(panel.id);
            panel.content.activeCellIndex = 1;
            window.jupyterapp.commands.execute('notebook:run-cell');
            await new Promise(resolve => setTimeout(resolve, 300));
        }
    }""")
    page.locator(".jp-OutputArea-output:visible", has_text="word word").wait_for()
    browser.start_tracing(page=page, categories=CATEGORIES)
    page.evaluate("name => { performance.mark(name); }", MARK)
    page.wait_for_timeout(STREAM_S * 1e3)
    ran, _ = tasks(browser.stop_tracing())
    page.evaluate(CLOSE)
    return [length for _, length in ran]


def settle(page: Page, mode: str) -> None:
    """Wait until JupyterLab has done what it does by itself after opening a notebook."""
    if mode == "full":
        page.wait_for_timeout(FULL_MS)
    else:
        page.wait_for_function(ATTACHED, timeout=ATTACH_MS)


def with_sidebar(browser: Browser, page: Page, lab: Lab, count: int, mode: str) -> dict[str, Any]:
    """Updates with few and with many cells, seen, unseen and hidden, and what they leave in memory."""
    wire = json.loads(WIRE.read_text(encoding="utf-8"))
    took: dict[str, list[float]] = {}
    memory: list[float] = []
    for cells in (FEW, MANY):
        name = written(lab.root, f"cells-{cells}.ipynb", generated(cells))
        page.evaluate(OPEN, [name, True])
        settle(page, mode)
        both = updates(browser, page, wire, "cell-0", 2 * count, bare=True)
        took[str(cells)], took[f"bare {cells}"] = both[::2], both[1::2]
        if cells == MANY:
            took["unseen"] = updates(browser, page, wire, f"cell-{MANY - 1}", count)
            for more in (1000, 10_000):
                page.evaluate(UPDATE, [wire, "cell-0", more, 4, 100, False])
                memory.append(heap(page))
            page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-right-area')")
            took["hidden"] = updates(browser, page, wire, "cell-0", count)
            page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-right-area')")
        page.evaluate(CLOSE)
    few, many = (
        statistics.median(one - other for one, other in zip(took[str(cells)], took[f"bare {cells}"], strict=True))
        for cells in (FEW, MANY)
    )
    return {
        "update_ms": {str(cells): _times(took[str(cells)]) for cells in (FEW, MANY)},
        "bare_ms": {str(cells): _times(took[f"bare {cells}"]) for cells in (FEW, MANY)},
        "own_ms": {str(FEW): few, str(MANY): many},
        "own_ratio": many / few,
        "unseen_ms": _times(took["unseen"]),
        "hidden_ms": _times(took["hidden"]),
        "memory_ratio": memory[1] / memory[0],
        "memory_bytes": memory,
    }


def _times(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "p95": percentile(values, 0.95), "max": max(values)}


def main() -> None:
    """Measure, with the sidebar and without it in turn."""
    given = sys.argv[1:]
    counts, mode = given[:2], (given[2:] or ["contentVisibility"])[0]
    rounds, count = [int(text) for text in counts] + [5, 100][len(counts) :]
    with tempfile.TemporaryDirectory(prefix="tokmagic-sidebar-") as name, chromium() as browser:
        folder = Path(name)
        with (
            lab_page(browser, folder / "with", mode, sidebar=True) as (lab, page),
            lab_page(browser, folder / "without", mode, sidebar=False) as (bare_lab, bare_page),
        ):
            opened: list[float] = []
            added: list[float] = []
            for turn in range(rounds + 1):
                bare_page.bring_to_front()
                bare = opening(bare_page, bare_lab, sidebar=False)
                page.bring_to_front()
                took = opening(page, lab, sidebar=True)
                if turn > 0:
                    opened.append(bare)
                    added.append(took - bare)
            # Before the page has the garbage of thousands of updates to collect.
            streamed = streaming(browser, page, lab)
            bare_page.bring_to_front()
            bare_streamed = streaming(browser, bare_page, bare_lab)
            page.bring_to_front()
            figures = with_sidebar(browser, page, lab, count, mode)
    results = {
        "mode": mode,
        "opening_ms": spread(opened),
        "opening_added_ms": spread(added),
        **figures,
        "long_tasks": {
            side: {"over_50_ms": sum(it > LONG_MS for it in lengths), "longest_ms": max(lengths)}
            for side, lengths in (("with", streamed), ("without", bare_streamed))
        },
    }
    report("sidebar", results)


if __name__ == "__main__":
    main()
