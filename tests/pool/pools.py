"""A pool as a process of its own, over scripted models, and what a client of it and a killer of processes need."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.peers.servers import ROOT, interpreter
from tests.serve.gateways import events
from tokmagic.core.files import sqlite_url
from tokmagic.core.record import RunRecord
from tokmagic.ledgers import Ledger

START_S = 400
"""How long a cluster may take to start: two busy cores take a minute, and Ray more than one attempt."""


def python() -> Path:
    """The Python that runs a pool: this one, or that of Ray's environment. Raises NotInstalledError."""
    return Path(sys.executable) if importlib.util.find_spec("ray") is not None else interpreter("ray")


def script(folder: Path, name: str, **given: Any) -> str:
    """The SPEC of a scripted model."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(given), encoding="utf-8")
    return f"scripted:{file}"


class Pool:
    """``tokmagic serve`` with these words, and a key for it; ``home`` is where its models are."""

    def __init__(self, runs: Path, folder: Path, *words: str, home: Path | None = None) -> None:
        self.folder = folder
        self.ledger_url = sqlite_url(folder / "ledger.sqlite")
        ledger = Ledger(self.ledger_url)
        self.key, self.secret = ledger.keys.add("test", "ada", "research", Decimal(5))
        ledger.close()
        self.ray = tempfile.mkdtemp(prefix="tokmagic-ray-", dir="/tmp")  # the paths of its sockets must be short
        self.env = os.environ | {
            # Ray's environment has what the project's has, but not the project.
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "TOKMAGIC_HOME": str(home or folder),
            "TOKMAGIC_LEDGER": self.ledger_url,
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": self.ray,
        }
        self.err = folder / "stderr"
        with self.err.open("w") as err:
            self.child = subprocess.Popen(
                [str(runs), "-m", "tokmagic.cli", "serve", *words, "--port", "0"],
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                cwd=folder,
            )
        self.url = ""
        self.family: list[psutil.Process] = []

    def wait(self) -> None:
        """Wait until it says where it listens."""
        assert self.child.stdout is not None
        deadline = threading.Timer(START_S, self.child.kill)
        deadline.start()
        line = self.child.stdout.readline()
        deadline.cancel()
        assert line, self.err.read_text(encoding="utf-8")
        self.url = line.rsplit(" at ", 1)[-1].strip().removesuffix("/v1")

    def client(self) -> httpx2.Client:
        auth = {"authorization": f"Bearer {self.secret}"}
        return httpx2.Client(base_url=self.url, headers=auth, timeout=120, trust_env=False)

    def ask(self, **body: Any) -> httpx2.Response:
        with self.client() as client:
            return client.post("/v1/chat/completions", content=json.dumps(chat(**body)))

    def stream(self, heard: Callable[[Any], object] = lambda _event: None, **body: Any) -> list[Any]:
        """The events of a streamed answer, each told as it comes."""
        found: list[Any] = []
        asked = chat(stream=True, stream_options={"include_usage": True}, **body)
        with (
            self.client() as client,
            client.stream("POST", "/v1/chat/completions", content=json.dumps(asked)) as response,
        ):
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                for event in events(line):
                    found.append(event)
                    heard(event)
        return found

    def rows(self) -> list[RunRecord]:
        ledger = Ledger(self.ledger_url)
        try:
            return ledger.runs()
        finally:
            ledger.close()

    def row(self, run_id: str) -> RunRecord:
        """A run's row, when it is settled."""
        found: RunRecord = wait_for(
            lambda: next((it for it in self.rows() if it.run_id == run_id and it.status != "running"), None)
        )
        return found

    def processes(self, deployment: str) -> list[psutil.Process]:
        """The replicas of a deployment: Ray names its processes after what they do."""
        found = []
        for child in psutil.Process(self.child.pid).children(recursive=True):
            self.family.append(child)
            try:
                if f"ServeReplica:tokmagic:{deployment}" in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self, deployment: str) -> None:
        """Kill the replicas of a deployment."""
        for process in self.processes(deployment):
            process.send_signal(signal.SIGKILL)

    def end(self) -> int:
        """End it as a service manager does; its exit status."""
        self.family += psutil.Process(self.child.pid).children(recursive=True)
        self.child.send_signal(signal.SIGTERM)
        self.child.communicate(timeout=90)
        shutil.rmtree(self.ray, ignore_errors=True)
        return self.child.returncode

    def left(self) -> list[psutil.Process]:
        """Which of its processes are still there."""
        return [it for it in psutil.wait_procs(self.family, timeout=60)[1] if it.is_running()]


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Count."}]} | more


def said(event: Any) -> str:
    """The text of an event."""
    if event == "[DONE]" or not event.get("choices"):
        return ""
    return event["choices"][0]["delta"].get("content") or ""


def wait_for(look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is found."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come")


@contextmanager
def pool(runs: Path, folder: Path, *words: str, home: Path | None = None) -> Iterator[Pool]:
    """A pool that answers."""
    started = Pool(runs, folder, *words, "--pool", home=home)
    try:
        started.wait()
        yield started
    finally:
        if started.child.poll() is None:
            started.end()
