"""The keys and values of one sequence, which its next tokens attend to."""

from __future__ import annotations

import torch
from torch import Tensor

# Positions that memory is taken for at a time, at least; and the share by which it grows where that is more.
_BLOCK = 128
_GROWTH = 0.25


class KVCache:
    """Keys and values of a sequence, one tensor ``data`` [layers, 2, kv_heads, capacity, head_size]; ``length`` of its
    positions are filled."""

    def __init__(self, layers: int, kv_heads: int, head_size: int, dtype: torch.dtype) -> None:
        self.data: Tensor = torch.empty(layers, 2, kv_heads, 0, head_size, dtype=dtype)
        self.length = 0

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions in all."""
        capacity = self.data.shape[3]
        if length <= capacity:
            return
        wanted = max(length, int(capacity * (1 + _GROWTH)))
        grown = self.data.new_empty(*self.data.shape[:3], -(-wanted // _BLOCK) * _BLOCK, self.data.shape[4])
        grown[:, :, :, : self.length] = self.data[:, :, :, : self.length]
        self.data = grown

    def copy(self, length: int) -> KVCache:
        """Return a cache of its own that begins with the first ``length`` positions of this one."""
        layers, _, kv_heads, _, head_size = self.data.shape
        made = KVCache(layers, kv_heads, head_size, self.data.dtype)
        made.reserve(length)
        made.data[:, :, :, :length] = self.data[:, :, :, :length]
        made.length = length
        return made
