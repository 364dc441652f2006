"""The command as a process: closed streams, encodings that lack characters, interrupts while it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import environment
from tests.examples import first
from tokmagic.ledgers import Ledger

COMMAND = [sys.executable, "-m", "tokmagic.cli"]
ODD = "naïve 你好 \U0001f600 fine"


def shell(folder: Path, line: str, *words: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with what a shell makes of its streams: ``"$@" >&-``."""
    settings = {**os.environ, **environment(folder), "TOKMAGIC_MODEL": "scripted", **more}
    command = ["sh", "-c", line, "sh", *COMMAND, *words]
    return subprocess.run(command, env=settings, cwd=folder, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("line", "words", "status", "said"),
    first(
        3,
        [
            ('"$@" <&-', ("run", "-"), 2, b"standard input is closed"),
            ('echo Hi | "$@" >&-', ("run", "-"), 1, b"standard output is closed"),
            ('"$@" <&- >&- 2>&-', ("report",), 1, b""),
            ('"$@" <&-', ("count", "-"), 2, b"standard input is closed"),
            ('"$@" <&-', ("report",), 0, b""),
            ('"$@" >&-', ("export",), 1, b"standard output is closed"),
            ('echo Hi | "$@" 2>&-', ("run", "-"), 0, b""),
            ('"$@" 2>&-', ("run", "nothing.txt"), 2, b""),
            ('"$@" <&- 2>&-', ("doctor", "--brief"), None, b""),
        ],
    ),
)
def test_a_closed_stream_is_no_traceback(
    tmp_path: Path, line: str, words: tuple[str, ...], status: int | None, said: bytes
) -> None:
    done = shell(tmp_path, line, *words)
    assert status is None or done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= (1 if status else 2), done.stderr
    if (tmp_path / "ledger.sqlite").exists():
        assert Ledger(f"sqlite:///{tmp_path}/ledger.sqlite").damage() is None


@pytest.mark.parametrize(
    ("encoding", "how"),
    first(
        1,
        [
            *(("ascii", how) for how in ("streamed", "report", "whole", "json")),
            *(("cp1252", "streamed"), ("gb2312", "json")),
        ],
    ),
)
def test_an_answer_that_an_encoding_lacks_is_spelled_and_whole(tmp_path: Path, encoding: str, how: str) -> None:
    (tmp_path / "script.json").write_text(json.dumps({"pieces": [f"{word} " for word in ODD.split()]}))
    (tmp_path / "prompt.txt").write_text("Hi")
    model = f"scripted:{tmp_path}/script.json"
    words = {"streamed": (), "whole": ("--no-stream",), "json": ("--json",), "report": ("--quiet",)}[how]
    tags = ("--tag", "你好\U0001f600")
    done = shell(tmp_path, '"$@"', "run", "prompt.txt", "-m", model, *tags, *words, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    (row,) = ledger.runs()
    assert row.status == "ok"
    assert ledger.texts(row.run_id) is not None
    ledger.close()
    shown = done.stdout.decode(encoding)
    if how == "json":
        assert json.loads(shown)["text"].split() == ODD.split()
    elif how == "report":
        told = shell(tmp_path, '"$@"', "report", "--by", "tag", PYTHONIOENCODING=encoding)
        assert told.returncode == 0, told.stderr
        exported = shell(tmp_path, '"$@"', "export", PYTHONIOENCODING=encoding)
        assert json.loads(exported.stdout.decode(encoding))["tags"] == ["你好\U0001f600"]
    else:
        spelled = shown.encode("ascii", "backslashreplace").decode()
        assert "fine" in spelled
        assert "4f60" in spelled, "spelled where it cannot be written"


STARTING = """
import os, signal, sys
from tokmagic.cli import main

class Words(list):
    def __iter__(self):  # the first that the command does with them
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return super().__iter__()

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.write(1, b"ready\\n")
sys.exit(main(Words(sys.argv[1:])))
"""


@pytest.mark.parametrize("moment_s", first(1, [0.15, 0.05, 0.4]))
def test_an_interrupt_while_it_starts_is_one_line(tmp_path: Path, moment_s: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTING, "run", "-", "-m", "smollm2"],
        env={**os.environ, **environment(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(moment_s)  # the moment is what is tried out
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert said.decode().splitlines() == ["tokmagic: interrupted"]
    assert child.returncode == 130
