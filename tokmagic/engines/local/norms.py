"""The norm before each block of a model built like Llama: rows over the root of their mean square, times weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class Norm:
    """One norm of rows as wide as its ``weight`` [width]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight
        self._eps = eps
        self._width = len(weight)
        self._is_on_cpu = weight.is_cpu
        self._is_fused = not self._is_on_cpu and _is_fused_on_cuda()
        if self._is_on_cpu:
            self._eps_of_a_row = torch.full((1, 1), eps)
        elif not self._is_fused:
            self._signs = torch.tensor([[1.0], [-1.0]], dtype=weight.dtype).to(weight.device)
            self._twice = weight.expand(2, -1).contiguous()

    def as_transformers(self, hidden: Tensor) -> Tensor:
        """Return the norms of ``hidden`` [..., width], rounded before the weights as well, as transformers does."""
        return functional.rms_norm(hidden, (self._width,), None, self._eps) * self.weight

    def hurried(self, hidden: Tensor) -> Tensor:
        """Return the same but for rounding, by as few kernels as there are for it."""
        if self._is_on_cpu:
            # torch has its squares, their mean and the rest one by one, in memory of their own: of 400 rows 820 us,
            # not 60.
            wide = hidden.float()
            length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            factor = torch.addcmul(self._eps_of_a_row, length, length, value=1 / self._width).rsqrt_()
            return (wide * factor).to(hidden.dtype).mul_(self.weight)
        if self._is_fused:
            return functional.rms_norm(hidden, (self._width,), self.weight, self._eps)
        # Of a row beside its negative the mean is 0, and the variance the mean square: layer_norm is one kernel.
        both = hidden.unsqueeze(-2) * self._signs
        return functional.layer_norm(both, (2, self._width), self._twice, None, self._eps).select(-2, 0)


def _is_fused_on_cuda() -> bool:
    """Whether torch's own norm is one kernel on a GPU: later releases have it, others take eight."""
    core: Any = torch._C
    try:
        return bool(core._dispatch_has_kernel_for_dispatch_key("aten::_fused_rms_norm", "CUDA"))
    except (AttributeError, RuntimeError):
        return False
