"""What the image's start program does with volumes, secrets and odd settings, without a container."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCKER = ROOT / "docker"
# Tests that run as root are not refused for it.
START = (
    "import access, start, sys; real = access.refusal\n"
    "access.refusal = lambda command, uid, environ: real(command, uid or 1000, environ)\n"
    "start.main(sys.argv[1:])"
)
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"
TAKE = "import os, tokmagic_settled; tokmagic_settled.take(os.environ)"
"""The line of the image's .pth file, which docker/Dockerfile writes."""
SERVER = ("jupyter", "server", "--version")


class Box:
    """Folders that stand for a container's, and the environment that it was given."""

    def __init__(self, folder: Path) -> None:
        self.data, self.tmp, self.notebooks = (folder / name for name in ("data", "tmp", "notebooks"))
        for made in (self.data, self.tmp, self.notebooks):
            made.mkdir()
        (folder / "file").touch()
        self.unusable = folder / "file" / "data"
        self.given = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(self.tmp),
            "TOKMAGIC_HOME": str(self.data),
            "HF_HOME": str(self.data / "hf"),
            "PYTHONPATH": f"{DOCKER}:{DOCKER / 'guard'}",
        }

    def run(self, code: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run Python code with what the container was given."""
        command = [sys.executable, "-c", code, *words]
        environment = self.given | more
        return subprocess.run(command, env=environment, cwd=self.notebooks, capture_output=True, text=True, check=False)

    def settled(self, **more: str) -> dict[str, str]:
        """The environment of what the start program becomes."""
        return self._environment(START, sys.executable, "-c", SHOW, **more)

    def beside(self, **more: str) -> dict[str, str]:
        """The environment of a Python that ``docker exec`` starts in the image."""
        return self._environment(f"{TAKE}; {SHOW}", **more)

    def _environment(self, code: str, *words: str, **more: str) -> dict[str, str]:
        done = self.run(code, *words, **more)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_what_is_started_beside_the_server_has_its_data_folder(box: Box) -> None:
    given = {"TOKMAGIC_HOME": str(box.unusable), "HF_HOME": str(box.unusable / "hf")}
    settled = box.settled(**given)
    assert Path(settled["TOKMAGIC_HOME"]).parent == box.tmp
    assert Path(settled["TOKMAGIC_HOME"]).stat().st_mode & 0o777 == 0o700
    beside = box.beside(**given)
    assert {name: beside[name] for name in given} == {name: settled[name] for name in given}
    # What docker exec is given with -e wins.
    assert box.beside(**given | {"TOKMAGIC_HOME": "/other"})["TOKMAGIC_HOME"] == "/other"
    # The volume is there at the next start of the same container.
    box.settled()
    assert box.beside()["TOKMAGIC_HOME"] == str(box.data)
    assert TAKE in (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_a_record_that_is_no_start_programs_changes_nothing(box: Box) -> None:
    (box.tmp / f"tokmagic-settled-{os.getuid()}.json").write_text("{", encoding="utf-8")
    assert box.beside()["TOKMAGIC_HOME"] == str(box.data)


def test_a_link_in_the_records_place_is_not_written_through(box: Box, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    (box.tmp / f"tokmagic-settled-{os.getuid()}.json").symlink_to(tmp_path / "mine")
    box.settled(TOKMAGIC_HOME=str(box.unusable))
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"


def test_the_databases_password_reaches_every_process_and_no_other_file(box: Box, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n", encoding="utf-8")
    given = {"PGPASSWORD": "", "PGPASSWORD_FILE": str(tmp_path / "password"), "TOKMAGIC_HOME": str(box.unusable)}
    assert box.settled(**given)["PGPASSWORD"] == "hunter2"
    assert box.beside(**given)["PGPASSWORD"] == "hunter2"
    assert box.beside(**given | {"PGPASSWORD": "other"})["PGPASSWORD"] == "other"
    written = [path.read_text(encoding="utf-8") for path in box.tmp.rglob("*") if path.is_file()]
    assert written
    assert not any("hunter2" in text for text in written)


def test_a_data_folder_that_is_not_there_yet_is_made(box: Box) -> None:
    folder = box.data / "team" / "one"
    assert box.settled(TOKMAGIC_HOME=str(folder))["TOKMAGIC_HOME"] == str(folder)
    assert folder.is_dir()


def test_odd_settings_become_plain_ones(box: Box) -> None:
    settled = box.settled(TOKMAGIC_HOME="~/data", HF_HOME="")
    assert (settled["TOKMAGIC_HOME"], settled["HF_HOME"]) == (str(box.data), str(box.data / "hf"))


def test_a_hugging_face_cache_of_its_own_is_kept_where_the_data_folder_cannot_be_used(box: Box, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    assert box.settled(TOKMAGIC_HOME=str(box.unusable), HF_HOME=cache)["HF_HOME"] == cache


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_token_that_cannot_be_read_is_not_called_empty(box: Box, content: bytes | None) -> None:
    file = box.tmp / "token"
    if content is not None:
        file.write_bytes(content)
    done = box.run(START, *SERVER, JUPYTER_TOKEN_FILE=str(file))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tokmagic: JUPYTER_TOKEN_FILE: {file} cannot be read: ")
    assert line.endswith(f"; let uid {os.getuid()} read it")


def test_an_empty_token_is_refused(box: Box) -> None:
    (box.tmp / "token").write_text(" \n", encoding="utf-8")
    for given in ({"JUPYTER_TOKEN": ""}, {"JUPYTER_TOKEN_FILE": str(box.tmp / "token")}):
        done = box.run(START, *SERVER, **given)
        assert done.returncode == 2
        assert f"{next(iter(given))} is empty, which would let anyone in" in done.stderr


def test_no_folder_for_temporary_files_is_one_line(box: Box) -> None:
    done = box.run(START, "true", TMPDIR=str(box.unusable))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tokmagic: tmp: {box.unusable} ")
    assert "--tmpfs" in line


def test_what_it_becomes_is_ended_by_a_closed_pipe(box: Box) -> None:
    done = box.run(START, "sh", "-c", "grep SigIgn /proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    assert not ignored & 1 << 12  # SIGPIPE is signal 13


def copied(box: Box, tmp_path: Path) -> list[str]:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.ipynb").write_text("{}", encoding="utf-8")
    code = "import sys, volumes; from pathlib import Path; volumes.copy_notebooks(*map(Path, sys.argv[1:]))"
    assert box.run(code, str(source), str(box.notebooks)).returncode == 0
    return sorted(path.name for path in box.notebooks.iterdir())


@pytest.mark.parametrize(("there", "gets"), [("lost+found", True), (".Trash-1000", True), ("mine", False)])
def test_a_new_disk_gets_the_notebooks(box: Box, tmp_path: Path, there: str, gets: bool) -> None:
    (box.notebooks / there).mkdir()
    assert ("a.ipynb" in copied(box, tmp_path)) is gets


def test_models_are_linked_and_only_our_own_links_are_removed(box: Box, tmp_path: Path) -> None:
    source, hub = tmp_path / "source", tmp_path / "hub"
    for model in ("models/a--b", "hf/hub/models--c--d", "hf/hub/models--e--f"):
        (source / model).mkdir(parents=True)
    (hub / "hub").mkdir(parents=True)
    (hub / "hub" / "models--c--d").symlink_to(tmp_path / "a disk that is not mounted now")
    (hub / "hub" / "models--gone--x").symlink_to(source / "hf" / "hub" / "models--gone--x")
    code = "import sys, volumes; from pathlib import Path; volumes.link_models(*map(Path, sys.argv[1:]))"
    assert box.run(code, str(source), str(box.data), str(hub)).returncode == 0
    assert (box.data / "models" / "a--b").is_dir()
    links = {path.name: path.readlink() for path in (hub / "hub").iterdir()}
    assert links == {
        "models--c--d": tmp_path / "a disk that is not mounted now",
        "models--e--f": source / "hf" / "hub" / "models--e--f",
    }


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/user/ann/api" else 404)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def server_file(box: Box, name: str, **more: object) -> None:
    server = {"secure": False, "hostname": "0.0.0.0", "base_url": "/user/ann/", **more}
    (box.tmp / f"jpserver-{name}.json").write_text(json.dumps(server), encoding="utf-8")


def health(box: Box) -> int:
    code = "import health; raise SystemExit(not health.healthy())"
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    return box.run(code, JUPYTER_RUNTIME_DIR=str(box.tmp), **proxy).returncode


@pytest.mark.parametrize("hostname", ["0.0.0.0", "localhost", "127.0.0.1"])
def test_the_server_is_asked_at_its_address_and_through_no_proxy(box: Box, port: int, hostname: str) -> None:
    assert health(box) == 1
    server_file(box, "7", port=port, hostname=hostname)
    assert health(box) == 0
    server_file(box, "7", port=port, hostname=hostname, base_url="/")
    assert health(box) == 1


def test_a_second_server_that_was_killed_does_not_make_the_first_ill(box: Box, port: int) -> None:
    server_file(box, "7", port=port)
    server_file(box, "99", port=9)
    assert health(box) == 0
