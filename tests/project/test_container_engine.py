"""The container's shared engine, without a container: who starts it, who finds it, and what its death does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import running_kernel
from tests.project.test_container_start import DOCKER, START
from tokmagic.core.files import sqlite_url
from tokmagic.ledgers import Ledger

ROOT = DOCKER.parent
# The doctor has nothing to do with it, and takes long.
QUIETLY = START.replace("start.main(", "start.call_doctor = lambda: None\nstart.main(")
SERVER = """#!{python}
import json, os, pathlib, time
file = pathlib.Path(os.environ["TOLD"])
file.with_suffix(".part").write_text(json.dumps(dict(os.environ)))
file.with_suffix(".part").rename(file)
time.sleep(600)
"""
"""Stands for Jupyter's server: it tells its environment and waits."""
SCRIPT = {"pieces": ["One", " two"], "ttft_s": 0.01}
WAIT_S = 60.0


class Box:
    """Folders that stand for a container's, and a server that stands for Jupyter's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("data", "tmp", "bin", "notebooks"):
            (folder / name).mkdir()
        server = folder / "bin" / "jupyter-server"
        server.write_text(SERVER.format(python=sys.executable), encoding="utf-8")
        server.chmod(0o755)
        (folder / "script.json").write_text(json.dumps(SCRIPT), encoding="utf-8")
        self.given = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "TOLD": str(folder / "told.json"),
            "TOKMAGIC_HOME": str(folder / "data"),
            "TOKMAGIC_CONFIG": os.devnull,
            "TOKMAGIC_MODEL": f"scripted:{folder / 'script.json'}",
            "JUPYTER_RUNTIME_DIR": str(folder / "tmp"),
            "PYTHONPATH": f"{DOCKER}:{DOCKER / 'guard'}:{ROOT}",
            "LOGNAME": "ada",
        }

    @contextmanager
    def started(self, **more: str) -> Iterator[subprocess.Popen[str]]:
        """The start program, which becomes the server; in the end the server ends, and with it all that it has."""
        command = [sys.executable, "-c", QUIETLY, "jupyter-server"]
        given = {**self.given, **more}
        child = subprocess.Popen(command, env=given, cwd=self.folder / "notebooks", stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        assert child.stderr is not None
        reader = threading.Thread(target=self.said.extend, args=[child.stderr], daemon=True)
        reader.start()
        try:
            yield child
        finally:
            child.kill()
            child.wait()
            # Whoever writes there still runs.
            reader.join(WAIT_S)
            assert not reader.is_alive()

    @property
    def lines(self) -> list[str]:
        """What was said of the engine."""
        return [line.strip() for line in list(self.said) if line.startswith("tokmagic: engine: ")]

    def environ(self) -> dict[str, str]:
        """What the server was given."""
        told = Path(self.given["TOLD"])
        wait_for(told.exists)
        found: dict[str, str] = json.loads(told.read_text(encoding="utf-8"))
        return found

    def state(self) -> dict[str, Any]:
        file = self.folder / "tmp" / f"tokmagic-engine-{os.getuid()}.json"
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def wait_serving(self, but: int | None = None) -> int:
        """Wait until an engine answers, another one than ``but``, and return its process."""
        wait_for(lambda: self.state().get("state") == "serving" and self.state()["pid"] != but)
        return int(self.state()["pid"])

    def health(self) -> str:
        """What the health check prints of the engine; no server of notebooks is there."""
        health = [sys.executable, "-I", str(DOCKER / "health.py")]
        return subprocess.run(health, env=self.given, capture_output=True, text=True, check=False).stdout.strip()


def wait_for(look: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not look():
        assert time.monotonic() < end
        time.sleep(0.05)


def asked(url: str, key: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as reply:
        found: dict[str, Any] = json.loads(reply.read())
        return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.mark.slow
def test_it_stands_beside_the_server_outlives_its_own_death_and_ends_with_the_server(box: Box) -> None:
    with box.started() as server:
        given = box.environ()
        url, key = given["TOKMAGIC_ENGINE_URL"], given["TOKMAGIC_ENGINE_KEY"]
        assert url.startswith("http://127.0.0.1:")
        assert box.health() in {"", "engine: the shared engine is loading its model"}
        first = box.wait_serving()
        assert [model["id"] for model in asked(url, key)["data"]] == [box.given["TOKMAGIC_MODEL"]]
        assert box.health() == ""
        os.kill(first, signal.SIGSTOP)
        assert box.health().startswith("engine: the shared engine does not answer")
        os.kill(first, signal.SIGKILL)
        second = box.wait_serving(but=first)
        assert server.poll() is None
        assert asked(url, key)["object"] == "list"
        assert box.lines == [
            f"tokmagic: engine: the shared engine ended with status {-signal.SIGKILL}; it is started again in 1 s"
        ]
    wait_for(lambda: not Path(f"/proc/{second}").exists())
    # The secret is in no file, and a row of the key belongs to the container's user.
    kept = [path for path in box.folder.rglob("*") if path.is_file() and path.name != "told.json"]
    assert kept
    assert not any(key.encode() in path.read_bytes() for path in kept)
    assert not any(key in line for line in box.said)
    with closing(Ledger(sqlite_url(box.folder / "data" / "ledger.sqlite"))) as ledger:
        (made,) = ledger.keys.all()
    assert (made.user, made.revoked_at) == ("ada", None)
    assert made.name.startswith("container ")


@pytest.mark.slow
def test_the_next_start_revokes_the_key_of_the_last(box: Box) -> None:
    for _ in range(2):
        with box.started():
            box.environ()
            Path(box.given["TOLD"]).unlink()
            box.wait_serving()
    with closing(Ledger(sqlite_url(box.folder / "data" / "ledger.sqlite"))) as ledger:
        assert [key.revoked_at is None for key in ledger.keys.all()] == [False, True]


@pytest.mark.parametrize(
    "given",
    [
        {"TOKMAGIC_SHARED_ENGINE": "off"},
        {"TOKMAGIC_ENGINE_URL": "http://elsewhere:8000", "TOKMAGIC_ENGINE_KEY": "tm-mine"},
        {"TOKMAGIC_API_BASE": "http://vllm:8000/v1"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_it_is_not_started_where_it_is_not_wanted(box: Box, given: dict[str, str]) -> None:
    with box.started(**given):
        environ = box.environ()
    for name in ("TOKMAGIC_ENGINE_URL", "TOKMAGIC_ENGINE_KEY"):
        assert environ.get(name) == given.get(name)
    assert (box.state(), box.lines, box.health()) == ({}, [], "")


def test_a_ledger_that_cannot_be_used_is_one_line_and_the_server_starts(box: Box) -> None:
    with box.started(TOKMAGIC_LEDGER="nonsense://", TOKMAGIC_SHARED_ENGINE="perhaps"):
        assert "TOKMAGIC_ENGINE_URL" not in box.environ()
    odd, fault = box.lines
    assert odd == "tokmagic: engine: TOKMAGIC_SHARED_ENGINE is 'perhaps'; use on or off"
    assert fault.endswith("; each notebook loads its own model")
    assert "nonsense" in fault


@pytest.mark.slow
def test_an_engine_that_cannot_start_is_told_each_time_at_longer_intervals(box: Box) -> None:
    with box.started(TOKMAGIC_MODEL="./nowhere") as server:
        box.environ()
        wait_for(lambda: len(box.lines) >= 2)
        assert server.poll() is None
        # Between two starts, the first of which may be over by the time that this is asked.
        wait_for(lambda: box.health() == "engine: the shared engine is down, and is started anew")
    assert [line.rpartition(" in ")[2] for line in box.lines[:2]] == ["1 s", "2 s"]
    assert any("nowhere" in line for line in box.said), "its own words are in the log"


def test_a_command_that_serves_no_notebooks_has_none(box: Box) -> None:
    code = f"{START.partition('start.main')[0]}start.main(['env'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=box.given, cwd=box.folder, capture_output=True, text=True, check=True
    )
    assert "TOKMAGIC_ENGINE_URL" not in done.stdout


@pytest.mark.slow
@pytest.mark.model
def test_two_kernels_share_the_default_model(box: Box, tiny_home: Path) -> None:
    ledger = sqlite_url(box.folder / "data" / "ledger.sqlite")
    given = {"TOKMAGIC_HOME": str(tiny_home), "TOKMAGIC_LEDGER": ledger, "TOKMAGIC_MODEL": ""}
    with box.started(**given):
        environ = {name: value for name, value in box.environ().items() if name.startswith("TOKMAGIC_")}
        for _ in range(2):
            with running_kernel(**environ) as kernel:
                assert kernel.run("%load_ext tokmagic").ok
                ran = kernel.run("%%generate --max-tokens 3\nHi")
                assert ran.ok, ran.error
                assert kernel.value("'torch' in __import__('sys').modules") == "False"
                assert "smollm2 (loaded" in kernel.run("%model").displays[-1]["data"]["text/plain"]
    with closing(Ledger(ledger)) as kept:
        rows = kept.runs()
    assert [(row.status, row.duplicate) for row in rows] == [("ok", False), ("ok", True)] * 2
    assert {row.info.name for row in rows} == {"smollm2"}
    assert len({row.session for row in rows}) == 3
    assert all(row.reading.cost.usd == there.reading.cost.usd for row, there in zip(rows[::2], rows[1::2], strict=True))
