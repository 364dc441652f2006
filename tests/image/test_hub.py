"""The image as JupyterHub's single-user server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.image.hub import PEER, PROXY, running_hub
from tests.image.store import call

pytestmark = pytest.mark.image


def test_a_hub_starts_the_image_and_lets_its_user_in(image: str, tmp_path: Path) -> None:
    if not (PEER / ".installed").is_file() or not PROXY.exists():
        pytest.skip("JupyterHub is not installed under .cache/peers: make image-test installs it")
    with running_hub(tmp_path, image) as hub:
        token = hub.start("ann")
        assert hub.ask("GET", "/user/ann/api/contents")[0] == 403
        assert hub.ask("GET", "/user/ann/api/contents", "wrong")[0] == 403
        status, body = hub.ask("GET", "/user/ann/api/contents", token)
        assert status == 200
        assert "01_quickstart.ipynb" in {entry["name"] for entry in json.loads(body)["content"]}
        status, page = hub.ask("GET", "/user/ann/lab", token)
        assert status == 200
        assert b'"name": "tokmagic"' in page
        assert call("podman", "healthcheck", "run", hub.container, check=False).returncode == 0
        assert "jupyterhub-singleuser" in call("podman", "top", hub.container, "args").stdout
