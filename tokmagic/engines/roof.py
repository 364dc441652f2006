"""What a device can do at most and what a model asks of it: from both follow the shortest times that are possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class MatrixSpeed:
    """How fast a device multiplies so many ``rows`` with a matrix, in floating point operations a second."""

    dtype: str
    rows: int
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a model asks of its device. Bytes and floating point operations.

    ``weight_bytes`` are read in each step; ``kv_bytes`` of cache for each token of the context. A token of the prompt
    takes ``token_flops``, the last one ``head_flops`` more, and each pair of a token and one that it attends to
    ``pair_flops``.
    """

    weight_bytes: int
    kv_bytes: int
    token_flops: int
    head_flops: int
    pair_flops: int

    def decode_bytes(self, context_tokens: float) -> float:
        """What one output token reads, in bytes: the weights, and the cache of the context before it."""
        return self.weight_bytes + self.kv_bytes * context_tokens

    def prefill_flops(self, tokens: int, cached: int = 0) -> int:
        """What a prompt takes: its matrices grow with its length, its attention with the square of that.

        The first ``cached`` of its tokens were computed before.
        """
        before, pairs = (count * (count + 1) // 2 for count in (cached, tokens))  # each attends to itself, too
        return self.token_flops * (tokens - cached) + self.head_flops + self.pair_flops * (pairs - before)


@dataclass(frozen=True, slots=True)
class Roof:
    """What a device can do at most, as it was measured: bytes read a second, and the speed of its matrix products.

    ``threads`` are those that computed on a CPU.
    """

    device: str
    read_bytes_per_s: float
    matrix: tuple[MatrixSpeed, ...]
    threads: int | None = None

    def fastest(self, rows: int) -> MatrixSpeed:
        """The fastest matrix product of so many rows, in whichever dtype the device is fastest.

        More rows are faster, so what was measured of the next larger number bounds it.
        """
        most = min((speed.rows for speed in self.matrix if speed.rows >= rows), default=rows)
        return max((speed for speed in self.matrix if speed.rows <= most), key=lambda speed: speed.flops_per_s)

    def decode_s(self, work: Work, context_tokens: float) -> float:
        """The least time for one output token, in seconds: all that it needs is read once, at full bandwidth."""
        return work.decode_bytes(context_tokens) / self.read_bytes_per_s

    def prefill_s(self, work: Work, tokens: int, cached: int = 0) -> float:
        """The least time for a prompt, in seconds: its arithmetic at full speed, and no less than reading the weights.

        Of its tokens the first ``cached`` came from a cache.

        This is the roofline model: S. Williams, A. Waterman, D. Patterson, CACM 52 (2009), 65-76.
        """
        arithmetic_s = work.prefill_flops(tokens, cached) / self.fastest(tokens - cached).flops_per_s
        return max(arithmetic_s, work.weight_bytes / self.read_bytes_per_s)


@runtime_checkable
class Measurable(Protocol):
    """An engine whose device's limits can be measured in this process."""

    def roof(self) -> tuple[Roof, Work | None]:
        """Measure the device now, which takes seconds, and say what the loaded model asks of it.

        That is None for a model of which it cannot be told. Raises ModelError, OutOfMemoryError.
        """
        ...
