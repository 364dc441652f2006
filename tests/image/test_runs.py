"""Runs inside the container: the same tokens and text as outside, kept in the volume."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.image.containers import HARDENED, Container
from tests.image.store import ROOT, base_image
from tokmagic.ledgers import Ledger
from tokmagic.reports.exports import export_row

pytestmark = [pytest.mark.image, pytest.mark.model]

Start = Callable[..., Container]
NAME = "01_quickstart.ipynb"
NUMBERS = re.compile(r"<p><em>[^\n]*</em></p>\s*$")
SAME = (
    "status",
    "input_tokens",
    "output_tokens",
    "input_source",
    "output_source",
    "cost_usd",
    "prompt_sha256",
    "revision",
)


def answers(notebook: Path) -> list[tuple[str, str]]:
    """The text of each prompt cell's output, with the cell's id; the line of numbers under it differs by its times."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = [
        (cell["id"], output["data"].get("text/markdown") or output["data"]["text/plain"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output.get("metadata", {}).get("tokmagic")
    ]
    return [(cell, NUMBERS.sub("", "".join(text))) for cell, text in found]


@pytest.fixture(scope="module")
def on_the_host(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """The quickstart run on this machine: its rows, and the notebook with its outputs."""
    folder = tmp_path_factory.mktemp("host")
    ledger = f"sqlite:///{folder}/ledger.sqlite"
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output-dir",
        str(folder),
    ]
    settings = {"TOKMAGIC_HOME": str(model_home), "TOKMAGIC_LEDGER": ledger, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(ROOT / "notebooks" / NAME)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    opened = Ledger(ledger)
    rows = [export_row(record) for record in opened.runs()]
    opened.close()
    return rows, folder / NAME


def execute(container: Container, name: str = NAME) -> None:
    """Run a notebook inside, in place, as a person's save would leave it."""
    container.exec("jupyter", "nbconvert", "--log-level=ERROR", "--to", "notebook", "--inplace", "--execute", name)


def test_the_quickstart_gives_the_same_tokens_and_text_as_on_the_host(
    start: Start, on_the_host: tuple[list[dict[str, Any]], Path], notebooks: Path, data: str, model_home: Path
) -> None:
    options = [*HARDENED, f"--volume={notebooks}:/workspace/notebooks", f"--volume={data}:/data"]
    container = start(*options)
    # What is fastest on this machine is measured once for each data folder, and two ways round elsewhere.
    chosen = (model_home / "arithmetic.json").read_text(encoding="utf-8")
    container.python(f"import pathlib; print(pathlib.Path('/data/arithmetic.json').write_text({chosen!r}))")
    execute(container)
    assert container.exec("cat", "/data/arithmetic.json") == chosen
    inside, (outside, executed) = container.ledger(), on_the_host
    for name in ("torch", "arithmetic"):
        assert [row["env"].get(name) for row in inside] == [row["env"].get(name) for row in outside]
    assert [{key: row[key] for key in SAME} for row in inside] == [{key: row[key] for key in SAME} for row in outside]
    assert len(inside) == 4
    # Written through the volume: what the container saved is read here.
    assert answers(notebooks / NAME) == answers(executed)
    assert len(answers(executed)) == 4


def test_rows_say_which_image_they_ran_in_and_outlive_it(start: Start, data: str, image: str) -> None:
    volume = f"--volume={data}:/data"
    first = start(volume)
    first.exec("sh", "-c", "echo Say hello. | tokmagic run --max-tokens 4")
    (before,) = first.ledger()
    settings = first.python("import os, json; print(json.dumps(dict(os.environ)))")
    assert before["env"]["image"] == settings["TOKMAGIC_IMAGE"]
    assert before["env"]["image_base"] == settings["TOKMAGIC_IMAGE_BASE"] == base_image()
    assert first.stop()["ExitCode"] == 0
    second = start(volume)
    assert second.ledger() == [before]
    second.exec("sh", "-c", "echo Say hello. | tokmagic run --max-tokens 4")
    assert len(second.ledger()) == 2


def test_a_started_container_answers_with_the_baked_model(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints how long the first token takes from `podman run` on; that is a figure, not an assertion."""
    began = time.time()
    container = start(*HARDENED, network="none", ready=False)
    container.wait_line("models go into .*; docker run -v tokmagic:/data$")
    container.wait_line("notebooks is read-only; .*; docker run -v ./notebooks:/workspace/notebooks$")
    run = "echo Say hello. | tokmagic run --max-tokens 4 && tokmagic export"
    said = container.exec("sh", "-c", run)
    assert json.loads(said.splitlines()[-1])["output_tokens"] == 4
    finished = time.time()
    with capsys.disabled():
        sys.stderr.write(f"\nimage: from `podman run` to a metered answer of 4 tokens {finished - began:.1f} s\n")
