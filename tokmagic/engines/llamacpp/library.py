"""llama.cpp's C interface (``llama.h``), as the shared library of the package xllamacpp exports it.

The package's own Python classes run a server: it keeps the ids of incomplete characters to itself, takes over the
process' signals and opens a port. The C functions below it give every id, and the instant at which it is known.
docs/decisions/0023-llama-cpp-by-its-c-interface.md has the reasons.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

from tokmagic.errors import ModelError

_PACKAGE = "xllamacpp"
SEEDS = 0xFFFFFFFF
"""How many seeds there are: this number itself asks llama.cpp for one of its own."""


class ModelParams(ctypes.Structure):
    """``llama_model_params``."""

    _fields_ = (
        ("devices", ctypes.c_void_p),
        ("tensor_buft_overrides", ctypes.c_void_p),
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int32),
        ("load_mode", ctypes.c_int32),
        ("lazy_mode", ctypes.c_int32),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
        ("use_extra_bufts", ctypes.c_bool),
        ("no_host", ctypes.c_bool),
        ("no_alloc", ctypes.c_bool),
        ("load_mtp", ctypes.c_bool),
    )


class ContextParams(ctypes.Structure):
    """``llama_context_params``."""

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("n_rs_seq", ctypes.c_uint32),
        ("n_outputs_max", ctypes.c_uint32),
        ("n_outputs_max_per_seq", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("ctx_type", ctypes.c_int32),
        ("rope_scaling_type", ctypes.c_int32),
        ("pooling_type", ctypes.c_int32),
        ("attention_type", ctypes.c_int32),
        ("flash_attn_type", ctypes.c_int32),
        ("rope_freq_base", ctypes.c_float),
        ("rope_freq_scale", ctypes.c_float),
        ("yarn_ext_factor", ctypes.c_float),
        ("yarn_attn_factor", ctypes.c_float),
        ("yarn_beta_fast", ctypes.c_float),
        ("yarn_beta_slow", ctypes.c_float),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("moe_cache_size", ctypes.c_size_t),
        ("abort_callback", ctypes.c_void_p),
        ("abort_callback_data", ctypes.c_void_p),
        ("embeddings", ctypes.c_bool),
        ("offload_kqv", ctypes.c_bool),
        ("no_perf", ctypes.c_bool),
        ("op_offload", ctypes.c_bool),
        ("swa_full", ctypes.c_bool),
        ("kv_unified", ctypes.c_bool),
        ("samplers", ctypes.c_void_p),
        ("n_samplers", ctypes.c_size_t),
        ("ctx_other", ctypes.c_void_p),
    )


class ChainParams(ctypes.Structure):
    """``llama_sampler_chain_params``."""

    _fields_ = (("no_perf", ctypes.c_bool),)


class Batch(ctypes.Structure):
    """``llama_batch``: of each token its id, its position, its sequences, and whether its logits are wanted."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTER, _INT, _FLOAT, _SIZE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "llama_backend_init": (None,),
    "llama_log_set": (None, _LOG, _POINTER),
    "llama_supports_gpu_offload": (ctypes.c_bool,),
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (_POINTER, ctypes.c_char_p, ModelParams),
    "llama_model_free": (None, _POINTER),
    "llama_model_get_vocab": (_POINTER, _POINTER),
    "llama_model_n_ctx_train": (_INT, _POINTER),
    "llama_model_has_encoder": (ctypes.c_bool, _POINTER),
    "llama_model_is_recurrent": (ctypes.c_bool, _POINTER),
    "llama_vocab_n_tokens": (_INT, _POINTER),
    "llama_init_from_model": (_POINTER, _POINTER, ContextParams),
    "llama_free": (None, _POINTER),
    "llama_n_ctx": (ctypes.c_uint32, _POINTER),
    "llama_get_memory": (_POINTER, _POINTER),
    "llama_memory_clear": (None, _POINTER, ctypes.c_bool),
    "llama_memory_seq_rm": (ctypes.c_bool, _POINTER, _INT, _INT, _INT),
    "llama_memory_seq_cp": (None, _POINTER, _INT, _INT, _INT, _INT),
    "llama_decode": (_INT, _POINTER, Batch),
    "llama_get_logits_ith": (ctypes.POINTER(_FLOAT), _POINTER, _INT),
    "llama_sampler_chain_init": (_POINTER, ChainParams),
    "llama_sampler_chain_add": (None, _POINTER, _POINTER),
    "llama_sampler_init_temp": (_POINTER, _FLOAT),
    "llama_sampler_init_top_k": (_POINTER, _INT),
    "llama_sampler_init_top_p": (_POINTER, _FLOAT, _SIZE),
    "llama_sampler_init_min_p": (_POINTER, _FLOAT, _SIZE),
    "llama_sampler_init_dist": (_POINTER, ctypes.c_uint32),
    "llama_sampler_sample": (_INT, _POINTER, _POINTER, _INT),
    "llama_sampler_free": (None, _POINTER),
}
"""Of each function that is called: what it returns, and its arguments."""
_EXPECTED = (
    ("llama_model_default_params", {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "use_extra_bufts": True}),
    (
        "llama_context_default_params",
        {
            "n_ctx": 512,
            "n_batch": 2048,
            "n_ubatch": 512,
            "n_seq_max": 1,
            "rope_scaling_type": -1,
            "yarn_beta_slow": -1.0,
        }
        | {"type_k": 1, "type_v": 1, "cb_eval": None, "offload_kqv": True, "op_offload": True, "ctx_other": None},
    ),
)
"""Defaults that stand where they are expected only if the structures above are the library's own."""
_ERROR = 4
said: deque[str] = deque(maxlen=20)
"""What llama.cpp last said of errors."""


def _hear(level: int, text: bytes | None, _data: object) -> None:
    if level == _ERROR and text and (line := text.decode(errors="replace").strip()):
        said.append(line)


_hears = _LOG(_hear)  # kept for as long as llama.cpp may call it


def is_installed() -> bool:
    """Whether the package is here; nothing is imported."""
    return importlib.util.find_spec(_PACKAGE) is not None


def missing() -> ModelError:
    """What to say where it is not."""
    return ModelError("a GGUF file needs the package xllamacpp; run: pip install 'tokmagic[llamacpp]'")


@cache
def library() -> Any:
    """The library, ready to load models. Raises ModelError where it is not here or is another one than is known."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise missing()
    folder = Path(spec.origin).parent
    files = [it for it in sorted(folder.iterdir()) if it.suffix in {".so", ".dylib", ".pyd"}]
    try:
        found = ctypes.CDLL(str(files[0]))
        for name, (returned, *arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = returned, arguments
    except (OSError, AttributeError, IndexError) as error:
        raise ModelError(f"xllamacpp cannot be used here: {error}; run: pip install 'tokmagic[llamacpp]'") from error
    for name, expected in _EXPECTED:
        params = getattr(found, name)()
        if {field: getattr(params, field) for field in expected} != expected:
            raise ModelError(
                "this version of xllamacpp is not one that tokmagic knows; run: pip install 'tokmagic[llamacpp]'"
            )
    found.llama_log_set(_hears, None)
    found.llama_backend_init()
    return found
