"""A thread of its own for a model, and what becomes of the work that is given to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from tokmagic.errors import ModelError, TokmagicError


class Job:
    """The outcome of work on the inference thread."""

    def __init__(
        self,
        work: Callable[[], None],
        on_error: Callable[[TokmagicError], None] | None,
        on_end: Callable[[], None] | None,
    ) -> None:
        self._work = work
        self._on_error = on_error
        self._on_end = on_end
        self._done = threading.Event()
        self._error: TokmagicError | None = None

    def run(self) -> None:
        try:
            self._work()
        except TokmagicError as error:
            self._error = error
        except Exception as error:
            self._error = ModelError(f"{type(error).__name__}: {error}")
        # A traceback would keep the frames, and with them the tensors, alive in the notebook.
        if self._error is not None:
            self._error.__traceback__ = self._error.__context__ = self._error.__cause__ = None
            if self._on_error is not None:
                self._on_error(self._error)
        self._done.set()
        if self._on_end is not None:
            self._on_end()

    def wait(self) -> None:
        """Wait for the end and raise what was raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error


class Worker:
    """The inference thread: torch keeps state for each thread, so a model has exactly one."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(
        self,
        work: Callable[[], None],
        on_error: Callable[[TokmagicError], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Job:
        job = Job(work, on_error, on_end)
        self._jobs.put(job)
        return job

    def stop(self) -> None:
        """End the thread: torch aborts the process if it is still there when the interpreter goes."""
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job
