"""What a model takes of a device's memory, in numbers, before it is loaded: weights, KV cache and overhead.

What is read is config.json and the heads of the weights' files, so that nothing heavy is imported for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

DTYPE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
# Bytes a parameter takes in memory; the quantised figures include their scales and what stays unquantised.
QUANT_BYTES = {"int8": 1.2, "nf4": 0.8}
PREFILL_TOKENS = 1024
"""How many tokens of a prompt are computed at once: what is needed beside weights and cache does not grow further."""

# What safetensors calls the types that a load converts.
_FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_LARGEST_HEAD = 100_000_000
# The same fact by its names in the configurations of different families.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_INNER = ("intermediate_size", "n_inner", "ffn_dim")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx")
# What changes the size of a cache in a way that is not worked out here: states of fixed size, layers that share
# theirs, heads that differ from layer to layer.
_OTHERWISE = (
    *("is_encoder_decoder", "attn_config", "block_configs", "block_types", "hybrid_override_pattern"),
    *("layers_block_type", "attn_layer_period", "conv_L_cache", "state_size", "ssm_state_size", "mamba_d_state"),
    *("linear_attention", "linear_num_value_heads", "linear_num_heads", "linear_conv_kernel_dim", "index_head_dim"),
    *("num_kv_shared_layers", "kv_source_layers", "kv_sharing_modes", "attention_k_eq_v", "global_head_dim"),
    *("num_global_key_value_heads", "num_key_value_heads_per_layer", "swa_num_key_value_heads", "swa_head_dim"),
)
_LATENT = ("deepseek_v2", "deepseek_v3")
"""Families whose cache is known to hold what multi-head latent attention compresses keys and values to."""
_SLIDING, _CHUNKED, _FULL = "sliding_attention", "chunked_attention", "full_attention"
# Families of which all layers have the window, where no layer is described by itself.
_ALL_SLIDING = ("mistral", "mixtral", "phi3", "starcoder2")


@dataclass(frozen=True, slots=True)
class KvCache:
    """The size of a model's KV cache for one answer.

    ``token_bytes`` is what each token takes in the layers that keep all of them, ``windows`` what it takes in those
    that keep the last ones alone, by how many. ``at_most``: it is not told which layers these are, so none is.
    """

    token_bytes: int
    windows: Mapping[int, int] = field(default_factory=dict, hash=False)
    at_most: bool = False

    def size(self, context_tokens: int) -> int:
        """The bytes for so many tokens of prompt and answer."""
        windowed = sum(min(context_tokens, window) * taken for window, taken in self.windows.items())
        return context_tokens * self.token_bytes + windowed


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes of a device's memory; bytes. ``form`` is its dtype or quantisation.

    ``cache`` is None where the configuration does not tell: then only the weights are known. ``row_bytes`` and
    ``activation_bytes`` are an estimate of what computing takes beside: for each answer, and for each token that is
    computed at once. ``smaller`` has other forms of the same model, with the bytes of their weights.
    """

    name: str
    form: str
    weights_bytes: int
    cache: KvCache | None = None
    context_tokens: int | None = None
    row_bytes: int = 0
    activation_bytes: int = 0
    smaller: Mapping[str, int] = field(default_factory=dict, hash=False)

    def cache_bytes(self, context_tokens: int, batch: int = 1) -> int | None:
        """The KV cache of ``batch`` answers at once, each with so many tokens of prompt and answer."""
        return None if self.cache is None else batch * self.cache.size(context_tokens)

    def overhead_bytes(self, context_tokens: int, batch: int = 1) -> int:
        """An estimate of what computing takes beside weights and KV cache."""
        return batch * (self.row_bytes + min(context_tokens, PREFILL_TOKENS) * self.activation_bytes)

    def total_bytes(self, context_tokens: int, batch: int = 1) -> int:
        """All together; without the KV cache where that is not known."""
        beside = (self.cache_bytes(context_tokens, batch) or 0) + self.overhead_bytes(context_tokens, batch)
        return self.weights_bytes + beside

    def largest_context(self, free_bytes: int, batch: int = 1) -> int | None:
        """How many tokens each of ``batch`` answers may have; 0 where not even the weights fit, None: not known.

        It is not more than the model's own limit.
        """
        limit = self.context_tokens
        if self.cache is None or limit is None:
            return None
        return _largest(limit, lambda tokens: self.total_bytes(tokens, batch) <= free_bytes)

    def largest_batch(self, free_bytes: int, context_tokens: int) -> int | None:
        """How many answers of so many tokens fit at once; None where the cache is not known."""
        each = self.total_bytes(context_tokens) - self.weights_bytes
        if self.cache is None or each <= 0:
            return None
        return max(0, (free_bytes - self.weights_bytes) // each)


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds of a device's memory; bytes.

    ``weights_bytes`` are one model's, ``allocated_bytes`` all that torch has given out: the weights of all models,
    their KV caches and, within a step, activations. ``reserved_bytes`` are these and what torch keeps for later. Both
    are None where torch does not count them: for main memory.
    """

    weights_bytes: int
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None


def _largest(limit: int, fits: Any) -> int:
    """The largest number up to ``limit`` that fits, where all smaller ones do; 0 where none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def need(folder: Path, dtype: str, quant: str | None) -> Need | None:
    """Return what the model in ``folder`` takes, as ``dtype`` (torch's name, or ``auto``: its own) or quantised.

    None where there are no weights that can be read: loading tells why.
    """
    stored = _stored(folder)
    if not stored:
        return None
    config = _config(folder)
    own = str(config.get("dtype") or config.get("torch_dtype") or _text(config).get("dtype") or "")
    if own not in DTYPE_BYTES:
        own = max((name for name in stored if name in DTYPE_BYTES), key=lambda name: stored[name][0], default="float32")
    dtype = own if dtype == "auto" else dtype
    already = bool(config.get("quantization_config"))
    weights = _weights(stored, dtype, quant, already=already)
    computed = dtype if dtype in DTYPE_BYTES else "float32"
    each = int(DTYPE_BYTES[computed])
    shape = _text(config)
    hidden, inner = _number(shape, _HIDDEN) or 0, _number(shape, _INNER) or 0
    forms: dict[str, int] = {}
    if not already:
        forms = {"bf16": _weights(stored, "bfloat16", None, already=False)}
        forms |= {name: _weights(stored, dtype, name, already=False) for name in QUANT_BYTES}
    form = quant or dtype
    return Need(
        name=folder.name,
        form=form,
        weights_bytes=weights,
        cache=kv_cache(config, each),
        context_tokens=_number(shape, _CONTEXT),
        # Logits as 32-bit floats: the model's, their logarithms, and a sorted copy to draw from.
        row_bytes=3 * 4 * (_number(shape, ("vocab_size",)) or 0),
        # A layer's input, its normed copy, queries and the result; the gate, what it gates, and their product.
        activation_bytes=each * (4 * hidden + 3 * inner),
        smaller={name: taken for name, taken in forms.items() if taken < weights and name != form},
    )


def _weights(stored: Mapping[str, tuple[int, int]], dtype: str, quant: str | None, *, already: bool) -> int:
    """The bytes of the weights in memory; ``already``: as they are on disk, since they are quantised there."""
    if already:
        return sum(size for _, size in stored.values())
    floats = sum(count for name, (count, _) in stored.items() if name in _FLOATS.values())
    others = sum(size for name, (_, size) in stored.items() if name not in _FLOATS.values())
    return int(floats * (QUANT_BYTES[quant] if quant else DTYPE_BYTES.get(dtype, 4.0))) + others


def kv_cache(config: Mapping[str, Any], element_bytes: int) -> KvCache | None:
    """Return the size of the KV cache from a config.json; None where it does not tell.

    Keys and values of all heads that have their own: 2 × layers × KV heads × head size × bytes of an element for each
    token. With multi-head latent attention: layers × (rank + size of the rotary part) × bytes of an element.
    """
    shape = _text(config)
    layers, heads, hidden = (_number(shape, names) for names in (_LAYERS, _HEADS, _HIDDEN))
    if layers is None or heads is None or hidden is None or any(shape.get(name) for name in _OTHERWISE):
        return None
    if config.get("is_encoder_decoder"):
        return None
    rank = _number(shape, ("kv_lora_rank",))
    if rank is not None:
        rotary = _number(shape, ("qk_rope_head_dim",))
        if rotary is None or shape.get("model_type") not in _LATENT:
            return None
        return KvCache(layers * (rank + rotary) * element_bytes)
    size = _number(shape, ("head_dim",)) or hidden // heads
    layer_bytes = 2 * _kv_heads(shape, heads) * size * element_bytes
    return _by_layers(shape, layers, layer_bytes)


def _kv_heads(shape: Mapping[str, Any], heads: int) -> int:
    if shape.get("multi_query") and not shape.get("new_decoder_architecture"):
        return 1  # Falcon and StarCoder: all queries share one head
    return _number(shape, ("num_key_value_heads", "num_kv_heads")) or heads


def _by_layers(shape: Mapping[str, Any], layers: int, layer_bytes: int) -> KvCache | None:
    """Which layers keep all tokens, and which a window of them (transformers' ``layer_types``)."""
    window, chunk = _number(shape, ("sliding_window",)), _number(shape, ("attention_chunk_size",))
    if isinstance(kinds := shape.get("layer_types"), list):
        of = {_SLIDING: window, _CHUNKED: chunk, _FULL: 0}
        if len(kinds) != layers or any(of.get(kind) is None for kind in kinds):
            return None
        windows: dict[int, int] = {}
        for kind in kinds:
            windows[of[kind] or 0] = windows.get(of[kind] or 0, 0) + layer_bytes
        return KvCache(windows.pop(0, 0), windows)
    if window is None and chunk is None:
        return KvCache(layers * layer_bytes)
    if shape.get("use_sliding_window") is False:
        return KvCache(layers * layer_bytes)
    if window is not None and shape.get("model_type") in _ALL_SLIDING:
        return KvCache(0, {window: layers * layer_bytes})
    return KvCache(layers * layer_bytes, at_most=True)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model, where it reads images or sound too."""
    part = config.get("text_config")
    return part if isinstance(part, dict) else config


def _number(shape: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these fields that holds a positive number."""
    values = (shape.get(name) for name in names)
    return next((it for it in values if isinstance(it, int) and not isinstance(it, bool) and it > 0), None)


def _config(folder: Path) -> dict[str, Any]:
    # What is wrong with it is for loading to tell.
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _stored(folder: Path) -> dict[str, tuple[int, int]]:
    """How many numbers of each type the weights on disk have, and their bytes, by torch's or safetensors' names."""
    found: dict[str, tuple[int, int]] = {}
    for kind, count, size in _tensors(folder):
        name = _FLOATS.get(kind, kind)
        before = found.get(name, (0, 0))
        found[name] = before[0] + count, before[1] + size
    return found


def _tensors(folder: Path) -> Iterator[tuple[str, int, int]]:
    files = _files(folder)
    if files:
        for file in files:
            yield from _head(file)
        return
    own = str(_config(folder).get("dtype") or _config(folder).get("torch_dtype") or "float32")
    for file in folder.glob("*.bin"):
        # A pickled file is not opened for this.
        size = file.stat().st_size
        yield own, int(size / DTYPE_BYTES.get(own, 4.0)), size


def _files(folder: Path) -> list[Path]:
    """The safetensors files that are loaded: those of the index, where a folder has others beside them."""
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        names = {"model.safetensors"} if (folder / "model.safetensors").is_file() else set()
    listed = [folder / name for name in sorted(names) if isinstance(name, str) and (folder / name).is_file()]
    return listed or sorted(folder.glob("*.safetensors"))


def _head(file: Path) -> Iterator[tuple[str, int, int]]:
    """Type, count and bytes of each tensor: the file begins with the length of a JSON object that has them."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            tensors = json.loads(opened.read(length)) if length <= _LARGEST_HEAD else {}
        for name, tensor in tensors.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                yield str(tensor["dtype"]), prod(tensor["shape"]), int(end) - int(begin)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # loading says what is wrong with it
