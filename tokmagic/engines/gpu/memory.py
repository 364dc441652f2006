"""A GPU's memory, split by who holds it: this model, other models, torch, CUDA, other processes, the driver."""

from __future__ import annotations

from dataclasses import dataclass

from tokmagic.engines.fit import Held
from tokmagic.engines.gpu import Gpu


@dataclass(frozen=True, slots=True)
class Split:
    """Who holds a device's memory, in bytes; together ``total_bytes``.

    ``cache_bytes`` is all that torch has given out beside weights: the KV caches and, within a step, activations.
    ``reserve_bytes`` is what torch keeps for later. ``context_bytes`` is what CUDA itself holds for this process.
    Where other processes cannot be told apart from that, ``others_bytes`` is None, and ``context_bytes`` both.
    """

    weights_bytes: int
    other_weights_bytes: int
    cache_bytes: int
    reserve_bytes: int
    context_bytes: int
    others_bytes: int | None
    driver_bytes: int
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        ours = self.weights_bytes + self.other_weights_bytes + self.cache_bytes + self.reserve_bytes
        return ours + self.context_bytes + (self.others_bytes or 0) + self.driver_bytes + self.free_bytes


def split(gpu: Gpu, held: Held, other_weights_bytes: int = 0) -> Split | None:
    """Split the memory of the device that a model is on, as ``held`` and NVML tell at the same time.

    ``other_weights_bytes`` are those of this process's other models there. None where torch does not count it.
    """
    if held.allocated_bytes is None or held.reserved_bytes is None:
        return None
    others = gpu.others_bytes(is_used=True)
    weights = held.weights_bytes + other_weights_bytes
    return Split(
        weights_bytes=held.weights_bytes,
        other_weights_bytes=other_weights_bytes,
        cache_bytes=held.allocated_bytes - weights,
        reserve_bytes=held.reserved_bytes - held.allocated_bytes,
        context_bytes=gpu.used_bytes - gpu.reserved_bytes - held.reserved_bytes - (others or 0),
        others_bytes=others,
        driver_bytes=gpu.reserved_bytes,
        free_bytes=gpu.free_bytes,
    )
