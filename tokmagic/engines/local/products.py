"""Matrix products on a CPU, each in the arithmetic that is fastest there for its number of rows.

A CPU without instructions for 16-bit floats multiplies such weights a row at a time: one row is bound by reading the
weights and fast, many rows take as many times as long. Widened to 32 bits piece by piece, in a buffer that stays in the
processor's cache, the same weights feed the machine's own matrix product, and nothing is kept in memory twice.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokmagic.engines.local.passes import alone, has_onednn

Way = Literal["left", "parts", "onednn"]
"""How widened weights are multiplied: from the left, part by part side by side, or by oneDNN."""

PIECE = 2 * 1024 * 1024
"""Numbers of a widened piece: 8 MB, which a processor's last cache holds."""
ROWS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of rows at which the ways are tried."""
# Parts of the weights that threads multiply side by side: given one product of few rows, the libraries divide badly.
_PARTS = 4
# The number of rows for which oneDNN lays weights out, and those with which a second form is tried.
_PACKED_FOR = 16
_TRIED_ROWS = (1, 2, 5, 8, 16, 41)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How products with several rows are computed.

    From ``wide_from`` rows on a pass computes in 32 bits, with weights widened for each product. With fewer rows, and
    with None always, torch's linear layers compute in the weights' dtype, as in transformers. With ``onednn`` widened
    weights are multiplied by oneDNN. Else ``in_parts`` are numbers of rows at which they are multiplied part by part;
    between two that were tried the greater one counts.
    With up to ``native_to`` rows torch's own kernels multiply: those of oneDNN, which it would call, may take twice as
    long for a row.
    """

    wide_from: int | None = None
    in_parts: frozenset[int] = frozenset()
    native_to: int = 0
    onednn: bool = False

    def is_wide(self, rows: int) -> bool:
        """Whether a pass of so many rows computes in 32 bits."""
        return self.wide_from is not None and rows >= self.wide_from

    def way(self, rows: int) -> Way:
        """How so many rows are multiplied with widened weights."""
        if self.onednn:
            return "onednn"
        at = bisect_left(ROWS, rows)
        return "parts" if at < len(ROWS) and ROWS[at] in self.in_parts else "left"

    @property
    def told(self) -> str | None:
        """In a few words; None for what transformers does.

        Without the numbers, which differ from machine to machine: where they are near, both ways are as fast.
        """
        native = "torch's own kernels for a row" if self.native_to else None
        wide = None if self.wide_from is None else "float32 for several rows"
        return ", ".join(filter(None, (native, wide))) or None


AS_TRANSFORMERS = Arithmetic()
"""To the bit what transformers computes."""


