"""The scripted engine replays given events: for tests, demonstrations and documentation.

It makes numbers without a model, so that everything behind the engine can be driven exactly: which
ids, how they are stamped, when it fails. With ``pace`` it also takes the time its stamps say.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokmagic.core.files import expanded
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Event, Finished, FinishReason, Source, Started, Token, Usage
from tokmagic.engines.base import EngineState, Progress
from tokmagic.errors import ModelError

_DEFAULT_ANSWER = "This answer is scripted: it was not written by a model, but it is metered like one that was."


@dataclass(frozen=True, slots=True)
class Script:
    """One answer: its events with stamps relative to the submission (``submitted_ns`` = 0).

    ``pace`` 0 replays at once; 1 takes the time the stamps say; 2 twice that. After the events
    ``error``, if given, is raised as a ModelError.
    """

    events: tuple[Event, ...]
    pace: float = 0.0
    error: str | None = None

    @classmethod
    def of_text(
        cls,
        pieces: Sequence[str],
        *,
        input_tokens: int = 12,
        ttft_s: float = 0.2,
        itl_s: float = 0.02,
        pace: float = 0.0,
        error: str | None = None,
    ) -> Script:
        """A plain answer: one token a piece, evenly spaced."""
        asked = Usage.measured(input_tokens, reasoning_tokens=0)
        stamps = [round((ttft_s + i * itl_s) * 1e9) for i in range(len(pieces))]
        tokens = [Token(stamp, piece, index) for index, (stamp, piece) in enumerate(zip(stamps, pieces, strict=True))]
        end = stamps[-1] if stamps else 0
        usage = replace(asked, output_tokens=len(pieces))
        finished = Finished(end, ("stop",), usage, device_s=end / 1e9)
        events: tuple[Event, ...] = (Started(0, asked, 0), *tokens)
        return cls(events if error else (*events, finished), pace, error)

    @classmethod
    def read(cls, path: Path) -> Script:
        """Read a script file: JSON with ``pieces`` and, optionally, the arguments of :meth:`of_text`.

        Raises ModelError.
        """
        try:
            given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            script = cls.of_text(**given)
            _check(given)
            return script
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ModelError(
                f'{path} is not a script: {error}; give JSON such as {{"pieces": ["Hello", " there"], "itl_s": 0.02}}'
            ) from error


def _check(given: dict[str, Any]) -> None:
    pieces = given["pieces"]
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise ValueError("pieces must be a list of strings")
    for name, kind in (("input_tokens", int), ("ttft_s", float), ("itl_s", float), ("pace", float)):
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, kind | int) or value < 0:
            raise ValueError(f"{name} is {value!r}; it must be a number of 0 or more")


class ScriptedEngine:
    """Answers each prompt with the next script, round and round."""

    def __init__(self, name: str, scripts: Sequence[Script]) -> None:
        self._name = name
        self._scripts = tuple(scripts)
        # No lock: a child that is forked while another thread held it would wait for it for ever.
        self._numbers = itertools.count()
        self._next = 0

    @classmethod
    def from_source(cls, name: str, source: str) -> ScriptedEngine:
        """Open ``scripted`` (a built-in answer) or ``scripted:FILE``. Raises ModelError."""
        _, _, path = source.partition(":")
        if path:
            return cls(name, [Script.read(expanded(path))])
        return cls(name, [Script.of_text(re.findall(r"\S+ ?", _DEFAULT_ANSWER))])

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(self._name, "scripted", "scripted", device="none")

    @property
    def state(self) -> EngineState:
        return "ready"

    def identity(self) -> EngineInfo:
        return replace(self.info, revision=hashlib.sha256(repr(self._scripts).encode()).hexdigest())

    def count(self, prompt: Prompt) -> int:
        """The script's input tokens: a scripted engine has no tokenizer, whatever ``prompt`` says."""
        del prompt
        return next((e.usage.input_tokens or 0 for e in self._peek().events if isinstance(e, Started)), 0)

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        return self.count(prompt), "counted"

    def load(self, progress: Progress) -> None:
        progress("ready", 1.0)

    def stream(self, prompt: Prompt) -> ScriptedStream:
        number = next(self._numbers)
        self._next = number + 1
        return ScriptedStream(self._scripts[number % len(self._scripts)], prompt.sampling.max_tokens)

    def close(self) -> None:
        """Nothing is held."""

    def _peek(self) -> Script:
        return self._scripts[self._next % len(self._scripts)]


class ScriptedStream:
    """Replays one script; ``max_tokens`` cuts it short as a model's limit would."""

    def __init__(self, script: Script, max_tokens: int) -> None:
        self._script = script
        self._max_tokens = max_tokens
        self._origin_ns = time.perf_counter_ns()
        self._position = 0
        self._tokens = 0
        self._last_ns = self._origin_ns
        self._usage = Usage()
        self._closed = threading.Event()
        self._done = False

    def __iter__(self) -> ScriptedStream:
        return self

    def __next__(self) -> Event:
        if self._done:
            raise StopIteration
        if self._closed.is_set():
            return self._cut("interrupted")
        if self._position == len(self._script.events):
            self._done = True
            if self._script.error:
                raise ModelError(self._script.error)
            raise StopIteration
        event = self._shifted(self._script.events[self._position])
        if isinstance(event, Token) and event.id is not None and self._tokens == self._max_tokens:
            return self._cut("length")
        at_ns = event.submitted_ns if isinstance(event, Started) else event.at_ns
        if self._script.pace:
            due_ns = self._origin_ns + (at_ns - self._origin_ns) * self._script.pace
            if self._closed.wait(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9)):
                return self._cut("interrupted")
        self._position += 1
        if isinstance(event, Started):
            self._usage = event.usage
        elif isinstance(event, Token):
            self._tokens += event.id is not None
            self._last_ns = event.at_ns
        else:
            self._done = True
        return event

    def close(self) -> None:
        self._closed.set()

    def _shifted(self, event: Event) -> Event:
        if isinstance(event, Started):
            prefill = None if event.prefill_ns is None else event.prefill_ns + self._origin_ns
            return replace(event, submitted_ns=event.submitted_ns + self._origin_ns, prefill_ns=prefill)
        return replace(event, at_ns=event.at_ns + self._origin_ns)

    def _cut(self, reason: FinishReason) -> Finished:
        self._done = True
        usage = replace(self._usage, output_tokens=self._tokens)
        device_s = (self._last_ns - self._origin_ns) / 1e9
        return Finished(self._last_ns, (reason,), usage, device_s=device_s)
