"""The container's shared engine: ``tokmagic serve`` beside the server of notebooks, started anew whenever it ends.

    engine.py PORT SERVER_PID

``start`` is called by the start program, before it becomes the server. The watcher that it starts makes a key for the
container and tells its secret once, through a pipe; from then on it keeps the engine running until the server has gone.
It writes down how the engine does (``state_file``), for the health check.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

SWITCH = "TOKMAGIC_SHARED_ENGINE"
URL, KEY = "TOKMAGIC_ENGINE_URL", "TOKMAGIC_ENGINE_KEY"
_OFF = frozenset({"off", "0", "false", "no"})
_ON = frozenset({"", "on", "1", "true", "yes"})
# Where one of these is given the default model runs elsewhere already.
_ELSEWHERE = (URL, "TOKMAGIC_API_BASE", "TOKMAGIC_API_KEY_NAME")
_KEY_S = _LISTENING_S = 60.0
_LOOK_S = 0.5
_LONGEST_PAUSE_S = 60.0
_STEADY_S = 60.0
"""An engine that ran for so long is started anew at once."""
_DRAIN_S = 3
_END_S = 10.0


def wanted(environ: Mapping[str, str]) -> tuple[bool, list[str]]:
    """Whether the container has an engine of its own, and what is wrong with how it was asked for."""
    word = environ.get(SWITCH, "").strip().lower()
    if word in _OFF:
        return False, []
    lines = [] if word in _ON else [f"engine: {SWITCH} is {word!r}; use on or off"]
    return not any(environ.get(name) for name in _ELSEWHERE), lines


def start(environ: MutableMapping[str, str]) -> list[str]:
    """Start the engine and tell the server's kernels of it by ``environ``; return the problems."""
    on, lines = wanted(environ)
    if not on:
        return lines
    port, (reading, writing) = _free_port(), os.pipe()
    own = {name: value for name, value in environ.items() if name not in (URL, KEY)}
    # A shell starts it and ends, so that it becomes tini's child: the server would never collect it.
    command = ["sh", "-c", '"$@" &', "sh", sys.executable, "-S", __file__, str(port), str(os.getpid())]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writing, env=own, check=False)
    os.close(writing)
    told = _told(reading)
    if "secret" not in told:
        why = told.get("fault") or f"no key was made within {_KEY_S:.0f} s"
        return [*lines, f"engine: {why}; each notebook loads its own model"]
    environ.update({URL: f"http://127.0.0.1:{port}", KEY: told["secret"]})
    _wait_listening(port)
    return lines


def state_file() -> Path:
    """Where it stands how the engine does."""
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"tokmagic-engine-{os.getuid()}.json"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_listening(port: int) -> None:
    """Wait until the engine takes requests, which it answers once its model is loaded, or has ended.

    A cell that runs before that would be told that nothing listens there.
    """
    deadline = time.monotonic() + _LISTENING_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        with contextlib.suppress(OSError, ValueError):
            if json.loads(state_file().read_text(encoding="utf-8")).get("state") == "ended":
                return
        time.sleep(0.05)


def _told(reading: int) -> dict[str, str]:
    """What the watcher says of the key: its secret, or the fault."""
    text, deadline = b"", time.monotonic() + _KEY_S
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while not text.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
            if not select.select([pipe], (), (), left)[0] or not (part := pipe.read(4096)):
                break
            text += part
    with contextlib.suppress(ValueError):
        found: dict[str, str] = json.loads(text)
        return found
    return {}


class Watcher:
    """Keeps one engine running."""

    def __init__(self, port: int, server: int) -> None:
        self._port = port
        self._server = server
        self._state: dict[str, Any] = {"url": f"http://127.0.0.1:{port}", "starts": 0}

    def run(self) -> None:
        """Make the key, tell it, and keep the engine running until the server has gone."""
        told = self._make_key()
        os.write(1, json.dumps(told).encode() + b"\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the start program waits for no more
        if "secret" not in told:
            return
        self._state["key_id"] = told["key_id"]
        quick = 0
        while self._server_runs():
            began = time.monotonic()
            status = self._serve()
            if status is None:
                return
            quick = 0 if time.monotonic() - began >= _STEADY_S else quick + 1
            pause_s = min(_LONGEST_PAUSE_S, 2.0 ** (quick - 1)) if quick else 0.0
            self._note("ended", status=status)
            say(f"engine: the shared engine ended with status {status}; it is started again in {pause_s:.0f} s")
            self._pause(pause_s)

    def _make_key(self) -> dict[str, str]:
        before = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            # Of an earlier start of this container; nobody has its secret any more.
            before = str(json.loads(state_file().read_text(encoding="utf-8"))["key_id"])
        maker = str(Path(__file__).with_name("engine_key.py"))
        try:
            done = subprocess.run(
                [sys.executable, maker, before], capture_output=True, text=True, timeout=_KEY_S - 5, check=False
            )
            made: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
            return made
        except subprocess.TimeoutExpired:
            return {"fault": "the ledger does not answer"}
        except (OSError, ValueError, IndexError):
            return {"fault": "no key could be made"}

    def _serve(self) -> int | None:
        """Run the engine once and return its status; None where the server has gone."""
        self._state["starts"] += 1
        tokmagic = str(Path(sys.executable).with_name("tokmagic"))
        command = [tokmagic, "serve", "--port", str(self._port), "--drain", str(_DRAIN_S)]
        # In a session of its own: an interrupt at the terminal is the server's.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self._note("starting", pid=child.pid)
            assert child.stdout is not None
            serving = False
            while child.poll() is None:
                if not self._server_runs():
                    return None
                if not serving and select.select([child.stdout], (), (), 0)[0] and child.stdout.readline():
                    serving = True
                    self._note("serving", pid=child.pid)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_LOOK_S)
            return child.returncode
        finally:
            _end(child)

    def _server_runs(self) -> bool:
        try:
            os.kill(self._server, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another has its number now
            return False
        return True

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._server_runs():
            time.sleep(min(_LOOK_S, left))

    def _note(self, state: str, **more: int) -> None:
        path = state_file()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            with path.open("x", encoding="utf-8") as file:  # through nobody's link
                json.dump({**self._state, "state": state, **more}, file)


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_S)
    if child.poll() is None:
        child.kill()
        child.wait()


def say(line: str) -> None:
    """One line for the container's log."""
    print(f"tokmagic: {line}", file=sys.stderr, flush=True)


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    Watcher(int(sys.argv[1]), int(sys.argv[2])).run()
