"""Passes of few sequences on a GPU, captured and played again: a small pass takes longer to ask for than to compute.

A pass of one token each of a few sequences that lie side by side has the same shapes each time, but for how far each of
them has come. Captured with that as a number in the GPU's own memory, hundreds of kernels are asked for in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tokmagic.engines.local.attention import Group, Segment, mask_beyond, places
from tokmagic.engines.local.kv import Slots

# Sequences in a graph: with more of them the GPU is busy for as long as asking takes.
_ROWS = (1, 2, 4, 8)


class Steady:
    """How one token of each of the first ``rows`` sequences in a room attends, whatever their ``positions`` [rows]."""

    def __init__(self, room: Slots, positions: Tensor, scale: float) -> None:
        rows = len(positions)
        slots = torch.arange(rows, device=positions.device)
        dtype = room.data[0].dtype
        mask = mask_beyond(positions, room.capacity, dtype)
        self.positions = positions
        self.ends = range(1, rows + 1)
        self.attend = Group(room, rows, places(room.data[0], slots, positions), mask, scale).attend


Compute = Callable[[Steady, Tensor], Tensor]
"""Computes the logits [rows, vocabulary] of the tokens with these ids [rows]."""


class Graphs:
    """The captured passes of one model."""

    def __init__(
        self,
        eager: Callable[[Sequence[Segment]], Tensor],
        compute: Compute,
        near: Callable[[Tensor, Tensor], bool],
        scale: float,
    ) -> None:
        """``eager`` computes a pass call by call; ``near`` tells whether logits differ by rounding alone."""
        self._eager = eager
        self._compute = compute
        self._near = near
        self._scale = scale
        self._of_rooms: WeakKeyDictionary[Slots, _Captured] = WeakKeyDictionary()
        self.are_used = True

    def forget(self) -> None:
        """Capture anew: what the graphs read is elsewhere now."""
        self._of_rooms.clear()

    def run(self, segments: Sequence[Segment]) -> Tensor:
        """Return the logits [segments, vocabulary] of a pass, good until the next one.

        The first pass of its kind is eager. Before the second one it is captured and played: a graph that fails, or
        gives anything else than that pass then does, is the last one. The caches have room for the pass.
        """
        rows = _rows(segments) if self.are_used else None
        room = segments[0].cache.slots
        if rows is None or room is None:
            return self._eager(segments)
        captured = self._of_rooms.get(room)
        if captured is None or captured.moves != room.moves:
            captured = self._of_rooms[room] = _Captured(room.moves)
        if (graph := captured.graphs.get(rows)) is not None:
            return graph.play(segments)
        if rows not in captured.graphs:
            captured.graphs[rows] = None
            return self._eager(segments)
        try:
            graph = _Graph(room, rows, self._compute, self._scale)
            played = graph.play(segments)
        except RuntimeError:
            self.are_used = False
            return self._eager(segments)
        # Its keys and values go where the graph's went, so that those of a graph that is wrong do not stay.
        logits = self._eager(segments)
        self.are_used = self._near(played, logits)
        captured.graphs[rows] = graph
        return logits


class _Captured:
    """The graphs of a room by their rows, good for as long as its tensors stay; None is a pass that was seen once."""

    def __init__(self, moves: int) -> None:
        self.moves = moves
        self.graphs: dict[int, _Graph | None] = {}


class _Graph:
    """One pass of a room's first sequences; those beyond its caches are computed for nothing."""

    def __init__(self, room: Slots, rows: int, compute: Compute, scale: float) -> None:
        device = room.data[0].device
        self._given = torch.zeros(2, rows, dtype=torch.long, device=device)
        ids, positions = self._given
        self._graph = torch.cuda.CUDAGraph()
        # What runs on other threads is none of this graph's: a second model, or a look at the memory.
        capture: Any = torch.cuda.graph(self._graph, capture_error_mode="thread_local")
        with ExitStack() as stack:
            stack.enter_context(torch.cuda.device(device))
            stack.enter_context(capture)
            self._logits = compute(Steady(room, positions, scale), ids)

    def play(self, segments: Sequence[Segment]) -> Tensor:
        slots = [segment.cache.slot for segment in segments]
        ids, positions = ([0] * self._given.shape[1] for _ in range(2))
        for slot, segment in zip(slots, segments, strict=True):
            ids[slot], positions[slot] = segment.ids[0], segment.cache.length
        self._given.copy_(torch.tensor([ids, positions]))
        self._graph.replay()
        return self._logits[: len(slots)] if slots == list(range(len(slots))) else self._logits[slots]


def _rows(segments: Sequence[Segment]) -> int | None:
    """The rows of the graph that such a pass fits into; None where it fits into none.

    Its sequences are all those of one room: what a graph writes for a row without a token has to be nobody's.
    """
    room = segments[0].cache.slots
    if room is None or len(segments) != len(room.caches) or len(segments) > _ROWS[-1]:
        return None
    if any(len(segment.ids) != 1 or segment.cache.slots is not room for segment in segments):
        return None
    rows = next(it for it in _ROWS if it >= len(segments))
    return rows if rows <= room.size else None
