"""Continuous batching: in each step of the model all answers that are being written advance by a token.

A prompt is read in pieces of a fixed length, each a step of its own, between those: llama.cpp's sums depend on how many
tokens of a prompt it is given at once, so a run by itself always computes the same. Beside others its place in the KV
cache is another one, and with it the order of some sums: last bits may differ, as in every batch.

A step's time is divided among the runs by the tokens of theirs that it processed: what the runs cost adds up to the
time that the device was busy.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from tokmagic.core.stream import FinishReason
from tokmagic.engines.llamacpp.messages import LEAST_CELLS, Ended, Failed, Load, Message, Piece, Request, Started
from tokmagic.engines.llamacpp.weights import BATCH_TOKENS, SEQUENCES, Cache, Fed, Sampler, Weights
from tokmagic.engines.local.memory import require_ram
from tokmagic.engines.schemas import SchemaTokenizer
from tokmagic.engines.stops import StopFilter
from tokmagic.errors import OutOfMemoryError, TokmagicError
from tokmagic.tokens.tokenizer import Decoder, Tokenizer

PREFILL_TOKENS = 128
"""How much of a prompt is read in a step: an interrupt, and answers that are being written, wait for no more.

It is part of what a prompt's numbers depend on, and so never anything else.
"""


@dataclass(eq=False)
class Row:
    """One answer of a run."""

    choice: int
    sequence: int
    decoder: Decoder
    stop: StopFilter
    sampler: Sampler | None
    matcher: Any = None
    seen: set[int] = field(default_factory=set)
    position: int = 0
    token: int = 0
    reason: FinishReason | None = None
    generated: int = 0


@dataclass(eq=False)
class Run:
    """A request, and how far it is."""

    request: Request
    rows: list[Row] = field(default_factory=list)
    fed: int = 0
    """How many of the prompt's tokens were read."""
    device_ns: float = 0.0

    @property
    def cells(self) -> int:
        """What it takes of the cache at most: its answers share their prompt."""
        return len(self.request.ids) + self.request.n * self.request.limit

    @property
    def is_reading(self) -> bool:
        return self.fed < len(self.request.ids)

    @property
    def writing(self) -> list[Row]:
        """Its answers that are not at their end."""
        return [row for row in self.rows if row.reason is None]


