"""Many prompts at once: how many run, what waits because it does not fit beside the others, how all are stopped."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Protocol

from tokmagic.core.interrupts import at_first_interrupt
from tokmagic.core.prompt import Prompt
from tokmagic.errors import GenerationInterrupted
from tokmagic.prompts.options import check_sampling
from tokmagic.runs.cache import repeatable
from tokmagic.runs.generation import Generation

if TYPE_CHECKING:
    from tokmagic.runs.run import Run
    from tokmagic.runs.session import Session

# What a batch of the local engine holds, and what servers commonly let one client do.
_IN_A_BATCH = 32
_AT_A_SERVER = 8
_SLICE_S = 0.2


class Work(Protocol):
    """Runs one prompt, beside others that it is told of."""

    def __call__(self, prompt: Prompt, *, others: Others) -> Generation: ...


class Others:
    """The runs of one call, for those among them that have to wait for others."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[int] = set()
        self._runs: list[Run] = []
        self._ended = 0
        self.stopped = False

    def attempt(self) -> int:
        """Return what :meth:`ended_since` asks for: how many runs have ended before an attempt to begin one."""
        with self._changed:
            return self._ended

    def ended_since(self, attempt: int) -> bool:
        """Wait until another run ends and gives back what it holds of a budget; False if there is none to wait for."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended > attempt or not self._running or self.stopped)
            return self._ended > attempt and not self.stopped

    def began(self, run: Run) -> None:
        """A run was let in."""
        with self._changed:
            self._running.add(id(run))
            self._runs.append(run)
            stopped = self.stopped
        if stopped:
            run.stop()

    def ended(self, run: Run) -> None:
        """A run is settled, whether it was let in or not."""
        with self._changed:
            self._running.discard(id(run))
            self._runs = [it for it in self._runs if it is not run]
            self._ended += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop what runs, and let nothing begin any more."""
        with self._changed:
            self.stopped = True
            runs = list(self._runs)
            self._changed.notify_all()
        for run in runs:
            run.stop()


def run_all(
    session: Session,
    prompts: Sequence[Prompt],
    work: Work,
    model: str | None = None,
    concurrency: int | None = None,
    *,
    cache: bool | None = None,
    refresh: bool = False,
) -> list[Generation]:
    """Have ``work`` run ``concurrency`` prompts at a time, and return in their order what they came to.

    Raises GenerationInterrupted after an interrupt, once every row is settled, and what kept a run from beginning
    (UsageError, ModelError, BudgetError), once those that could begin are over.
    """
    for prompt in prompts:
        check_sampling(prompt.sampling)
    remote = session.models.spec(session.models.current if model is None else model).traits.remote
    most = concurrency or (_AT_A_SERVER if remote else _IN_A_BATCH)
    others = Others()
    queues: dict[Prompt | int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        # A replay of what has just been answered is free, so prompts that are the same wait for each other.
        replays = not refresh and (repeatable(prompt.sampling) if cache is None else cache)
        queues.setdefault(prompt if replays else index, []).append(index)
    came_to: dict[int, Generation] = {}

    def run_queue(indexes: list[int]) -> None:
        for index in indexes:
            if others.stopped:
                return
            came_to[index] = work(prompts[index], others=others)

    with ThreadPoolExecutor(min(most, len(queues) or 1), thread_name_prefix="tokmagic-many") as pool:
        jobs: list[Future[None]] = []
        with at_first_interrupt(others.stop) as interrupt:
            try:
                # In a context of its own each: it says which cell runs.
                jobs += [pool.submit(contextvars.copy_context().run, run_queue, it) for it in queues.values()]
                # In slices: on some systems an interrupt wakes another thread than the one that has to see it.
                while wait(jobs, timeout=_SLICE_S).not_done:
                    pass
            except BaseException:  # a second interrupt; the rows are settled all the same
                others.stop()
                raise
    if interrupt.came:
        ended = sum(isinstance(it, Generation) and it.error is None for it in came_to.values())
        raise GenerationInterrupted(
            f"interrupted after {ended:,} of {len(prompts):,} answers; what they and the others cost is kept"
        )
    for job in jobs:
        job.result()
    return [came_to[index] for index in range(len(prompts))]
