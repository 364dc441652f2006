"""The image as JupyterHub's single-user server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import peer_python
from tests.image.containers import Container
from tests.image.store import call, environment
from tests.peers.hub import PEER, running_hub

pytestmark = pytest.mark.image


@contextmanager
def _removed(container: str) -> Iterator[None]:
    try:
        yield
    finally:
        call("podman", "rm", "--force", "--time=5", container, check=False)


def test_a_hub_starts_the_image_and_lets_its_user_in(image: str, tmp_path: Path) -> None:
    container = f"tokmagic-test-hub-{secrets.token_hex(3)}"
    server = ["podman", "run", "--rm", f"--name={container}", "--network=host", "--env=JUPYTERHUB_*", image]
    own = {name: value for name, value in environment().items() if name.startswith("CONTAINERS_")}
    with peer_python(PEER), _removed(container), running_hub(tmp_path, server, own) as hub:
        token = hub.start("ann")
        assert hub.ask("GET", "/user/ann/api/contents")[0] == 403
        assert hub.ask("GET", "/user/ann/api/contents", "wrong")[0] == 403
        status, body = hub.ask("GET", "/user/ann/api/contents", token)
        assert status == 200
        assert "01_quickstart.ipynb" in {entry["name"] for entry in json.loads(body)["content"]}
        status, page = hub.ask("GET", "/user/ann/lab", token)
        assert status == 200
        assert b'"name": "tokmagic"' in page
        Container(container, token).wait_healthy()
        assert "jupyterhub-singleuser" in call("podman", "top", container, "args").stdout
