"""The endpoint engine: any OpenAI-compatible server over HTTP, streamed, with the server's own counts.

A thread of each run reads the network and stamps what arrives, so that neither rendering nor waiting for the notebook
counts as latency; the run's own thread folds it into events.
"""

from __future__ import annotations

import json
import os
import queue
import random
import re
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from httpx2 import EventSource, Response

from tokmagic.engines import EngineState, ModelSpec, Progress
from tokmagic.engines.endpoint.counting import Counter, Tally
from tokmagic.engines.endpoint.http import (
    MOST_EVENT,
    AttemptError,
    Connection,
    Target,
    body_of,
    parse_json,
    redacted,
    target_of,
)
from tokmagic.engines.endpoint.servers import SERVERS, server_of
from tokmagic.engines.endpoint.usage import implausible, read_usage
from tokmagic.engines.endpoint.wire import Answer, path_of, read_answer, request_of
from tokmagic.errors import PromptError, TokmagicError, UsageError, nearest
from tokmagic.events import EngineInfo, Event, Finished, FinishReason, Prompt, Source, Started, Token, Usage
from tokmagic.prices import provider_of

if TYPE_CHECKING:
    from tokmagic.config import TokMagic
    from tokmagic.tokens import Tokenizer

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPENAI = "https://api.openai.com/v1"
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_KEPT_CONNECTIONS = 4
_LAST_WORD_S = 5.0


class EndpointEngine:
    """One model at one server."""

    def __init__(self, name: str, spec: ModelSpec, settings: TokMagic) -> None:
        """Nothing is connected yet. Raises UsageError for a base URL or a server's name that is none."""
        self._name = name
        self._spec = spec
        self._settings = settings
        self._target = target_of(spec.api_base or _OPENAI)
        if spec.server is not None and spec.server not in SERVERS:
            raise UsageError(
                f"--server {spec.server!r} is unknown{nearest(spec.server, SERVERS)}; use one of {', '.join(SERVERS)}"
            )
        self._counter = Counter(name, spec, settings)
        if spec.api_key_name is not None and not _NAME.fullmatch(spec.api_key_name):
            # Not shown: it may well be the key itself.
            raise UsageError(
                "--api-key-name takes the name of an environment variable that holds the key, such as OPENAI_API_KEY, "
                "not the key"
            )
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._parents: list[Connection] = []

    @cached_property
    def _provider(self) -> str | None:
        # Reading the price table takes half a second, and nobody sells from this very machine.
        return None if self._target.loopback else provider_of(self._target.url)

    @property
    def _model(self) -> str:
        # At a provider's own address its name before the model's is ours, as in openai/gpt-5-mini.
        return self._spec.source.removeprefix(f"{self._provider}/") if self._provider else self._spec.source

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name=self._name,
            model_id=self._model,
            engine="endpoint",
            tokenizer_sha256=self._counter.sha256,
            provider=self._provider,
            server=self._target.shown,
        )

    @property
    def state(self) -> EngineState:
        return "ready"

    def identity(self) -> EngineInfo:
        # The tokenizer of this machine does not change what a server answers.
        return EngineInfo("", self._model, "endpoint", server=self._target.identity)

    def count(self, prompt: Prompt) -> int:
        return self._counter.count(prompt)

    def tokenizer(self) -> Tokenizer:
        return self._counter.tokenizer()

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        return self._counter.input(prompt, load=True)

    def load(self, progress: Progress) -> None:
        progress("ready", 1.0)

    def stream(self, prompt: Prompt) -> EndpointStream:
        submitted_ns = time.perf_counter_ns()
        server = server_of(self._spec.server, self._provider)
        body = json.dumps(request_of(self._model, prompt, server), ensure_ascii=False)
        try:
            request = _Request(path_of(prompt), body.encode(), self._key(), prompt.sampling.n, self.limits)
        except UnicodeEncodeError:
            raise PromptError(
                "the prompt holds half of a character (a lone surrogate); mend where it was cut"
            ) from None
        tally = Tally(self._counter, prompt, prompt.sampling.max_tokens * prompt.sampling.n)
        return EndpointStream(self, request, tally, submitted_ns, hidden_output=server.hidden_output)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _key(self) -> str | None:
        name = self._spec.api_key_name
        if name is None:
            return None
        key = os.environ.get(name, "")
        if not key.strip():
            # A name in other letters than variables have may be a key that was given in its place.
            name = name if name.isupper() else "the variable that --api-key-name names"
            raise UsageError(
                f"{name} is {'empty' if name in os.environ else 'not set'}; put the key for {self._name} there"
            )
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise UsageError(
                f"the key in {name} holds a line break, a blank or another character that no key has; set it anew"
            )
        return key

    # What a stream asks of its engine

    @property
    def limits(self) -> Limits:
        """How long to wait, and how often to ask. Raises UsageError for a setting that is none."""
        given = self._settings
        return Limits(given.connect_timeout_s, given.first_token_timeout_s, given.silence_timeout_s, given.attempts)

    @property
    def target(self) -> Target:
        """The server."""
        return self._target

    def connection(self) -> Connection:
        """Return a connection for one run. Raises AttemptError."""
        if self._pid != os.getpid():
            # A forked child shares its parent's sockets: it may neither use nor close them.
            self._parents += self._idle
            self._idle, self._lock, self._pid = [], threading.Lock(), os.getpid()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        limits = self.limits
        return Connection(self._target, limits.connect_s, max(limits.first_token_s, limits.silence_s))

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next run, if it is still good."""
        with self._lock:
            keep = connection.usable and len(self._idle) < _KEPT_CONNECTIONS
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds until a connection, the first token and each further one; how many attempts at most."""

    connect_s: float
    first_token_s: float
    silence_s: float
    attempts: int