class Matrix:
    """Weights [out, in], with their bias [out] if they have one.

    ``second``: the same weights in the form that several rows are multiplied with soonest.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, second: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self._second = second
        self._is_packed = second is not None and second.is_mkldnn

    def doubled(self, way: Way | None) -> Matrix:
        """The same matrix with its weights a second time: in 32 bits, or in the order in which oneDNN reads them.

        ``way`` is how widened weights are multiplied; None where none are widened. Itself where there is no such form.
        """
        second = self.weight if way is None else _in_32_bits(self.weight)
        if second is not None and way in (None, "onednn"):
            second = _packed(second)
        return self if second is None else Matrix(self.weight, self.bias, second)

    def can_be_doubled(self, way: Way | None) -> bool:
        """Whether there is such a form here, with the same products, to the bit, as far as is tried."""
        other = self.doubled(way)
        if other is self:
            return False
        drawn = torch.Generator().manual_seed(0)  # not the one that answers are drawn with
        given = [torch.randn(rows, self.weight.shape[1], generator=drawn) for rows in _TRIED_ROWS]
        # A pass has one of the first two by its number of rows. By oneDNN a single row is another product.
        ways: tuple[Way, ...] = ("onednn",) if way == "onednn" else ("left", "parts")
        tried = [(it, by) for it in given for by in ways if len(it) > 1 or by != "onednn"]
        try:
            with alone():
                if way is not None:
                    return all(torch.equal(self.wide(it, by), other.wide(it, by)) for it, by in tried)
                given = [it.to(self.weight.dtype) for it in given]
                return all(torch.equal(self.product(it), other.product(it)) for it in given)
        except RuntimeError:  # not for this kind of processor
            return False

    @property
    def second_bytes(self) -> int:
        """What weights take that are there a second time."""
        return 0 if self._second is None else self._second.numel() * self._second.element_size()

    def joined(self, parts: Sequence[Matrix]) -> Matrix:
        """One matrix of several like this one, of which all have a bias or none."""
        return Matrix(torch.cat([it.weight for it in parts]), joined_bias(parts))

    def part(self, begin: int, end: int) -> Matrix:
        """These outputs of it, in the same memory."""
        return Matrix(self.weight[begin:end], None if self.bias is None else self.bias[begin:end])

    def product(self, given: Tensor) -> Tensor:
        """Return the products [rows, out] of ``given`` [rows, in] as torch's linear layer computes them."""
        second = self._second
        if second is not None and self._is_packed and second.dtype == given.dtype and has_onednn():
            return _by_onednn(given, second, self.bias)
        return functional.linear(given, self.weight, self.bias)

    def add_to(self, hidden: Tensor, given: Tensor) -> None:
        """Add the products [rows, out] of ``given`` [rows, in] to ``hidden``."""
        if hidden.is_cpu or self.bias is not None:
            hidden += self.product(given)
        else:
            hidden.addmm_(given, self.weight.t())  # one kernel of a GPU, not two

    def wide(self, given: Tensor, way: Way) -> Tensor:
        """Return the products [rows, out] of ``given`` [rows, in], all in 32 bits; not always contiguous."""
        out, width = self.weight.shape
        multiply = {"left": self._from_left, "parts": self._in_parts, "onednn": self._with_onednn}[way]
        result = self._scaled(multiply(given, max(1, PIECE // width), out))
        return result if self.bias is None else result + self.bias.float()

    def _wide_part(self, begin: int, end: int) -> Tensor:
        """These outputs' weights in 32 bits."""
        kept = self.weight if self._second is None or self._is_packed else self._second
        return widened(kept[begin:end])

    def _scaled(self, result: Tensor) -> Tensor:
        """What is left to do where the weights stand for others."""
        return result

    def _from_left(self, given: Tensor, piece: int, out: int) -> Tensor:
        # Weights from the left: for many rows the libraries' kernels are faster this way round.
        right = given.t()
        result = torch.empty(out, given.shape[0])
        if self.weight.dtype == torch.float32:
            piece = out
        for begin in range(0, out, piece):
            torch.mm(self._wide_part(begin, begin + piece), right, out=result[begin : begin + piece])
        return result.t()

    def _in_parts(self, given: Tensor, piece: int, out: int) -> Tensor:
        rows, width = given.shape
        result = torch.empty(rows, out)
        whole = max(1, piece // _PARTS) * _PARTS
        for begin in range(0, out, whole):
            wide = self._wide_part(begin, begin + whole)
            into = result[:, begin : begin + whole]
            if len(wide) % _PARTS:
                torch.mm(given, wide.t(), out=into)
                continue
            parts = wide.view(_PARTS, -1, width).transpose(1, 2)
            into.view(rows, _PARTS, -1).copy_(torch.bmm(given.expand(_PARTS, rows, width), parts).transpose(0, 1))
        return result

    def _with_onednn(self, given: Tensor, piece: int, out: int) -> Tensor:
        if self._is_packed and self._second is not None:
            return _by_onednn(given, self._second)
        result = torch.empty(given.shape[0], out)
        for begin in range(0, out, piece):
            result[:, begin : begin + piece] = _by_onednn(given, self._wide_part(begin, begin + piece))
        return result


def _by_onednn(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what oneDNN computes, whether or not torch's linear layers use it at this moment."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return product


def _in_32_bits(weight: Tensor) -> Tensor | None:
    return None if weight.dtype == torch.float32 else weight.float()


def _packed(weight: Tensor) -> Tensor | None:
    """Weights [out, in] as oneDNN reads them, in memory of their own; None where there is no such order here."""
    ops: Any = torch.ops.mkldnn
    try:
        packed: Tensor = ops._reorder_linear_weight(weight, _PACKED_FOR)
    except (AttributeError, RuntimeError):  # another build of torch, or another processor
        return None
    return packed if packed.is_mkldnn else None


def linear(model: nn.Module) -> list[Matrix]:
    """The weights of a model's linear layers, but those that something else multiplies: quantised ones."""
    return [Matrix(it.weight.detach()) for it in model.modules() if type(it) is nn.Linear]


def joined_bias(parts: Sequence[Matrix]) -> Tensor | None:
    """The biases of matrices that are joined; None where they have none."""
    biases = [it.bias for it in parts if it.bias is not None]
    return torch.cat(biases) if biases else None


class _Buffer(threading.local):
    """One for each thread that multiplies: models run on threads of their own."""

    def __init__(self) -> None:
        self.numbers = torch.empty(0)


_buffer = _Buffer()


def widened(part: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``part`` in a wider dtype, in a buffer that the thread's next call writes over."""
    if part.dtype == dtype:
        return part
    if _buffer.numbers.numel() < part.numel():
        with torch.inference_mode(mode=False):  # else it could be written to in that mode alone
            _buffer.numbers = torch.empty(max(PIECE, part.numel()))
    return _buffer.numbers.view(dtype)[: part.numel()].view(part.shape).copy_(part)
