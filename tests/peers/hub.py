"""A real JupyterHub on loopback, whose users' servers are what a test says."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.servers import ENVIRONMENTS, NotInstalledError, interpreter

PEER = "jupyterhub"
PROXY = ENVIRONMENTS / PEER / "node_modules" / ".bin" / "configurable-http-proxy"
START_S = 120.0


@dataclass(frozen=True)
class Hub:
    """A running hub. ``admin`` is a token that may do anything; every user signs in with ``password``."""

    url: str
    admin: str
    password: str

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
def running_hub(folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Hub]:
    """Start a hub with its files in ``folder``; ended by its process id, and with it the servers of its users.

    ``command`` starts a user's server, with the hub's variables beside those of ``environment``. Raises
    NotInstalledError.
    """
    python = interpreter(PEER)
    if not PROXY.exists():
        raise NotInstalledError(f"{PROXY.name} is not there; make hub installs it")
    ports = _free_ports(3)
    hub = Hub(f"http://127.0.0.1:{ports[0]}", secrets.token_hex(16), secrets.token_hex(16))
    config = folder / "jupyterhub_config.py"
    config.write_text(_config(hub, folder, ports, command, environment), encoding="utf-8")
    log = (folder / "hub.log").open("wb")
    started = [str(python), "-m", "jupyterhub", "--config", str(config)]
    process = subprocess.Popen(started, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(hub, process, folder / "hub.log")
        yield hub
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        log.close()


def _config(
    hub: Hub, folder: Path, ports: Sequence[int], command: Sequence[str], environment: Mapping[str, str]
) -> str:
    _, hub_port, proxy_port = ports
    return f"""
c.JupyterHub.bind_url = {hub.url!r}
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{str(PROXY)!r}]
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {hub.password!r}
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {str(folder / "home")!r}
c.Spawner.cmd = {list(command)!r}
c.Spawner.environment = {dict(environment)!r}
c.Spawner.start_timeout = {int(START_S)}
c.Spawner.http_timeout = {int(START_S)}
c.JupyterHub.services = [{{"name": "tests", "api_token": {hub.admin!r}}}]
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


def _free_ports(count: int) -> list[int]:
    """So many different ones: they are held until all are found."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
