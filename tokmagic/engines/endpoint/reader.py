"""Reads one run from the network on a thread of its own, attempt after attempt, and stamps what arrives."""

from __future__ import annotations

import queue
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from httpx2 import EventSource, Response, SSEError

from tokmagic.core.metered import SERVER_RUN_ID_HEADER
from tokmagic.engines.endpoint.answers import Answer, error_text, read_answer
from tokmagic.engines.endpoint.beside import NOTHING, read_headers
from tokmagic.engines.endpoint.http import AttemptError, Connection, Connections, body_of, parse_json
from tokmagic.engines.endpoint.limits import Limits, kept_bytes
from tokmagic.engines.endpoint.opening import opened
from tokmagic.errors import EndpointError, TokmagicError

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_MOST_WAITING = 1024
"""Arrivals that may wait for the run's own thread: what is not read yet stays in the network."""
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a server: a JSON body at a path below its base URL, for so many answers.

    It has so many seconds until a connection, the first token and each further one, at most so many ``attempts``, and
    what an answer may take. ``headers`` are sent beside the usual ones.
    """

    path: str
    body: bytes
    key: str | None
    choices: int
    connect_s: float
    first_token_s: float
    silence_s: float
    attempts: int
    limits: Limits
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def read_s(self) -> float:
        """How long the network may be silent: whoever reads from it knows what is waited for, and stops sooner."""
        return max(self.first_token_s, self.silence_s)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An attempt begins, or the server asked to wait so long before the next."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more comes. ``said``: the server itself ended it. ``reached``: it may have worked on the prompt.

    ``over_budget``: a budget of the server's did not let the run in; ``passing``: it may later.
    """

    at_ns: int
    error: str | None = None
    reached: bool = True
    said: bool = False
    hung_up: bool = False
    over_budget: bool = False
    passing: bool = False


Arrivals = queue.SimpleQueue[Answer | Waiting | End]


