"""One run at a server: what the reader brings becomes events, and every end a ``Finished`` with its counts."""

from __future__ import annotations

import queue
import time
from dataclasses import replace

from tokmagic.core.stream import Event, Finished, FinishReason, Started, Usage
from tokmagic.engines.endpoint.counting import Tally
from tokmagic.engines.endpoint.http import Connections, redacted
from tokmagic.engines.endpoint.reader import Arrivals, End, Reader, Request, Waiting
from tokmagic.engines.endpoint.usage import implausible, read_usage
from tokmagic.engines.endpoint.wire import Answer

_LAST_WORD_S = 5.0


class EndpointStream:
    """One run at a server."""

    def __init__(
        self, connections: Connections, request: Request, tally: Tally, submitted_ns: int, *, hidden_output: bool
    ) -> None:
        self._tally = tally
        self._request = request
        self._hidden_output = hidden_output
        self._submitted_ns = submitted_ns
        self._reasons: list[FinishReason | None] = [None] * request.choices
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
        if begun and None not in self._reasons:
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
        for piece in arrival.pieces:
            token = piece.token
            if piece.reason is not None:
                if self._reasons[token.choice] is None:
                    self._deadline = None
                self._reasons[token.choice] = piece.reason
            if token.has_content:
                self._tally.take(token.choice, token.reasoning + token.text)
        # After the pieces: a chunk's usage counts what it carries.
        if arrival.usage is not None:
            self._tally.report(*read_usage(arrival.usage, hidden_output=self._hidden_output))
        usage = self._tally.so_far()
        tokens = (piece.token for piece in arrival.pieces)
        return [replace(token, usage=usage) for token in tokens if token.has_content or token.logprobs]

    def _finish(self, end: End) -> Finished:
        tally = self._tally
        # What breaks after every choice has ended took nothing of the answer away.
        complete = all(reason is not None for reason in self._reasons)
        error = None if complete else end.error
        whole = complete or (error is None and end.said and tally.begun)
        ended: FinishReason = "stop" if whole else "error"
        if not whole and error is None:
            if end.hung_up:
                ended = "interrupted"
            else:
                how = "ended without sending any of the answer" if end.said else "broke off before the answer's end"
                error = f"{self._reader.name} {how}"
        # An attempt that the server may have worked on can be billed, whatever became of it.
        reached = end.reached or self._reader.reached_before
        # Where nothing was asked of the model nothing is billed.
        usage = tally.final(whole=whole) if reached or tally.begun else Usage.measured(0, 0, 0)
        odd = implausible(usage, tally.prompt.utf8_bytes, tally.answer_bytes, tally.most_output)
        finished = Finished(
            end.at_ns,
            tuple(self._reason(choice, ended) for choice in range(len(self._reasons))),
            usage,
            attempts=max(1, self._reader.attempts),
            error=redacted(error, self._request.key),
            cut=reached if not whole else self._reader.reached_before,
            anomaly=redacted(tally.anomaly or odd, self._request.key),
            local_input_tokens=tally.local_input_tokens() if reached else None,
        )
        # Last: counting may be interrupted, and is then asked for again.
        self._done = True
        return finished

    def _reason(self, choice: int, ended: FinishReason) -> FinishReason:
        given = self._reasons[choice]
        if given is not None:
            return given
        # Of several answers that were asked for a server may give fewer.
        return "other" if ended == "stop" and not self._tally.spoke(choice) else ended
