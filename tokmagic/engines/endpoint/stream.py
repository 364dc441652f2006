"""One run at a server: what the reader brings becomes events, and every end a ``Finished`` with its counts."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tokmagic.core.interrupts import taken
from tokmagic.core.metered import UNRECORDED, Metered
from tokmagic.core.stream import Event, Finished, FinishReason, Started, Token, Usage
from tokmagic.engines.endpoint.answers import Answer, Piece
from tokmagic.engines.endpoint.beside import NOTHING
from tokmagic.engines.endpoint.counting import Tally
from tokmagic.engines.endpoint.http import Connections, redacted
from tokmagic.engines.endpoint.ignored import Shown, ignored
from tokmagic.engines.endpoint.reader import Arrivals, End, Reader, Request, Waiting
from tokmagic.engines.endpoint.surrogates import Joined
from tokmagic.engines.endpoint.surrogates import whole as whole_text
from tokmagic.engines.stops import StopFilter
from tokmagic.errors import BudgetError

_LAST_WORD_S = 5.0
# For so long what waits in the socket is read before silence is judged: comments could wait there for ever.
_UNREAD_S = 1.0
_LOOK_S = 0.05


@dataclass(slots=True)
class _Choice:
    """What is known of one answer."""

    stop: StopFilter
    reason: FinishReason | None = None
    refused: bool = False
    error: str | None = None
    text: Joined = field(default_factory=Joined)
    reasoning: Joined = field(default_factory=Joined)
    past_stop: bool = False
    """Whether the server went on after a stop text."""
    logprobs: bool = False
    answer: list[str] = field(default_factory=list)
    """What is shown of it."""


class EndpointStream:
    """One run at a server."""

    def __init__(
        self,
        connections: Connections,
        request: Request,
        tally: Tally,
        submitted_ns: int,
        metered: Callable[[Metered], None] | None = None,
        settled: Callable[[str | None], Metered | None] | None = None,
    ) -> None:
        """``metered`` is told what a shared engine recorded of the run; of any other server that is not asked.

        ``settled`` asks it for that where the answer broke off before it said so, and waits until it has settled it; it
        is given the engine's own id of the run, if that was told.
        """
        self._tally = tally
        self._settled = settled
        self._told_metered = metered
        self._request = request
        self._sampling = tally.prompt.sampling
        self._choices = [_Choice(StopFilter(self._sampling.stop)) for _ in range(request.choices)]
        self._places: dict[int, int] = {}
        """Which answer each of the server's choices is; those beyond the ones that were asked for are counted alone."""
        self._ended: list[int] = []
        self._beside = NOTHING
        self._arrivals: Arrivals = queue.SimpleQueue()
        self._pending: list[Event] = [Started(submitted_ns, tally.so_far())]
        self._done = False
        self._over: End | None = None
        # Until when something of the answer must come; None: the wait for it has yet to begin.
        self._deadline: float | None = None
        self._reader = Reader(connections, request, self._arrivals)

    def __iter__(self) -> EndpointStream:
        return self

    def __next__(self) -> Event:
        while not self._pending:
            if self._done:
                raise StopIteration
            self._pending = self._take(self._next_arrival())
            if self._pending:
                self._deadline = None
        return self._pending.pop(0)

    def close(self) -> None:
        # In this order: the reader, woken, will report a broken connection.
        self._arrivals.put(End(time.perf_counter_ns(), reached=self._reader.withhold(), hung_up=True))
        self._reader.hang_up()

    def _next_arrival(self) -> Answer | End:
        if self._over is not None:
            return self._over
        begun = self._tally.begun
        limit = self._request.silence_s if begun else self._request.first_token_s
        if begun and self._answered:
            limit = min(limit, _LAST_WORD_S)  # only the usage can still come
        if self._deadline is None:
            self._deadline = time.monotonic() + limit
        while True:
            try:
                arrival = taken(self._arrivals, self._deadline - time.monotonic())
            except queue.Empty:
                late = self._unread()
                if late is None:
                    self._reader.hang_up()
                    where = "more of the answer" if begun else "answer"
                    return End(time.perf_counter_ns(), f"{self._reader.name} sent no {where} for {limit:g} s")
                arrival = late
            if not isinstance(arrival, Waiting):
                return arrival
            self._deadline = time.monotonic() + arrival.seconds + limit

    def _unread(self) -> Answer | Waiting | End | None:
        """What had come in time and was not read: this process may have been stopped, or busy with something else."""
        until = time.monotonic() + _UNREAD_S
        while time.monotonic() < until:
            waits = self._reader.has_unread
            with suppress(queue.Empty):
                return self._arrivals.get(timeout=_LOOK_S)
            if not waits:
                return None
        return None

    def _take(self, arrival: Answer | End) -> list[Event]:
        if isinstance(arrival, End):
            return [self._finish(arrival)]
        if arrival.beside != NOTHING:
            self._beside |= arrival.beside
        tokens = self._tokens(arrival)
        # After the pieces: a chunk's usage counts what it carries.
        for of in dict.fromkeys(choice for choice, _ in arrival.usages):
            choice = self._places.get(of, of) if of is not None else None
            if not self._names_choice(arrival):
                choice = self._tally.reports.of(self._ended)
            final = self._complete if choice is None else choice in self._ended
            usages = [usage for about, usage in arrival.usages if about == of]
            self._tally.report(usages, choice, final=final, alone=arrival.of_one)
        if self._answered and not self._complete and any(choice.past_stop for choice in self._choices):
            # At its stop text the answer is complete, whatever else the server makes of it.
            self._over = End(time.perf_counter_ns())
            self._reader.hang_up()
        usage, tier = self._tally.so_far(), self._beside.service_tier
        return [
            replace(token, usage=usage, service_tier=tier) for token in tokens if token.has_content or token.logprobs
        ]

    def _names_choice(self, arrival: Answer) -> bool:
        """Whether an object's choices tell of which its usage is: after the end of all, empty ones do not."""
        carries = any(piece.token.has_content or piece.reason for piece in arrival.pieces)
        return carries or (bool(arrival.pieces) and not self._complete)

    @property
    def _complete(self) -> bool:
        return all(number in self._ended for number in range(len(self._choices)))

    @property
    def _answered(self) -> bool:
        """Whether nothing of the answer is to come: each choice has ended, or is at a stop text."""
        return all(choice.stop.stopped or number in self._ended for number, choice in enumerate(self._choices))

    @property
    def _spoken_ended(self) -> bool:
        """Whether an answer has ended, and each of which anything came."""
        open_ones = (number for number in range(len(self._choices)) if number not in self._ended)
        return bool(self._ended) and not any(map(self._tally.spoke, open_ones))

    def _tokens(self, arrival: Answer) -> list[Token]:
        # Those that were asked for take their own places first.
        for piece in sorted(arrival.pieces, key=lambda it: it.token.choice):
            if piece.token.has_content or piece.reason is not None:
                self._place(piece.token.choice)
        tokens = []
        for piece in arrival.pieces:
            number = self._places.get(piece.token.choice, piece.token.choice)
            if number < len(self._choices):
                tokens.append(self._token(piece, number))
            else:
                self._unasked(piece, number)
        return tokens

    def _place(self, number: int) -> None:
        """Find a place for a choice, once: its own, another that is free, or one beyond those that were asked for."""
        if number not in self._places:
            taken = set(self._places.values())
            free = [place for place in range(len(self._choices)) if place not in taken]
            self._places[number] = number if number in free else free[0] if free else len(self._places)

    def _unasked(self, piece: Piece, number: int) -> None:
        """Count an answer that was not asked for: it is billed as the others are, and shown nowhere."""
        if text := piece.token.reasoning + piece.token.text + piece.call:
            self._tally.take(number, whole_text(text))
            self._deadline = None
        if piece.reason is not None and number not in self._ended:
            self._ended.append(number)

    def _token(self, piece: Piece, number: int) -> Token:
        choice = self._choices[number]
        text, reasoning = choice.text.take(piece.token.text), choice.reasoning.take(piece.token.reasoning)
        if text or reasoning or piece.call:
            choice.past_stop = choice.past_stop or choice.stop.stopped
            self._tally.take(number, reasoning + text + piece.call)
        shown = choice.stop.push(text)
        choice.answer.append(shown)
        choice.logprobs = choice.logprobs or bool(piece.token.logprobs)
        held = piece.token.held or (bool(piece.token.text) and not shown)
        token = replace(piece.token, text=shown, reasoning=reasoning, choice=number, held=held)
        if piece.reason is not None:
            if number not in self._ended:
                self._deadline = None
                self._ended.append(number)
            choice.reason = piece.reason
        choice.refused = choice.refused or piece.refused
        choice.error = choice.error or piece.error
        return token

    def _finish(self, end: End) -> Finished:
        tally = self._tally
        if end.over_budget and not self._reader.reached_before:
            self._done = True
            raise BudgetError(redacted(end.error, self._request.key) or "", passing=end.passing)
        # What breaks after every choice has ended took nothing of the answer away.
        failure = next((choice.error for choice in self._choices if choice.error is not None), None)
        answered = self._answered
        error = None if answered else end.error
        if failure is not None:
            error = f"{self._reader.name}: it reports: {failure}"
        # Fewer answers than were asked for are all there are, where nothing says that the stream was cut.
        fewer = not answered and self._spoken_ended and error is None and not end.hung_up
        whole = failure is None and (answered or fewer or (error is None and end.said and tally.begun))
        ended: FinishReason | None = None if whole else "error"
        if not whole and error is None:
            if end.hung_up:
                ended = "interrupted"
            else:
                how = "ended without sending any of the answer" if end.said else "broke off before the answer's end"
                error = f"{self._reader.name} {how}"
        # An attempt that the server may have worked on can be billed, whatever became of it.
        reached = end.reached or self._reader.reached_before
        local = tally.local_input_tokens() if reached else None
        unsaid = fewer and not end.said
        # Left at a stop text, or in an answer that was not asked for, the server may have gone on.
        early = answered and not end.said and not {*range(len(self._choices)), *self._places.values()} <= {*self._ended}
        # Where nothing was asked of the model nothing is billed.
        usage = Usage.measured(0, 0, 0)
        told = self._recorded(asked=reached or tally.begun)
        nowhere, told = told is UNRECORDED and not tally.begun, None if told is UNRECORDED else told
        if told is not None and told.usage is not None:
            usage = told.usage
        elif tally.begun or (reached and not nowhere):
            usage = tally.final(whole=(whole or self._complete) and not early)
            tally.judge(usage, local)
        tails = tuple(choice.stop.push(choice.text.end()) + choice.stop.flush() for choice in self._choices)
        reasons = tuple(self._reason(choice, ended) for choice in range(len(self._choices)))
        cut = (reached if not whole else self._reader.reached_before) or tally.unsure or early or unsaid
        finished = Finished(
            end.at_ns,
            reasons,
            usage,
            tails,
            device_s=0.0 if nowhere else None,
            attempts=max(1, self._reader.attempts),
            error=redacted(error, self._request.key),
            cut=cut,
            anomaly=redacted(tally.anomaly, self._request.key),
            local_input_tokens=local,
            service_tier=self._beside.service_tier,
            reported_usd=self._beside.reported_usd,
            server_times=self._beside.times,
            ignored=ignored(self._sampling, self._shown(reasons, tails), tally.unasked, usage) if whole else (),
        )
        if told is not None:
            finished = self._as_metered(finished, told)
        # Last: counting may be interrupted, and is then asked for again.
        self._done = True
        return finished

    def _recorded(self, *, asked: bool) -> Metered | None:
        """What a shared engine recorded of the run: as it told it, else as it says when it is asked.

        It is asked about a whole answer, too: that is sent before its row is settled, and what it cost only then.
        """
        told = self._beside.metered if self._told_metered is not None else None
        if told is None and self._settled is not None and asked:
            return self._settled(self._reader.server_run_id)
        return told

    def _as_metered(self, finished: Finished, told: Metered) -> Finished:
        """With what the server recorded, which it told when nothing more could come."""
        if self._told_metered is not None:
            self._told_metered(told)
        return replace(
            finished,
            reasons=finished.reasons if told.stopped is None else tuple(map(_cut_by_budget, finished.reasons)),
            # An earlier attempt has a bill of its own, and so has what the server could not count.
            cut=self._reader.reached_before or (finished.cut and told.usage is None),
            device_s=told.device_s,
            peak_bytes=told.peak_bytes,
            reported_usd=told.cost.usd,
            server_times=told.times,
            metered=told,
        )

    def _reason(self, number: int, ended: FinishReason | None) -> FinishReason | None:
        """Why a choice ended; ``ended``: how it did where nothing was said of it, None for a whole answer."""
        choice = self._choices[number]
        if choice.reason == "stop" and choice.refused:
            return "content_filter"
        if choice.stop.stopped and choice.reason not in ("content_filter", "error"):
            return "stop"
        if choice.reason is not None:
            return choice.reason
        # Of several answers that were asked for a server may give fewer.
        return "other" if ended is None and not self._tally.spoke(number) else ended

    def _shown(self, reasons: Sequence[FinishReason | None], tails: Sequence[str]) -> list[Shown]:
        """What the answers show of which anything came."""
        found = []
        for number, (choice, reason, tail) in enumerate(zip(self._choices, reasons, tails, strict=True)):
            # At its limit a server that follows no stop text is past one, too.
            past = choice.past_stop or (choice.stop.stopped and choice.reason == "length")
            if self._tally.spoke(number):
                found.append(Shown("".join(choice.answer) + tail, reason, choice.logprobs, past))
        return found


def _cut_by_budget(reason: FinishReason | None) -> FinishReason:
    """What a reason means where a budget cut the answers short: one that had ended by itself then was not cut."""
    return reason if reason in ("stop", "content_filter") else "budget"
