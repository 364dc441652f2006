"""The keys and values of sequences, which their next tokens attend to.

Sequences of about the same length lie side by side, in the slots of one tensor a layer, so that a single call attends
for all of them. A sequence that outgrows its slot moves to a larger one.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

import torch
from torch import Tensor

# Positions of the smallest slot. Slots double up to ``_SHORT``: at most half of one is empty. Beyond, the next one is
# larger by a quarter at most.
_BLOCK = 128
_SHORT = 1024
# By how much the number of slots of one size grows.
_GROWTH = 0.25
# Up to so many slots their number doubles: a graph of the same passes fits for longer.
_DOUBLED = 8


class KVCaches:
    """Makes the caches of a model of ``layers``, and keeps those of one size together."""

    def __init__(self, layers: int, kv_heads: int, head_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._layers = layers
        self._like = torch.empty(2, 0, kv_heads, 0, head_size, dtype=dtype, device=device)
        self._is_on_cpu = device.type == "cpu"
        self._shared: WeakValueDictionary[int, Slots] = WeakValueDictionary()
        self._kept: list[Slots] = []

    def new(self) -> KVCache:
        """Return an empty cache for one sequence."""
        return KVCache(self)

    def slots(self, length: int) -> Slots:
        """Return where a sequence of so many positions has room."""
        capacity = room(length)
        found = self._shared.get(capacity)
        if found is None:
            # On a GPU a slot stays where it is when nobody is in it: a graph writes to it.
            stays = not self._is_on_cpu and capacity <= _SHORT
            found = Slots(self._layers, self._like, capacity, 1 if stays else 0)
            if stays:
                self._kept.append(found)
            # A CPU attends to a long sequence for longer than a call takes; a GPU is done before it is asked again.
            if capacity <= _SHORT or not self._is_on_cpu:
                self._shared[capacity] = found
        return found


def room(length: int) -> int:
    """For how many positions memory is taken where a sequence has so many."""
    if length > _SHORT:
        quarter = 1 << ((length - 1).bit_length() - 3)
        return -(-length // quarter) * quarter
    capacity = _BLOCK
    while capacity < length:
        capacity *= 2
    return capacity


class Slots:
    """Room for ``capacity`` positions of each of several sequences.

    ``data`` has a tensor [2, slots, kv_heads, capacity, head_size] for each layer, keys before values; the first slots
    are those of ``caches``, in their order. What is in a slot beyond a sequence's length is finite. ``moves`` is how
    often the tensors have been replaced. ``kept`` slots at least stay when all are empty.
    """

    def __init__(self, layers: int, like: Tensor, capacity: int, kept: int = 0) -> None:
        _, _, kv_heads, _, head_size = like.shape
        self._kept = kept
        self.moves = 0
        self.capacity = capacity
        self.caches: list[KVCache] = []
        self.data = [like.new_empty(2, 0, kv_heads, capacity, head_size) for _ in range(layers)]

    @property
    def size(self) -> int:
        """The slots there are."""
        return min(data.shape[1] for data in self.data)

    def take(self, cache: KVCache) -> int:
        """Give a slot to ``cache``, and return which one."""
        slot = len(self.caches)
        wanted = max(1, 2 * slot) if slot < _DOUBLED else slot + 1 + int(slot * _GROWTH)
        self.moves += self.size <= slot
        # Layer by layer: twice the memory is needed for one of them alone.
        for layer, data in enumerate(self.data):
            if data.shape[1] <= slot:
                grown = data.new_empty(2, wanted, *data.shape[2:])
                grown[:, :slot] = data[:, :slot]
                self.data[layer] = grown
            # Not left as it is: a number that is none would go through any mask.
            self.data[layer][:, slot].zero_()
        self.caches.append(cache)
        return slot

    def release(self, slot: int) -> None:
        """Take a slot back; the last one moves to its place."""
        last = self.caches.pop()
        if slot == len(self.caches):
            if not self.caches and self.size > self._kept:
                self.data = [data[:, : self._kept].clone() for data in self.data]
                self.moves += 1
            return
        for data in self.data:
            data[:, slot] = data[:, len(self.caches)]
        self.caches[slot] = last
        last.slot = slot


class KVCache:
    """Keys and values of one sequence, in the ``slot`` of ``slots``; ``length`` of its positions are filled."""

    def __init__(self, caches: KVCaches) -> None:
        self._caches = caches
        self.slots: Slots | None = None
        self.slot = 0
        self.length = 0

    def layer(self, index: int, length: int) -> tuple[Tensor, Tensor]:
        """Return one layer's keys and values [kv_heads, length, head_size], of which there is room for ``length``."""
        assert self.slots is not None
        keys, values = self.slots.data[index][:, self.slot, :, :length]
        return keys, values

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions in all."""
        if self.slots is None or self.slots.capacity < length:
            self._move(self._caches.slots(length))

    def copy(self, length: int) -> KVCache:
        """Return a cache of its own that begins with the first ``length`` positions of this one."""
        made = self._caches.new()
        made.reserve(length)
        if self.slots is not None and made.slots is not None:
            for mine, its in zip(self.slots.data, made.slots.data, strict=True):
                its[:, made.slot, :, :length] = mine[:, self.slot, :, :length]
        made.length = length
        return made

    def free(self) -> None:
        """Give its room back; it holds nothing then."""
        if self.slots is not None:
            self.slots.release(self.slot)
        self.slots = None
        self.length = 0

    def _move(self, slots: Slots) -> None:
        slot = slots.take(self)
        if self.slots is not None:
            for old, new in zip(self.slots.data, slots.data, strict=True):
                new[:, slot, :, : self.length] = old[:, self.slot, :, : self.length]
            self.slots.release(self.slot)
        self.slots, self.slot = slots, slot