class Reader:
    """Reads one run from the network on a thread of its own, attempt after attempt."""

    def __init__(self, connections: Connections, request: Request, arrivals: Arrivals) -> None:
        self.attempts = 0
        self.name = connections.target.shown
        self.server_run_id: str | None = None
        """A shared engine's id of the newest attempt, told before its answer."""
        self._connections = connections
        self._request = request
        self._arrivals = arrivals
        self._begun = self._ended = self._working = False
        self._kept_bytes = 0
        self.reached_before = False
        """Whether an attempt failed on which the server may have worked."""
        self._withheld = False
        self._beginning = threading.Lock()
        self._closed = threading.Event()
        self._connection: Connection | None = None
        threading.Thread(target=self._run, name=f"tokmagic {self.name}", daemon=True).start()

    @property
    def reached(self) -> bool:
        """Whether the server may have worked on the prompt by now; not while the next attempt is waited for."""
        return self._working or self.reached_before

    @property
    def has_unread(self) -> bool:
        """Whether something that the server sent waits to be read."""
        connection = self._connection
        return connection is not None and connection.has_unread

    def withhold(self) -> bool:
        """Begin no further attempt; whether the server may have worked on the prompt by now. Any thread."""
        with self._beginning:  # else an attempt could begin after the answer, and nobody would be told of its bill
            self._withheld = True
            return self.reached

    def _may_begin(self) -> bool:
        with self._beginning:
            self._working = not self._withheld
            return self._working

    def hang_up(self) -> None:
        """Close the connection at once; any thread."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.hang_up()

    def _run(self) -> None:
        while not self._closed.is_set() and self._may_begin():
            self.attempts += 1
            self._arrivals.put(Waiting())
            try:
                self._attempt()
                self._end(None)
                return
            except AttemptError as error:
                wait_s = error.wait_s if error.wait_s is not None else _backoff_s(self.attempts)
                last = self.attempts >= self._request.attempts
                if self._begun or not error.again or last or wait_s > _LONGEST_WAIT_S:
                    self._failed(error)
                    return
                self.reached_before |= error.reached
                self._working = False  # not before: whoever hangs up now would be told that nothing had been asked
                self._arrivals.put(Waiting(wait_s))
                self._closed.wait(wait_s)
            except Exception as error:
                # What is not foreseen, too: without an end the run would wait for one.
                kind = "" if isinstance(error, TokmagicError) else f"{type(error).__name__}: "
                self._end(f"{self.name}: {kind}{error}")
                return

    def _end(self, error: str | None, *, reached: bool = True, said: bool = False) -> None:
        self._arrived(End(time.perf_counter_ns(), error, reached, said))

    def _failed(self, error: AttemptError) -> None:
        reached, over_budget = self._begun or error.reached, error.over_budget
        end = End(time.perf_counter_ns(), self._said(error), reached)
        self._arrived(replace(end, over_budget=over_budget, passing=over_budget and error.again))

    def _arrived(self, end: End) -> None:
        if not self._ended:
            self._ended = True
            self._arrivals.put(end)

    def _said(self, error: AttemptError) -> str:
        tried = f" (tried {self.attempts} times)" if self.attempts > 1 else ""
        if error.wait_s is not None and error.wait_s > _LONGEST_WAIT_S:
            return f"{error}; it asks to wait {error.wait_s:.0f} s"
        return f"{error}{tried}"

    def _attempt(self) -> None:
        request = self._request
        connection = self._connection = self._connections.take(request.connect_s, request.read_s)
        if self._closed.is_set():
            connection.hang_up()
        good = False
        try:
            self.server_run_id = None
            with connection.send(request.path, request.body, request.key, request.headers) as response:
                self.server_run_id = _run_id(response.headers.get(SERVER_RUN_ID_HEADER))
                answer, streamed = opened(response, request.limits)
                if streamed:
                    self._events(answer)
                else:
                    given = body_of(answer, request.limits)
                    # First: what the body tells of the same holds.
                    self._arrivals.put(Answer(beside=read_headers(response.headers)))
                    self._arrive(given, whole=True)
                    self._end(None, said=True)
            good = True
        finally:
            self._connection = None
            if good:
                self._connections.give_back(connection)
            else:
                connection.close()

    def _events(self, response: Response) -> None:
        try:
            for event in EventSource(response, self._request.limits.body_bytes):
                data = event.data.strip()
                if data == "[DONE]":
                    # Said now; what is left is read to its end, so that the connection can be used again.
                    self._end(None, said=True)
                elif data and not self._ended:
                    self._event(event.event, data)
        except SSEError:
            raise self._request.limits.too_long() from None

    def _event(self, name: str, data: str) -> None:
        try:
            given = parse_json(data, self._request.limits)
        except EndpointError:
            if name == "error":
                raise EndpointError(f"it reports: {error_text(data)}") from None
            if name == "message":
                raise
            return  # a ping in words
        if name == "error":
            given = {"error": given}
        self._arrive(given, whole=False)

    def _arrive(self, given: object, *, whole: bool) -> None:
        answer = read_answer(given, self._request.choices, time.perf_counter_ns(), whole=whole)
        self._begun = self._begun or any(piece.token.has_content for piece in answer.pieces)
        self._kept_bytes += sum(kept_bytes(piece.token, piece.call) for piece in answer.pieces)
        if self._kept_bytes > self._request.limits.kept_bytes:
            raise EndpointError("it goes on far beyond the tokens that it was asked for")
        while self._arrivals.qsize() >= _MOST_WAITING and not self._closed.wait(_PAUSE_S):
            pass  # the run is slower than the network
        if answer.pieces or answer.usages or answer.beside != NOTHING:
            self._arrivals.put(answer)
        if answer.error is not None:
            raise EndpointError(answer.error)


def _run_id(given: str | None) -> str | None:
    return given if given is not None and re.fullmatch(r"[0-9a-f]{32}", given) else None


def _backoff_s(attempt: int) -> float:
    """Twice as long after each attempt, and not the same for everybody."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempt - 1)) * float(random.uniform(0.75, 1.25))
