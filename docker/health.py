"""The container's health: 0 if its Jupyter server answers, 1 if not.

The server's own file tells its port and base URL, so that this holds with other options and under JupyterHub too.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from pathlib import Path

TIMEOUT_S = 4.0


def address() -> str:
    """URL of the server's version, which it tells without a token. Raises LookupError while there is no server."""
    folder = Path(os.environ.get("JUPYTER_RUNTIME_DIR") or "/tmp/jupyter-runtime")
    files = sorted(folder.glob("jpserver-*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise LookupError("no server has started")
    server = json.loads(files[-1].read_text(encoding="utf-8"))
    scheme = "https" if server["secure"] else "http"
    return f"{scheme}://127.0.0.1:{server['port']}{server['base_url']}api"


def healthy() -> bool:
    """Whether the server answers."""
    # Its certificate names another host than this one.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(address(), timeout=TIMEOUT_S, context=context) as reply:
            return bool(reply.status == 200)
    except (OSError, LookupError, ValueError) as error:
        print(error)
        return False


if __name__ == "__main__":
    raise SystemExit(not healthy())
