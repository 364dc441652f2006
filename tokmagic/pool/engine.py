"""The gateway's side of a model with replicas: it counts here, without weights, and streams from one of them."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Event, Finished, FinishReason, Source, Started, Token, Usage
from tokmagic.engines.base import Engine, EngineState, Progress, Tokenized
from tokmagic.errors import EndpointError
from tokmagic.pool.messages import Described, Ending, Told, shifted
from tokmagic.tokens.tokenizer import Tokenizer

_KIND = "pool"
_PATIENCE_S = 5.0
"""How long the end of a cancelled run is waited for: a forward pass takes a fraction of it."""
_NEVER_BEGUN_S = 1.0
"""The same where no replica has said that it took the run: most likely none has."""


class ReplicaLost(Exception):
    """The replica that worked on a request is gone, or none could be had; says what happened."""


class Replies(Protocol):
    """An iterator of what one replica tells of one run. ``cancel`` may be called from any thread, and returns at once.

    Raises ReplicaLost; after ``cancel`` it ends, in whichever way.
    """

    def __next__(self) -> Told: ...
    def cancel(self) -> None: ...


class Replicas(Protocol):
    """The replicas of one model."""

    def describe(self) -> Described:
        """Wait until there is one, and return what it says. Raises ReplicaLost."""
        ...

    def run(self, run: str, prompt: Prompt) -> Replies:
        """Have a prompt run by one of them; ``run`` is a name for it."""
        ...


class Endings:
    """Where replicas leave the ends of cancelled runs, and whoever cancelled one picks its end up. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, queue.SimpleQueue[Ending]] = {}

    def expect(self, run: str) -> None:
        """An end may come for this run."""
        with self._lock:
            self._open[run] = queue.SimpleQueue()

    def put(self, run: str, ending: Ending) -> None:
        """A replica has told it; nobody may wait any more."""
        with self._lock:
            found = self._open.get(run)
        if found is not None:
            found.put(ending)

    def wait(self, run: str, seconds: float) -> Ending | None:
        """Return the end of an expected run; None where it does not come in time."""
        try:
            return self._open[run].get(timeout=seconds)
        except queue.Empty:
            return None

    def forget(self, run: str) -> None:
        """No end is expected any more."""
        with self._lock:
            self._open.pop(run, None)


class PoolEngine:
    """A model that replicas run. ``bare`` is the same model's engine on this machine, which is never loaded."""

    def __init__(self, bare: Engine, replicas: Replicas, endings: Endings) -> None:
        self._bare = bare
        self._replicas = replicas
        self._endings = endings
        self._described: Described | None = None
        self._state: EngineState = "unloaded"

    @property
    def info(self) -> EngineInfo:
        info = self._described.info if self._described is not None else self._bare.info
        return replace(info, engine=_KIND)

    @property
    def state(self) -> EngineState:
        return self._state

    def identity(self) -> EngineInfo | None:
        identity = self._described.identity if self._described is not None else self._bare.identity()
        return None if identity is None else replace(identity, engine=_KIND)

    def count(self, prompt: Prompt) -> int:
        return self._bare.count(prompt)

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        return self._bare.estimate(prompt)

    def load(self, progress: Progress) -> None:
        if self._state == "ready":
            return
        self._state = "loading"
        progress("waiting for a replica", None)
        try:
            self._described = self._replicas.describe()
        except ReplicaLost as lost:
            self._state = "failed"
            raise EndpointError(f"no replica of {self.info.name} could be had ({lost}); look at Ray's log") from lost
        self._state = "ready"
        progress("ready", 1.0)

    def stream(self, prompt: Prompt) -> PoolStream:
        submitted_ns = time.perf_counter_ns()
        run = uuid.uuid4().hex
        self._endings.expect(run)
        replies = self._replicas.run(run, prompt)
        return PoolStream(self.info.name, run, replies, self._endings, submitted_ns, prompt.sampling.n)

    def close(self) -> None:
        """Let go of them; Ray Serve ends the replicas."""
        self._described, self._state = None, "unloaded"
        self._bare.close()


class TokenizedPoolEngine(PoolEngine):
    """One whose model's tokenizer can be read on this machine."""

    def __init__(self, bare: Engine, tokenizer: Callable[[], Tokenizer], replicas: Replicas, endings: Endings) -> None:
        super().__init__(bare, replicas, endings)
        self._read_tokenizer = tokenizer

    def tokenizer(self) -> Tokenizer:
        return self._read_tokenizer()


