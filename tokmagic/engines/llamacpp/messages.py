"""What the kernel and the process that runs llama.cpp tell each other: a JSON array a line, its type's name first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from tokmagic import errors
from tokmagic.core.stream import FinishReason
from tokmagic.engines.llamacpp.sampling import Drawing
from tokmagic.errors import ModelError, TokmagicError

LEAST_CELLS = 4096
"""How many tokens the KV cache holds at first: a dozen short answers at once. Who needs more makes it anew, larger."""


@dataclass(frozen=True, slots=True)
class Load:
    """The first message: what to load. ``threads`` of the processor take part in each step."""

    file: str
    tokenizer: str
    trust_remote_code: bool
    eos: tuple[int, ...]
    gpu: bool
    threads: int
    kv_bytes_per_token: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """A run: its prompt's ids, and from ``min_tokens`` to ``limit`` tokens for each of ``n`` answers."""

    run: str
    ids: tuple[int, ...]
    limit: int
    drawing: Drawing
    stop: tuple[str, ...] = ()
    n: int = 1
    schema: str | None = None
    logprobs: bool = False
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """End a run where it is."""

    run: str


@dataclass(frozen=True, slots=True)
class Score:
    """Ask how likely the model finds a text, given by its ids."""

    run: str
    ids: tuple[int, ...]


class Ready(NamedTuple):
    """It is loaded."""


class Started(NamedTuple):
    """A run's prompt begins to be read."""

    run: str
    prefill_ns: int


class Piece(NamedTuple):
    """One output token; ``logprob`` is its own text and log probability, where they were asked for."""

    run: str
    choice: int
    token: int
    at_ns: int
    text: str
    logprob: tuple[str, float] | None


class Ended(NamedTuple):
    """A run is over."""

    run: str
    at_ns: int
    reasons: tuple[FinishReason, ...]
    tails: tuple[str, ...]
    generated: int
    device_s: float


class Scored(NamedTuple):
    """The mean of minus the logarithm of each token's probability, but the first's."""

    run: str
    mean_nll: float


class Failed(NamedTuple):
    """A run, or loading where ``run`` is empty, ended in an error of ours."""

    run: str
    kind: str
    said: str

    @classmethod
    def of(cls, run: str, error: TokmagicError) -> Failed:
        return cls(run, type(error).__name__, str(error))

    @property
    def error(self) -> TokmagicError:
        """The error, as it was raised there."""
        kind = getattr(errors, self.kind, ModelError)
        made: TokmagicError = kind(self.said)
        return made


Command = Load | Request | Stop | Score
Message = Ready | Started | Piece | Ended | Scored | Failed
_COMMANDS: dict[str, Any] = {it.__name__: it for it in (Load, Request, Stop, Score)}
_MESSAGES: dict[str, Any] = {it.__name__: it for it in (Ready, Started, Piece, Ended, Scored, Failed)}


def command_line(command: Command) -> bytes:
    """A command as it is sent."""
    return _line([type(command).__name__, asdict(command)])


def command_of(line: bytes) -> Command:
    """A command as it arrived."""
    name, given = json.loads(line)
    if name == "Request":
        given["drawing"] = Drawing(**given["drawing"])
    made: Command = _COMMANDS[name](**{key: tuple(it) if isinstance(it, list) else it for key, it in given.items()})
    return made


def message_line(message: Message) -> bytes:
    """A message as it is sent."""
    return _line([type(message).__name__, *message])


def message_of(line: bytes) -> Message:
    """A message as it arrived."""
    name, *given = json.loads(line)
    made: Message = _MESSAGES[name](*(tuple(it) if isinstance(it, list) else it for it in given))
    return made


def _line(value: Any) -> bytes:
    # Escaped, since an answer may hold half a character.
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
