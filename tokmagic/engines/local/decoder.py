"""The forward pass of models built like Llama, with as few calls as it takes: a small model's step otherwise spends as
long in Python and small operations as in reading its weights.

It computes what transformers' own modules compute, operation by operation, which is tried out on the model itself
before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokmagic.engines.local.attention import Attention, Segment
from tokmagic.engines.local.called import Called, is_called
from tokmagic.engines.local.choices import Choose
from tokmagic.engines.local.device import free_memory, wait_for
from tokmagic.engines.local.graphs import Graphs, Steady
from tokmagic.engines.local.int8 import Int8, Int8Linear
from tokmagic.engines.local.kv import KVCache, KVCaches
from tokmagic.engines.local.memory import free_ram
from tokmagic.engines.local.norms import Norm
from tokmagic.engines.local.passes import alone
from tokmagic.engines.local.products import AS_TRANSFORMERS, Matrix, Way

# Exactly these: a class that derives from one may compute something else.
_FAMILY = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
# Rotary embeddings that depend on a position alone; others depend on how long the sequence is, too.
_ROTATIONS = {"default", "linear", "llama3", "yarn"}
_TABLE = 1024
_TRIAL = (3, 1, 4, 1, 5)
# Multiples of it lie all over a vocabulary.
_PRIME = 7919
# Of the greatest logit: a hundred times what 32 bits leave open after some hundred sums of a thousand numbers.
_TOLERANCE = 1e-4
# What rounding may do to logits on a GPU. Of the default model's in bf16 other kernels leave 0.05 open, and single rows
# up to 0.4; with attention scaled by a tenth too much it is 0.13 to 0.16, with another activation 0.7.
_ROUNDING = 0.1
# The part of the memory that is free which a second copy of the weights may take.
_FOR_SPEED = 0.25
# A number of rows that a batch has.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class _Layer:
    before_attention: Norm
    qkv: Matrix
    query_norm: Norm | None
    key_norm: Norm | None
    out: Matrix
    before_mlp: Norm
    gate_up: Matrix
    down: Matrix

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        return self.qkv, self.out, self.gate_up, self.down

    def doubled(self, way: Way | None) -> _Layer:
        qkv, out, gate_up, down = (it.doubled(way) for it in self.matrices)
        return replace(self, qkv=qkv, out=out, gate_up=gate_up, down=down)


class Decoder:
    """A model's layers, run on the flattened tokens of any number of sequences."""

    def __init__(self, model: Any) -> None:
        """Take over the weights of ``model``, which goes on using the same memory; see :func:`decoder`."""
        config = model.config
        attention = model.model.layers[0].self_attn
        self.arithmetic = AS_TRANSFORMERS
        self.device: torch.device = model.device
        self._is_on_cpu = self.device.type == "cpu"
        # On a GPU nothing is equal to transformers to the bit: a joined matrix has another kernel.
        self._hurries = not self._is_on_cpu
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_size: int = attention.head_dim
        self._scale: float = attention.scaling
        self._act = model.model.layers[0].mlp.act_fn
        self._rotary = model.model.rotary_emb
        self._dtype: torch.dtype = model.dtype
        self._embedding: nn.Module = model.model.embed_tokens
        self._last_norm = _norm(model.model.norm)
        self._head = _matrix(model.lm_head)
        self._layers = [_layer(layer) for layer in model.model.layers]
        self._cos, self._sin = self._table(_TABLE)
        self._kept_caches: KVCaches | None = None
        self._graphs = None if self._is_on_cpu else Graphs(self._pass, self._steady_pass, near, self._scale)

    def caches(self) -> KVCaches:
        """Return what makes the caches of sequences; on a GPU always the same, whose memory graphs go on using."""
        if self._is_on_cpu:
            return self._new_caches()
        self._kept_caches = self._kept_caches or self._new_caches()
        return self._kept_caches

    def _new_caches(self) -> KVCaches:
        return KVCaches(len(self._layers), self._kv_heads, self._head_size, self._dtype, self.device)

    @property
    def bytes_per_position(self) -> int:
        """What a cache takes for each position of a sequence."""
        return len(self._layers) * 2 * self._kv_heads * self._head_size * self._dtype.itemsize

    def hurry(self, choose: Choose) -> None:
        """Compute as ``choose`` finds fastest from now on; what is rounded where is no longer as in transformers."""
        self.arithmetic = choose([layer.gate_up for layer in self._layers], self._dtype)
        self._hurries = True
        self._double()

    def _double(self) -> None:
        """Keep the weights in a second form where memory is plenty: in 32 bits, or as oneDNN reads them.

        A pass of several rows is sooner by it and computes the same, so that this may hang on the memory.
        """
        way = self.arithmetic.way(_BATCH) if self.arithmetic.is_wide(_BATCH) else None
        wanted = sum(it.weight.numel() * (4 if way else it.weight.element_size()) for it in self._matrices)
        free = free_ram()
        if free is None or wanted > free * _FOR_SPEED:
            return
        # The shapes of one layer are those of all.
        if all(it.can_be_doubled(way) for it in (self._head, *self._layers[0].matrices)):
            self._head = self._head.doubled(way)
            self._layers = [it.doubled(way) for it in self._layers]

    @property
    def _matrices(self) -> list[Matrix]:
        return [self._head, *(it for layer in self._layers for it in layer.matrices)]

    @property
    def has_graphs(self) -> bool:
        """Whether passes of a few sequences are captured and played again."""
        return self._graphs is not None and self._graphs.are_used

    @property
    def second_bytes(self) -> int:
        """What weights take that are kept a second time."""
        return sum(it.second_bytes for it in self._matrices)

    @property
    def widest(self) -> Matrix:
        """The greatest weights of a layer."""
        return self._layers[0].gate_up

    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Return the logits [segments, vocabulary] after each segment's last token.

        What the caches hold grows by the segments' tokens once the pass is over; if it fails they are as before.
        """
        for segment in segments:
            segment.cache.reserve(segment.cache.length + len(segment.ids))
        self._reach(max(segment.cache.length + len(segment.ids) for segment in segments))
        tokens = sum(len(segment.ids) for segment in segments)
        with alone(self.device, native=tokens <= self.arithmetic.native_to):
            logits = self._pass(segments) if self._graphs is None else self._graphs.run(segments)
            wait_for(self.device)
        for segment in segments:
            segment.cache.length += len(segment.ids)
        return logits

    def _pass(self, segments: Sequence[Segment]) -> Tensor:
        attention = Attention(segments, self._scale, self._dtype, self.device, grouped=self._hurries)
        ids = [it for segment in segments for it in segment.ids]
        hidden: Tensor = self._embedding(torch.tensor(ids, device=self.device))
        layers = self._wide_layers if self.arithmetic.is_wide(len(hidden)) else self._layers_as_transformers
        return layers(attention, hidden)

    def _steady_pass(self, attention: Steady, ids: Tensor) -> Tensor:
        return self._layers_as_transformers(attention, self._embedding(ids))

    def _layers_as_transformers(self, attention: Attention | Steady, hidden: Tensor) -> Tensor:
        cos, sin = self._rotations(attention)
        for index, layer in enumerate(self._layers):
            projected = layer.qkv.product(self._normed(hidden, layer.before_attention))
            attended = attention.attend(index, *self._turned(layer, projected, cos, sin))
            layer.out.add_to(hidden, attended)
            gate, up = layer.gate_up.product(self._normed(hidden, layer.before_mlp)).chunk(2, -1)
            layer.down.add_to(hidden, self._act(gate).mul_(up))
        return self._head.product(self._normed(_last(hidden, attention), self._last_norm))

    def _wide_layers(self, attention: Attention, hidden: Tensor) -> Tensor:
        """The same in 32 bits, but for keys, values and what attends to them."""
        dtype, way = hidden.dtype, self.arithmetic.way(len(hidden))
        cos, sin = (it.float() for it in self._rotations(attention))
        hidden = hidden.float()
        for index, layer in enumerate(self._layers):
            projected = layer.qkv.wide(self._normed(hidden, layer.before_attention), way)
            query, key, value = self._turned(layer, projected.contiguous(), cos, sin)
            attended = attention.attend(index, query.to(dtype, memory_format=torch.contiguous_format), key, value)
            hidden += layer.out.wide(attended.float(), way)
            gate, up = layer.gate_up.wide(self._normed(hidden, layer.before_mlp), way).chunk(2, -1)
            hidden += layer.down.wide(self._act(gate).mul_(up), way)
        last = _last(hidden, attention)
        # Of a prompt it is one row, for which 32 bits would not pay.
        if not self.arithmetic.is_wide(len(last)):
            return self._head.product(self._normed(last, self._last_norm).to(dtype))
        logits = self._head.wide(self._normed(last, self._last_norm), self.arithmetic.way(len(last)))
        # Each run reads its own row, which would else lie apart number by number.
        return logits.contiguous()

    def _normed(self, hidden: Tensor, norm: Norm) -> Tensor:
        return norm.hurried(hidden) if self._hurries else norm.as_transformers(hidden)

    def _turned(self, layer: _Layer, projected: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [tokens, heads, head_size], turned by their positions."""
        heads, turned = self._heads, self._heads + self._kv_heads
        qkv = projected.view(len(projected), -1, self._head_size)
        qk = qkv[:, :turned]
        if layer.query_norm is not None and layer.key_norm is not None:
            qk = torch.cat(
                (self._normed(qk[:, :heads], layer.query_norm), self._normed(qk[:, heads:], layer.key_norm)), 1
            )
        # A rotation: the halves of each head change places, the sign of one of them is in the table.
        changed = qk.roll(self._head_size // 2, -1)
        qk = (qk * cos).add_(changed.mul_(sin)) if self._is_on_cpu else (qk * cos).addcmul_(changed, sin)
        return qk[:, :heads], qk[:, heads:], qkv[:, turned:]

    def _reach(self, until: int) -> None:
        """Have cosines and sines of all positions below ``until``."""
        if until > len(self._cos):
            self._cos, self._sin = self._table(-(-until // _TABLE) * _TABLE)
            if self._graphs is not None:
                self._graphs.forget()  # they read the tables that were there before

    def _rotations(self, attention: Attention | Steady) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [tokens, 1, head_size] of the tokens' positions."""
        return self._cos[attention.positions].unsqueeze(1), self._sin[attention.positions].unsqueeze(1)

    def _table(self, positions: int) -> tuple[Tensor, Tensor]:
        cos, sin = self._rotary(self._last_norm.weight, torch.arange(positions, device=self.device).unsqueeze(0))
        sin = sin[0].clone()
        sin[:, : self._head_size // 2].neg_()
        return cos[0], sin


def _last(hidden: Tensor, attention: Attention | Steady) -> Tensor:
    """The rows [segments, width] of each segment's last token."""
    ends = attention.ends
    return hidden if len(ends) == len(hidden) else hidden[[end - 1 for end in ends]]


def decoder(model: Any, choose: Choose | None) -> Decoder | None:
    """Return the decoder of a model of transformers; None where this module does not know how it computes.

    Whether it does is seen from the model's classes and settings, and then tried out: a few tokens have to give the
    same logits as the model itself. On a CPU in 16 bits to the bit; in 32 bits a joined matrix is summed in another
    order, and on a GPU by another kernel.
    With no ``choose`` it keeps to transformers' arithmetic where this machine has a faster one; a GPU has no such one.
    """
    with torch.inference_mode():
        if not _is_known(model) or (choose is None and model.device.type != "cpu"):
            return None
        if model.device.type != "cpu":
            return _on_gpu(model)
        made = Decoder(model)
        if not _agrees(made, model):
            return None
        if choose is not None:
            made.hurry(choose)
        return made


def _on_gpu(model: Any) -> Decoder | None:
    """A GPU's decoder, if it agrees; None where there is no memory for it, or a kernel fails."""
    try:
        made = Decoder(model)
        return made if _agrees_on_gpu(made, model) else None
    except RuntimeError:
        return None
    finally:
        free_memory(model.device)  # the parts of joined matrices


def _is_known(model: Any) -> bool:
    config = model.config
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    return (
        type(model).__name__ in _FAMILY
        and type(model).__module__.startswith("transformers.models.")
        and config._attn_implementation == "sdpa"
        and rotation in _ROTATIONS
        and getattr(config, "sliding_window", None) is None
        and all(_is_multiplied(it, model.device) for it in model.modules() if isinstance(it, nn.Linear))
        and not any(isinstance(it, nn.LayerNorm) for it in model.modules())
        and model.device.type in {"cpu", "cuda"}
    )


def _is_multiplied(linear: nn.Linear, device: torch.device) -> bool:
    return type(linear) is nn.Linear or (device.type != "cpu" and is_called(linear))


def _agrees(made: Decoder, model: Any) -> bool:
    cache = made.caches().new()
    *begin, last = _TRIAL
    first = model(torch.tensor([begin]), use_cache=True)
    second = model(torch.tensor([[last]]), past_key_values=first.past_key_values, use_cache=True)
    return all(
        _same(made.forward([Segment(cache, ids)])[0], wanted.logits[0, -1])
        for ids, wanted in ((begin, first), ((last,), second))
    )


def _same(logits: Tensor, wanted: Tensor) -> bool:
    if logits.dtype == torch.float32:
        return bool((logits - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
    return torch.equal(logits, wanted)


def _agrees_on_gpu(made: Decoder, model: Any) -> bool:
    """Whether each kind of pass gives the model's logits, but for rounding: of beginnings, of what follows them, of one
    token each side by side, and of one alone. Raises what torch does."""
    begin, whole, rows = len(_TRIAL) - 1, 2 * len(_TRIAL) - 1, range(_BATCH)
    ids = [[_PRIME * (row * whole + at + 1) % model.config.vocab_size for at in range(whole)] for row in rows]
    given = torch.tensor(ids, device=made.device)
    first = model(given[:, :begin], use_cache=True)
    second = model(given[:, begin:], past_key_values=first.past_key_values)
    held = [made.caches().new() for _ in rows]

    def passed(caches: list[KVCache], start: int, end: int) -> Tensor:
        return made.forward([Segment(it, row[start:end]) for it, row in zip(caches, ids, strict=True)])

    try:
        found = [(passed(held, 0, begin), first.logits[:, -1])]
        others = [it.copy(begin) for it in held]
        held += others
        found.append((passed(others, begin, whole), second.logits[:, -1]))
        found.append((passed(held[:_BATCH], begin, begin + 1), second.logits[:, 0]))
        for cache in held[:_BATCH]:
            cache.length = begin
        alone = [made.forward([Segment(it, row[begin : begin + 1])]) for it, row in zip(held, ids, strict=False)]
        found.append((torch.cat(alone), second.logits[:, 0]))
        return all(near(logits, wanted) for logits, wanted in found)
    finally:
        for cache in held:
            cache.free()


def near(logits: Tensor, wanted: Tensor) -> bool:
    """Whether logits [rows, vocabulary] differ from others by rounding alone.

    By how far they are from them, as a part of how far those of a row lie apart, in half of the rows: a single row may
    hang on the last bit of a sum.
    """
    wanted = wanted.float()
    spread = (wanted - wanted.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((logits.float() - wanted).norm(dim=-1) / spread).median()) <= _ROUNDING


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return _Layer(
        before_attention=_norm(layer.input_layernorm),
        qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=None if query_norm is None else _norm(query_norm),
        key_norm=None if key_norm is None else _norm(key_norm),
        out=_matrix(attention.o_proj),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=_joined(mlp.gate_proj, mlp.up_proj),
        down=_matrix(mlp.down_proj),
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)


def _matrix(linear: nn.Linear | Int8Linear) -> Matrix:
    if isinstance(linear, Int8Linear):
        return linear.matrix
    if is_called(linear):
        return Called(linear)
    return Matrix(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())


def _joined(*linears: nn.Linear | Int8Linear) -> Matrix:
    """One matrix of several that are multiplied with the same rows; from now on they are parts of it themselves."""
    parts = [_matrix(linear) for linear in linears]
    joined = parts[0].joined(parts)
    if isinstance(joined, Called):
        return joined
    begin = 0
    for linear in linears:
        end = begin + linear.out_features
        _hold(linear, joined.part(begin, end))
        begin = end
    return joined


def _hold(linear: nn.Linear | Int8Linear, matrix: Matrix) -> None:
    if isinstance(linear, Int8Linear):
        assert isinstance(matrix, Int8)
        linear.hold(matrix)
        return
    linear.weight = nn.Parameter(matrix.weight, requires_grad=False)
    if matrix.bias is not None:
        linear.bias = nn.Parameter(matrix.bias, requires_grad=False)
