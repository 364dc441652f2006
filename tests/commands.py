"""The command as a person runs it, in this process: what it printed, and its exit status."""

from __future__ import annotations

import atexit
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tokmagic.cli import main
from tokmagic.runs import api

Command = Callable[..., subprocess.CompletedProcess[str]]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Settings that keep a command in a folder of its own."""
    return {"TOKMAGIC_HOME": str(folder), "TOKMAGIC_LEDGER": f"sqlite:///{folder}/ledger.sqlite", **more}


def command_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run commands in ``folder``: ``run("run", "-", text="Hi")``; more settings by keyword."""

    def run(*words: str, text: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(folder, **settings).items():
                patch.setenv(name, value)
            patch.chdir(folder)
            patch.setattr(api, "_session", None)
            patch.setattr(sys, "stdin", io.StringIO(text))
            capsys.readouterr()
            status = main(words)
            if made := api.made_session():  # as at the process's end
                atexit.unregister(made.close)
                made.close()
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, shown.out, shown.err)

    return run
