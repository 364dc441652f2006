"""A thread of its own for a model, and what becomes of the work that is given to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from tokmagic.errors import ModelError, TokmagicError


class Worker:
    """The inference thread: torch keeps state for each thread, so a model has exactly one."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Have work done, one after another; whatever it raises comes out of the future as a TokmagicError."""
        future: Future[None] = Future()
        self._jobs.put((work, future))
        return future

    def stop(self) -> None:
        """End the thread: torch aborts the process if it is still there when the interpreter goes."""
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            if (error := _failure(work)) is None:
                future.set_result(None)
            else:
                future.set_exception(error)
            del job, work, future, error  # they would keep what the work saw in memory


def _failure(work: Callable[[], None]) -> TokmagicError | None:
    try:
        work()
    except Exception as raised:
        error = raised if isinstance(raised, TokmagicError) else ModelError(f"{type(raised).__name__}: {raised}")
        # A traceback would keep the frames, and with them the tensors, alive in the notebook.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
    return None
