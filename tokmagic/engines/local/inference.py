"""A model in memory: torch and transformers on one device. Only the engine's inference thread comes here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig

from tokmagic.core.prompt import DRAWING, PENALTIES, Sampling
from tokmagic.engines.base import ModelSpec, Progress
from tokmagic.engines.fit import Held
from tokmagic.engines.local.answer import Answer
from tokmagic.engines.local.batch import Batch, Run
from tokmagic.engines.local.choices import for_own_passes, for_transformers, kept
from tokmagic.engines.local.declared import asked_arithmetic, follows_transformers, needed
from tokmagic.engines.local.decoder import decoder
from tokmagic.engines.local.device import available_bytes, device_name, free_memory, held, pick_device
from tokmagic.engines.local.drawing import Drawing, is_followed
from tokmagic.engines.local.generating import Call, generate
from tokmagic.engines.local.limits import measure, work_of
from tokmagic.engines.local.load import load_model, map_error
from tokmagic.engines.local.memory import require_ram
from tokmagic.engines.local.passes import Followed
from tokmagic.engines.local.products import AS_TRANSFORMERS, linear
from tokmagic.engines.local.schema import SchemaConstraint, SchemaTokenizer
from tokmagic.engines.local.stream import Request
from tokmagic.engines.local.threads import Threads
from tokmagic.engines.roof import Roof, Work
from tokmagic.errors import ContextError, TokmagicError, UsageError
from tokmagic.formatting.numbers import counted
from tokmagic.tokens.tokenizer import Decoder, Tokenizer

_SCORED = 64


class Inference:
    """A model's weights on one device, and what runs prompts on them."""

    def __init__(
        self, name: str, spec: ModelSpec, folder: Path, tokenizer: Tokenizer, home: Path, progress: Progress
    ) -> None:
        """Read the weights in ``folder``; ``home`` keeps what is measured of this machine.

        Raises ModelError, OutOfMemoryError, UsageError.
        """
        self._name = name
        self._spec = spec
        self._tokenizer = tokenizer
        self._schemas: SchemaTokenizer | None = None
        self._threads = Threads()
        self._device = pick_device(spec.device)
        try:
            self._model = load_model(folder, spec, self._device, progress)
            wanted = needed(folder, spec)
            self._kv_cache = None if wanted is None else wanted.cache
            # A compiled model has its hooks compiled, too.
            followed = None if _may_be_compiled(self._model, spec.compile) else Followed(self._model)
            is_fast = not follows_transformers(spec)
            # Compiled on a GPU is what transformers compiles.
            is_own = self._device.type == "cpu" or spec.compile != "on"
            self._decoder = decoder(self._model, kept(home, for_own_passes) if is_fast else None) if is_own else None
            arithmetic = AS_TRANSFORMERS if self._decoder is None else self._decoder.arithmetic
            if self._decoder is None and followed is not None and is_fast and self._device.type == "cpu":
                arithmetic = kept(home, for_transformers)(linear(self._model), self._model.dtype)
                followed.native_to = arithmetic.native_to
        except BaseException:
            free_memory(self._device)
            raise
        self.device = str(self._device)
        self.device_name = device_name(self._device)
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.context_tokens = _context_tokens(self._model)
        told = None if self.dtype == "float32" else arithmetic.told
        self.arithmetic = ", ".join(filter(None, (asked_arithmetic(spec, self.device), told))) or None
        self.greedy = not self._model.generation_config.do_sample

    def held(self) -> Held:
        """What the weights and torch hold of the device's memory."""
        return held(self._device, self._model, 0 if self._decoder is None else self._decoder.second_bytes)

    def facts(self) -> tuple[tuple[str, str], ...]:
        """How a GPU's passes are computed: whether they are is found out when a model is loaded."""
        if self._device.type == "cpu":
            return ()
        if self._decoder is None:
            return (("passes", "transformers' generate, one prompt at a time"),)
        return (("passes", f"tokmagic's own, in batches, {'with' if self._decoder.has_graphs else 'without'} graphs"),)

    @property
    def is_shared_with_children(self) -> bool:
        """Whether a forked child can run it: what is on a GPU is its parent's alone."""
        return self._device.type == "cpu"

    def close(self) -> None:
        """Free the weights; nothing can be run afterwards."""
        self._model = self._decoder = None
        free_memory(self._device)

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

    def mean_nll(self, ids: Sequence[int]) -> float:
        """Minus the logarithm of the probability of each of ``ids`` but the first, on average.

        Raises OutOfMemoryError.
        """
        given = torch.tensor([list(ids)], device=self._device)
        try:
            with torch.inference_mode():
                # In pieces: in 32 bits the logits of all of a text are some hundred MB.
                logits = torch.split(self._model(given, use_cache=False).logits[0, :-1], _SCORED)
                losses = [
                    functional.cross_entropy(some.float(), wanted, reduction="sum")
                    for some, wanted in zip(logits, torch.split(given[0, 1:], _SCORED), strict=True)
                ]
            return float(sum(losses)) / (len(ids) - 1)
        except Exception as error:
            raise map_error(error, f"{self._name} cannot be measured", self._spec, self._device) from None
        finally:
            free_memory(self._device)

    def serve(self, waiting: deque[Request], may_begin: Callable[[], bool]) -> None:
        """Run the first of the ``waiting`` prompts, and beside it as many others as ``may_begin`` lets begin.

        Returns when all that has begun is over. A prompt's failure ends its own stream.
        """
        batch = None if self._decoder is None else Batch(self._decoder, self._threads, self._failure)
        alone: Callable[[], None] | None = None
        is_first = True
        try:
            with torch.inference_mode():
                while True:
                    while waiting and alone is None and (is_first or self._may_join(batch, waiting[0], may_begin)):
                        is_first = False
                        began_ns = time.perf_counter_ns()
                        alone = self._begin(waiting.popleft(), batch)
                        if batch is not None:
                            batch.leave_out(time.perf_counter_ns() - began_ns)
                    if batch:
                        batch.step()
                    elif alone is not None:
                        alone()
                        alone = None
                    else:
                        return
        finally:
            self._threads.restore()

    def _may_join(self, batch: Batch | None, request: Request, may_begin: Callable[[], bool]) -> bool:
        if batch is None or not batch.has_room(request.prompt.sampling.n) or not may_begin():
            return False
        # A system that gives out more memory than it has would end the process: this one waits for its turn.
        prompt, sampling = request.prompt, request.prompt.sampling
        positions = prompt.utf8_bytes + sampling.max_tokens
        free_bytes = available_bytes(self._device)
        return free_bytes is None or batch.bytes_to_come(sampling.n, positions) <= free_bytes

    def _begin(self, request: Request, batch: Batch | None) -> Callable[[], None] | None:
        """Add a prompt to the batch, or return what runs it, if that needs the device to itself."""
        prompt, stream = request.prompt, request.stream
        sampling = prompt.sampling
        try:
            ids = list(self._tokenizer.encode(prompt))
            if not ids:
                raise UsageError("the prompt is empty; write some text into the cell")
            limit = _room(len(ids), sampling.max_tokens, self.context_tokens, self._name)
            config = _generation_config(self._model, sampling, limit, self._spec.compile)
            if least := limit if prompt.ignore_eos else min(prompt.min_tokens, limit):
                config.min_new_tokens = least
            constraint = self._constraint(config, sampling, len(ids))
            answers = [
                Answer(stream, choice, Decoder(self._tokenizer), _eos_ids(config), sampling.stop)
                for choice in range(sampling.n)
            ]
            if batch is not None and is_followed(config):
                if not batch:  # whoever joins one was asked before
                    self._require_room(batch.bytes_to_come(sampling.n, len(ids) + limit), len(ids) + limit, sampling.n)
                drawing = Drawing(
                    config,
                    ids,
                    seed=sampling.seed,
                    constraint=constraint,
                    logprobs=sampling.logprobs,
                    device=self._device,
                )
                batch.add(Run(stream, request.submitted_ns, ids, limit, answers, drawing))
                return None
        except Exception as error:
            stream.fail(self._failure(error, 0))
            return None
        return lambda: self._alone(
            request, Call(ids, config, answers, seed=sampling.seed, constraint=constraint, logprobs=sampling.logprobs)
        )

    def _require_room(self, needed_bytes: int, positions: int, answers: int) -> None:
        """Refuse a prompt whose answers would not fit at their limit: not all systems tell when memory has run out.

        Raises OutOfMemoryError.
        """
        if self._device.type == "cpu":  # a GPU tells it in time
            what = f"the KV cache for {counted(answers, 'answer')} of up to {positions:,} tokens with the prompt"
            require_ram(needed_bytes, what, "lower --max-tokens, or -n, or shorten the prompt")

    def _alone(self, request: Request, call: Call) -> None:
        stream = request.stream
        try:
            if self._kv_cache is not None and not self._kv_cache.at_most:
                positions = len(call.ids) + (call.config.max_new_tokens or 0)
                each = self._kv_cache.size(positions)
                self._require_room(len(call.answers) * each, positions, len(call.answers))
            generate(self._model, call, stream, request.submitted_ns)
        except Exception as error:
            failure = self._failure(error, sum(answer.tokens for answer in call.answers))
            del error
            free_memory(self._device)
            stream.fail(failure)
        if stream.closed:
            free_memory(self._device)

    def _failure(self, error: Exception, tokens: int) -> TokmagicError:
        if isinstance(error, TokmagicError):
            return error
        if self._device.type != "cpu":
            free_memory(self._device)
        return map_error(error, f"{self._name} failed at {tokens} output tokens", self._spec, self._device)

    def _constraint(self, config: GenerationConfig, sampling: Sampling, prompt_tokens: int) -> SchemaConstraint | None:
        if sampling.json_schema is None:
            return None
        if self._schemas is None:
            vocabulary = self._model.get_output_embeddings().weight.shape[0]
            self._schemas = SchemaTokenizer(self._tokenizer, vocabulary, _eos_ids(config))
        return self._schemas.constraint(sampling.json_schema, sampling.n, prompt_tokens)


def _may_be_compiled(model: Any, compile_mode: str) -> bool:
    """Whether transformers may compile a model: by itself it does so on a GPU, with a cache of a kind that fits."""
    by_itself = model.device.type != "cpu" and model.generation_config.cache_implementation is not None
    return compile_mode == "on" or (compile_mode != "off" and by_itself)


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
    config = copy(model.generation_config)  # its own copies go through all of it several times
    config.max_length = None
    config.max_new_tokens = max_new_tokens
    given = _given(sampling, DRAWING)
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
    config.update(**_given(sampling, PENALTIES))
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos if isinstance(eos, int) or eos is None else eos[0]
    if compile_mode == "on":
        config.cache_implementation = "static"
    config.disable_compile = compile_mode == "off"
    return config


def _given(sampling: Sampling, names: Sequence[str]) -> dict[str, float]:
    """What a prompt says of these options: transformers refuses a whole number where it wants a float."""
    values = {name: value for name in names if (value := getattr(sampling, name)) is not None}
    return {name: value if name == "top_k" else float(value) for name, value in values.items()}
