"""One run at a server: what the reader brings becomes events, and every end a ``Finished`` with its counts."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass, field, replace

from tokmagic.core.stream import Event, Finished, FinishReason, Started, Token, Usage
from tokmagic.engines.endpoint.answers import Answer, Piece
from tokmagic.engines.endpoint.counting import Tally
from tokmagic.engines.endpoint.http import Connections, redacted
from tokmagic.engines.endpoint.reader import Arrivals, End, Reader, Request, Waiting
from tokmagic.engines.endpoint.surrogates import Joined

_LAST_WORD_S = 5.0


@dataclass(slots=True)
class _Choice:
    """What is known of one answer."""

    reason: FinishReason | None = None
    refused: bool = False
    error: str | None = None
    text: Joined = field(default_factory=Joined)
    reasoning: Joined = field(default_factory=Joined)


class EndpointStream:
    """One run at a server."""

    def __init__(self, connections: Connections, request: Request, tally: Tally, submitted_ns: int) -> None:
        self._tally = tally
        self._request = request
        self._choices = [_Choice() for _ in range(request.choices)]
        self._ended: list[int] = []
        self._arrivals: Arrivals = queue.SimpleQueue()
        self._pending: list[Event] = [Started(submitted_ns, tally.so_far())]
        self._done = False
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
        self._arrivals.put(End(time.perf_counter_ns(), reached=self._reader.reached, hung_up=True))
        self._reader.hang_up()

    def _next_arrival(self) -> Answer | End:
        begun = self._tally.begun
        limit = self._request.silence_s if begun else self._request.first_token_s
        if begun and self._complete:
            limit = min(limit, _LAST_WORD_S)  # only the usage can still come
        if self._deadline is None:
            self._deadline = time.monotonic() + limit
        while True:
            try:
                arrival = self._arrivals.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                self._reader.hang_up()
                where = "more of the answer" if begun else "answer"
                return End(time.perf_counter_ns(), f"{self._reader.name} sent no {where} for {limit:g} s")
            if not isinstance(arrival, Waiting):
                return arrival
            self._deadline = time.monotonic() + arrival.seconds + limit

    def _take(self, arrival: Answer | End) -> list[Event]:
        if isinstance(arrival, End):
            return [self._finish(arrival)]
        tokens = [self._token(piece) for piece in arrival.pieces]
        # After the pieces: a chunk's usage counts what it carries.
        for of in dict.fromkeys(choice for choice, _ in arrival.usages):
            choice = of if self._names_choice(arrival) else self._tally.reports.of(self._ended)
            final = self._complete if choice is None else choice in self._ended
            self._tally.report([usage for about, usage in arrival.usages if about == of], choice, final=final)
        usage = self._tally.so_far()
        return [replace(token, usage=usage) for token in tokens if token.has_content or token.logprobs]

    def _names_choice(self, arrival: Answer) -> bool:
        """Whether an object's choices tell of which its usage is: after the end of all, empty ones do not."""
        carries = any(piece.token.has_content or piece.reason for piece in arrival.pieces)
        return carries or (bool(arrival.pieces) and not self._complete)

    @property
    def _complete(self) -> bool:
        return len(self._ended) == len(self._choices)

    def _token(self, piece: Piece) -> Token:
        number = piece.token.choice
        choice = self._choices[number]
        token = replace(
            piece.token,
            text=choice.text.take(piece.token.text),
            reasoning=choice.reasoning.take(piece.token.reasoning),
        )
        if piece.reason is not None:
            if number not in self._ended:
                self._deadline = None
                self._ended.append(number)
            choice.reason = piece.reason
        choice.refused = choice.refused or piece.refused
        choice.error = choice.error or piece.error
        if token.has_content:
            self._tally.take(number, token.reasoning + token.text)
        return token

    def _finish(self, end: End) -> Finished:
        tally = self._tally
        # What breaks after every choice has ended took nothing of the answer away.
        failure = next((choice.error for choice in self._choices if choice.error is not None), None)
        error = None if self._complete else end.error
        if failure is not None:
            error = f"{self._reader.name}: it reports: {failure}"
        whole = failure is None and (self._complete or (error is None and end.said and tally.begun))
        ended: FinishReason = "stop" if whole else "error"
        if not whole and error is None:
            if end.hung_up:
                ended = "interrupted"
            else:
                how = "ended without sending any of the answer" if end.said else "broke off before the answer's end"
                error = f"{self._reader.name} {how}"
        # An attempt that the server may have worked on can be billed, whatever became of it.
        reached = end.reached or self._reader.reached_before
        local = tally.local_input_tokens() if reached else None
        # Where nothing was asked of the model nothing is billed.
        usage = Usage.measured(0, 0, 0)
        if reached or tally.begun:
            usage = tally.final(whole=whole or self._complete)
            tally.judge(usage, local)
        finished = Finished(
            end.at_ns,
            tuple(self._reason(choice, ended) for choice in range(len(self._choices))),
            usage,
            tuple(choice.text.end() for choice in self._choices),
            attempts=max(1, self._reader.attempts),
            error=redacted(error, self._request.key),
            cut=(reached if not whole else self._reader.reached_before) or tally.unsure,
            anomaly=redacted(tally.anomaly, self._request.key),
            local_input_tokens=local,
        )
        # Last: counting may be interrupted, and is then asked for again.
        self._done = True
        return finished

    def _reason(self, number: int, ended: FinishReason) -> FinishReason:
        choice = self._choices[number]
        if choice.reason == "stop" and choice.refused:
            return "content_filter"
        if choice.reason is not None:
            return choice.reason
        # Of several answers that were asked for a server may give fewer.
        return "other" if ended == "stop" and not self._tally.spoke(number) else ended
