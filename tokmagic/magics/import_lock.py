"""Cells and the background take turns at importing.

Of two threads that import transformers at once, one may find it half made ("cannot import name"), and that may be the
person's cell. So what the background has to import waits until no cell runs, and a cell that begins meanwhile waits.
"""

from __future__ import annotations

import threading

_LONGEST_S = 30.0


class ImportLock:
    """The shell calls :meth:`begin` and :meth:`end` around each cell; the background enters ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._cell_has_it = False

    def begin(self) -> None:
        """A cell begins: wait for the background, half a minute at most."""
        if not self._cell_has_it and threading.current_thread() is threading.main_thread():
            self._cell_has_it = self.lock.acquire(timeout=_LONGEST_S)

    def end(self) -> None:
        """A cell has ended, if one had begun."""
        if self._cell_has_it and threading.current_thread() is threading.main_thread():
            self._cell_has_it = False
            self.lock.release()