def pool_engine(bare: Engine, replicas: Replicas, endings: Endings) -> Engine:
    """The engine of a model with replicas."""
    if isinstance(bare, Tokenized):
        return TokenizedPoolEngine(bare, bare.tokenizer, replicas, endings)
    return PoolEngine(bare, replicas, endings)


class PoolStream:
    """One run's events, on this process's clock.

    ITL is what the replica measured. How long a message travels is not known between two machines, and is counted into
    the time before the first token, where the message that shows the least is taken.
    """

    def __init__(
        self, name: str, run: str, replies: Replies, endings: Endings, submitted_ns: int, choices: int
    ) -> None:
        self._name = name
        self._run = run
        self._replies = replies
        self._endings = endings
        self._submitted_ns = submitted_ns
        self._choices = choices
        self._closed = threading.Event()
        self._ready: deque[Event] = deque()
        self._error: Exception | None = None
        self._done = False
        # The instant, on this process's clock, at which the replica received the prompt.
        self._origin_ns: int | None = None
        self._received = 0
        self._usage: Usage | None = None
        self._ids = 0
        self._last_ns = submitted_ns
        self._share = _Share()

    def __iter__(self) -> PoolStream:
        return self

    def __next__(self) -> Event:
        while not self._ready:
            if self._done:
                self._endings.forget(self._run)
                error, self._error = self._error, None
                raise error if error is not None else StopIteration
            self._receive()
        return self._ready.popleft()

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._replies.cancel()

    def _receive(self) -> None:
        try:
            told = next(self._replies)
        except StopIteration:
            self._broke("it ended without a last word")
        except ReplicaLost as lost:
            self._broke(str(lost))
        else:
            arrived_ns = time.perf_counter_ns() - told.sent_ns
            if self._usage is None:
                self._origin_ns = arrived_ns if self._origin_ns is None else min(self._origin_ns, arrived_ns)
            self._share.running = told.running
            self._take(told.events, told.error)

    def _take(self, events: tuple[Event, ...], error: Exception | None) -> None:
        for event in events:
            self._keep(shifted(event, self._origin_ns or 0))
        if error is not None:
            self._error, self._done = error, True

    def _keep(self, event: Event) -> None:
        self._received += 1
        if isinstance(event, Started):
            event = replace(event, submitted_ns=self._submitted_ns)
            self._usage = event.usage
            self._share.begin(event.prefill_ns)
        elif isinstance(event, Token):
            self._note(event)
        else:
            self._done = True
        self._ready.append(event)

    def _note(self, token: Token) -> None:
        self._last_ns = token.at_ns
        self._share.pass_to(token.at_ns)
        if token.id is not None:
            self._ids += 1
        elif token.usage is not None:
            self._usage = token.usage

    def _broke(self, why: str) -> None:
        """Nothing more comes from the replica: it was cancelled, or it is gone."""
        if self._closed.is_set():
            begun = self._origin_ns is not None
            ending = self._endings.wait(self._run, _PATIENCE_S if begun else _NEVER_BEGUN_S)
            if ending is not None:
                if self._origin_ns is None:
                    self._origin_ns = self._submitted_ns
                self._take(ending.events[self._received :], ending.error)
            if not self._done:
                self._finish("interrupted", None)
        elif self._usage is None:
            self._error = EndpointError(f"a replica of {self._name} was lost before it answered ({why}); ask again")
            self._done = True
        else:
            self._finish("error", f"a replica of {self._name} was lost in mid-answer ({why}); ask again")

    def _finish(self, reason: FinishReason, error: str | None) -> None:
        """End it with what was seen; more may have been computed."""
        usage = self._usage
        if usage is None:
            usage = Usage.measured(0, 0)
        elif self._ids:
            usage = replace(usage, output_tokens=self._ids, output_source="measured")
        self._keep(
            Finished(
                self._last_ns,
                (reason,) * self._choices,
                usage,
                device_s=self._share.device_s,
                error=error,
                cut=True,
            )
        )


class _Share:
    """A run's share of the device where its engine could not tell it: the time divided by the runs beside it."""

    def __init__(self) -> None:
        self.running = 1
        self._at_ns: int | None = None
        self._seconds = 0.0

    @property
    def device_s(self) -> float | None:
        return None if self._at_ns is None else self._seconds

    def begin(self, prefill_ns: int | None) -> None:
        self._at_ns = prefill_ns

    def pass_to(self, at_ns: int) -> None:
        if self._at_ns is not None:
            self._seconds += max(0, at_ns - self._at_ns) / 1e9 / max(1, self.running)
            self._at_ns = max(self._at_ns, at_ns)
