"""A model in memory: torch and transformers on one device. Only the engine's inference thread comes here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from tokmagic.core.prompt import DRAWING, PENALTIES, Prompt, Sampling
from tokmagic.core.stream import Finished, Started, Usage
from tokmagic.engines.base import ModelSpec, Progress
from tokmagic.engines.local.device import device_name, free_memory, pick_device
from tokmagic.engines.local.limits import measure, work_of
from tokmagic.engines.local.load import load_model, map_error
from tokmagic.engines.local.schema import SchemaTokenizer
from tokmagic.engines.local.stream import Cancelled, LocalStream
from tokmagic.engines.local.taps import LogprobTap, TokenTap
from tokmagic.engines.roof import Roof, Work
from tokmagic.errors import ContextError, UsageError
from tokmagic.formatting.numbers import counted
from tokmagic.tokens.tokenizer import Decoder, Tokenizer

# Prompts longer than this are prefilled in chunks of it, so that an interrupt never waits for more.
_PREFILL_CHUNK = 1024


class Inference:
    """A model's weights on one device, and what runs prompts on them."""

    def __init__(self, name: str, spec: ModelSpec, folder: Path, tokenizer: Tokenizer, progress: Progress) -> None:
        """Read the weights in ``folder``. Raises ModelError, OutOfMemoryError, UsageError."""
        self._name = name
        self._spec = spec
        self._tokenizer = tokenizer
        self._schemas: SchemaTokenizer | None = None
        self._device = pick_device(spec.device)
        try:
            self._model = load_model(folder, spec, self._device, progress)
        except BaseException:
            free_memory(self._device)
            raise
        self.device = str(self._device)
        self.device_name = device_name(self._device)
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.context_tokens = _context_tokens(self._model)
        self.greedy = not self._model.generation_config.do_sample

    @property
    def is_shared_with_children(self) -> bool:
        """Whether a forked child can run it: what is on a GPU is its parent's alone."""
        return self._device.type == "cpu"

    def close(self) -> None:
        """Free the weights; nothing can be run afterwards."""
        self._model = None
        free_memory(self._device)

    def generate(self, prompt: Prompt, stream: LocalStream, submitted_ns: int) -> None:
        """Run a prompt and put its events into ``stream``. Raises ContextError, ModelError, UsageError."""
        model, tokenizer, device, sampling = self._model, self._tokenizer, self._device, prompt.sampling
        ids = tokenizer.encode(prompt)
        limit = _room(len(ids), sampling.max_tokens, self.context_tokens, self._name)
        config = _generation_config(model, sampling, limit, self._spec.compile)
        if prompt.ignore_eos:
            config.min_new_tokens = limit
        processors = LogitsProcessorList()
        logprobs = LogprobTap() if sampling.logprobs else None
        if logprobs is not None:
            processors.append(logprobs)  # before what a schema rules out
        if sampling.json_schema is not None:
            schemas = self._ready_schemas(config)
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

    def roof(self) -> tuple[Roof, Work | None]:
        """What the device can do at most, measured now, and what a token of this model asks of it.

        Raises OutOfMemoryError.
        """
        try:
            return measure(self._device), work_of(self._model)
        except Exception as error:
            raise map_error(
                error, f"the limits of {self.device} cannot be measured", self._spec, self._device
            ) from None
        finally:
            free_memory(self._device)

    def _ready_schemas(self, config: GenerationConfig) -> SchemaTokenizer:
        if self._schemas is None:
            vocabulary = self._model.get_output_embeddings().weight.shape[0]
            self._schemas = SchemaTokenizer(self._tokenizer, vocabulary, _eos_ids(config))
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
