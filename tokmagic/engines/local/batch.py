"""Continuous batching: whatever runs are there share each forward pass, and come and go between two of them.

A pass takes one token of each answer that is being generated, and a piece of the prompts that are still to be read. A
prompt that begins like another one in the batch takes over what was computed for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from tokmagic.core.stream import Finished, FinishReason, Started, Usage
from tokmagic.engines.local.answer import Answer
from tokmagic.engines.local.attention import Segment
from tokmagic.engines.local.decoder import Decoder
from tokmagic.engines.local.device import forget_peak, peak_bytes
from tokmagic.engines.local.drawing import Drawing
from tokmagic.engines.local.kv import KVCache, room
from tokmagic.engines.local.passes import waited_ns
from tokmagic.engines.local.stream import LocalStream
from tokmagic.engines.local.threads import Threads
from tokmagic.errors import TokmagicError

# Answers in a pass at most: beyond this they are computed no faster than one after another.
_MOST_ANSWERS = {"cpu": 32, "cuda": 256}
# Prompt tokens in a pass at most: an interrupt, and whoever is being answered, waits for no more than these.
_PIECE = {"cpu": 256, "cuda": 4096}
# A beginning that is shared is taken over from so many tokens on: below, copying it saves nothing.
_LEAST_SHARED = 16


@dataclass(slots=True)
class Run:
    """A prompt's ``ids`` on their way to ``answers``, of at most ``limit`` tokens each."""

    stream: LocalStream
    submitted_ns: int
    ids: list[int]
    limit: int
    answers: list[Answer]
    drawing: Drawing
    caches: list[KVCache] = field(default_factory=list)
    newest: list[int] = field(default_factory=list)
    shared: int = 0
    began_ns: int = 0
    device_ns: float = 0.0

    @property
    def is_prefilled(self) -> bool:
        return bool(self.newest)

    @property
    def live(self) -> list[int]:
        """The choices that go on."""
        return [choice for choice, answer in enumerate(self.answers) if not answer.is_over]

    @property
    def is_over(self) -> bool:
        return self.is_prefilled and (not self.live or max(it.tokens for it in self.answers) >= self.limit)


Piece = tuple[Run, list[Segment]]
"""What a run brings to a pass."""


