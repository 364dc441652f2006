"""Answers where no update is rendered, and the notebooks of what executes them: consoles, servers, papermill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment
from tests.examples import first
from tests.kernels import running_kernel
from tokmagic.ledgers import Ledger
from tokmagic.runs.whereabouts import notebook_of

ASK = "%%generate\nHi"
CONSOLE = {"allow_stdin": True}
VS_CODES = "vscode-notebook-cell:/home/ada/one.ipynb#W0sZmlsZQ%3D%3D"
"""A cell as VS Code names it."""


@pytest.mark.parametrize(
    ("notebook", "asked", "shows"),
    first(
        3,
        [
            (None, CONSOLE, "printed"),
            ("/home/ada/one.ipynb", CONSOLE, "once"),
            (None, {"allow_stdin": True, "cell_id": "cell-1"}, "updated"),
            (None, {}, "updated"),
        ],
    ),
    ids=["jupyter console", "a server that executes cells", "JupyterLab", "nbclient"],
)
def test_an_answer_is_whole_for_who_renders_no_updates(
    notebook: str | None, asked: dict[str, object], shows: str, tmp_path: Path
) -> None:
    script = {"pieces": [f"word{number} " for number in range(20)], "ttft_s": 0.01, "itl_s": 0.02, "pace": 1}
    (tmp_path / "slow.json").write_text(json.dumps(script), encoding="utf-8")
    there = {"JPY_SESSION_NAME": notebook} if notebook else {}
    there |= environment(tmp_path, TOKMAGIC_MODEL=f"scripted:{tmp_path}/slow.json")
    with running_kernel(**there) as kernel:
        assert kernel.run("%load_ext tokmagic").ok
        ran = kernel.run(ASK, **asked)  # type: ignore[arg-type]
    assert ran.ok, ran.error
    kinds = [message["msg_type"] for message in ran.messages if "display" in message["msg_type"]]
    if shows == "printed":
        assert (kinds, ran.stdout.split()[:20]) == ([], "".join(script["pieces"]).split())
        assert sum(message["msg_type"] == "stream" for message in ran.messages) > 2, "it streams"
        return
    first, last = ran.displays[0], ran.displays[-1]
    assert "word19" in last["data"]["text/plain"]
    assert last["metadata"]["tokmagic"]["output_tokens"] == 20
    assert (kinds == ["display_data"]) == (first == last) == (shows == "once")


IN_AN_OUTPUT = """import ipywidgets
output = ipywidgets.Output()
with output:
    get_ipython().run_cell_magic("generate", "", "Hi")
"""


def test_an_answer_is_whole_in_an_output_of_ipywidgets_and_streams_after_it(tmp_path: Path) -> None:
    """The widget takes in what is displayed, and leaves out what updates it."""
    script = {"pieces": [f"word{number} " for number in range(20)], "ttft_s": 0.01, "itl_s": 0.02, "pace": 1}
    (tmp_path / "slow.json").write_text(json.dumps(script), encoding="utf-8")
    with running_kernel(**environment(tmp_path, TOKMAGIC_MODEL=f"scripted:{tmp_path}/slow.json")) as kernel:
        assert kernel.run("%load_ext tokmagic").ok
        within, after = (kernel.run(source, cell_id="cell-1") for source in (IN_AN_OUTPUT, ASK))
    assert ["word19" in shown["data"]["text/plain"] for shown in within.displays] == [True]
    assert len(after.displays) > 2, "it streams"


@pytest.mark.parametrize(
    ("cell_id", "opened"),
    first(1, [(VS_CODES, []), ("cell-1", ["tokmagic.data"]), (None, [])]),
    ids=["VS Code", "JupyterLab", "nbclient"],
)
def test_a_comm_is_opened_where_a_sidebar_may_be(cell_id: str | None, opened: list[str], tmp_path: Path) -> None:
    with running_kernel(**environment(tmp_path, TOKMAGIC_MODEL="scripted")) as kernel:
        rans = [kernel.run(source, cell_id=cell_id) for source in ("%load_ext tokmagic", ASK)]
    messages = [message for ran in rans for message in ran.messages if message["msg_type"] == "comm_open"]
    assert [message["content"]["target_name"] for message in messages] == opened


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python /opt/bin/papermill in.ipynb out.ipynb -p x 1", "/home/ada/in.ipynb"),
        ("/opt/bin/papermill -k python3 in.ipynb out.ipynb", "/home/ada/in.ipynb"),
        ("python -m papermill a/in.ipynb", "/home/ada/a/in.ipynb"),
        ("papermill /books/in.ipynb s3://bucket/out.ipynb", "/books/in.ipynb"),
        ("papermill s3://bucket/in.ipynb out.ipynb", "s3://bucket/in.ipynb"),
        ("papermill.exe in.ipynb", "/home/ada/in.ipynb"),
        ("papermill", None),
        ("papermill - -", None),
        ("python /opt/bin/jupyter-nbconvert --to notebook --execute in.ipynb", "/home/ada/in.ipynb"),
        ("python -m nbconvert --execute --output out.ipynb in.ipynb", "/home/ada/in.ipynb"),
        ("jupyter-nbconvert --execute --output=out.ipynb in.ipynb", "/home/ada/in.ipynb"),
        ("jupyter-nbconvert --execute one.ipynb two.ipynb", None),
        ("jupyter-execute in.ipynb", "/home/ada/in.ipynb"),
        ("python run.py in.ipynb", None),
        ("python /opt/bin/jupyter-lab in.ipynb", None),
        ("jupyter-console in.ipynb", None),
        ("", None),
    ],
)
def test_a_command_says_which_notebook_it_executes(command: str, expected: str | None) -> None:
    assert notebook_of(command.split(), "/home/ada") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("papermill", "in.ipynb", "out.ipynb", "-k", "python3"),
        ("nbconvert", "--to", "notebook", "--execute", "in.ipynb", "--output", "out.ipynb"),
    ],
    ids=["papermill", "nbconvert"],
)
def test_the_runs_of_an_executed_notebook_are_kept_with_it(command: tuple[str, ...], tmp_path: Path) -> None:
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{at}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for at, source in enumerate(("%load_ext tokmagic", ASK))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}
    (tmp_path / "in.ipynb").write_text(json.dumps(content), encoding="utf-8")
    there = {**os.environ, **environment(tmp_path, TOKMAGIC_MODEL="scripted")}
    subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=there, check=True, capture_output=True)
    ledger = Ledger(there["TOKMAGIC_LEDGER"])
    assert [run.notebook for run in ledger.runs()] == [str(tmp_path / "in.ipynb")]
    ledger.close()
