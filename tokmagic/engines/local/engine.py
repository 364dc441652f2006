"""The local engine: torch and transformers, on CPU or CUDA, one inference thread for each loaded model.

What needs no weights needs no torch either: counting a draft, or replaying an answer, imports none.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from tokmagic.core.config import TokMagic
from tokmagic.core.forks import in_child, whole
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Source
from tokmagic.engines.base import EngineState, ModelSpec, Progress, no_progress
from tokmagic.engines.fit import Held, Need
from tokmagic.engines.local.declared import (
    asked_arithmetic,
    cannot_import,
    declared_dtype,
    expected_device,
    known_device,
    needed,
    never_compiled,
)
from tokmagic.engines.local.memory import free_bytes, require_room
from tokmagic.engines.local.store import Located, fingerprint, locate, pull, pull_tokenizer
from tokmagic.engines.local.stream import LocalStream, Request
from tokmagic.engines.quality import measured
from tokmagic.engines.roof import Roof, Work
from tokmagic.errors import ModelError, TokmagicError
from tokmagic.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokmagic.engines.local.inference import Inference


class LocalEngine:
    """One model on one device."""

    def __init__(self, name: str, spec: ModelSpec, settings: TokMagic) -> None:
        self._name = name
        self._spec = spec
        self._settings = settings
        self._located: Located | None = None
        self._tokenizer: Tokenizer | None = None
        # Read where the weights are not on this machine: good for counting, and no part of what is loaded.
        self._bare_tokenizer: Tokenizer | None = None
        self._inference: Inference | None = None
        self._loaded_as: EngineInfo | None = None
        self._state: EngineState = "unloaded"
        self._worker: _Worker | None = None
        self._waiting: deque[Request] = deque()
        self._lock = threading.Lock()
        self._reading = threading.RLock()
        self._parents: list[Inference] = []
        in_child(self._renew)

    def _renew(self) -> None:
        """Begin anew in a forked child, where the inference thread is not; weights in memory are shared with it."""
        self._lock, self._reading, self._worker = threading.Lock(), threading.RLock(), None
        self._waiting = deque()
        if self._inference is not None and not self._inference.is_shared_with_children:
            # A GPU's memory is the parent's: it may not even be freed here.
            self._parents.append(self._inference)
            self._inference = None
        if self._inference is None:  # what is half loaded stays so
            self._state = "unloaded"

    @property
    def info(self) -> EngineInfo:
        located, inference = self._located, self._inference
        return EngineInfo(
            name=self._name,
            model_id=located.model_id if located else self._spec.source,
            engine="local",
            revision=located.revision if located else self._spec.revision,
            device=inference.device if inference is not None else self._known_device(),
            dtype=inference.dtype if inference is not None else self._spec.dtype,
            quant=self._spec.quant,
            context_tokens=inference.context_tokens if inference is not None else None,
            tokenizer_sha256=self._tokenizer.sha256 if self._tokenizer is not None else None,
            dated=self._tokenizer.dated if self._tokenizer is not None else None,
            device_name=inference.device_name if inference is not None else None,
            greedy=inference.greedy if inference is not None else None,
            arithmetic=inference.arithmetic if inference is not None else None,
        )

    def _known_device(self) -> str | None:
        try:
            return known_device(self._spec.device) or self._spec.device
        except TokmagicError:
            return self._spec.device

    @property
    def state(self) -> EngineState:
        return self._state

    def identity(self) -> EngineInfo | None:
        if self._state == "ready" and self._loaded_as is not None:
            return self._loaded_as
        if self._tokenizer is None and locate(self._spec, self._settings) is None:
            return None
        return self._identity(expected_device(self._spec.device))

    def _identity(self, device: str) -> EngineInfo:
        tokenizer = self._ready_tokenizer(no_progress)
        located = self._located
        assert located is not None
        return EngineInfo(
            name=self._name,
            model_id=located.model_id,
            engine="local",
            revision=located.revision or fingerprint(located.folder),
            device=device.partition(":")[0],
            dtype=declared_dtype(located.folder, self._spec),
            quant=self._spec.quant,
            tokenizer_sha256=tokenizer.sha256,
            arithmetic=asked_arithmetic(self._spec, device),
            dated=tokenizer.dated,
        )

    def count(self, prompt: Prompt) -> int:
        return len(self.tokenizer().encode(prompt))

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        return self.count(prompt), "counted"

    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is not None or locate(self._spec, self._settings) is not None:
            return self._ready_tokenizer(no_progress)
        with self._reading:
            if self._bare_tokenizer is None:
                folder = pull_tokenizer(self._spec, self._settings, no_progress)
                self._bare_tokenizer = Tokenizer(folder, trust_remote_code=self._spec.trust_remote_code)
            return self._bare_tokenizer

    def load(self, progress: Progress) -> None:
        if self._state == "ready":
            return
        cancelled = threading.Event()
        try:
            self._wait(lambda report: self._load(report, cancelled), progress)
        except KeyboardInterrupt:
            # The load cannot be left in the middle; what it loads is dropped as soon as it is done.
            cancelled.set()
            raise

    def _wait(self, work: Callable[[Progress], None], progress: Progress) -> None:
        """Have work done on the inference thread, and report its progress meanwhile."""
        # On the caller's thread: front ends tie output to the thread that runs the cell.
        updates: queue.SimpleQueue[tuple[str, float | None] | None] = queue.SimpleQueue()
        job = self._submit(lambda: work(lambda doing, share: updates.put((doing, share))))
        job.add_done_callback(lambda _job: updates.put(None))
        for doing, share in iter(updates.get, None):
            progress(doing, share)
        job.result()

    def need(self) -> Need | None:
        located = self._located or locate(self._spec, self._settings)
        return None if located is None else needed(located.folder, self._spec)

    def held(self) -> Held | None:
        inference = self._inference
        return None if inference is None else inference.held()

    def require_room(self, progress: Progress, freed_bytes: int) -> None:
        self._wait(lambda report: self._require_room(report, freed_bytes), progress)

    def stream(self, prompt: Prompt) -> LocalStream:
        submitted_ns = time.perf_counter_ns()
        if self._state != "ready":
            self.load(no_progress)
            submitted_ns = time.perf_counter_ns()
        stream = LocalStream()
        self._waiting.append(Request(prompt, stream, submitted_ns))
        self._submit(self._serve, is_prompt=True)
        return stream

    def roof(self) -> tuple[Roof, Work | None]:
        found: list[tuple[Roof, Work | None]] = []
        self._submit(lambda: found.append(self._loaded().roof())).result()
        return found[0]

    def facts(self) -> tuple[tuple[str, str], ...]:
        """How a GPU that it is loaded on computes, and what was asked for and has no effect."""
        inference, device = self._inference, self._known_device()
        idle = never_compiled(self._spec, device) if device is not None else None
        without = (("--compile on", f"no effect: {idle}"),) if idle is not None else ()
        return without if inference is None else (*inference.facts(), *without)

    def measure(self, progress: Progress) -> tuple[tuple[str, str], ...]:
        self.load(progress)
        return measured(self, self.tokenizer(), self._score, progress, is_quantised=self._spec.quant is not None)

    def _score(self, ids: Sequence[int]) -> float:
        found: list[float] = []
        self._submit(lambda: found.append(self._loaded().mean_nll(ids))).result()
        return found[0]

    def _submit(self, work: Callable[[], None], *, is_prompt: bool = False) -> Future[None]:
        """Have work done on the inference thread."""
        with self._lock:  # in one with the look: one that is being ended would never come to it
            return self._ready_worker().submit(work, is_prompt=is_prompt)

    def close(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.submit(self._unload).result()
            worker.stop()

    # Everything below runs on the inference thread.

    def _load(self, progress: Progress, cancelled: threading.Event) -> None:
        if self._state == "ready":
            return
        self._state = "loading"
        try:
            if locate(self._spec, self._settings) is not None:
                self._ready_tokenizer(progress)  # before what takes seconds, for the drafts that wait for it
            if _INFERENCE not in sys.modules:
                progress("importing torch and transformers", None)
            inference = _import_inference()
            device = expected_device(self._spec.device)
            if self._tokenizer is None:
                progress("reading the tokenizer", 0.05)
            tokenizer = self._ready_tokenizer(progress)
            assert self._located is not None
            # Before the weights are read: what is changed meanwhile must not pass for what was loaded.
            self._loaded_as = self._identity(device)
            self._inference = inference(
                self._name, self._spec, self._located.folder, tokenizer, self._settings.home_path, progress
            )
            if cancelled.is_set():
                self._unload()
                return
            self._state = "ready"
            progress("ready", 1.0)
        except BaseException:
            self._state = "failed"
            raise

    def _require_room(self, progress: Progress, freed_bytes: int) -> None:
        self._ready_tokenizer(progress)  # which fetches the model
        device = expected_device(self._spec.device)
        free = free_bytes(device)
        require_room(self.need(), device, None if free is None else free + freed_bytes)

    def _unload(self) -> None:
        inference, self._inference = self._inference, None
        self._state = "unloaded"
        if inference is not None:
            inference.close()

    def _serve(self) -> None:
        """Run the prompt that has waited longest, unless it was run beside another one."""
        if not self._waiting:
            return
        try:
            inference = self._loaded()
        except ModelError as error:
            self._waiting.popleft().stream.fail(error)
            return
        with self._lock:
            worker = self._ready_worker()
        inference.serve(self._waiting, worker.has_only_prompts)

    def _loaded(self) -> Inference:
        if self._inference is None:
            raise ModelError(f"{self._name} was unloaded meanwhile; run the cell again")
        return self._inference

    def _ready_tokenizer(self, progress: Progress) -> Tokenizer:
        if self._tokenizer is not None:
            return self._tokenizer
        with whole(), self._reading:  # any thread counts, and the inference thread loads
            if self._tokenizer is None:
                self._located = pull(self._spec, self._settings, progress)
                self._tokenizer = Tokenizer(self._located.folder, trust_remote_code=self._spec.trust_remote_code)
            return self._tokenizer

    def _ready_worker(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(f"tokmagic-{self._name}")
        return self._worker


class _Worker:
    """The inference thread: torch keeps state for each thread, so a model has exactly one."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        self._others: deque[Future[None]] = deque()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None], *, is_prompt: bool = False) -> Future[None]:
        """Have work done, one after another; whatever it raises comes out of the future as a TokmagicError."""
        future: Future[None] = Future()
        if not is_prompt:
            self._others.append(future)
        self._jobs.put((work, future))
        return future

    def has_only_prompts(self) -> bool:
        """Whether nothing waits but prompts, which may be run before their turn."""
        return not self._others

    def stop(self) -> None:
        """End the thread: torch aborts the process if it is still there when the interpreter goes."""
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            if future in self._others:
                self._others.remove(future)
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


_INFERENCE = "tokmagic.engines.local.inference"


def _import_inference() -> type[Inference]:
    """Import torch and transformers. Raises ModelError where they are not here."""
    try:
        # start-up: torch takes seconds, and counting needs none.
        with whole():
            from tokmagic.engines.local.inference import Inference
    except (ImportError, OSError) as error:
        raise cannot_import(error) from error
    return Inference
