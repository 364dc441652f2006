"""A GGUF file in memory, and the KV cache of the sequences that are being worked on."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from tokmagic.engines.llamacpp.library import Batch, ChainParams, library, said
from tokmagic.errors import ModelError, OutOfMemoryError

SEQUENCES = 128
"""How many answers can be worked on at once."""
BATCH_TOKENS = 512


class Fed(NamedTuple):
    """A token that is given to the model: its id, its position in its sequence, and whether what follows is asked."""

    token: int
    position: int
    sequence: int
    asked: bool


class Weights:
    """The weights, mapped into memory. Everything here is of one thread."""

    def __init__(self, file: Path, *, gpu: bool) -> None:
        """Raises ModelError, with llama.cpp's own reason where it gave one."""
        lib = library()
        if gpu and not lib.llama_supports_gpu_offload():
            raise ModelError("this build of xllamacpp runs on the CPU alone; use --device cpu, or install one for CUDA")
        params = lib.llama_model_default_params()
        params.n_gpu_layers = -1 if gpu else 0
        said.clear()
        self._lib = lib
        self.pointer = lib.llama_model_load_from_file(str(file).encode(), params)
        if not self.pointer:
            raise ModelError(f"{file} cannot be loaded: {_reason()}; see whether a newer xllamacpp knows it")
        self.vocabulary = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.pointer)))
        if lib.llama_model_has_encoder(self.pointer):
            self.close()
            raise ModelError(f"{file} has an encoder; give a model that only generates")

    def close(self) -> None:
        """Free them. Nothing that was made of them may be used afterwards."""
        self._lib.llama_model_free(self.pointer)


class Cache:
    """The KV cache: ``cells`` tokens, shared by all sequences, and the steps that fill it."""

    def __init__(self, weights: Weights, cells: int, threads: int) -> None:
        """Raises OutOfMemoryError."""
        self._lib = lib = library()
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = cells, BATCH_TOKENS, BATCH_TOKENS
        params.n_seq_max, params.kv_unified = SEQUENCES, True
        params.n_threads = params.n_threads_batch = threads
        said.clear()
        self._pointer = lib.llama_init_from_model(weights.pointer, params)
        if not self._pointer:
            raise OutOfMemoryError(
                f"there is no memory for {cells:,} tokens of KV cache: {_reason()}; lower --max-tokens"
            )
        self._memory = lib.llama_get_memory(self._pointer)
        self._vocabulary = weights.vocabulary
        self.cells = int(lib.llama_n_ctx(self._pointer))
        self._batch = _Arrays()

    def step(self, fed: Sequence[Fed]) -> None:
        """Run the model on at most ``BATCH_TOKENS`` tokens. Raises ModelError."""
        said.clear()
        if code := self._lib.llama_decode(self._pointer, self._batch.of(fed)):
            raise ModelError(f"llama.cpp failed ({code}): {_reason()}")

    def logits(self, index: int) -> Any:
        """The logits after the step's token ``index``: a float32 array of the vocabulary's size, and llama.cpp's own.

        What is written to it counts for :meth:`draw`; the next step makes it invalid.
        """
        return numpy.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._pointer, index), (self._vocabulary,))

    def draw(self, sampler: Sampler, index: int) -> int:
        """Choose the id that follows the step's token ``index``."""
        return int(self._lib.llama_sampler_sample(sampler.pointer, self._pointer, index))

    def share(self, source: int, target: int) -> None:
        """Let a sequence begin as another stands; nothing is computed or copied."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """Free it."""
        self._lib.llama_free(self._pointer)


class Sampler:
    """Draws at random: temperature, then top-k, top-p and min-p, in transformers' order."""

    def __init__(self, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> None:
        self._lib = lib = library()
        self.pointer = lib.llama_sampler_chain_init(ChainParams(no_perf=True))
        parts = [lib.llama_sampler_init_temp(temperature)]
        parts += [lib.llama_sampler_init_top_k(top_k)] if top_k > 0 else []
        parts += [lib.llama_sampler_init_top_p(top_p, 1)] if top_p < 1 else []
        parts += [lib.llama_sampler_init_min_p(min_p, 1)] if min_p > 0 else []
        for part in (*parts, lib.llama_sampler_init_dist(seed)):
            lib.llama_sampler_chain_add(self.pointer, part)

    def close(self) -> None:
        """Free it."""
        self._lib.llama_sampler_free(self.pointer)


class _Arrays:
    """A batch's arrays, made once: a step writes into them."""

    def __init__(self) -> None:
        size = BATCH_TOKENS
        self._sequences = (ctypes.c_int32 * size)()
        cells = (ctypes.byref(self._sequences, 4 * at) for at in range(size))
        pointer = ctypes.POINTER(ctypes.c_int32)
        self._arrays = (
            (ctypes.c_int32 * size)(),
            (ctypes.c_int32 * size)(),
            (ctypes.c_int8 * size)(),
            (ctypes.c_int32 * size)(*[1] * size),
            (pointer * size)(*(ctypes.cast(cell, pointer) for cell in cells)),
        )
        tokens, positions, asked, counts, sequences = self._arrays
        self._batch = Batch(0, tokens, None, positions, counts, sequences, asked)

    def of(self, fed: Sequence[Fed]) -> Batch:
        tokens, positions, asked, *_ = self._arrays
        for at, it in enumerate(fed):
            tokens[at], positions[at], self._sequences[at], asked[at] = it
        self._batch.n_tokens = len(fed)
        return self._batch


def _reason() -> str:
    """llama.cpp's first complaint, which is the cause of the others, without the name of its function."""
    return re.sub(r"^\w+: (error loading model: )?", "", said[0]).rstrip(".") if said else "it gives no reason"
