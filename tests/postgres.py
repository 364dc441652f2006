"""A real PostgreSQL server on loopback, in a folder of its own: started for the tests and ended with them."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

ATTEMPTS = 5


def binaries() -> Path:
    """The folder of the newest server that is installed; Debian keeps it off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None:
        raise RuntimeError("no PostgreSQL server found; install one (Debian: apt-get install postgresql)")
    return Path(on_path).parent


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """Run a server with its data in ``folder`` and yield its address, ``postgres@127.0.0.1:PORT``."""
    data = folder / "data"
    data.mkdir(parents=True)
    if os.getuid() == 0:  # the server refuses to run as root
        folder.chmod(0o755)
        owner = pwd.getpwnam("postgres")
        os.chown(data, owner.pw_uid, owner.pw_gid)
    _as_postgres(
        [
            str(binaries() / "initdb"),
            "-D",
            str(data),
            *["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"],
            "--locale=C.UTF-8",
        ]
    )
    port = _start(data)
    try:
        yield f"postgres@127.0.0.1:{port}"
    finally:
        _as_postgres([str(binaries() / "pg_ctl"), "-D", str(data), "-w", "-m", "immediate", "stop"])


def _start(data: Path) -> int:
    """Start on a free port; another program may take it meanwhile, so that is tried again."""
    for attempt in range(ATTEMPTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={data} -c fsync=off"
        command = [str(binaries() / "pg_ctl"), "-D", str(data), "-w", "-l", str(data / "log"), "-o", settings, "start"]
        try:
            _as_postgres(command)
            return port
        except RuntimeError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _as_postgres(command: list[str]) -> None:
    if os.getuid() == 0:
        command = ["su", "postgres", "-c", shlex.join(command)]
    # Its output goes to a file: a server keeps an inherited pipe open for as long as it runs.
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=False)
    if done.returncode:
        raise RuntimeError(f"{command[:3]} failed with {done.returncode}")


def new_database(address: str) -> str:
    """Make an empty database and return its URL."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"postgresql://{address}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://{address}/{name}"
