"""A pure fold: events go in, a reading comes out. Nothing here looks at a clock.

The definitions are those of docs/metrics.md: with t0 the submission and t1 … tn the instants of the
output tokens, TTFT = t1 − t0, ITL mean = (tn − t1)/(n − 1), latency = tn − t0 and output
speed = (n − 1)/(tn − t1). With several choices each has its own intervals, which are pooled.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from itertools import pairwise

from tokmagic.core.budget import Used
from tokmagic.core.money import Cost, Rates
from tokmagic.core.percentiles import percentile
from tokmagic.core.record import Reading
from tokmagic.core.stream import Event, Finished, ServerTimes, Source, Started, Token, Usage, weakest
from tokmagic.formatting import numbers
from tokmagic.prices import bill
from tokmagic.tokens.arriving import ByPieces
from tokmagic.tokens.tokenizer import rough_count_text

_SPARK_POINTS = 32


class Meter:
    """Folds one run's events into a :class:`Reading`.

    ``fold`` is cheap (a few microseconds) and runs for every token; ``reading`` does the arithmetic
    and runs when somebody looks.
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._mispriced: str | None = None
        self._started: Started | None = None
        self._finished: Finished | None = None
        # Stamps of tokens whose ids were seen, by choice; int64 nanoseconds.
        self._stamps: dict[int, array[int]] = {}
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        # The first and the last arrival of each choice that came in network pieces.
        self._ends: dict[int, tuple[int, int]] = {}
        # Choices that came in one piece so far, of more than a token.
        self._in_one: set[int] = set()
        self._ids = 0
        self._thoughts = False
        self._pieces = 0
        self._so_far: Usage | None = None
        # What arrived since the count of output tokens changed, by choice.
        self._uncounted: dict[int, ByPieces] = {}

    def reprice(self, rates: Rates, missing: str | None) -> None:
        """From now on calculate with these rates. ``missing`` says why they may not be those that are billed."""
        self._rates, self._mispriced = rates, missing

    def fold(self, event: Event) -> None:
        """Take one event in."""
        if isinstance(event, Token):
            self._token(event)
        elif isinstance(event, Started):
            self._started = event
        else:
            self._finished = event

    def _token(self, token: Token) -> None:
        if not token.has_content:
            return
        if token.id is None:
            self._pieces += 1
            self._note_uncounted(token)
            self._so_far = token.usage
            self._thoughts = self._thoughts or bool(token.reasoning)
            self._note_end(token)
        else:
            stamps = self._stamps.get(token.choice)
            if stamps is None:
                stamps = self._stamps[token.choice] = array("q")
            stamps.append(token.at_ns)
            self._ids += 1
        if self._first_ns is None:
            self._first_ns = token.at_ns
        self._last_ns = token.at_ns

    def _note_end(self, piece: Token) -> None:
        if piece.choice in self._ends:
            self._in_one.discard(piece.choice)
        elif rough_count_text(piece.reasoning + piece.text) > 1:
            self._in_one.add(piece.choice)
        first, _ = self._ends.get(piece.choice, (piece.at_ns, 0))
        self._ends[piece.choice] = first, piece.at_ns

    def _note_uncounted(self, piece: Token) -> None:
        before = self._so_far.output_tokens if self._so_far is not None else 0
        if piece.usage is not None and piece.usage.output_tokens != before:
            self._uncounted = {}
        else:
            self._uncounted.setdefault(piece.choice, ByPieces()).take(piece.reasoning + piece.text)

    def used(self) -> Used:
        """What budgets count of the run so far, without the rest of a reading: cheap enough to be asked at every token.

        What arrived since the count of output tokens last changed is estimated and added: a server may give its counts
        once, at the beginning, and go on.
        """
        usage = self.usage
        if self._finished is None and self._uncounted:
            more = sum(it.tokens for it in list(self._uncounted.values()))
            output_tokens = (usage.output_tokens or 0) + more
            usage = replace(usage, output_tokens=output_tokens, output_source="estimated")
        tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        return Used(self._cost(usage, self._device_s()).usd, tokens)

    def _cost(self, usage: Usage, device_s: float | None) -> Cost:
        finished = self._finished
        cost = bill(usage, device_s, self._rates, cut=finished is not None and finished.cut)
        if self._mispriced is not None and cost.usd is not None:
            cost = replace(cost, source="estimated")
        if finished is None:
            return cost
        if finished.metered is not None:
            cost = _as_metered(cost, finished.metered.cost)
        odd = (cost.anomaly or finished.anomaly, self._mispriced, numbers.other_cost(cost.usd, finished.reported_usd))
        return replace(cost, anomaly="; ".join(filter(None, odd)) or None)

    def reading(self, *, final: bool = False, now_ns: int | None = None) -> Reading:
        """Return what is known now: cumulative, so a later reading replaces an earlier one.

        Percentiles take a sort of all intervals and are computed for the ``final`` reading alone. ``now_ns`` tells of
        a run that has no token yet how long its device has been busy with the prompt.
        """
        usage = self.usage
        started, finished = self._started, self._finished
        t0, prefill = (started.submitted_ns, started.prefill_ns) if started else (None, None)
        intervals = self._intervals() if final else []
        device_s = self._device_s(now_ns)
        told = (finished and finished.server_times) or ServerTimes()
        queue_s, itl_mean_s = _seconds(t0, prefill), self._itl_mean(usage)
        return Reading(
            usage=usage,
            cost=self._cost(usage, device_s),
            ttft_s=_seconds(t0, self._first_ns),
            queue_s=told.queue_s if queue_s is None else queue_s,
            latency_s=_seconds(t0, self._last_ns),
            itl_mean_s=told.itl_mean_s if itl_mean_s is None else itl_mean_s,
            itl_p50_s=percentile(intervals, 0.50) if intervals else told.itl_p50_s,
            itl_p95_s=percentile(intervals, 0.95) if intervals else told.itl_p95_s,
            output_tokens_per_s=self._speed(usage),
            device_s=device_s,
            peak_bytes=finished.peak_bytes if finished else None,
            attempts=finished.attempts if finished else 1,
            spark_ms=self._spark(),
        )

    @property
    def usage(self) -> Usage:
        """The counts so far."""
        if self._finished is not None:
            return self._finished.usage
        if self._so_far is not None:
            return self._so_far
        usage = self._started.usage if self._started is not None else Usage()
        if self._pieces == 0 and self._started is not None:
            # No network pieces: every output token so far was seen by id.
            usage = replace(usage, output_tokens=self._ids, output_source="measured")
        return usage

    def _intervals(self) -> list[float]:
        """Seconds between successive tokens of the same choice, unsorted; empty for network pieces."""
        if self._pieces:
            return []
        return [(later - earlier) / 1e9 for stamps in self._choices() for earlier, later in pairwise(stamps)]

    def _itl_mean(self, usage: Usage) -> float | None:
        if self._pieces:
            spans = self._spans()
            steps = self._shown(usage) - len(spans)
            # One piece is an answer that came as a whole: nothing is known of what lies between its tokens. Beside
            # others it leaves open how many tokens these have.
            if steps < 1 or self._came_whole or self._pieces + self._ids < 2:
                return None
            return sum(last - first for first, last in spans) / 1e9 / steps
        # As many as there are now: the other thread goes on folding.
        spans = [(len(stamps) - 1, stamps[len(stamps) - 1] - stamps[0]) for stamps in self._choices()]
        steps = sum(count for count, _ in spans)
        return sum(span for _, span in spans) / 1e9 / steps if steps else None

    @property
    def _came_whole(self) -> bool:
        """Whether some choice came in one piece of more than a token."""
        return bool(self._in_one - self._stamps.keys())

    def _spans(self) -> list[tuple[int, int]]:
        """The first and the last arrival of each choice."""
        spans = dict(self._ends)
        for choice, stamps in list(self._stamps.items()):
            first, last = spans.get(choice, (stamps[0], stamps[-1]))
            spans[choice] = min(first, stamps[0]), max(last, stamps[-1])
        return list(spans.values())

    def _shown(self, usage: Usage) -> int:
        """The output tokens that arrived one after another: reasoning that no server shows came before the first."""
        hidden = 0 if self._thoughts else usage.reasoning_tokens or 0
        return max(0, (usage.output_tokens or 0) - hidden)

    def _choices(self) -> list[array[int]]:
        # A copy: readings are taken on another thread than the one that folds.
        return list(self._stamps.values())

    def _speed(self, usage: Usage) -> float | None:
        n = self._shown(usage) if self._pieces else usage.output_tokens
        if n is None or n < 2 or self._first_ns is None or self._last_ns is None or self._last_ns <= self._first_ns:
            return None
        if self._came_whole:
            return None
        first_tokens = max(1, len(self._spans()))
        return (n - first_tokens) / ((self._last_ns - self._first_ns) / 1e9) if n > first_tokens else None

    def _device_s(self, now_ns: int | None = None) -> float | None:
        if self._finished is not None:
            return self._finished.device_s
        if self._started is None:
            return None
        device_s = _seconds(self._started.prefill_ns, self._last_ns or now_ns)
        return None if device_s is None else max(0.0, device_s)

    def _spark(self) -> tuple[float, ...]:
        """The first choice's ITL in milliseconds as at most 32 means of equal spans, oldest first."""
        stamps = self._stamps.get(0)
        if self._pieces or stamps is None or len(stamps) < 2:
            return ()
        steps = len(stamps) - 1
        points = min(_SPARK_POINTS, steps)
        edges = [round(point * steps / points) for point in range(points + 1)]
        return tuple(round((stamps[b] - stamps[a]) / (b - a) / 1e6, 3) for a, b in pairwise(edges))


def _as_metered(cost: Cost, told: Cost) -> Cost:
    """A cost with the marks that it deserves where a server counted and timed what it is calculated from."""
    if cost.usd is None:
        return cost
    sources: tuple[Source, ...] = (cost.source, "reported", *([told.source] if told.usd is not None else []))
    # What the server itself only knows a bound of is none the surer here.
    return replace(cost, source=weakest(sources), bound=told.bound if cost.bound == "exact" else cost.bound)


def _seconds(from_ns: int | None, to_ns: int | None) -> float | None:
    return None if from_ns is None or to_ns is None else (to_ns - from_ns) / 1e9
