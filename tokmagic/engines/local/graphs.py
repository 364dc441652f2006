"""Passes of few sequences on a GPU, captured and played again: a small pass takes longer to ask for than to compute.

A pass of one token each of a few sequences that lie side by side has the same shapes each time, but for how far each of
them has come. Captured with that as a number in the GPU's own memory, hundreds of kernels are asked for in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

        The first pass of its kind is eager. The second one is, too, with the calls that are then captured: a graph that
        fails, or gives anything else than they did, is the last one. The caches have room for the pass.
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
        made = _Graph(room, rows, self._compute, self._scale)
        logits = made.eager(segments)
        try:
            made.capture()
            self.are_used = self._near(made.play(segments), logits)
        except RuntimeError:
            self.are_used = False
        captured.graphs[rows] = made
        return logits


class _Captured:
    """The graphs of a room by their rows, good for as long as its tensors stay; None is a pass that was seen once."""

    def __init__(self, moves: int) -> None:
        self.moves = moves
        self.graphs: dict[int, _Graph | None] = {}


class _Graph:
    """One pass of a room's first sequences; those beyond its caches are computed for nothing."""

    def __init__(self, room: Slots, rows: int, compute: Compute, scale: float) -> None:
        self._room = room
        self._scale = scale
        self._compute = compute
        self._given = torch.zeros(2, rows, dtype=torch.long, device=room.data[0].device)
        self._graph = torch.cuda.CUDAGraph()
        self._logits: Tensor | None = None

    def eager(self, segments: Sequence[Segment]) -> Tensor:
        """Return the logits [segments, vocabulary] of a pass, computed call by call."""
        self._take(segments)
        return self._of(segments, self._computed())

    def capture(self) -> None:
        """Have the GPU told what it is to do. Raises what torch does."""
        # What runs on other threads is none of this graph's: a look at the memory, say.
        capture: Any = torch.cuda.graph(self._graph, capture_error_mode="thread_local")
        with torch.cuda.device(self._given.device), capture:
            self._logits = self._computed()

    def play(self, segments: Sequence[Segment]) -> Tensor:
        """Return the same as :meth:`eager`, by what was captured; good until it is played again."""
        assert self._logits is not None
        self._take(segments)
        self._graph.replay()
        return self._of(segments, self._logits)

    def _computed(self) -> Tensor:
        ids, positions = self._given
        return self._compute(Steady(self._room, positions, self._scale), ids)

    def _take(self, segments: Sequence[Segment]) -> None:
        ids, positions = ([0] * self._given.shape[1] for _ in range(2))
        for segment in segments:
            slot = segment.cache.slot
            ids[slot], positions[slot] = segment.ids[0], segment.cache.length
        self._given.copy_(torch.tensor([ids, positions]))

    def _of(self, segments: Sequence[Segment], logits: Tensor) -> Tensor:
        slots = [segment.cache.slot for segment in segments]
        return logits[: len(slots)] if slots == list(range(len(slots))) else logits[slots]


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
