"""A program on a pseudo-terminal, IPython by its prompts."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """A program on a pseudo-terminal."""

    PROMPT = re.compile(r"In \[\d+\]: $")
    IPYTHON = ("-m", "IPython", "--no-banner", "--colors=nocolor", "--simple-prompt")

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.seen = ""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, close_fds=True, env=env, cwd=cwd
        )
        os.close(slave)
        self._until_prompt()

    def ask(self, line: str) -> str:
        """Type a line and return what came until the next prompt."""
        before = len(self.seen)
        os.write(self._master, f"{line}\n".encode())
        self._until_prompt(before)
        return self.seen[before:]

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._master)

    def _until_prompt(self, start: int = 0, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self._master], [], [], 1.0)
            if ready:
                self.seen += os.read(self._master, 65536).decode("utf-8", "replace")
            if len(self.seen) > start and self.PROMPT.search(self.seen):
                return
        raise TimeoutError(self.seen)
