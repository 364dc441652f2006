#!/usr/bin/env bash
# jupyterlab 4.6.6, playwright 1.65.2 with a Chromium found on the PATH
#
# JupyterLab's default windowing mode, contentVisibility, is said to let the browser skip the cells that are out of sight.
# It also has an IntersectionObserver watch each cell of the notebook for as long as it is open, so that in every frame,
# whatever changed on the page, as many intersections are computed as the notebook has cells. In the modes defer and none
# no cell is watched.
#
# Seen, of 200 cells:
#   default: 200 cells are watched
#   contentVisibility: 200 cells are watched
#   defer: 0 cells are watched
#   none: 0 cells are watched
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for name in chromium chromium-browser google-chrome google-chrome-stable; do
	if command -v "$name" > /dev/null; then CHROMIUM=$(command -v "$name"); break; fi
done
: "${CHROMIUM:?no Chromium is on the PATH}"
export CHROMIUM
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q jupyterlab==4.6.6 playwright==1.65.2
cat > "$folder/seen.py" <<'PYTHON'
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

CELLS = 200
COUNT = """() => {
    window.watched = new Map();
    const { observe, unobserve, disconnect } = IntersectionObserver.prototype;
    const of = it => window.watched.get(it) ?? window.watched.set(it, new Set()).get(it);
    IntersectionObserver.prototype.observe = function (target) { of(this).add(target); return observe.call(this, target); };
    IntersectionObserver.prototype.unobserve = function (target) { of(this).delete(target); return unobserve.call(this, target); };
    IntersectionObserver.prototype.disconnect = function () { of(this).clear(); return disconnect.call(this); };
}"""
WATCHED = """() => [...window.watched.values()].flatMap(it => [...it]).filter(
    it => it.classList.contains('jp-Cell') && it.isConnected).length"""

folder = Path(sys.argv[1])
root = folder / "root"
root.mkdir()
cells = [{"cell_type": "code", "id": f"c{at}", "metadata": {}, "outputs": [], "source": "1", "execution_count": None}
         for at in range(CELLS)]
notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
(root / "n.ipynb").write_text(json.dumps(notebook))


def watched(mode: str) -> int:
    config = folder / mode
    if mode != "default":
        settings = config / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension"
        settings.mkdir(parents=True)
        (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": mode}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = ["--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--allow-root",
             f"--ServerApp.root_dir={root}"]
    places = {f"JUPYTER_{name}_DIR": str(config) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(config / "lab" / "user-settings")}
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *given], env=os.environ | places,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5)
                break
            except OSError:
                time.sleep(0.25)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"])
            page = browser.new_page()
            page.add_init_script(f"({COUNT})()")
            page.goto(f"http://127.0.0.1:{port}/lab/tree/n.ipynb", timeout=90_000)
            page.wait_for_function(f"() => document.querySelectorAll('.jp-Notebook .jp-Cell').length === {CELLS}",
                                   timeout=90_000)
            page.wait_for_timeout(3000)
            found = page.evaluate(WATCHED)
            browser.close()
            return found
    finally:
        server.terminate()
        server.wait(30)


for mode in ("default", "contentVisibility", "defer", "none"):
    print(f"{mode}: {watched(mode)} cells are watched")
PYTHON
"$folder/env/bin/python" "$folder/seen.py" "$folder" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
default: 200 cells are watched
contentVisibility: 200 cells are watched
defer: 0 cells are watched
none: 0 cells are watched
SEEN
