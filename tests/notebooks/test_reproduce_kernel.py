"""``tokmagic reproduce`` where a real kernel is the point: that it starts, hangs, dies, and is gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import papermill
import psutil
import pytest

from tests.examples import first
from tests.notebooks.commands import CELLS, FREEZE, Command, Desk
from tokmagic.notebooks import saved

SLOW = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def started(desk: Desk, **more: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tokmagic.cli", "reproduce", "nb.ipynb"],
        cwd=desk.folder,
        env={**os.environ, **desk.environment, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_notebook_that_papermill_ran_gives_the_same_in_a_new_kernel(
    empty: Desk, reproduce_in_kernel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.write(*CELLS)
    for name, value in empty.environment.items():
        monkeypatch.setenv(name, value)
    ran = empty.folder / "ran.ipynb"
    papermill.execute_notebook(empty.notebook, ran, progress_bar=False, kernel_name="python3", cwd=str(empty.folder))
    done = reproduce_in_kernel(empty, "-o", "out.ipynb")
    assert (done.status, done.err) == (0, ""), done
    assert done.out.splitlines()[-1] == "5 runs compared with nb.tokmagic.json: the same"
    before, after = (
        [run_id for cell in saved.read(file.read_bytes(), file.name).cells for run_id in cell.ran_in]
        for file in (ran, empty.folder / "out.ipynb")
    )
    assert len(after) == len(before) == 2, "the others are quiet"
    assert not {*after} & {*before}


@pytest.mark.slow
@pytest.mark.model
def test_the_default_model_gives_the_same_and_tells_what_makes_another_answer(
    empty: Desk, reproduce_in_kernel: Command, model_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Desk, "environment", {"TOKMAGIC_HOME": str(model_home), "TOKMAGIC_LEDGER": empty.url})
    setup = "%load_ext tokmagic\n%price smollm2 --input 0.15 --output 0.60"
    by_itself = "%%generate --max-tokens 5\nName three rivers."
    seeded = "%%generate --max-tokens 5 --temperature 1.5 --seed 7\nName three rivers."
    empty.write(setup, by_itself, seeded, "import tokmagic", seeded, FREEZE)
    empty.execute(TOKMAGIC_CACHE="off")
    # Without a temperature this model takes the likeliest token by itself.
    assert [cell["runs"][0]["drawn"] for cell in empty.body()["cells"]] == ["greedy", "seeded", "seeded"]
    other = "%model add other smollm2 --dtype fp32\n%model use other\n%price other --input 1 --output 1"
    empty.write(setup, by_itself, seeded, other, seeded.replace("--seed 7", "--seed 8"))
    done = reproduce_in_kernel(empty, "--json")
    same = [("cell 2 (c1)", "same"), ("cell 3 (c2)", "same")]
    assert (done.status, done.states()) == (1, [*same, ("cell 5 (c4)", "changed")])
    changed = done.json["runs"][2]
    assert {"text", "cost"} <= {change["kind"] for change in changed["changes"]}
    differences = {it["what"]: (it["was"], it["now"]) for it in changed["differences"]}
    assert differences["seed"] == ("7", "8")
    assert differences["its dtype"] == ("bfloat16", "float32")
    assert "the rates" in differences


@pytest.mark.slow
def test_a_cell_that_hangs_ends_at_the_timeout_and_its_kernel_with_it(desk: Desk, reproduce_in_kernel: Command) -> None:
    desk.write(SLOW)
    done = reproduce_in_kernel(desk, "--timeout", "3")
    assert (done.status, done.err) == (1, "")
    assert done.out.splitlines()[-1] == (
        "nb.ipynb: cell 1 (c0) did not end within 3 s; fix it, or allow more time with --timeout"
    )
    assert is_gone(int((desk.folder / "pid").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ('{"argv": ["false", "{connection_file}"], "display_name": "dead", "language": "python"}', "Kernel died"),
        ('{"argv": ["/none/python"], "display_name": "dead", "language": "python"}', "[Errno 2] No such file"),
        ('{"argv": [], "display_name": "dead", "language": "python"}', "list index out of range"),
        ("{", "Expecting property name"),
        ("[]", "jupyter_client"),
        ('{"env": 5}', "The 'env' trait"),
    ],
)
def test_a_kernel_that_does_not_start_is_told(
    desk: Desk, reproduce_in_kernel: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, says: str
) -> None:
    folder = tmp_path / "jupyter" / "kernels" / "dead"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(spec, encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    told = reproduce_in_kernel(desk, "--kernel", "dead").error(1)
    assert told.startswith(f"the kernel dead did not start: {says}")
    assert told.endswith("; reinstall it, or name another with --kernel")


def test_a_kernel_that_is_not_installed_is_told(desk: Desk, reproduce_in_kernel: Command) -> None:
    assert reproduce_in_kernel(desk, "--kernel", "julia-9").error(2) == (
        "the notebook's kernel 'julia-9' is not installed here; install it, or name another with --kernel"
    )


@pytest.mark.slow
def test_a_kernel_that_dies_is_told(desk: Desk, reproduce_in_kernel: Command) -> None:
    desk.write("import os", "os._exit(3)")
    done = reproduce_in_kernel(desk)
    assert (done.status, done.err) == (1, "")
    assert "nb.ipynb: the kernel died in cell 2 (c1); run the notebook by hand to see why" in done.out


@pytest.mark.parametrize(
    ("kind", "ignored"),
    first(1, [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGTERM, False)]),
)
def test_an_interrupt_ends_the_kernel_and_leaves_nothing_behind(
    desk: Desk, tmp_path: Path, kind: signal.Signals, ignored: bool
) -> None:
    desk.write(SLOW)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    # What a shell runs in the background ignores SIGINT.
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:
        command = started(desk, TMPDIR=str(temporary))
    finally:
        if ignored:
            signal.signal(signal.SIGINT, earlier)
    written = desk.folder / "pid"
    deadline = time.monotonic() + 120
    while not (written.is_file() and written.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send_signal(kind)
    out, err = command.communicate(timeout=60)
    assert (command.returncode, out, err) == (130, "", "tokmagic: interrupted\n")
    assert is_gone(int(written.read_text()))
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_reader_that_goes_away_makes_no_change_a_success(desk: Desk) -> None:
    desk.write("1")
    command = started(desk)
    assert command.stdout is not None
    command.stdout.close()
    assert command.wait(timeout=120) == 1
