"""The kernel's side of the process that runs llama.cpp: starts it, sends it runs, hands on what it tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from tokmagic.core.stream import Finished, Logprob, Token, Usage
from tokmagic.core.stream import Started as Begun
from tokmagic.engines.llamacpp.messages import (
    Command,
    Ended,
    Failed,
    Load,
    Message,
    Piece,
    Ready,
    Request,
    Score,
    Scored,
    Started,
    Stop,
    command_line,
    message_of,
)
from tokmagic.engines.local.stream import LocalStream
from tokmagic.errors import ModelError

_WORKER = "tokmagic.engines.llamacpp.worker"
_PATIENCE_S = 5.0
# How often a thread looks whether the others are done before it sleeps. By default it looks for milliseconds; beside a
# busy process the others meanwhile wait for the very core that it does so on.
_WAITING = {"GOMP_SPINCOUNT": "300"}


class RunStream(LocalStream):
    """A run's events; closing it tells the process."""

    def __init__(self, stop: Callable[[], None], submitted_ns: int, input_tokens: int) -> None:
        super().__init__()
        self._stop = stop
        self._submitted_ns = submitted_ns
        self._input_tokens = input_tokens

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stop()

    def take(self, message: Message) -> None:
        """Turn what the process says of this run into its next event."""
        if isinstance(message, Started):
            self.put(Begun(self._submitted_ns, Usage.measured(self._input_tokens, 0), message.prefill_ns))
        elif isinstance(message, Piece):
            logprobs = () if message.logprob is None else (Logprob(*message.logprob),)
            self.put(Token(message.at_ns, message.text, message.token, message.choice, logprobs=logprobs))
        elif isinstance(message, Ended):
            usage = Usage.measured(self._input_tokens, message.generated)
            self.put(Finished(message.at_ns, message.reasons, usage, message.tails, device_s=message.device_s))
        elif isinstance(message, Failed):
            self.fail(message.error)


class Process:
    """One process with one model. Its messages are read by a thread of this one."""

    def __init__(self, name: str, load: Load, ended: Callable[[Process], None]) -> None:
        """Start it; :meth:`wait` until it is ready. ``ended`` is told if it ends by itself, maybe twice."""
        self._name = name
        self._ended = ended
        self._lock = threading.Lock()
        self._streams: dict[str, RunStream] = {}
        self._scores: dict[str, Future[float]] = {}
        self._runs = 0
        self._closing = self._over = False
        self._ready: Future[None] = Future()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=_WAITING | os.environ,
            bufsize=0,  # a buffer has a lock, which in a forked child would stay locked
            start_new_session=True,  # Ctrl-C in a terminal is for the kernel, which then stops the run
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._commands, self._messages = self._popen.stdin, self._popen.stdout
        self._send(load)
        self._reader = threading.Thread(target=self._read, name=f"tokmagic-{name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait(self) -> None:
        """Wait until the model is loaded. Raises ModelError, OutOfMemoryError."""
        self._ready.result()

    def run(self, request: Request, submitted_ns: int) -> RunStream:
        """Have a prompt run; its id is given here. Raises nothing: what goes wrong comes out of the stream."""
        with self._lock:
            self._runs += 1
            run = str(self._runs)
            stream = RunStream(lambda: self._send(Stop(run)), submitted_ns, len(request.ids))
            self._streams[run] = stream
        self._send(replace(request, run=run))
        if self._over:
            self._lose()
        return stream

    def score(self, ids: tuple[int, ...]) -> float:
        """Return the mean of minus the logarithm of each id's probability, but the first's. Raises ModelError."""
        future: Future[float] = Future()
        with self._lock:
            self._runs += 1
            run = str(self._runs)
            self._scores[run] = future
        self._send(Score(run, ids))
        if self._over:
            self._lose()
        return future.result()

    def close(self) -> None:
        """End it; what still runs fails."""
        self._closing = True
        with suppress(OSError):
            self._commands.close()
        try:
            self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._reader.join()
        self._messages.close()
        self._complaints.close()

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's, which alone may end it."""
        for pipe in (self._commands, self._messages, self._complaints):
            pipe.close()
        self._popen.returncode = 0  # it is no child of this process, so there is nothing to wait for

    def _send(self, command: Command) -> None:
        line = command_line(command)
        # Where it has ended, the reader tells all who wait.
        with self._lock, suppress(OSError, ValueError):
            while line:
                line = line[self._commands.write(line) :]

    def _read(self) -> None:
        with open(self._messages.fileno(), "rb", closefd=False) as messages:
            for line in messages:
                if line.endswith(b"\n"):  # the last one may be cut where the process ended
                    self._dispatch(message_of(line))
        self._popen.wait()
        self._lose()

    def _dispatch(self, message: Message) -> None:
        if isinstance(message, Ready):
            self._ready.set_result(None)
        elif isinstance(message, Failed) and not message.run:
            if not self._ready.done():
                self._ready.set_exception(message.error)
        elif isinstance(message, Scored):
            self._scores.pop(message.run).set_result(message.mean_nll)
        elif isinstance(message, Failed) and message.run in self._scores:
            self._scores.pop(message.run).set_exception(message.error)
        else:
            stream = self._streams[message.run]
            if isinstance(message, Ended | Failed):
                del self._streams[message.run]
            stream.take(message)

    def _lose(self) -> None:
        """It has ended, and all that it told is read: so have all that wait for it."""
        error = ModelError(f"{self._name} {self._why()}")
        with self._lock:
            self._over = True  # who asks from now on is told by the thread that asks
            streams, self._streams = list(self._streams.values()), {}
            scores, self._scores = list(self._scores.values()), {}
        for stream in streams:
            stream.fail(error)
        for future in scores:
            future.set_exception(error)
        if not self._ready.done():
            self._ready.set_exception(error)
        if not self._closing:
            self._ended(self)

    def _why(self) -> str:
        if self._closing:
            return "was unloaded meanwhile; run the cell again"
        code = self._popen.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        with suppress(OSError, ValueError):
            self._complaints.seek(0)
            lines = self._complaints.read().decode(errors="replace").split("\n")
            if last := next((line.strip() for line in reversed(lines) if line.strip()), ""):
                how += f", {last}"
        return f"was lost: llama.cpp's process ended ({how}); run the cell again, which loads it anew"
