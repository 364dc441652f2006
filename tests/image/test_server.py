"""The served notebook: who may enter, what is shown, and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.containers import HARDENED, Container, once, wait_for
from tests.image.store import ROOT, call
from tests.ui.lab import Lab, Notebook, chromium

pytestmark = pytest.mark.image

Start = Callable[..., Container]
RUNTIME = "/tmp/jupyter-runtime"
HEARS = """
import sys
from jupyter_client import BlockingKernelClient
client = BlockingKernelClient(connection_file=sys.argv[1])
client.load_connection_file()
client.start_channels()
client.wait_for_ready(timeout=300)
client.stop_channels()
"""
"""Waits for a kernel."""
SHIPPED = {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_it_is_entered_with_the_token_alone(start: Start) -> None:
    container = start()
    assert container.get("/api/contents")[0] == 403
    assert container.get("/api/contents", "wrong")[0] == 403
    assert container.get("/api/contents", container.token)[0] == 200


def test_a_random_token_is_made_where_none_is_given(start: Start) -> None:
    container = start(token=False)
    (token,) = set(re.findall(r"\?token=([0-9a-f]+)", container.log))
    assert len(token) == 48
    assert container.get("/api/contents")[0] == 403
    assert container.get("/api/contents", token)[0] == 200


def test_a_token_is_read_from_a_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a-long-word-from-a-file\n", encoding="utf-8")
    file.chmod(0o644)
    container = start(
        f"--volume={file}:/run/secrets/token:ro", "--env=JUPYTER_TOKEN_FILE=/run/secrets/token", token=False
    )
    assert container.get("/api/contents", "a-long-word-from-a-file")[0] == 200
    assert container.get("/api/contents")[0] == 403


@pytest.mark.parametrize(
    ("options", "command", "says"),
    [
        (["--user=0"], [], "runs as root, which is refused: .*--user"),
        (["--user=0"], ["bash"], "runs as root"),
        (["--env=JUPYTER_TOKEN="], [], "JUPYTER_TOKEN is empty"),
        (
            ["--env=JUPYTER_TOKEN_FILE=/nowhere"],
            [],
            "JUPYTER_TOKEN_FILE: /nowhere cannot be read: .*; let uid 1000 read it",
        ),
        ([], ["--IdentityProvider.token="], "--IdentityProvider.token is empty"),
        ([], ["--IdentityProvider.token=''"], "--IdentityProvider.token is empty"),
        ([], ["jupyter", "lab", "--ServerApp.token", ""], "--ServerApp.token is empty"),
        ([], ["jupyter-lab", "--NotebookApp.token="], "--NotebookApp.token is empty"),
        ([], ["jupyter", "notebook", "--LabApp.token="], "--LabApp.token is empty"),
    ],
)
def test_root_and_an_empty_token_are_refused(image: str, options: list[str], command: list[str], says: str) -> None:
    done = once(image, "--network=none", *options, command=command)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert re.match(f"tokmagic: {says}", line)


@pytest.mark.parametrize("trait", ["IdentityProvider", "ServerApp"])
def test_an_empty_token_in_a_configuration_file_is_refused(image: str, trait: str, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    file = folder / "jupyter_server_config.json"
    file.write_text(json.dumps({trait: {"token": ""}}), encoding="utf-8")
    for path in (folder, file):
        path.chmod(0o755)
    done = once(image, "--network=none", f"--volume={folder}:/home/tokmagic/.jupyter:ro")
    assert done.returncode not in {0, 137}
    assert "tokmagic: a configuration file sets an empty token" in done.stderr


def test_the_sidebar_is_served(start: Start) -> None:
    container = start()
    status, page = container.get("/lab", container.token)
    assert status == 200
    found = re.search(
        r'<script id="jupyter-config-data" type="application/json">(.+?)</script>', page.decode(), re.DOTALL
    )
    assert found
    (extension,) = [entry for entry in json.loads(found[1])["federated_extensions"] if entry["name"] == "tokmagic"]
    status, entry = container.get(f"/lab/extensions/tokmagic/{extension['load']}", container.token)
    assert status == 200
    assert b"tokmagic" in entry
    assert "tokmagic v" in container.exec("sh", "-c", "jupyter labextension list 2>&1 | grep OK")


def test_a_browser_shows_the_sidebar_and_a_run(start: Start, notebooks: Path, data: str) -> None:
    container = start(*HARDENED, f"--volume={notebooks}:/workspace/notebooks", f"--volume={data}:/data")
    lab = Lab(f"{container.url}/", container.token, notebooks)
    name = lab.notebook("cell.ipynb", ["%load_ext tokmagic", "%%generate --max-tokens 8\nSay hello."])
    with chromium() as browser:
        notebook = Notebook(browser.new_page(), lab, name)
        notebook.run(0)
        notebook.wait_connection("ready")
        notebook.run(1)
        row = notebook.row("cell-1")
        row.wait("ok")
        assert (row.raw("input"), row.raw("output")) == ("33", "8")
    # The kernel's row and the shared engine's of the same run.
    (run, there) = sorted(container.ledger(), key=lambda row: bool(row["duplicate"]))
    assert (run["input_tokens"], run["output_tokens"]) == (33, 8)
    assert (run["input_source"], run["duplicate"], there["client_run_id"]) == ("reported", False, run["run_id"])


def test_notebooks_share_one_model_which_is_started_anew(start: Start, notebooks: Path, data: str) -> None:
    container = start(*HARDENED, f"--volume={notebooks}:/workspace/notebooks", f"--volume={data}:/data")
    lab = Lab(f"{container.url}/", container.token, notebooks)
    kernels = [lab.api("POST", "kernels", {"name": "python3"}) for _ in range(2)]
    assert len(kernels) == 2
    engine = wait_for(lambda: serving(container), container)
    container.exec("sh", "-c", f"kill -KILL {engine}")
    # At once, where it had run for long.
    assert re.search("it is started again in [01] s", container.wait_line("^engine: the shared engine ended"))
    container.wait_healthy()
    wait_for(lambda: serving(container) not in {None, engine}, container)


def serving(container: Container) -> int | None:
    """The process of the shared engine once it answers, as the health check reads it."""
    told = json.loads(container.exec("cat", "/tmp/tokmagic-engine-1000.json"))
    return int(told["pid"]) if told["state"] == "serving" else None


def test_the_shared_engine_can_be_switched_off(start: Start) -> None:
    container = start("--env=TOKMAGIC_SHARED_ENGINE=off")
    assert container.exec("sh", "-c", "ls /tmp/tokmagic-engine-* 2>/dev/null || true") == ""
    assert "tokmagic.serve" not in container.log


def test_it_is_healthy_while_its_server_answers(start: Start) -> None:
    container = start(*HARDENED)
    container.wait_healthy()
    # The server is tini's child; held, it answers nobody.
    server = container.exec("cat", "/proc/1/task/1/children").split()[0]
    container.exec("sh", "-c", f"kill -STOP {server}")
    assert call("podman", "healthcheck", "run", container.name, check=False).returncode == 1
    container.exec("sh", "-c", f"kill -CONT {server}")


def test_it_ends_by_sigterm_with_its_kernels(start: Start) -> None:
    container = start()
    lab = Lab(f"{container.url}/", container.token, Path("/"))
    kernel = lab.api("POST", "kernels", {"name": "python3"})["id"]
    # One that does not hear yet is given half of that to end.
    container.exec("python", "-c", HEARS, f"{RUNTIME}/kernel-{kernel}.json")
    state = container.stop()
    # Docker's grace is 10 s: a server that had not ended by itself would have been killed, with 137.
    assert state["ExitCode"] == 0
    assert "received signal 15, stopping" in container.log
    assert "Shutting down 1 kernel" in container.log


@pytest.mark.parametrize("user", ["1000", "4711", "4711:4711"])
def test_it_runs_without_rights_as_any_user(start: Start, notebooks: Path, tmp_path: Path, user: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    container = start(
        *HARDENED, f"--user={user}", f"--volume={notebooks}:/workspace/notebooks", f"--volume={data}:/data"
    )
    assert container.exec("id", "-u").strip() == user.split(":")[0]
    done = container.exec("sh", "-c", "echo Say hello. | tokmagic run --max-tokens 4")
    assert done.strip()
    (run,) = container.ledger()
    assert run["output_tokens"] == 4
    assert (data / "ledger.sqlite").stat().st_uid == int(user.split(":")[0])


def test_an_empty_folder_gets_the_notebooks_and_what_is_there_is_left(start: Start, notebooks: Path) -> None:
    volume = f"--volume={notebooks}:/workspace/notebooks"
    container = start(volume)
    assert {path.name: path.read_bytes() for path in notebooks.iterdir()} == SHIPPED
    lab = Lab(f"{container.url}/", container.token, notebooks)
    body = {"type": "file", "format": "text", "content": "written inside"}
    lab.api("PUT", "contents/note.txt", body)
    assert (notebooks / "note.txt").read_text(encoding="utf-8") == "written inside"
    (notebooks / "01_quickstart.ipynb").write_text("mine", encoding="utf-8")
    (notebooks / "02_budgets_and_reports.ipynb").unlink()
    start(volume)
    assert (notebooks / "01_quickstart.ipynb").read_text(encoding="utf-8") == "mine"
    assert not (notebooks / "02_budgets_and_reports.ipynb").exists()
