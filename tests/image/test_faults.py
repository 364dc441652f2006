"""What is missing is one line on stderr, and the server starts all the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.containers import WAIT_S, Container
from tests.image.store import ROOT

pytestmark = pytest.mark.image

Start = Callable[..., Container]
DATA = "--volume={data}:/data"
NOTEBOOKS = "--volume={notebooks}:/workspace/notebooks"
LOST = "are lost with the container"
ASK = (
    "import urllib.request as u, time\n"
    f"for _ in range({round(WAIT_S / 0.2)}):\n"
    "    try: print(u.urlopen('http://127.0.0.1:8888/api').read().decode()); break\n"
    "    except OSError: time.sleep(0.2)"
)


def notebook_reads(container: Container) -> bool:
    """Whether the server shows the folder's files."""
    status, body = container.get("/api/contents", container.token)
    return status == 200 and json.loads(body)["type"] == "directory"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([NOTEBOOKS], rf"data: no volume at /data; runs and models {LOST}; docker run -v tokmagic:/data"),
        ([NOTEBOOKS, DATA + ":ro"], rf"data: /data is read-only; runs and models go into /tmp/.* {LOST}; .*:ro"),
        ([NOTEBOOKS, "--tmpfs=/data:size=1m,mode=0777"], rf"data: /data is full; .* go into /tmp/.* {LOST}; free"),
        ([NOTEBOOKS, "--volume={root}:/data"], rf"data: /data cannot be written by uid 1000, gid 0; .* {LOST}; "),
        ([DATA], r"notebooks: no volume at /workspace/notebooks; .* is lost with the container; docker run -v "),
        ([DATA, NOTEBOOKS + ":ro"], "notebooks: /workspace/notebooks is read-only; .* cannot be saved; .*:ro"),
        ([DATA, "--tmpfs=/workspace/notebooks:size=1m,mode=0777"], ".*notebooks is full; .* saved; free some space"),
    ],
    ids=["unplugged", "read-only", "full", "not-ours", "notebooks-unplugged", "notebooks-read-only", "notebooks-full"],
)
def test_a_volume_that_cannot_be_used_is_one_line(
    start: Start, data: str, notebooks: Path, tmp_path: Path, options: list[str], line: str
) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    container = start(*(option.format(data=data, notebooks=notebooks, root=root) for option in options))
    container.wait_line(f"^{line}")
    volumes = [said for said in container.lines if said.startswith(("data:", "notebooks:"))]
    assert len(volumes) == 1
    assert notebook_reads(container)
    # A run works and is kept where the server keeps its own.
    run = "echo Hello. | tokmagic run -m scripted --max-tokens 2 && tokmagic export"
    kept = container.exec("sh", "-c", run)
    assert json.loads(kept.splitlines()[-1])["output_tokens"] == 2
    said = re.search(r" go into (\S+) and ", container.log)
    home = said[1] if said else "/data"
    assert container.exec("sh", "-c", f"test -s {home}/ledger.sqlite && echo there").strip() == "there"


def test_a_whole_container_has_nothing_to_say_of_its_volumes(start: Start, data: str, notebooks: Path) -> None:
    container = start(DATA.format(data=data), NOTEBOOKS.format(notebooks=notebooks))
    container.wait_line("^gpu: ")
    assert [line for line in container.lines if not line.startswith("gpu: ")] == []


def test_no_gpu_is_one_line(start: Start) -> None:
    container = start()
    assert container.wait_line("^gpu: ").startswith("gpu: none")
    assert "--gpus all" in container.wait_line("^gpu: ")


def test_a_wrong_driver_is_one_line(start: Start, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to build a stand-in for NVIDIA's library with")
    library = tmp_path / "libnvidia-ml.so.1"
    source = ROOT / "tests" / "fixtures" / "nvml.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    mismatch = "18"  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
    container = start(
        f"--volume={library}:/usr/lib/libnvidia-ml.so.1:ro",
        "--env=LD_LIBRARY_PATH=/usr/lib",
        f"--env=NVML_FAILS={mismatch}",
    )
    assert "the driver's library does not match the version" in container.wait_line("^gpu: ")
    assert [line.startswith("gpu: ") for line in container.lines].count(True) == 1


def test_no_network_and_no_model_is_one_line(start: Start, data: str) -> None:
    container = start("--tmpfs=/opt/models:notmpcopyup", DATA.format(data=data), network="none", ready=False)
    assert "there is no network to fetch it" in container.wait_line("^model: ")
    assert '"version"' in container.exec("python", "-c", ASK)
