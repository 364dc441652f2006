"""A real JupyterHub on loopback that starts each user's server as a container of the image."""

from __future__ import annotations

import json
import secrets
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.image.store import ROOT, call, environment

PEER = ROOT / ".cache" / "peers" / "jupyterhub"
PROXY = PEER / "node_modules" / ".bin" / "configurable-http-proxy"
START_S = 120.0


@dataclass(frozen=True)
class Hub:
    """A running hub. ``admin`` is a token that may do anything; ``container`` is the name of a user's container."""

    url: str
    admin: str
    container: str

    def ask(self, method: str, path: str, token: str = "", body: Any = None) -> tuple[int, bytes]:
        """Status and body of a request to the hub, or to a user's server through its proxy."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {token}"} if token else {},
        )
        try:
            with urllib.request.urlopen(request, timeout=START_S) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def start(self, user: str) -> str:
        """Start a user's server, and return a token of that user's."""
        self.ask("POST", f"/hub/api/users/{user}", self.admin)
        status, said = self.ask("POST", f"/hub/api/users/{user}/server", self.admin)
        assert status in {201, 202}, said
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            _, said = self.ask("GET", f"/hub/api/users/{user}", self.admin)
            if json.loads(said)["servers"].get("", {}).get("ready"):
                _, made = self.ask("POST", f"/hub/api/users/{user}/tokens", self.admin, {})
                return str(json.loads(made)["token"])
            time.sleep(0.3)
        raise AssertionError(f"{user}'s server did not start: {said.decode()}")


@contextmanager
def running_hub(folder: Path, image: str) -> Iterator[Hub]:
    """Start a hub with its files in ``folder``; it and its containers are ended by their ids."""
    admin, container = secrets.token_hex(16), f"tokmagic-test-hub-{secrets.token_hex(3)}"
    port, hub_port, proxy_port = (_free_port() for _ in range(3))
    hub = Hub(f"http://127.0.0.1:{port}", admin, container)
    spawn = folder / "spawn.sh"
    spawn.write_text(_spawner(image, container), encoding="utf-8")
    config = folder / "jupyterhub_config.py"
    config.write_text(_config(port, hub_port, proxy_port, admin, spawn), encoding="utf-8")
    log = (folder / "hub.log").open("wb")
    command = [str(PEER / "bin" / "python"), "-m", "jupyterhub", "--config", str(config)]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(hub, process, folder / "hub.log")
        yield hub
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        log.close()
        call("podman", "rm", "--force", "--time=5", container, check=False)


def _spawner(image: str, container: str) -> str:
    """What the hub starts as a user's server: the image with the hub's variables, and no command."""
    settings = {name: value for name, value in environment().items() if name.startswith("CONTAINERS_")}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
    run = f"podman run --rm --name={container} --network=host --env='JUPYTERHUB_*' {image}"
    return f"#!/bin/sh\n{exports}exec {run}\n"


def _config(port: int, hub_port: int, proxy_port: int, admin: str, spawn: Path) -> str:
    return f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{str(PROXY)!r}]
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {secrets.token_hex(16)!r}
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = ["sh", {str(spawn)!r}]
c.Spawner.start_timeout = {int(START_S)}
c.Spawner.http_timeout = {int(START_S)}
c.JupyterHub.services = [{{"name": "tests", "api_token": {admin!r}}}]
scopes = ["admin:users", "admin:servers", "tokens", "access:servers"]
c.JupyterHub.load_roles = [{{"name": "tests", "services": ["tests"], "scopes": scopes}}]
"""


def _wait(hub: Hub, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if hub.ask("GET", "/hub/api/")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise RuntimeError(f"JupyterHub did not start:\n{log.read_text(encoding='utf-8')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