@dataclass(frozen=True, slots=True)
class _Request:
    path: str
    body: bytes
    key: str | None
    choices: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Arrived:
    at_ns: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An attempt begins, or the server asked to wait so long before the next."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing more comes. ``said``: the server itself ended it. ``reached``: it may have worked on the prompt."""

    at_ns: int
    error: str | None = None
    reached: bool = True
    said: bool = False
    hung_up: bool = False


class EndpointStream:
    """One run at a server."""

    def __init__(
        self, engine: EndpointEngine, request: _Request, tally: Tally, submitted_ns: int, *, hidden_output: bool
    ) -> None:
        self._tally = tally
        self._limits = request.limits
        self._key = request.key
        self._hidden_output = hidden_output
        self._submitted_ns = submitted_ns
        self._reasons: list[FinishReason | None] = [None] * request.choices
        self._arrivals: queue.SimpleQueue[_Arrived | _Waiting | _End] = queue.SimpleQueue()
        self._pending: list[Event] = [Started(submitted_ns, tally.so_far())]
        self._done = False
        # Until when something of the answer must come; None: the wait for it has yet to begin.
        self._deadline: float | None = None
        self._reader = _Reader(engine, request, self._arrivals)

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
        self._arrivals.put(_End(time.perf_counter_ns(), reached=self._reader.reached, hung_up=True))
        self._reader.hang_up()

    def _next_arrival(self) -> _Arrived | _Waiting | _End:
        begun = self._tally.begun
        limit = self._limits.silence_s if begun else self._limits.first_token_s
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
                return _End(time.perf_counter_ns(), f"{self._reader.name} sent no {where} for {limit:g} s")
            if not isinstance(arrival, _Waiting):
                return arrival
            self._deadline = time.monotonic() + arrival.seconds + limit

    def _take(self, arrival: _Arrived | _Waiting | _End) -> list[Event]:
        if isinstance(arrival, _End):
            return [self._finish(arrival)]
        assert isinstance(arrival, _Arrived)
        for piece in arrival.answer.pieces:
            if piece.reason is not None:
                if self._reasons[piece.choice] is None:
                    self._deadline = None
                self._reasons[piece.choice] = piece.reason
            if piece.text or piece.reasoning:
                self._tally.take(piece.choice, piece.reasoning + piece.text)
        # After the pieces: a chunk's usage counts what it carries.
        if arrival.answer.usage is not None:
            self._report(arrival.answer.usage)
        usage = self._tally.so_far()
        return [
            Token(arrival.at_ns, piece.text, None, piece.choice, piece.reasoning, usage, piece.logprobs)
            for piece in arrival.answer.pieces
            if piece.text or piece.reasoning or piece.logprobs
        ]

    def _report(self, given: object) -> None:
        reported = read_usage(given, hidden_output=self._hidden_output)
        self._tally.report(reported)

    def _finish(self, end: _End) -> Finished:
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
                how = "ended the answer without a word of it" if end.said else "broke off before the answer's end"
                error = f"{self._reader.name} {how}"
        # An attempt that the server may have worked on can be billed, whatever became of it.
        reached = end.reached or self._reader.reached_before
        if not reached and not tally.begun:
            # Nothing was asked of the model, so nothing is billed.
            usage = Usage(
                input_tokens=0,
                output_tokens=0,
                cached_input_tokens=0,
                cache_write_input_tokens=0,
                reasoning_tokens=0,
                input_source="measured",
                output_source="measured",
            )
        else:
            usage = tally.final(whole=whole)
        finished = Finished(
            end.at_ns,
            tuple(self._reason(choice, ended) for choice in range(len(self._reasons))),
            usage,
            attempts=max(1, self._reader.attempts),
            error=redacted(error, self._key),
            cut=reached if not whole else self._reader.reached_before,
            anomaly=redacted(tally.anomaly or self._odd(usage), self._key),
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

    def _odd(self, usage: Usage) -> str | None:
        if usage.input_source != "reported" and usage.output_source != "reported":
            return None
        return implausible(usage, self._tally.prompt_bytes, self._tally.answer_bytes, self._tally.most_output)


class _Reader:
    """Reads one run from the network on a thread of its own, attempt after attempt."""

    def __init__(
        self, engine: EndpointEngine, request: _Request, arrivals: queue.SimpleQueue[_Arrived | _Waiting | _End]
    ) -> None:
        self.attempts = 0
        self.name = engine.target.shown
        self._engine = engine
        self._request = request
        self._arrivals = arrivals
        self._begun = self._ended = self._working = False
        self.reached_before = False
        """Whether an attempt failed on which the server may have worked."""
        self._closed = threading.Event()
        self._connection: Connection | None = None
        threading.Thread(target=self._run, name=f"tokmagic {self.name}", daemon=True).start()

    @property
    def reached(self) -> bool:
        """Whether the server may have worked on the prompt by now; not while the next attempt is waited for."""
        return self._working or self.reached_before

    def hang_up(self) -> None:
        """Close the connection at once; any thread."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.hang_up()

    def _run(self) -> None:
        while not self._closed.is_set():
            self.attempts += 1
            self._arrivals.put(_Waiting())
            try:
                self._working = True
                self._attempt()
                self._end(None)
                return
            except AttemptError as error:
                self._working = False
                wait_s = error.wait_s if error.wait_s is not None else _backoff_s(self.attempts)
                last = self.attempts >= self._request.limits.attempts
                if self._begun or not error.again or last or wait_s > _LONGEST_WAIT_S:
                    self._end(self._said(error), reached=self._begun or error.reached)
                    return
                self.reached_before |= error.reached
                self._arrivals.put(_Waiting(wait_s))
                self._closed.wait(wait_s)
            except TokmagicError as error:
                self._end(f"{self.name}: {error}")
                return
            except Exception as error:
                # Not foreseen; without an end the run would wait for one.
                self._end(f"{self.name}: {type(error).__name__}: {error}")
                return

    def _end(self, error: str | None, *, reached: bool = True, said: bool = False) -> None:
        if not self._ended:
            self._ended = True
            self._arrivals.put(_End(time.perf_counter_ns(), error, reached, said))

    def _said(self, error: AttemptError) -> str:
        tried = f" (tried {self.attempts} times)" if self.attempts > 1 else ""
        if error.wait_s is not None and error.wait_s > _LONGEST_WAIT_S:
            return f"{error}; it asks to wait {error.wait_s:.0f} s"
        return f"{error}{tried}"

    def _attempt(self) -> None:
        connection = self._connection = self._engine.connection()
        if self._closed.is_set():
            connection.hang_up()
        good = False
        try:
            with connection.post(self._request.path, self._request.body, self._request.key) as response:
                if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
                    self._events(response)
                else:
                    self._arrive(body_of(response))
                    self._end(None, said=True)
            good = True
        finally:
            self._connection = None
            if good:
                self._engine.give_back(connection)
            else:
                connection.close()

    def _events(self, response: Response) -> None:
        for event in EventSource(response, MOST_EVENT):
            data = event.data.strip()
            if data == "[DONE]":
                # Said now; what is left is read to its end, so that the connection can be used again.
                self._end(None, said=True)
            elif data and not self._ended:
                self._arrive(parse_json(data))

    def _arrive(self, given: object) -> None:
        at_ns = time.perf_counter_ns()
        answer = read_answer(given, self._request.choices)
        self._begun = self._begun or any(piece.text or piece.reasoning for piece in answer.pieces)
        self._arrivals.put(_Arrived(at_ns, answer))


def _backoff_s(attempt: int) -> float:
    """Twice as long after each attempt, and not the same for everybody."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempt - 1)) * float(random.uniform(0.75, 1.25))
