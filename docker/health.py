"""The container's health: 0 if its Jupyter server answers, 1 if not.

The server's own file tells its address, so that this holds with other options and under JupyterHub too.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT_S = 4.0


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


if __name__ == "__main__":
    raise SystemExit(not healthy())
