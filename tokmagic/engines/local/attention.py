"""Attention of the tokens of one pass: of each sequence's to what its cache holds and to themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from tokmagic.engines.local.kv import KVCache, Slots
from tokmagic.engines.local.threads import threads

# Positions up to which one thread attends to them sooner than several have begun.
_LITTLE = 512


@dataclass(slots=True)
class Segment:
    """The tokens that one sequence takes the pass with: ``ids`` follow what its cache holds."""

    cache: KVCache
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Order:
    """Which rows of a pass are whose: ``rows[i]`` of the pass belongs to slot ``slots[i]``.

    ``by_slot`` are the rows in the order of slots, any row for a slot without a token.
    """

    rows: Tensor
    slots: Tensor
    by_slot: Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences in the first ``count`` slots of a room that take one token each, or none.

    ``places`` [2 x rows x kv_heads] is where their keys and values go, of all places for a head's numbers in one
    layer's room; ``mask`` [count, 1, 1, until] leaves out what is beyond a sequence's length. Without an ``order`` the
    rows are all of the pass, in the order of their slots.
    """

    room: Slots
    count: int
    places: Tensor
    mask: Tensor
    scale: float
    order: _Order | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As :meth:`Attention.attend`, of the group's rows."""
        data, order = self.room.data[layer], self.order
        kv_heads, head_size = key.shape[1:]
        new = torch.stack((key, value)).to(data.dtype)
        new = new if order is None else new[:, order.rows]
        data.view(-1, head_size).index_copy_(0, self.places, new.view(-1, head_size))
        keys, values = data[:, : self.count, :, : self.mask.shape[-1]]
        # The heads that share keys as rows of one product: several times as fast as one by one.
        rows = (query if order is None else query[order.by_slot]).view(self.count, kv_heads, -1, head_size)
        attended = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=self.mask, scale=self.scale)
        attended = attended.reshape(self.count, -1)
        return attended if order is None else attended[order.slots]


