"""The local engine: torch and transformers, on CPU or CUDA, one inference thread for each loaded model.

Tokens are counted and stamped by a stopping criterion, which generate() calls once a step with the
new ids: unlike a streamer it can end the generation at once, and it sees each row of a batch.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from tokmagic.core.config import TokMagic
from tokmagic.core.forks import in_child, whole
from tokmagic.core.prompt import DRAWING, PENALTIES, Prompt, Sampling
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Finished, Source, Started, Usage
from tokmagic.engines.base import EngineState, ModelSpec, Progress, no_progress
from tokmagic.engines.local.load import declared_dtype, device_name, free_memory, load_model, map_error, pick_device
from tokmagic.engines.local.schema import SchemaTokenizer
from tokmagic.engines.local.store import Located, fingerprint, locate, pull, pull_tokenizer
from tokmagic.engines.local.stream import Cancelled, LocalStream, LogprobTap, TokenTap
from tokmagic.errors import ContextError, ModelError, TokmagicError, UsageError
from tokmagic.formatting.numbers import counted
from tokmagic.tokens.tokenizer import Decoder, Tokenizer

# Prompts longer than this are prefilled in chunks of it, so that an interrupt never waits for more.
_PREFILL_CHUNK = 1024


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
        self._schemas: SchemaTokenizer | None = None
        self._model: Any = None
        self._device: torch.device | None = None
        self._loaded_as: EngineInfo | None = None
        self._state: EngineState = "unloaded"
        self._worker: _Worker | None = None
        self._lock = threading.Lock()
        self._reading = threading.RLock()
        self._parents: list[Any] = []
        in_child(self._renew)

    def _renew(self) -> None:
        """Begin anew in a forked child, where the inference thread is not; weights in memory are shared with it."""
        self._lock, self._reading, self._worker = threading.Lock(), threading.RLock(), None
        if self._state == "loading" or (self._device is not None and self._device.type != "cpu"):
            # What is half loaded stays so, and a GPU's memory is the parent's: it may not even be freed here.
            self._parents.append(self._model)
            self._model, self._state = None, "unloaded"

    @property
    def info(self) -> EngineInfo:
        located, model = self._located, self._model
        return EngineInfo(
            name=self._name,
            model_id=located.model_id if located else self._spec.source,
            engine="local",
            revision=located.revision if located else self._spec.revision,
            device=str(self._device) if self._device is not None else self._wanted_device(),
            dtype=str(model.dtype).removeprefix("torch.") if model is not None else self._spec.dtype,
            quant=self._spec.quant,
            context_tokens=_context_tokens(model) if model is not None else None,
            tokenizer_sha256=self._tokenizer.sha256 if self._tokenizer is not None else None,
            device_name=device_name(self._device),
            greedy=not model.generation_config.do_sample if model is not None else None,
        )

    def _wanted_device(self) -> str | None:
        try:
            return str(pick_device(self._spec.device))
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
        return self._identity(pick_device(self._spec.device))

    def _identity(self, device: torch.device) -> EngineInfo:
        tokenizer = self._ready_tokenizer(no_progress)
        located = self._located
        assert located is not None
        return EngineInfo(
            name=self._name,
            model_id=located.model_id,
            engine="local",
            revision=located.revision or fingerprint(located.folder),
            device=device.type,
            dtype=declared_dtype(located.folder, self._spec),
            quant=self._spec.quant,
            tokenizer_sha256=tokenizer.sha256,
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
        # Progress is reported on the caller's thread: front ends tie output to the thread that runs the cell.
        updates: queue.SimpleQueue[tuple[str, float | None] | None] = queue.SimpleQueue()
        job = self._ready_worker().submit(
            lambda: self._load(lambda doing, share: updates.put((doing, share)), cancelled)
        )
        job.add_done_callback(lambda _job: updates.put(None))
        try:
            for doing, share in iter(updates.get, None):
                progress(doing, share)
            job.result()
        except KeyboardInterrupt:
            # The load cannot be left in the middle; what it loads is dropped as soon as it is done.
            cancelled.set()
            raise

    def stream(self, prompt: Prompt) -> LocalStream:
        submitted_ns = time.perf_counter_ns()
        if self._state != "ready":
            self.load(no_progress)
            submitted_ns = time.perf_counter_ns()
        stream = LocalStream()
        job = self._ready_worker().submit(lambda: self._generate(prompt, stream, submitted_ns))
        job.add_done_callback(stream.end)
        return stream

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
            progress("choosing a device", 0.0)
            self._device = pick_device(self._spec.device)
            progress("reading the tokenizer", 0.05)
            self._ready_tokenizer(progress)
            assert self._located is not None
            # Before the weights are read: what is changed meanwhile must not pass for what was loaded.
            self._loaded_as = self._identity(self._device)
            self._model = load_model(self._located.folder, self._spec, self._device, progress)
            if cancelled.is_set():
                self._unload()
                return
            self._state = "ready"
            progress("ready", 1.0)
        except BaseException:
            self._model = None
            self._state = "failed"
            raise
        finally:
            if self._model is None:
                free_memory(self._device)

    def _unload(self) -> None:
        self._model = None
        self._state = "unloaded"
        free_memory(self._device)

    def _generate(self, prompt: Prompt, stream: LocalStream, submitted_ns: int) -> None:
        model, tokenizer, device, sampling = self._model, self._tokenizer, self._device, prompt.sampling
        if model is None or tokenizer is None or device is None:
            raise ModelError(f"{self._name} was unloaded meanwhile; run the cell again")
        ids = tokenizer.encode(prompt)
        limit = _room(len(ids), sampling.max_tokens, _context_tokens(model), self._name)
        config = _generation_config(model, sampling, limit, self._spec.compile)
        processors = LogitsProcessorList()
        logprobs = LogprobTap() if sampling.logprobs else None
        if logprobs is not None:
            processors.append(logprobs)  # before what a schema rules out
        if sampling.json_schema is not None:
            schemas = self._ready_schemas(tokenizer, config)
            processors.append(schemas.constraint(sampling.json_schema, sampling.n, len(ids)))
        usage = Usage.measured(len(ids), 0)
        prefill_ns = time.perf_counter_ns()
        stream.put(Started(submitted_ns, usage, prefill_ns))
        if len(ids) > _PREFILL_CHUNK:
            config.prefill_chunk_size = _PREFILL_CHUNK
        decoders = [Decoder(tokenizer) for _ in range(sampling.n)]
        tap = TokenTap(stream, _eos_ids(config), decoders, sampling, logprobs)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        guard = model.register_forward_pre_hook(lambda *_: stream.raise_if_closed())
        try:
            self._run(ids, config, processors, tap, sampling.seed)
        except Cancelled:
            pass
        except Exception as error:
            failure = map_error(error, f"{self._name} failed at {tap.generated} output tokens", self._spec, device)
            del error
            free_memory(device)
            raise failure from None
        finally:
            guard.remove()
        end_ns = time.perf_counter_ns()
        peak = int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
        interrupted = stream.closed
        tails, reasons = tap.end(interrupted=interrupted)
        usage = replace(usage, output_tokens=tap.generated)
        stream.put(Finished(end_ns, reasons, usage, tails, device_s=(end_ns - prefill_ns) / 1e9, peak_bytes=peak))
        if interrupted:
            free_memory(device)

    def _ready_schemas(self, tokenizer: Tokenizer, config: GenerationConfig) -> SchemaTokenizer:
        if self._schemas is None:
            vocabulary = self._model.get_output_embeddings().weight.shape[0]
            self._schemas = SchemaTokenizer(tokenizer, vocabulary, _eos_ids(config))
        return self._schemas

    def _run(
        self, ids: Sequence[int], config: GenerationConfig, processors: Any, tap: TokenTap, seed: int | None
    ) -> None:
        inputs = torch.tensor([ids], device=self._device)
        # The notebook's own random state is put back afterwards.
        devices = [inputs.device.index or 0] if inputs.is_cuda else []
        with torch.random.fork_rng(devices=devices, enabled=seed is not None), torch.inference_mode():
            if seed is not None:
                torch.manual_seed(seed)
            self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                generation_config=config,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([tap]),
            )

    def _ready_tokenizer(self, progress: Progress) -> Tokenizer:
        if self._tokenizer is not None:
            return self._tokenizer
        with whole(), self._reading:  # any thread counts, and the inference thread loads
            if self._tokenizer is None:
                self._located = pull(self._spec, self._settings, progress)
                self._tokenizer = Tokenizer(self._located.folder, trust_remote_code=self._spec.trust_remote_code)
            return self._tokenizer

    def _ready_worker(self) -> _Worker:
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(f"tokmagic-{self._name}")
            return self._worker


class _Worker:
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


def _context_tokens(model: Any) -> int | None:
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if limit else None


def _room(input_tokens: int, max_tokens: int, context: int | None, name: str) -> int:
    """Return how many tokens may be generated. Raises ContextError if the prompt alone fills the context."""
    if context is None:
        return max_tokens
    if input_tokens >= context:
        raise ContextError(
            f"the prompt has {counted(input_tokens, 'token')}, the context of {name} holds {context:,}; "
            "shorten the prompt"
        )
    return min(max_tokens, context - input_tokens)


def _eos_ids(config: GenerationConfig) -> frozenset[int]:
    eos = config.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)


def _generation_config(model: Any, sampling: Sampling, max_new_tokens: int, compile_mode: str) -> GenerationConfig:
    """The model's own generation config, with what the prompt asks for on top. Raises UsageError."""
    config = GenerationConfig.from_dict(model.generation_config.to_dict())
    config.max_length = None
    config.max_new_tokens = max_new_tokens
    given = {name: value for name in DRAWING if (value := getattr(sampling, name)) is not None}
    if sampling.temperature == 0:
        config.do_sample = False
    elif given:
        config.do_sample = True
        config.update(**given)
    if not config.do_sample:
        # Left in place these would only make transformers warn that they have no effect.
        config.update(**dict.fromkeys(DRAWING))
    if sampling.n > 1 and not config.do_sample:
        raise UsageError(f"-n {sampling.n} needs sampling, greedy answers are all the same; add --temperature 0.7")
    config.num_return_sequences = sampling.n
    config.update(**{name: value for name in PENALTIES if (value := getattr(sampling, name)) is not None})
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos if isinstance(eos, int) or eos is None else eos[0]
    if compile_mode == "on":
        config.cache_implementation = "static"
    config.disable_compile = compile_mode == "off"
    return config
