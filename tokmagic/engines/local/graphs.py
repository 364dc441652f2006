"""Passes of few sequences on a GPU, captured and played again: a small pass takes longer to ask for than to compute.

A pass of one token each of a few sequences that lie side by side has the same shapes each time, but for how far each of
them has come. Captured with that as a number in the GPU's own memory, hundreds of kernels are asked for in one call.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tokmagic.engines.local.attention import Group, Segment, mask_beyond, places
from tokmagic.engines.local.kv import Slots

_cuda: Any = torch.cuda
# Sequences in a graph: with more of them the GPU is busy for as long as asking takes.
_ROWS = (1, 2, 4, 8)
# Passes of a kind that are computed call by call before it is captured, which takes as long as some of them.
_EAGER = 3


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
        # One for all: no two are played at a time, and what one has left to say has been read before the next is.
        self._pool: Any = None
        # A pool of which no graph is left takes no further one.
        self._latest: _Graph | None = None
        self.are_used = True

    def forget(self) -> None:
        """Capture anew: what the graphs read is elsewhere now."""
        self._of_rooms.clear()

    def run(self, segments: Sequence[Segment]) -> Tensor:
        """Return the logits [segments, vocabulary] of a pass, good until the next one.

        The first passes of a kind are computed call by call, with the calls that are then captured, so that the same
        text comes of the same seed before and after. A graph that fails, or gives anything else than they do, is the
        last one; the calls go on. The caches have room for the pass.
        """
        rows, room = _rows(segments), segments[0].cache.slots
        if rows is None or room is None:
            return self._eager(segments)
        try:
            return self._steady(room, rows, segments)
        except RuntimeError:  # no kernel for it, or no memory
            return self._eager(segments)

    def _steady(self, room: Slots, rows: int, segments: Sequence[Segment]) -> Tensor:
        """Return the logits of a pass by its graph, or by the calls of it. Raises what torch does."""
        known = self._of_rooms.get(room)
        if known is None or known.moves != room.moves:
            known = self._of_rooms[room] = _Captured(room.moves)
        graph = known.graphs.get(rows)
        if graph is None:
            graph = known.graphs[rows] = _Graph(rows, room.data[0].device)
        if graph.is_captured and self.are_used:
            return graph.play(segments)

        def compute(given: Tensor) -> Tensor:
            ids, positions = given
            return self._compute(Steady(room, positions, self._scale), ids)

        logits = graph.eager(segments, compute)
        if graph.seen == _EAGER and self.are_used:
            try:
                self._capture(graph, compute)
                self.are_used = self._near(graph.play(segments), logits)
            except RuntimeError:
                self.are_used = False
            if not self.are_used:
                return graph.eager(segments, compute)  # over the keys and values that it may have written
        return logits

    def _capture(self, graph: _Graph, compute: Callable[[Tensor], Tensor]) -> None:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph.capture(compute, self._pool)
        self._latest = graph


class _Captured:
    """The graphs of a room by their rows; good while the room's tensors stay."""

    def __init__(self, moves: int) -> None:
        self.moves = moves
        self.graphs: dict[int, _Graph] = {}


class _Graph:
    """One pass of a room's first sequences; those beyond its caches are computed for nothing.

    It keeps nothing of the room alive: it goes when the room does.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._given = torch.zeros(2, rows, dtype=torch.long, device=device)
        self._graph = torch.cuda.CUDAGraph()
        self._logits: Tensor | None = None
        self.seen = 0
        """Passes that were computed call by call."""

    @property
    def is_captured(self) -> bool:
        """Whether it can be played."""
        return self._logits is not None

    def eager(self, segments: Sequence[Segment], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits [segments, vocabulary] of a pass, computed call by call."""
        self.seen += 1
        self._take(segments)
        return _of(segments, compute(self._given))

    def capture(self, compute: Callable[[Tensor], Tensor], pool: Any) -> None:
        """Have the GPU told what it is to do, in memory of ``pool``. Raises what torch does."""
        device = self._given.device
        stream = _stream(device)
        with torch.cuda.device(device), _without_gc():
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                # What runs on other threads is none of this graph's: a look at the memory, say.
                self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    self._logits = compute(self._given)
                finally:
                    self._graph.capture_end()
            torch.cuda.current_stream(device).wait_stream(stream)

    def play(self, segments: Sequence[Segment]) -> Tensor:
        """Return the same as :meth:`eager`, by what was captured; good until any graph is played again."""
        assert self._logits is not None
        self._take(segments)
        self._graph.replay()
        return _of(segments, self._logits)

    def _take(self, segments: Sequence[Segment]) -> None:
        ids, positions = ([0] * self._given.shape[1] for _ in range(2))
        for segment in segments:
            slot = segment.cache.slot
            ids[slot], positions[slot] = segment.ids[0], segment.cache.length
        self._given.copy_(torch.tensor([ids, positions]))


def _of(segments: Sequence[Segment], logits: Tensor) -> Tensor:
    """The rows of ``segments`` among the logits of a room's slots."""
    slots = [segment.cache.slot for segment in segments]
    return logits[: len(slots)] if slots == list(range(len(slots))) else logits[slots]


@cache
def _stream(device: torch.device) -> Any:
    """Where all graphs of a device are captured: its libraries keep memory for each stream that ever multiplied."""
    return _cuda.Stream(device)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Collect no garbage meanwhile: a graph or an event that is freed while another is captured ends the capture.

    torch's own way to capture collects all of it before, which takes a notebook longer than the capture.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
