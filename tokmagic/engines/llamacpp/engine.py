"""GGUF files on this machine: llama.cpp on the CPU, or on a GPU where the installed build has it.

Counting a draft and replaying an answer read the tokenizer alone, with nothing of llama.cpp in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tokmagic.core.config import TokMagic
from tokmagic.core.forks import in_child, whole
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Source
from tokmagic.engines.base import EngineState, ModelSpec, Progress, no_progress
from tokmagic.engines.llamacpp.files import Found, fetch, find, tokenizer_folder
from tokmagic.engines.llamacpp.library import is_installed, missing
from tokmagic.engines.llamacpp.messages import LEAST_CELLS, Load, Request
from tokmagic.engines.llamacpp.process import Process, RunStream
from tokmagic.engines.llamacpp.processors import usual_threads
from tokmagic.engines.llamacpp.sampling import Defaults, Drawing
from tokmagic.engines.local.memory import require_ram
from tokmagic.engines.quality import measured
from tokmagic.errors import ContextError, ModelError, UsageError
from tokmagic.formatting.numbers import counted
from tokmagic.tokens.tokenizer import Tokenizer

_DEVICES = ("cpu", "cuda", "gpu")


class LlamaCppEngine:
    """One GGUF file, run by a process of its own."""

    def __init__(self, name: str, spec: ModelSpec, settings: TokMagic) -> None:
        """Raises UsageError for options that a GGUF file does not take."""
        self._name = name
        self._spec = spec
        self._settings = settings
        self._device = (spec.device or "cpu").partition(":")[0]
        _check(spec, self._device)
        self._found: Found | None = None
        self._tokenizer: Tokenizer | None = None
        self._process: Process | None = None
        self._loaded_as: EngineInfo | None = None
        self._defaults = Defaults()
        self._state: EngineState = "unloaded"
        self._begin()
        in_child(self._renew)

    def _begin(self) -> None:
        self._lock, self._reading = threading.Lock(), threading.RLock()

    def _renew(self) -> None:
        """Begin anew in a forked child: the process is the parent's, and so are the pipes to it."""
        self._begin()
        process, self._process = self._process, None
        self._state = "unloaded"
        if process is not None:
            process.abandon()

    @property
    def info(self) -> EngineInfo:
        found, tokenizer = self._found, self._tokenizer
        return EngineInfo(
            name=self._name,
            model_id=found.model_id if found else self._spec.source,
            engine="llamacpp",
            revision=found.revision if found else None,
            device=self._device,
            quant=found.header.quant if found else self._spec.quant,
            context_tokens=found.header.context_tokens if found else None,
            tokenizer_sha256=tokenizer.sha256 if tokenizer is not None else None,
            dated=tokenizer.dated if tokenizer is not None else None,
            greedy=not self._defaults.do_sample if self._state == "ready" else None,
        )

    @property
    def state(self) -> EngineState:
        return self._state

    def identity(self) -> EngineInfo | None:
        if self._state == "ready" and self._loaded_as is not None:
            return self._loaded_as
        if self._tokenizer is None and find(self._spec, self._settings) is None:
            return None
        return self._identity()

    def _identity(self) -> EngineInfo:
        tokenizer = self._ready_tokenizer(no_progress)
        found = self._found
        assert found is not None
        return EngineInfo(
            name=self._name,
            model_id=found.model_id,
            engine="llamacpp",
            revision=found.revision or found.fingerprint,
            device=self._device,
            quant=found.header.quant,
            tokenizer_sha256=tokenizer.sha256,
            dated=tokenizer.dated,
        )

    def count(self, prompt: Prompt) -> int:
        return len(self.tokenizer().encode(prompt))

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        return self.count(prompt), "counted"

    def tokenizer(self) -> Tokenizer:
        return self._ready_tokenizer(no_progress)

    def load(self, progress: Progress) -> None:
        with self._lock:
            if self._state == "ready":
                return
            self._state = "loading"
            try:
                self._load(progress)
            except BaseException:
                self._state = "failed"
                self._end()
                raise
            self._state = "ready"
            if self._process is None:  # it has ended meanwhile
                self._state = "unloaded"
        progress("ready", 1.0)

    def stream(self, prompt: Prompt) -> RunStream:
        submitted_ns = time.perf_counter_ns()
        if self._state != "ready":
            self.load(no_progress)
            submitted_ns = time.perf_counter_ns()
        request = self._request(prompt)
        process = self._process
        if process is None:
            raise ModelError(f"{self._name} was unloaded meanwhile; run the cell again")
        return process.run(request, submitted_ns)

    def close(self) -> None:
        with self._lock:
            self._end()
            self._state = "unloaded"

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What it takes of memory, in GB; of the KV cache at first."""
        self._ready_tokenizer(no_progress)
        assert self._found is not None
        head = self._found.header
        cell_bytes = head.kv_bytes_per_token
        taken = f"{head.weights_bytes / 1e9:.2f} GB of weights"
        if cell_bytes is not None:
            taken += f", {LEAST_CELLS * cell_bytes / 1e9:.2f} GB of KV cache"
        return (("memory", taken),)

    def measure(self, progress: Progress) -> tuple[tuple[str, str], ...]:
        self.load(progress)
        return measured(self, self._ready_tokenizer(progress), self._score, progress, is_quantised=True)

    def _score(self, ids: Sequence[int]) -> float:
        process = self._process
        if process is None:
            raise ModelError(f"{self._name} was unloaded meanwhile; run the cell again")
        return process.score(tuple(ids))

    def _request(self, prompt: Prompt) -> Request:
        sampling = prompt.sampling
        assert self._tokenizer is not None
        ids = self._tokenizer.encode(prompt)
        context = self.info.context_tokens
        if not ids:
            raise UsageError("the prompt is empty; write some text into the cell")
        if context is not None and len(ids) >= context:
            raise ContextError(
                f"the prompt has {counted(len(ids), 'token')}, the context of {self._name} holds {context:,}; "
                "shorten the prompt"
            )
        limit = sampling.max_tokens if context is None else min(sampling.max_tokens, context - len(ids))
        return Request(
            run="",
            ids=ids,
            limit=limit,
            drawing=Drawing.of(sampling, self._defaults),
            stop=sampling.stop,
            n=sampling.n,
            schema=sampling.json_schema,
            logprobs=sampling.logprobs,
            min_tokens=limit if prompt.ignore_eos else prompt.min_tokens,
        )

    def _load(self, progress: Progress) -> None:
        if not is_installed():
            raise missing()
        progress("reading the tokenizer", 0.05)
        tokenizer = self._ready_tokenizer(progress)
        found = self._found
        assert found is not None
        self._loaded_as = self._identity()
        self._defaults = Defaults.of(tokenizer.folder, found.header.eos)
        cell_bytes = found.header.kv_bytes_per_token
        needed = found.header.weights_bytes + LEAST_CELLS * (cell_bytes or 0)
        if self._device == "cpu":
            require_ram(
                needed, found.header.file.name, "unload other models (%model unload --all), or choose a smaller file"
            )
        progress("loading weights", 0.3)
        load = Load(
            file=str(found.header.file),
            tokenizer=str(tokenizer.folder),
            trust_remote_code=self._spec.trust_remote_code,
            eos=tuple(sorted(self._defaults.eos)),
            gpu=self._device != "cpu",
            threads=self._settings.llamacpp_threads or usual_threads(),
            kv_bytes_per_token=cell_bytes,
        )
        with whole():
            self._process = process = Process(self._name, load, self._lost)
        process.wait()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _lost(self, process: Process) -> None:
        """A process has ended by itself: the next run loads the model anew, unless another one did so before."""
        if self._process is process:
            self._process, self._state = None, "unloaded"

    def _ready_tokenizer(self, progress: Progress) -> Tokenizer:
        if self._tokenizer is not None:
            return self._tokenizer
        with whole(), self._reading:  # any thread counts, and another may load
            if self._tokenizer is None:
                self._found = found = fetch(self._spec, self._settings, progress)
                folder = tokenizer_folder(found, self._settings)
                self._tokenizer = Tokenizer(folder, trust_remote_code=self._spec.trust_remote_code)
            return self._tokenizer


def _check(spec: ModelSpec, device: str) -> None:
    if device not in _DEVICES:
        raise UsageError(f"--device {spec.device!r} is not supported; use cpu or cuda")
    if spec.quant not in (None, "int4"):
        raise UsageError(f"a GGUF file is quantised already; leave out --quant {spec.quant}")
    if spec.dtype is not None:
        raise UsageError(f"a GGUF file says itself what it is computed in; leave out --dtype {spec.dtype}")
    if spec.compile == "on":
        raise UsageError("llama.cpp is compiled already; leave out --compile on")
