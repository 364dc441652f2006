"""Which processes still live: each holds a file lock that the operating system releases at its death."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from filelock import FileLock, Timeout


class Liveness:
    """Owners of running rows, as lock files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid: int | None = None
        self._owner = ""
        self._lock: FileLock | None = None

    def owner(self) -> str:
        """This process's owner id; its lock is taken at the first call. Raises OSError."""
        if self._pid != os.getpid():  # a forked child is a process of its own
            owner = uuid.uuid4().hex
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(self._path(owner), thread_local=False, mode=0o600)
            lock.acquire(blocking=False)
            self._sweep(owner)
            self._owner, self._lock, self._pid = owner, lock, os.getpid()
        return self._owner

    def is_dead(self, owner: str) -> bool:
        """Whether the process that wrote ``owner`` has ended. Its lock file is removed then."""
        if owner == self._owner and self._pid == os.getpid():
            return False
        path = self._path(owner)
        if not path.exists():
            return True
        try:
            with FileLock(path, thread_local=False, blocking=False):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def _sweep(self, but: str) -> None:
        """Remove what ended processes left behind; a missing file means a dead owner."""
        for path in self._folder.glob("*.lock"):
            if path.stem != but:
                self.is_dead(path.stem)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"
