"""The container's health: 0 if its Jupyter server answers, 1 if not; what is wrong with the shared engine is printed.

The server's own file tells its address, so that this holds with other options and under JupyterHub too. Without the
engine notebooks can still be written, and it is started anew by itself: nobody should end the container for it.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT_S = 3.0
ENGINE_TIMEOUT_S = 1.0


def address(server: dict[str, Any]) -> str:
    """URL of a server's version, which it tells without a token."""
    scheme = "https" if server["secure"] else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server["hostname"], server["hostname"])
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server['port']}{server['base_url']}api"


def answers(file: Path) -> bool:
    """Whether the server answers that wrote ``file``."""
    # Its certificate names another host than this one, and a proxy would look for the server in itself.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(address(json.loads(file.read_text(encoding="utf-8"))), timeout=TIMEOUT_S) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError) as error:
        print(error)
        return False


def healthy() -> bool:
    """Whether a server answers; one that was killed leaves its file behind."""
    folder = Path(os.environ.get("JUPYTER_RUNTIME_DIR") or "/tmp/jupyter-runtime")
    return any(answers(file) for file in folder.glob("jpserver-*.json"))


def engine_fault() -> str | None:
    """What is wrong with the container's shared engine; None where nothing is, and where there is none."""
    # engine.py writes it; this script is run isolated, and cannot import that.
    file = Path(os.environ.get("TMPDIR") or "/tmp") / f"tokmagic-engine-{os.getuid()}.json"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        state, url = str(told["state"]), str(told["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if state != "serving":
        return f"the shared engine is {'loading its model' if state == 'starting' else 'down, and is started anew'}"
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/health", timeout=ENGINE_TIMEOUT_S):
            return None
    except (OSError, ValueError) as error:
        return f"the shared engine does not answer: {error}"


if __name__ == "__main__":
    if fault := engine_fault():
        print(f"engine: {fault}")
    raise SystemExit(not healthy())
