"""Many runs at once: how many, what waits because it does not fit beside the others, how all are stopped."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import takewhile
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tokmagic.core.budget import Budget
from tokmagic.core.interrupts import FirstInterrupt, at_first_interrupt, taken
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import NO_RUNS, RunRecord, Sum
from tokmagic.errors import GenerationInterrupted, UsageError
from tokmagic.prompts.options import check_prompt
from tokmagic.runs.cache import repeatable
from tokmagic.runs.generation import Generation
from tokmagic.runs.pace import Pace, Paced, Terminal
from tokmagic.runs.run import Run, RunContext, stop_all

if TYPE_CHECKING:
    from tokmagic.engines.base import ModelSpec
    from tokmagic.runs.session import Session

# What a batch of the local engine holds, and what servers commonly let one client do.
_IN_A_BATCH = 32
_AT_A_SERVER = 8
Came = TypeVar("Came")


class Work(Protocol):
    """Runs one prompt, beside others that it is told of."""

    def __call__(self, prompt: Prompt, *, others: Others) -> Generation: ...


class Others:
    """The runs of one call: for those among them that have to wait for others, and what all may cost together."""

    def __init__(
        self, usd: Decimal | None = None, spent_usd: Decimal = Decimal(0), *, until_refused: bool = False
    ) -> None:
        """``usd`` is the most that they may cost together, of which ``spent_usd`` is spent already.

        ``until_refused``: once one does not fit, those that wait behind it are not let in either.
        """
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._runs: list[Run] = []
        self._ended = 0
        self._at_the_door: deque[threading.Event] = deque()
        self._usd = usd
        self._spent_usd = spent_usd
        self._held_usd: dict[str, Decimal] = {}
        self._here = threading.local()
        self._until_refused = until_refused
        self.stopped = self.closed = False

    @contextmanager
    def door(self) -> Iterator[None]:
        """Let runs in one at a time, in the order in which they came: none overtakes one that has to wait."""
        mine = threading.Event()
        with self._changed:
            self._at_the_door.append(mine)
            self._at_the_door[0].set()
        try:
            mine.wait()
            yield
        finally:
            with self._changed:
                self._at_the_door.remove(mine)
                if self._at_the_door:
                    self._at_the_door[0].set()  # it alone is woken: those behind it need not hear of each step

    def at(self, turns: AbstractContextManager[object]) -> None:
        """Say of the thread that calls: what it runs takes one of these turns while it is answered."""
        self._here.turns = turns

    def turn(self) -> AbstractContextManager[object]:
        """The turn of a run of this thread."""
        turns: AbstractContextManager[object] = getattr(self._here, "turns", nullcontext())
        return turns

    def attempt(self) -> int:
        """Return what :meth:`ended_since` asks for: how many runs have ended before an attempt to begin one."""
        with self._changed:
            return self._ended

    def ended_since(self, attempt: int) -> bool:
        """Wait until another run ends and gives back what it holds of a budget; False if there is none to wait for."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended > attempt or not self._running or self.stopped or self.closed)
            return self._ended > attempt and not self.stopped and not self.closed

    @property
    def bounded(self) -> bool:
        """Whether they may cost only so much together."""
        return self._usd is not None

    def set_aside(self, run_id: str, usd: Decimal | None) -> Budget:
        """Set aside what a run may cost at most, or as much of it as the others leave; return all that they leave."""
        with self._changed:
            self._running.add(run_id)
            held = sum((it for other, it in self._held_usd.items() if other != run_id), Decimal(0))
            left = max(Decimal(0), (self._usd or Decimal(0)) - self._spent_usd - held)
            self._held_usd[run_id] = min(usd or Decimal(0), left)
        return Budget("cell", left, origin="what is left of the budget")

    @property
    def unspent_usd(self) -> Decimal:
        """What would be left for a run if it were alone."""
        with self._changed:
            return max(Decimal(0), (self._usd or Decimal(0)) - self._spent_usd)

    def let_go(self, run_id: str) -> None:
        """A run was not let in: it holds nothing, and nobody waits for it."""
        with self._changed:
            self._running.discard(run_id)
            self._held_usd.pop(run_id, None)

    def watching(self, context: RunContext) -> RunContext:
        """A run's context that also tells of the run here."""

        def began(run: Run) -> None:
            self.began(run)
            context.began(run)

        return replace(context, began=began, turn=self.turn, in_lumps=context.watcher is None)

    def began(self, run: Run) -> None:
        """A run goes on from here, and can be stopped."""
        with self._changed:
            self._running.add(run.record.run_id)
            self._runs.append(run)
            stopped = self.stopped
        if stopped:
            run.stop()

    def ended(self, run: Run) -> None:
        """A run is settled, whether it was let in or not."""
        with self._changed:
            self._running.discard(run.record.run_id)
            self._held_usd.pop(run.record.run_id, None)
            self._spent_usd += run.record.reading.cost.usd or 0
            self._runs = [it for it in self._runs if it is not run]
            self._ended += 1
            self._changed.notify_all()

    def refused(self) -> None:
        """One does not fit into what they have in common."""
        if self._until_refused:
            self.close()

    def close(self) -> None:
        """Let nothing in any more; what runs goes on."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop what runs, and let nothing begin any more."""
        with self._changed:
            self.stopped = True
            runs = list(self._runs)
            self._changed.notify_all()
        stop_all(runs)


