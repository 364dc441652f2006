"""Weights in 8 bits on a CPU: half the bytes of 16 to read for each token, while activations stay as they are.

Each row of a matrix, which makes one output, has a scale: its greatest weight ÷ 127. Weights are rounded to whole
multiples of it. A few rows are multiplied by torch's own product of such weights, more of them with the weights
widened piece by piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokmagic.engines.local.products import PIECE, Matrix, Way, joined_bias, widened
from tokmagic.errors import ModelError

# With more rows torch's product of 8-bit weights takes longer than widening them to 16 bits and multiplying those.
_FEW = 4
# Its kernels take so many numbers of a row at once, and what lies behind a row that ends before (torch 2.13, x86).
_STEP = 16
_MOST = 127
_TOLERANCE = 0.02


class Int8(Matrix):
    """Weights [out, in] in 8 bits, each row times its ``scale`` [out] in bfloat16, with their bias [out] if any."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self.scale = scale

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> Int8:
        """Round weights [out, in]."""
        # The scale as it will be used, or its own rounding would be in every product of its row.
        scale = (weight.abs().amax(1).float() / _MOST).to(torch.bfloat16)
        scale = torch.where(scale == 0, 1, scale)
        rounded = torch.empty(weight.shape, dtype=torch.int8)
        step = max(1, PIECE // weight.shape[1])
        for begin in range(0, len(weight), step):
            part = weight[begin : begin + step].float() / scale[begin : begin + step].float().unsqueeze(1)
            rounded[begin : begin + step] = part.round_().clamp_(-_MOST, _MOST)
        return cls(rounded, scale, bias)

    def joined(self, parts: Sequence[Matrix]) -> Int8:
        """One matrix of several like this one, of which all have a bias or none."""
        scales = [it.scale for it in parts if isinstance(it, Int8)]
        return Int8(torch.cat([it.weight for it in parts]), torch.cat(scales), joined_bias(parts))

    def part(self, begin: int, end: int) -> Int8:
        """These outputs of it, in the same memory."""
        bias = None if self.bias is None else self.bias[begin:end]
        return Int8(self.weight[begin:end], self.scale[begin:end], bias)

    def product(self, given: Tensor) -> Tensor:
        """Return the products [rows, out] of ``given`` [rows, in], in its dtype."""
        if given.dtype != torch.bfloat16:
            return self.wide(given.float(), "left").to(given.dtype)
        if len(given) <= _few(given.shape[1]):
            result = torch._weight_int8pack_mm(given, self.weight, self.scale)
        else:
            step = max(1, PIECE // self.weight.shape[1])
            parts = [
                functional.linear(given, widened(self.weight[begin : begin + step], given.dtype))
                for begin in range(0, len(self.weight), step)
            ]
            result = torch.cat(parts, 1).mul_(self.scale)
        return result if self.bias is None else result.add_(self.bias)

    def doubled(self, way: Way | None) -> Int8:
        """Itself: it is there for its size."""
        del way
        return self

    def _scaled(self, result: Tensor) -> Tensor:
        return result.mul_(self.scale.float())


@cache
def _few(width: int) -> int:
    """Up to how many rows of so many numbers torch's own product is used: what it computes here is tried out first."""
    if width % _STEP or not hasattr(torch, "_weight_int8pack_mm"):
        return 0
    weight = (torch.arange(8 * width) % 255 - _MOST).to(torch.int8).view(8, width)
    given = (torch.arange(_FEW * width) % 17 - 8).to(torch.bfloat16).view(_FEW, width)
    scale = torch.full([8], 0.5, dtype=torch.bfloat16)
    try:
        found = torch._weight_int8pack_mm(given, weight, scale).float()
    except RuntimeError:  # not for this kind of processor
        return 0
    wanted = functional.linear(given.float(), weight.float()) * 0.5
    return _FEW if (found - wanted).abs().max() <= _TOLERANCE * wanted.abs().max() else 0


class Int8Linear(nn.Module):
    """A linear layer of transformers' modules, with such weights."""

    def __init__(self, matrix: Int8) -> None:
        super().__init__()
        self.out_features, self.in_features = matrix.weight.shape
        self.hold(matrix)

    def hold(self, matrix: Int8) -> None:
        """Take these weights."""
        self.matrix = matrix
        # As what it is known to torch: counted, moved, and asked for its dtype.
        self.weight = nn.Parameter(matrix.weight, requires_grad=False)
        self.register_buffer("scale", matrix.scale)
        self.bias = None if matrix.bias is None else nn.Parameter(matrix.bias, requires_grad=False)

    def forward(self, given: Tensor) -> Tensor:
        """Return the products [..., out] of ``given`` [..., in]."""
        return self.matrix.product(given.reshape(-1, self.in_features)).view(*given.shape[:-1], self.out_features)


class Int8Embedding(nn.Module):
    """The rows of such weights that belong to tokens, for a model whose output has the same weights."""

    def __init__(self, matrix: Int8, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.weight = nn.Parameter(matrix.weight, requires_grad=False)
        self.register_buffer("scale", matrix.scale)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows [..., width] of ``ids`` [...]."""
        scale: Any = self.scale
        return self.weight[ids].to(self._dtype).mul_(scale[ids].unsqueeze(-1))


def quantise(model: Any) -> None:
    """Round the weights of all linear layers of a model of transformers; they are freed one after another.

    What is no linear layer keeps its dtype: norms, the experts of some mixtures, an embedding of its own. Raises
    ModelError where there is nothing to round.
    """
    dtype, head, embedding = model.dtype, model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = head is not None and type(embedding) is nn.Embedding and embedding.weight is head.weight
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    if not any(child is not head for _, _, child in found):
        raise ModelError("--quant int8 finds no linear layer to quantise; leave it out")
    with torch.inference_mode(mode=False), torch.no_grad():
        for parent, name, child in found:
            bias = None if child.bias is None else child.bias.detach()
            made = Int8Linear(Int8.of(child.weight.detach(), bias))
            if child is head and is_tied:
                model.set_input_embeddings(Int8Embedding(made.matrix, dtype))
            setattr(parent, name, made)