class Batching:
    """Runs requests on weights. Everything here is of one thread."""

    def __init__(self, weights: Weights, tokenizer: Tokenizer, load: Load) -> None:
        """Raises OutOfMemoryError."""
        self._weights = weights
        self._tokenizer = tokenizer
        self._eos = frozenset(load.eos)
        self._threads = load.threads
        self._cell_bytes = load.kv_bytes_per_token
        self._cache = Cache(weights, LEAST_CELLS, load.threads)
        self._waiting: deque[Run] = deque()
        self._active: list[Run] = []
        self._sequences = list(range(SEQUENCES))
        self._schemas: SchemaTokenizer | None = None
        self._accounted_ns = 0

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._active

    def submit(self, request: Request) -> None:
        """Have a request run as soon as there is room for it; those that came earlier go first."""
        self._waiting.append(Run(request))

    def stop(self, run: str) -> Iterator[Message]:
        """End a run where it is."""
        for it in [it for it in (*self._active, *self._waiting) if it.request.run == run]:
            if it in self._waiting:
                yield Started(run, time.perf_counter_ns())
            yield from self._end(it, "interrupted")

    def step(self) -> Iterator[Message]:
        """Advance by one step, or two: a piece of one prompt, and a token of each answer."""
        came_ns = time.perf_counter_ns()
        if not self._active:
            self._accounted_ns = came_ns
        yield from self._admit()
        # What it takes to make a run ready is a wait of its own, and no time of those that go on.
        self._accounted_ns += time.perf_counter_ns() - came_ns
        reading = next((run for run in self._active if run.is_reading), None)
        if reading is not None:
            yield from self._read(reading)
        yield from self._write()
        for run in [run for run in self._active if not run.is_reading and not run.writing]:
            yield from self._end(run, "length")

    def score(self, ids: Sequence[int]) -> float:
        """Return the mean of minus the logarithm of each id's probability, but the first's.

        Only where nothing runs. Raises ModelError.
        """
        (sequence, *_), total = self._sequences, 0.0
        try:
            for begin in range(0, len(ids) - 1, PREFILL_TOKENS):
                places = range(begin, min(begin + PREFILL_TOKENS, len(ids) - 1))
                self._cache.step([Fed(ids[at], at, sequence, True) for at in places])
                for index, at in enumerate(places):
                    scores = self._cache.logits(index).astype(numpy.float64)
                    total += float(_log_sum(scores) - scores[ids[at + 1]])
        finally:
            self._cache.drop(sequence)
        return total / (len(ids) - 1)

    def _admit(self) -> Iterator[Message]:
        while self._waiting:
            run = self._waiting[0]
            taken = sum(it.cells for it in self._active)
            if run.request.n > len(self._sequences) or (self._active and taken + run.cells > self._cache.cells):
                return  # there is room when others have ended
            self._waiting.popleft()
            try:
                if run.cells > self._cache.cells:
                    self._grow(run.cells)
                self._begin(run)
            except TokmagicError as error:
                self._release(run)
                yield Failed.of(run.request.run, error)
                continue
            self._active.append(run)
            yield Started(run.request.run, time.perf_counter_ns())

    def _grow(self, cells: int) -> None:
        """Make the cache anew, with nothing in it: only where nothing is active."""
        before, wanted = self._cache.cells, 1 << (cells - 1).bit_length()
        more = wanted - before
        if self._cell_bytes is not None:
            require_ram(self._cell_bytes * more, f"a KV cache for {wanted:,} tokens", "lower --max-tokens, or -n")
        self._cache.close()
        try:
            self._cache = Cache(self._weights, wanted, self._threads)
        except OutOfMemoryError:
            self._cache = Cache(self._weights, before, self._threads)
            raise

    def _begin(self, run: Run) -> None:
        request = run.request
        matchers: Sequence[Any] = [None] * request.n
        if request.schema is not None:
            if self._schemas is None:
                self._schemas = SchemaTokenizer(self._tokenizer, self._weights.vocabulary, self._eos)
            matchers = self._schemas.matchers(request.schema, request.n)
        for choice, matcher in enumerate(matchers):
            drawing = request.drawing
            sampler = None
            if drawing.temperature is not None:
                limits = drawing.top_k, drawing.top_p, drawing.min_p
                sampler = Sampler(drawing.temperature, *limits, drawing.seed_of(choice))
            seen = set(request.ids) if drawing.repetition_penalty != 1 else set()
            row = Row(choice, self._sequences.pop(), Decoder(self._tokenizer), StopFilter(request.stop), sampler)
            row.matcher, row.seen = matcher, seen
            run.rows.append(row)

    def _read(self, run: Run) -> Iterator[Message]:
        """Read a piece of a prompt; after the last one its answers begin."""
        ids, sequence = run.request.ids, run.rows[0].sequence
        places = range(run.fed, min(run.fed + PREFILL_TOKENS, len(ids)))
        run.fed = places.stop
        fed = [Fed(ids[at], at, sequence, at == len(ids) - 1) for at in places]
        yield from self._run(fed, [run] * len(fed), [] if run.is_reading else [(run, len(fed) - 1, run.rows)])

    def _write(self) -> Iterator[Message]:
        """Take each answer that has begun a token further."""
        going = [(run, row) for run in self._active for row in run.writing if row.generated]
        for begin in range(0, len(going), BATCH_TOKENS):
            part = going[begin : begin + BATCH_TOKENS]
            fed = [Fed(row.token, row.position, row.sequence, True) for _, row in part]
            asked = [(run, index, [row]) for index, (run, row) in enumerate(part)]
            yield from self._run(fed, [run for run, _ in part], asked)

    def _run(self, fed: list[Fed], of: Sequence[Run], asked: Sequence[tuple[Run, int, list[Row]]]) -> Iterator[Message]:
        """Make a step of tokens, each ``of`` a run; ``asked`` is where in it which answers go on."""
        try:
            self._cache.step(fed)
        except TokmagicError as error:
            for run in dict.fromkeys(of):  # what a step was to do is lost to all that it was of
                self._release(run)
                yield Failed.of(run.request.run, error)
            return
        pieces = [piece for run, index, rows in asked for piece in self._take(run, index, rows)]
        self._account(of)
        yield from pieces

    def _take(self, run: Run, index: int, rows: Sequence[Row]) -> Iterator[Piece]:
        """Choose the next token of each of ``rows``, which follow the same token of the step."""
        if len(rows) > 1:  # the prompt was read once for all of them
            for row in rows[1:]:
                self._cache.share(rows[0].sequence, row.sequence)
        logits = self._cache.logits(index)
        untouched = logits.copy() if len(rows) > 1 else None
        for row in rows:
            if untouched is not None:
                logits[:] = untouched
            token, logprob = self._choose(run.request, row, logits, index)
            now_ns = time.perf_counter_ns()
            row.position = len(run.request.ids) + row.generated
            row.token = token
            row.generated += 1
            text = row.decoder.push(token)
            piece = row.stop.push(text)
            if token in self._eos or row.stop.stopped:
                row.reason = "stop"
            elif row.generated == run.request.limit:
                row.reason = "length"
            if row.reason is not None:
                self._cache.drop(row.sequence)
            yield Piece(run.request.run, row.choice, token, now_ns, piece, None if logprob is None else (text, logprob))

    def _choose(self, request: Request, row: Row, logits: Any, index: int) -> tuple[int, float | None]:
        """In the torch engine's order: penalties, log probabilities, schema, then sampling."""
        penalty = request.drawing.repetition_penalty
        if penalty != 1:
            seen = numpy.fromiter(row.seen, dtype=numpy.intp, count=len(row.seen))
            scores = logits[seen]
            logits[seen] = numpy.where(scores < 0, scores * penalty, scores / penalty)
        if row.generated < request.min_tokens:
            logits[list(self._eos)] = -numpy.inf
        scores = logits.astype(numpy.float64) if request.logprobs else None
        if row.matcher is not None:
            bits = numpy.frombuffer(row.matcher.compute_bitmask(), dtype=numpy.uint8)
            logits[~numpy.unpackbits(bits, count=len(logits), bitorder="little").view(bool)] = -numpy.inf
        token = int(logits.argmax()) if row.sampler is None else self._cache.draw(row.sampler, index)
        if row.matcher is not None and not row.matcher.is_stopped():
            row.matcher.consume_token(token)
        if penalty != 1:
            row.seen.add(token)
        return token, None if scores is None else float(scores[token] - _log_sum(scores))

    def _account(self, of: Sequence[Run]) -> None:
        """Divide the time since the last step among the runs of this one's tokens."""
        now_ns = time.perf_counter_ns()
        took_ns, self._accounted_ns = now_ns - self._accounted_ns, now_ns
        for run, tokens in Counter(of).items():
            run.device_ns += took_ns * tokens / len(of)

    def _end(self, run: Run, unfinished: FinishReason) -> Iterator[Message]:
        tails, reasons = [], []
        for row in run.rows:
            rest = row.decoder.flush()
            tails.append(row.stop.push(rest) + row.stop.flush())
            reasons.append(row.reason or unfinished)
        generated = sum(row.generated for row in run.rows)
        self._release(run)
        choices = run.request.n
        yield Ended(
            run.request.run,
            time.perf_counter_ns(),
            tuple(reasons) or (unfinished,) * choices,
            tuple(tails) or ("",) * choices,
            generated,
            run.device_ns / 1e9,
        )

    def _release(self, run: Run) -> None:
        for row in run.rows:
            self._cache.drop(row.sequence)
            self._sequences.append(row.sequence)
            if row.sampler is not None:
                row.sampler.close()
        run.rows = []
        if run in self._active:
            self._active.remove(run)
        if run in self._waiting:
            self._waiting.remove(run)


def _log_sum(scores: Any) -> float:
    """The logarithm of the sum of the exponentials."""
    highest = scores.max()
    return float(highest + numpy.log(numpy.exp(scores - highest).sum()))