class Batch:
    """The runs that a decoder is working on. All of it belongs to one thread."""

    def __init__(self, decoder: Decoder, threads: Threads, mapped: Callable[[Exception, int], TokmagicError]) -> None:
        """``mapped`` turns what torch raised, after so many output tokens, into an error that a run may end with."""
        self._decoder = decoder
        self._threads = threads
        self._mapped = mapped
        self._device = decoder.device
        self._caches = decoder.caches()
        self._runs: list[Run] = []
        self._mark_ns = self._waited_ns = 0

    def __len__(self) -> int:
        """The answers in it."""
        return sum(len(run.answers) for run in self._runs)

    def has_room(self, answers: int) -> bool:
        """Whether so many more are computed sooner in it than after it."""
        return len(self) + answers <= _MOST_ANSWERS[self._device.type]

    def bytes_to_come(self, answers: int, positions: int) -> int:
        """What the caches may yet grow by if all runs go on to their limits, and so many answers of another one, too.

        Each of these has so many positions, its prompt's included.
        """
        wanted = answers * room(positions)
        for run in self._runs:
            held = sum(room(it.length) for it in run.caches if it.length)
            wanted += max(0, len(run.answers) * room(len(run.ids) + run.limit) - held)
        return wanted * self._decoder.bytes_per_position

    def add(self, run: Run) -> None:
        """Begin a run; its ``Started`` is told when its beginning is known to be shared or not."""
        run.caches = [self._caches.new()]
        self._runs.append(run)

    def leave_out(self, spent_ns: int) -> None:
        """Charge nobody here for so long: another prompt was made ready meanwhile, which is a wait of its own."""
        self._mark_ns += spent_ns

    def step(self) -> None:
        """Take every run one pass further, and end those that are over or closed."""
        try:
            self._step()
        except Exception as error:
            # No stream may be left without an end.
            for run in self._runs:
                self._fail(run, error)

    def _step(self) -> None:
        for run in [it for it in self._runs if it.stream.closed]:
            self._end(run, time.perf_counter_ns(), interrupted=True)
        passed = self._passed(list(self._pieces()))
        greatest = self._greatest(passed)
        for run, _, logits in passed:
            try:
                self._advance(run, logits, greatest.get(id(run)))
            except Exception as error:
                self._fail(run, error)
        self._account(passed)
        for run in [it for it in self._runs if it.is_over]:
            self._end(run, self._mark_ns, interrupted=False)

    def _pieces(self) -> Iterator[Piece]:
        """What each run brings to the next pass: the newest token of its answers, or the next piece of its prompt."""
        room = _PIECE[self._device.type]
        for run in self._runs:
            if run.is_prefilled:
                yield run, [Segment(run.caches[choice], (run.newest[choice],)) for choice in run.live]
            elif room and self._has_begun(run):
                done = run.caches[0].length
                piece = run.ids[done : done + room]
                room -= len(piece)
                yield run, [Segment(run.caches[0], piece)]

    def _has_begun(self, run: Run) -> bool:
        """Begin to read a prompt, unless what it shares with one before it is still being computed."""
        if run.began_ns:
            return True
        before = self._runs[: self._runs.index(run)]
        # The last token's logits are needed, so that one is computed in any case.
        lengths = [min(_shared(it.ids, run.ids), len(run.ids) - 1) for it in before]
        shared = max(lengths, default=0)
        if shared >= _LEAST_SHARED:
            donors = [it.caches[0] for it, length in zip(before, lengths, strict=True) if length == shared]
            ready = next((it for it in donors if it.length >= shared), None)
            if ready is None:
                return False
            run.caches = [ready.copy(shared)]
            run.shared = shared
        now_ns = time.perf_counter_ns()
        if not any(it.began_ns for it in self._runs):
            self._mark_ns, self._waited_ns = now_ns, waited_ns()
            forget_peak(self._device)
        run.began_ns = now_ns
        run.stream.put(Started(run.submitted_ns, _usage(run), now_ns))
        return True

    def _passed(self, pieces: list[Piece]) -> list[tuple[Run, int, Tensor]]:
        """Return each run with the tokens that it brought to the pass, and the logits [segments, vocabulary] it got."""
        if not pieces:
            return []
        try:
            segments = [segment for _, brought in pieces for segment in brought]
            decodes = all(run.is_prefilled for run, _ in pieces)
            size = len(segments) if decodes and self._device.type == "cpu" else None
            logits = self._threads.run(size, lambda: self._decoder.forward(segments))
        except Exception as error:
            if len(pieces) > 1:
                # It may have failed for one of them, or for all together: each tries alone.
                return [passed for piece in pieces for passed in self._passed([piece])]
            self._fail(pieces[0][0], error)
            return []
        passed = []
        row = 0
        for run, brought in pieces:
            tokens = sum(len(segment.ids) for segment in brought)
            passed.append((run, tokens, logits[row : row + len(brought)]))
            row += len(brought)
        return passed

    def _greatest(self, passed: Sequence[tuple[Run, int, Tensor]]) -> dict[int, list[int]]:
        """The next ids, by the run, of those that take the greatest: a GPU is asked for all of them at once, since each
        time that it is asked takes as long as a pass of a small model."""
        plain = [(run, logits) for run, _, logits in passed if run.is_prefilled and run.drawing.is_plain]
        if len(plain) < 2 or self._device.type == "cpu":
            return {}
        try:
            ids = iter(torch.cat([logits for _, logits in plain]).argmax(-1).tolist())
        except RuntimeError:  # no memory for all of them
            return {}
        return {id(run): list(islice(ids, len(logits))) for run, logits in plain}

    def _advance(self, run: Run, logits: Tensor, greatest: list[int] | None) -> None:
        """Take the next token of each answer, if the prompt has been read whole; ``greatest`` are known ones."""
        choices = run.live
        if not run.is_prefilled:
            if run.caches[0].length < len(run.ids):
                return
            run.newest = [0] * len(run.answers)
            for _ in run.answers[1:]:  # one by one: if there is no more memory, those that were made are freed
                run.caches.append(run.caches[0].copy(len(run.ids)))
            logits = logits.expand(len(choices), -1)
        ids, logprobs = run.drawing.next(logits, choices) if greatest is None else (greatest, None)
        now_ns = time.perf_counter_ns()
        for at, choice in enumerate(choices):
            run.newest[choice] = ids[at]
            run.answers[choice].take(ids[at], now_ns, None if logprobs is None else logprobs[at])

    def _account(self, passed: Sequence[tuple[Run, int, Tensor]]) -> None:
        """Divide the time since the last pass among the runs, by the tokens that each brought to this one.

        What was waited for another model's pass is none of theirs.
        """
        now_ns, waited = time.perf_counter_ns(), waited_ns()
        spent_ns = now_ns - self._mark_ns - (waited - self._waited_ns)
        tokens = sum(count for _, count, _ in passed)
        for run, count, _ in passed:
            run.device_ns += spent_ns * count / tokens
        self._mark_ns, self._waited_ns = now_ns, waited

    def _end(self, run: Run, at_ns: int, *, interrupted: bool) -> None:
        if not run.began_ns:
            run.began_ns = at_ns
            run.stream.put(Started(run.submitted_ns, _usage(run), at_ns))
        ends = [answer.end(interrupted=interrupted) for answer in run.answers]
        tails: tuple[str, ...] = tuple(tail for tail, _ in ends)
        reasons: tuple[FinishReason, ...] = tuple(reason for _, reason in ends)
        usage = replace(_usage(run), output_tokens=sum(answer.tokens for answer in run.answers))
        peak = peak_bytes(self._device)
        self._drop(run)
        run.stream.put(Finished(at_ns, reasons, usage, tails, device_s=run.device_ns / 1e9, peak_bytes=peak))

    def _fail(self, run: Run, error: Exception) -> None:
        self._drop(run)
        run.stream.fail(self._mapped(error, sum(answer.tokens for answer in run.answers)))

    def _drop(self, run: Run) -> None:
        self._runs = [it for it in self._runs if it is not run]
        for cache in run.caches:
            cache.free()
        run.caches = []


def _shared(one: list[int], other: list[int]) -> int:
    """The number of tokens that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _usage(run: Run) -> Usage:
    return replace(Usage.measured(len(run.ids), 0), cached_input_tokens=run.shared)
