"""A running container, and what a test asks of it."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.image.store import call

HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)
"""As docs/container.md shows it: nothing can be written but the volumes and /tmp."""
WAIT_S = 300.0

Found = TypeVar("Found")


@dataclass(frozen=True)
class Container:
    """A container by its name; ``token`` opens its server."""

    name: str
    token: str

    @property
    def url(self) -> str:
        """The server's address on this machine, without a slash at its end."""
        shown = call("podman", "port", self.name, "8888").stdout.split()[0]
        return f"http://{shown}"

    def get(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        """Status and body of a request, without a token or with the one given."""
        headers = {"Authorization": f"token {token}"} if token else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self.url}{path}", headers=headers), timeout=30
            ) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def exec(self, *words: str) -> str:
        """Run a command inside, as the container's own user, and return its standard output."""
        return call("podman", "exec", self.name, *words).stdout

    def python(self, code: str) -> Any:
        """Run Python inside and return what it prints, read as JSON."""
        return json.loads(self.exec("python", "-c", code))

    @property
    def log(self) -> str:
        """What it wrote on both streams."""
        done = call("podman", "logs", self.name, check=False)
        return done.stdout + done.stderr

    @property
    def lines(self) -> list[str]:
        """What the start program and the doctor said, without their prefix."""
        return [line.removeprefix("tokmagic: ") for line in self.log.splitlines() if line.startswith("tokmagic: ")]

    def wait_line(self, pattern: str) -> str:
        """Wait for the line that matches ``pattern``, and return it."""
        return wait_for(lambda: next((line for line in self.lines if re.search(pattern, line)), None), self)

    def wait_ready(self) -> None:
        """Wait until the server answers."""
        wait_for(self._answers, self)

    def _answers(self) -> bool:
        try:
            return self.get("/api")[0] == 200
        except OSError:
            return False

    def wait_healthy(self) -> None:
        """Wait until its health check finds it well: a server that is busy may answer one of them too late."""
        wait_for(lambda: call("podman", "healthcheck", "run", self.name, check=False).returncode == 0, self)

    def state(self) -> dict[str, Any]:
        """What podman says of its state."""
        found: dict[str, Any] = json.loads(call("podman", "inspect", self.name).stdout)[0]["State"]
        return found

    def stop(self) -> dict[str, Any]:
        """Ask it to end, as ``docker stop`` does, and return its state; after 10 s it would be killed (137)."""
        call("podman", "stop", "--time=10", self.name)
        return self.state()

    def ledger(self) -> list[dict[str, Any]]:
        """The runs in its ledger, as `tokmagic export` gives them."""
        return [json.loads(line) for line in self.exec("tokmagic", "export").splitlines()]


def wait_for(look: Callable[[], Found | None], container: Container, seconds: float = WAIT_S) -> Found:
    """Wait until ``look`` finds something; the container's log is in the error if it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        if container.state()["Status"] == "exited":
            break
        time.sleep(0.2)
    raise AssertionError(f"{container.name}: {container.state()}\n{container.log}")


@contextmanager
def running(
    image: str, *options: str, command: Sequence[str] = (), network: str, token: bool = True
) -> Iterator[Container]:
    """A container, removed at the end. With ``token`` false it is given none; its server's port is published."""
    name, secret = f"tokmagic-test-{secrets.token_hex(4)}", secrets.token_hex(16)
    words = [f"--name={name}", f"--network={network}", *options]
    words += [] if network == "none" else ["--publish=127.0.0.1::8888"]
    words += [f"--env=JUPYTER_TOKEN={secret}"] if token else []
    call("podman", "run", "--detach", *words, image, *command)
    try:
        yield Container(name, secret)
    finally:
        call("podman", "rm", "--force", "--time=5", "--volumes", name)


def once(image: str, *options: str, command: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """A container that ends by itself: its status and what it said, without podman's own words on health checks."""
    done = call("podman", "run", "--rm", *options, image, *command, check=False)
    own = [line for line in done.stderr.splitlines() if not line.startswith('time="')]
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, "\n".join(own))
