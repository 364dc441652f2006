"""Matrix products on a CPU, each in the arithmetic that is fastest there for its number of rows.

A CPU without instructions for 16-bit floats multiplies such weights a row at a time: one row is bound by reading the
weights and fast, many rows take as many times as long. Widened to 32 bits piece by piece, in a buffer that stays in the
processor's cache, the same weights feed the machine's own matrix product, and nothing is kept in memory twice.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tokmagic.engines.local.threads import threads

# Numbers of a widened piece: 8 MB, which a processor's last cache holds.
_PIECE = 2 * 1024 * 1024
# Numbers of rows at which both ways are tried; the fewest that pays decides.
_ROWS = (2, 3, 4, 6, 8, 12, 16)
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How products with several rows are computed.

    From ``wide_from`` rows on, weights are widened to 32 bits, multiplied so, and the result rounded to the weights'
    own dtype. With fewer rows, and with None always, torch's linear layer computes in that dtype, as in transformers.
    """

    wide_from: int | None = None

    @property
    def told(self) -> str | None:
        """In a few words; None for what transformers does.

        Without the number, which is measured anew each time: where it is near, both ways are as fast.
        """
        return None if self.wide_from is None else "float32 for several rows"


AS_TRANSFORMERS = Arithmetic()
"""To the bit what transformers computes."""


class Matrix:
    """Weights [out, in], with their bias [out] if they have one."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    def product(self, given: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the products [rows, out] of ``given`` [rows, in]."""
        wide_from = arithmetic.wide_from
        if wide_from is None or given.shape[0] < wide_from:
            return functional.linear(given, self.weight, self.bias)
        return self._wide(given)

    def _wide(self, given: Tensor) -> Tensor:
        # Weights from the left: for few rows the libraries' kernels are up to twice as fast this way round.
        right = given.float().t()
        out, width = self.weight.shape
        result = torch.empty(out, given.shape[0])
        piece = out if self.weight.dtype == torch.float32 else max(1, _PIECE // width)
        for begin in range(0, out, piece):
            part = self.weight[begin : begin + piece]
            torch.mm(_widened(part), right, out=result[begin : begin + piece])
        if self.bias is not None:
            result += self.bias.float().unsqueeze(1)
        return self.weight.new_empty(given.shape[0], out).copy_(result.t())


class _Buffer(threading.local):
    """One for each thread that multiplies: models run on threads of their own."""

    def __init__(self) -> None:
        self.numbers = torch.empty(0)


_buffer = _Buffer()


def _widened(part: Tensor) -> Tensor:
    """``part`` in 32 bits, in a buffer that the thread's next call writes over."""
    if part.dtype == torch.float32:
        return part
    if _buffer.numbers.numel() < part.numel():
        with torch.inference_mode(mode=False):  # else it could be written to in that mode alone
            _buffer.numbers = torch.empty(max(_PIECE, part.numel()))
    return _buffer.numbers[: part.numel()].view(part.shape).copy_(part)


def measure(weight: Tensor) -> Arithmetic:
    """Try out on this machine how products with weights like ``weight`` [out, in] are fastest; some 50 ms.

    In 32 bits nothing is widened, and weights from the left are as fast on one thread and faster on several.
    """
    if weight.dtype == torch.float32:
        return Arithmetic(wide_from=2)
    matrix = Matrix(weight[: max(1, _PIECE // weight.shape[1])])
    # On one thread: several would be slowed down by whatever else computes at this moment, and not both ways alike.
    with threads(1):
        for rows in _ROWS:
            given = torch.ones(rows, weight.shape[1], dtype=weight.dtype)
            if _seconds(matrix, given, Arithmetic(wide_from=1)) < _seconds(matrix, given, AS_TRANSFORMERS):
                return Arithmetic(wide_from=rows)
    return AS_TRANSFORMERS


def _seconds(matrix: Matrix, given: Tensor, arithmetic: Arithmetic) -> float:
    def once() -> float:
        began = time.perf_counter()
        matrix.product(given, arithmetic)
        return time.perf_counter() - began

    return min(once() for _ in range(_TRIES))