def at_once_by_default(spec: ModelSpec) -> int:
    """How many runs of a model go on at once where nobody says: a batch of the local engine, or what a server lets."""
    return _AT_A_SERVER if spec.traits.remote else _IN_A_BATCH


def with_ahead(most: int) -> int:
    """How many runs are under way where so many are answered at once: others are let in and settled meanwhile.

    An engine that computes a batch would wait for that otherwise, above all where all of a batch ends together.
    """
    return most + most // 2


class AtOnce(Generic[Came]):
    """Work that runs at once, so much of it at each place. What came of it is taken by the thread that handed it in.

    It begins in the order in which it is handed in, within the block of :meth:`settled`.
    """

    def __init__(self, others: Others) -> None:
        self.others = others
        self.interrupt = FirstInterrupt()
        self.pending = 0
        """How much of it was handed in and not taken yet."""
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._done: SimpleQueue[tuple[Callable[[Future[Came]], None], Future[Came]]] = SimpleQueue()

    def add(self, place: str, most: int, work: Callable[[], Came], then: Callable[[Future[Came]], None]) -> None:
        """Hand in work for a place that answers ``most`` of it at once; :meth:`take` calls ``then`` when it is done."""
        pool = self._pools.get(place)
        if pool is None:
            turns = threading.BoundedSemaphore(most)
            pool = ThreadPoolExecutor(with_ahead(most), "tokmagic-many", self.others.at, (turns,))
            self._pools[place] = pool
        self.pending += 1
        # In a context of its own each: it says which cell runs.
        job = pool.submit(contextvars.copy_context().run, work)
        job.add_done_callback(lambda done: self._done.put((then, done)))

    def take(self) -> None:
        """Wait for something that is done, and let it be taken."""
        then, done = taken(self._done)
        self.pending -= 1
        then(done)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Run it within the block. At the first interrupt all of it is stopped, and the block goes on to take it.

        Only a second interrupt is raised. Whatever leaves the block, what runs is stopped and settled first.
        """
        try:
            with at_first_interrupt(self.others.stop) as self.interrupt:
                try:
                    yield
                except BaseException:
                    self.others.stop()
                    raise
        finally:
            for pool in self._pools.values():
                pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def told(session: Session, progress: bool | Callable[[Pace], None] | None) -> Iterator[Callable[[Pace], None] | None]:
    """Whom to tell how far it is: a function that was given, else where the session or, if that is wanted, a terminal
    can show a line. Raises UsageError."""
    if callable(progress):
        yield progress
        return
    if progress not in (None, True, False):
        raise UsageError(f"progress is {progress!r}; give True, False or a function")
    line = None if progress is False else session.line() or (Terminal() if progress else None)
    if line is None:
        yield None
        return
    try:
        yield Paced(line)
    finally:
        line.clear()


def run_all(
    session: Session,
    prompts: Sequence[Prompt],
    work: Work,
    model: str | None = None,
    concurrency: int | None = None,
    *,
    cache: bool | None = None,
    refresh: bool = False,
    progress: Callable[[Pace], None] | None = None,
) -> list[Generation]:
    """Have ``work`` run ``concurrency`` prompts at a time, and return in their order what they came to.

    Raises GenerationInterrupted after an interrupt, once every row is settled, and what kept a run from beginning
    (UsageError, ModelError, BudgetError), once those that could begin are over.
    """
    for prompt in prompts:
        check_prompt(prompt)
    most = concurrency or at_once_by_default(session.models.spec(session.models.current if model is None else model))
    queues: dict[Prompt | int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        # A replay of what has just been answered is free, so prompts that are the same wait for each other.
        replays = not refresh and (repeatable(prompt.sampling) if cache is None else cache)
        queues.setdefault(prompt if replays else index, []).append(index)
    came_to: dict[int, Generation] = {}
    ended: list[RunRecord] = []
    jobs: dict[int, Future[None]] = {}
    running: AtOnce[None] = AtOnce(Others())
    began_s = time.monotonic()

    def run_queue(indexes: list[int]) -> None:
        for index in indexes:
            if running.others.stopped:
                return
            came_to[index] = work(prompts[index], others=running.others)
            ended.append(came_to[index].record)

    with running.settled():
        for number, indexes in enumerate(queues.values()):
            running.add("", most, partial(run_queue, indexes), partial(jobs.__setitem__, number))
        summed, replayed = NO_RUNS, 0
        while running.pending:
            running.take()
            if progress is not None:
                news = ended[summed.runs :]
                if replayed == summed.runs:
                    replayed += sum(1 for _ in takewhile(lambda it: it.status == "cached", news))
                summed += Sum.of(news)
                progress(Pace(summed.runs, len(prompts), summed, time.monotonic() - began_s, most, replayed))
    if running.interrupt.came:
        answered = sum(it.error is None for it in came_to.values())
        raise GenerationInterrupted(
            f"interrupted after {answered:,} of {len(prompts):,} answers; what they and the others cost is kept"
        )
    for number in range(len(queues)):
        jobs[number].result()
    return [came_to[index] for index in range(len(prompts))]
