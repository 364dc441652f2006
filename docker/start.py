"""What the container starts with: look at the volumes, say what is missing, then become the command.

    start.py COMMAND [ARGUMENT …]

Each problem is one line on stderr, and none of them keeps the server from starting; ``tokmagic doctor``
adds its lines a little later, from a process of its own. Beside a server of notebooks stands a shared engine for all of
its kernels (``engine.py``). Three things are refused: root, an empty token or one
that cannot be read, and a folder for temporary files that cannot be written.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import access
import engine
import tokmagic_settled
import volumes

BAKED = Path("/opt/models")
NOTEBOOKS = Path("/opt/tokmagic/share/tokmagic/notebooks")
DOCTOR_S = 120


def main(words: list[str]) -> None:
    """Prepare what the command needs and become it. Ends with status 2 where it must not start."""
    given = dict(os.environ)
    command = access.command(words, given)
    refusal = access.refusal(command, os.getuid(), given) or volumes.temporary_fault(tokmagic_settled.temporary())
    if refusal:
        say(refusal)
        raise SystemExit(2)
    lines = [*prepare_secrets(), *prepare_data(), *prepare_notebooks()]
    with contextlib.suppress(OSError):  # somebody else's file is in its place
        tokmagic_settled.keep(given, os.environ)
    for line in lines:
        say(line)
    if access.is_server(command):
        call_doctor()  # first: it is to look at the models of this machine
        for line in engine.start(os.environ):
            say(line)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what it becomes would too
    try:
        os.execvp(command[0], command)
    except OSError as error:
        say(f"{command[0]} cannot be run: {error.strerror}")
        raise SystemExit(127) from error


def prepare_secrets() -> list[str]:
    """Take what is secret from the files that NAME_FILE names, an empty file being none; return the problems."""
    lines = []
    for name in ("JUPYTER_TOKEN", "PGPASSWORD"):
        if file := os.environ.pop(f"{name}_FILE", ""):
            secret, fault = access.secret(file)
            if fault:
                lines.append(f"{name}_FILE: {fault}")
            elif secret:
                os.environ[name] = secret
    return lines


def prepare_data() -> list[str]:
    """Settle where models and the ledger are kept, and a home that can be written; return the problems."""
    data = Path(os.environ.get("TOKMAGIC_HOME") or "/data").expanduser()
    hub = Path(os.environ.get("HF_HOME") or data / "hf").expanduser()
    elsewhere = bool(os.environ.get("TOKMAGIC_LEDGER"))
    home, lines = volumes.settle_data(data, tokmagic_settled.temporary(), ledger_elsewhere=elsewhere)
    if home != data:
        hub = home / "hf" if hub.is_relative_to(data) else hub
        volumes.link_models(data, home, hub)
    os.environ |= {"TOKMAGIC_HOME": str(home), "HF_HOME": str(hub)}  # though given, they may be empty
    volumes.link_models(BAKED, home, hub)
    if volumes.fault(Path(os.environ.get("HOME") or "/")):
        folder = home / "home"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(folder)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # an arbitrary --user has no name, and libraries ask for one
        os.environ.setdefault("USER", f"uid-{os.getuid()}")
    return lines


def prepare_notebooks() -> list[str]:
    """Give an empty notebooks folder the notebooks that come with the image; return the problems."""
    folder = Path(os.environ.get("JUPYTERHUB_ROOT_DIR") or Path.cwd()).expanduser()
    lines = volumes.notebook_faults(folder)
    if not volumes.fault(folder, volumes.NOTEBOOK_BYTES):
        volumes.copy_notebooks(NOTEBOOKS, folder)
    return lines


def call_doctor() -> None:
    """Let the doctor look at GPU, driver and model beside the start, and report the problems.

    A shell starts it and ends, so that it becomes tini's child: the server would never collect it.
    """
    doctor = Path(sys.executable).with_name("tokmagic")
    line = f"nice timeout {DOCTOR_S} {doctor} doctor --brief 2>&1 | sed 's/^/tokmagic: /' >&2 &"
    subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


def say(line: str) -> None:
    """One line for the container's log."""
    print(f"tokmagic: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