class Attention:
    """How the tokens of ``segments`` attend, prepared once for all layers. The caches have room for them."""

    def __init__(
        self, segments: Sequence[Segment], scale: float, dtype: torch.dtype, device: torch.device, *, grouped: bool
    ) -> None:
        """``grouped``: as fast as this machine can, not operation by operation as transformers does."""
        self._scale = scale
        self._device = device
        self._grouped = grouped
        self.counts = [len(segment.ids) for segment in segments]
        self.ends = list(accumulate(self.counts))
        self.starts = [segment.cache.length for segment in segments]
        positions = [start + it for start, count in zip(self.starts, self.counts, strict=True) for it in range(count)]
        self.positions = torch.tensor(positions, device=device)
        """Of each token [tokens] in its sequence."""
        self._masks: dict[tuple[int, int], Tensor] = {}
        together: dict[int, list[int]] = {}
        for index, segment in enumerate(segments):
            if grouped and self.counts[index] == 1 and segment.cache.slots is not None:
                together.setdefault(id(segment.cache.slots), []).append(index)
        shared = [indices for indices in together.values() if len(indices) > 1]
        self._groups = [self._group([segments[it] for it in indices], indices, dtype) for indices in shared]
        grouped_ones = {it for indices in shared for it in indices}
        self._alone = [
            (segment.cache, self.ends[index] - self.counts[index], self.ends[index])
            for index, segment in enumerate(segments)
            if index not in grouped_ones
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what the tokens attend to [tokens, heads x head_size].

        ``query`` is [tokens, heads, head_size]; ``key`` and ``value``, which the caches keep, are [tokens, kv_heads,
        head_size].
        """
        if len(self._alone) == 1 and not self._groups:
            with self._threads():
                return self._attend_one(layer, self._alone[0][0], query, key, value)
        if self._groups and self._groups[0].order is None:
            return self._groups[0].attend(layer, query, key, value)
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        for group in self._groups:
            assert group.order is not None
            out[group.order.rows] = group.attend(layer, query, key, value)
        with self._threads():
            for cache, begin, end in self._alone:
                rows = slice(begin, end)
                out[rows] = self._attend_one(layer, cache, query[rows], key[rows], value[rows])
        return out

    def _threads(self) -> AbstractContextManager[None]:
        """One thread for attention to so little that waiting for another would take longer."""
        much = any(end - begin > 1 or cache.length > _LITTLE for cache, begin, end in self._alone)
        here = self._alone and self._device.type == "cpu"
        return threads(1) if here and not much else nullcontext()

    def _group(self, segments: Sequence[Segment], indices: Sequence[int], dtype: torch.dtype) -> Group:
        room = segments[0].cache.slots
        assert room is not None
        rows = [self.ends[index] - 1 for index in indices]
        slots = [segment.cache.slot for segment in segments]
        lengths = [0] * (max(slots) + 1)
        by_slot = [rows[0]] * len(lengths)
        for slot, row, segment in zip(slots, rows, segments, strict=True):
            lengths[slot], by_slot[slot] = segment.cache.length, row
        is_pass = slots == rows == list(range(len(self.counts)))
        return Group(
            room,
            len(lengths),
            places(room.data[0], self._tensor(slots), self._tensor([segment.cache.length for segment in segments])),
            mask_beyond(self._tensor(lengths), max(lengths) + 1, dtype),
            self._scale,
            None if is_pass else _Order(self._tensor(rows), self._tensor(slots), self._tensor(by_slot)),
        )

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, device=self._device)

    def _mask(self, count: int, start: int, dtype: torch.dtype) -> Tensor:
        """What ``count`` tokens after the first ``start`` do not see [count, start + count]: the same in each layer."""
        found = self._masks.get((count, start))
        if found is None:
            seen = torch.ones(count, start + count, dtype=torch.bool, device=self._device).tril(start)
            found = self._masks[count, start] = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))
        return found

    def _attend_one(self, layer: int, cache: KVCache, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One sequence's attention: ``query`` [tokens, heads, head_size] to what its cache holds and to themselves."""
        count, start = len(query), cache.length
        keys, values = cache.layer(layer, start + count)
        keys[:, start:] = key.transpose(0, 1)
        values[:, start:] = value.transpose(0, 1)
        if count == 1 and self._grouped:
            rows = query.view(1, len(keys), -1, query.shape[2])
            attended = functional.scaled_dot_product_attention(
                rows, keys.unsqueeze(0), values.unsqueeze(0), scale=self._scale
            )
            return attended.view(1, -1)
        # Each token sees itself and what is before it; the kernels know that by themselves only from the beginning on.
        causal = count > 1 and start == 0
        mask = None if causal or count == 1 else self._mask(count, start, query.dtype)
        if mask is not None and self._device.type != "cpu":
            # No kernel of a GPU but the one that keeps all scores takes a mask beside fewer heads for keys.
            keys, values = (it.repeat_interleave(query.shape[1] // len(it), dim=0) for it in (keys, values))
        attended = functional.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            keys.unsqueeze(0),
            values.unsqueeze(0),
            attn_mask=mask,
            is_causal=causal,
            scale=self._scale,
            enable_gqa=True,
        )
        return attended[0].transpose(0, 1).reshape(count, -1)


def mask_beyond(lengths: Tensor, until: int, dtype: torch.dtype) -> Tensor:
    """What leaves out [rows, 1, 1, until] the positions that are higher than a row's length [rows]."""
    beyond = torch.arange(until, device=lengths.device) > lengths.unsqueeze(1)
    mask = torch.zeros(beyond.shape, dtype=dtype, device=lengths.device).masked_fill_(beyond, float("-inf"))
    return mask.view(len(lengths), 1, 1, until)


def places(data: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
    """Where the numbers of each head are in ``data`` [2, slots, kv_heads, capacity, head_size], as one index.

    Keys before values, of one sequence after the other, of one head after the other.
    """
    both, of_slots, kv_heads, capacity, _ = data.shape
    rows = torch.arange(both, device=data.device).view(-1, 1, 1) * of_slots + slots.view(-1, 1)
    heads = rows * kv_heads + torch.arange(kv_heads, device=data.device)
    return (heads * capacity + positions.view(-1, 1)).flatten()
