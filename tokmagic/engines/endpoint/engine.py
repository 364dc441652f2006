"""The endpoint engine: any OpenAI-compatible server over HTTP, streamed, with the server's own counts.

A thread of each run reads the network and stamps what arrives, so that neither rendering nor waiting for the notebook
counts as latency; the run's own thread folds it into events.
"""

from __future__ import annotations

import json
import os
import re
import time
from functools import cached_property

from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Prompt, utf8
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Source
from tokmagic.engines.base import EngineState, ModelSpec, Progress
from tokmagic.engines.endpoint.counting import Counter, Tally
from tokmagic.engines.endpoint.http import Connections
from tokmagic.engines.endpoint.limits import Limits
from tokmagic.engines.endpoint.reader import Request
from tokmagic.engines.endpoint.servers import SERVERS, Server, server_of
from tokmagic.engines.endpoint.stream import EndpointStream
from tokmagic.engines.endpoint.target import OPENAI, Target, target_of
from tokmagic.engines.endpoint.wire import request_of
from tokmagic.errors import UsageError, nearest
from tokmagic.prices import provider_of
from tokmagic.tokens.tokenizer import Tokenizer

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EndpointEngine:
    """One model at one server."""

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        settings: TokMagic,
        *,
        target: Target | None = None,
        counter: Counter | None = None,
    ) -> None:
        """Nothing is connected yet. Raises UsageError for an invalid base URL or an unknown kind of server.

        ``target`` and ``counter`` stand in the place of those that ``spec`` says.
        """
        self._name = name
        self._spec = spec
        self._settings = settings
        self._target = target or target_of(spec.api_base or OPENAI)
        self._connections = Connections(self._target)
        if spec.server is not None and spec.server not in SERVERS:
            raise UsageError(
                f"--server {spec.server!r} is unknown{nearest(spec.server, SERVERS)}; use one of {', '.join(SERVERS)}"
            )
        self._counter = counter or Counter(name, spec, settings)
        if spec.api_key_name is not None and not _NAME.fullmatch(spec.api_key_name):
            # Not shown: it may well be the key itself.
            raise UsageError(
                "--api-key-name takes the name of an environment variable that holds the key, such as OPENAI_API_KEY, "
                "not the key"
            )

    @cached_property
    def _provider(self) -> str | None:
        # Reading the price table takes half a second, and nobody sells from this very machine.
        return None if self._target.loopback else provider_of(self._target.url)

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name=self._name,
            model_id=self._spec.source,
            engine="endpoint",
            tokenizer_sha256=self._counter.sha256,
            provider=self._provider,
            server=self._target.shown,
        )

    @property
    def state(self) -> EngineState:
        return "ready"

    def identity(self) -> EngineInfo | None:
        # The tokenizer of this machine does not change what a server answers.
        return EngineInfo("", self._spec.source, "endpoint", server=self._target.identity)

    def count(self, prompt: Prompt) -> int:
        return self._counter.count(prompt)

    def tokenizer(self) -> Tokenizer:
        return self._counter.tokenizer()

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        return self._counter.input(prompt, load=True)

    def load(self, progress: Progress) -> None:
        progress("ready", 1.0)

    def stream(self, prompt: Prompt) -> EndpointStream:
        request = self._request(prompt, server_of(self._spec.server, self._provider))
        tally = self._tally(prompt)
        return EndpointStream(self._connections, request, tally, self._clock(request))

    def _clock(self, request: Request) -> int:
        """When a run begins: all that this process does for it before it is sent was done and is none of its time."""
        self._connections.prepare(request.connect_s, request.read_s)
        return time.perf_counter_ns()

    def _request(self, prompt: Prompt, server: Server) -> Request:
        body = json.dumps(request_of(self._spec.source, prompt, server), ensure_ascii=False)
        given = self._settings
        limits = given.connect_timeout_s, given.first_token_timeout_s, given.silence_timeout_s, given.attempts
        path = "/completions" if prompt.completion else "/chat/completions"
        most = Limits.of(prompt.sampling)
        return Request(path, utf8(body), self._key(), prompt.sampling.n, *limits, most)

    def _tally(self, prompt: Prompt) -> Tally:
        return Tally(self._counter, prompt, prompt.sampling.max_tokens * prompt.sampling.n)

    def close(self) -> None:
        self._connections.close()

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
                f"the key in {name} contains a line break, a space or another character that no key has; set it again"
            )
        return key
