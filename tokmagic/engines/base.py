"""An engine turns a prompt into a stream of events. Nothing downstream knows which one it listens to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from tokmagic.core.files import expanded
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo, EngineTraits, traits_of
from tokmagic.core.stream import Event, Source
from tokmagic.errors import UsageError
from tokmagic.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokmagic.engines.fit import Held, Need

Progress = Callable[[str, float | None], None]
"""Told what is being done and the share done (0 to 1), ``None`` where that is not known; at 1, what comes next."""


def no_progress(_doing: str, _share: float | None) -> None:
    """For callers that show no progress."""


PREFILL = "prefill: waiting for the first token"
"""What comes after loading, and takes long where the prompt is."""

SHARED = "tokmagic"
"""The kind of server that ``tokmagic serve`` is."""
ENGINE_KEY = "TOKMAGIC_ENGINE_KEY"
"""The environment variable that holds a shared engine's key, where no other is named."""

EngineState = Literal["unloaded", "loading", "ready", "failed"]


class Stream(Protocol):
    """An iterator of one run's events: ``Started``, any number of ``Token``, one ``Finished``.

    ``close`` may be called from any thread and returns at once. It stops the generation within one
    forward pass; what was generated before that can still be read, up to the ``Finished`` event, so
    that an interrupted run is counted exactly. What the engine's libraries raise arrives from
    ``__next__`` as a TokmagicError.
    """

    def __iter__(self) -> Stream: ...
    def __next__(self) -> Event: ...
    def close(self) -> None: ...


class Engine(Protocol):
    """What the pipeline needs of a model."""

    @property
    def info(self) -> EngineInfo: ...
    @property
    def state(self) -> EngineState: ...
    def identity(self) -> EngineInfo | None:
        """Return what its answers depend on, the same before and after loading; None where only loading can tell.

        Unlike ``info`` it names the files themselves where they have no revision. Reads no weights and fetches
        nothing. Raises ModelError, UsageError.
        """
        ...

    def count(self, prompt: Prompt) -> int:
        """Return the input tokens of ``prompt``, without loading weights. Raises PromptError, ModelError."""
        ...

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        """Return the input tokens, ``counted`` or, where they cannot be, ``estimated``.

        Raises PromptError, ModelError.
        """
        ...

    def load(self, progress: Progress) -> None:
        """Make the engine ready; returns at once where it is. Raises ModelError."""
        ...

    def stream(self, prompt: Prompt) -> Stream:
        """Submit ``prompt``. Raises PromptError and ModelError, here or from the stream."""
        ...

    def close(self) -> None:
        """Free what the engine holds. It can be loaded again."""
        ...


@runtime_checkable
class Tokenized(Protocol):
    """An engine whose model's own tokenizer can be read on this machine."""

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer, without loading weights. Raises ModelError."""
        ...


@runtime_checkable
class Weighed(Protocol):
    """An engine whose model's weights take memory of a device of this machine."""

    def need(self) -> Need | None:
        """Return what the model takes; None where its files are not here. Loads nothing. Raises ModelError."""
        ...

    def held(self) -> Held | None:
        """Return what it holds now; None where it is not loaded."""
        ...

    def require_room(self, progress: Progress, freed_bytes: int) -> None:
        """Refuse what would not fit even if so much were freed before; fetches the files if need be.

        Raises OutOfMemoryError, ModelError.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """An engine that tells what its form of a model takes, and measures what it gives up and gains."""

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return what it takes beside what :class:`Weighed` tells, each with its name. Raises ModelError.

        Loads no weights.
        """
        ...

    def measure(self, progress: Progress) -> tuple[tuple[str, str], ...]:
        """Return how fast it is and how well it predicts a fixed text; loads it. Raises ModelError."""
        ...


@runtime_checkable
class Traced(Protocol):
    """An engine whose server is told to which run a request belongs, so that a run that both record counts once."""

    def stream_for(self, prompt: Prompt, run_id: str, *, alone: bool = True) -> Stream:
        """Submit ``prompt`` for the run of this id; as ``Engine.stream`` otherwise.

        ``alone``: no other request is sent for that run.
        """
        ...


def submit(engine: Engine, prompt: Prompt, run_id: str, *, alone: bool = True) -> Stream:
    """Submit a run's prompt, with the run's id where the engine takes it. Raises PromptError and ModelError.

    ``alone``: it is the run's only one.
    """
    return engine.stream_for(prompt, run_id, alone=alone) if isinstance(engine, Traced) else engine.stream(prompt)


@runtime_checkable
class Relaxable(Protocol):
    """A stream whose events come from a thread beside which many others wait for theirs."""

    def relax(self) -> None:
        """Give events in lumps from now on, some of a second's each, and the end as soon as it is there.

        What each event says of its time stays exact. Called by whoever reads the stream.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model at a shared engine. ``users``: how many requests of which user are there now."""

    name: str
    state: str
    users: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Share:
    """How a model stands at its shared engine, and with which key it is asked there; None: the server does not say.

    ``running`` and ``waiting`` are requests at the whole engine, whoever's. Of a cap that the key does not have there
    is None; what is left may be below 0.
    """

    model: ServedModel
    running: int | None = None
    waiting: int | None = None
    key: str | None = None
    team: str | None = None
    cap_usd: Decimal | None = None
    left_usd: Decimal | None = None
    cap_tokens: int | None = None
    left_tokens: int | None = None


@runtime_checkable
class Shared(Protocol):
    """An engine that others use, too: a model of ``tokmagic serve``."""

    @property
    def rates(self) -> Rates | None:
        """The server's rates for the model; None where they are not known, as before it is loaded."""
        ...

    def served(self) -> Sequence[ServedModel]:
        """Ask the server what it has and who uses it, which takes seconds at most. Raises UsageError, ModelError."""
        ...

    def share(self) -> Share:
        """Ask how this model stands there, which takes seconds at most. Raises UsageError, ModelError."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How to get and run a model, as ``%model add`` takes it.

    ``source`` is a Hugging Face id, a folder, a GGUF file, ``scripted`` or ``scripted:FILE``; with ``api_base`` or
    ``api_key_name`` it is the model's name at an OpenAI-compatible endpoint: ``server`` says what kind of server
    that is, and ``tokenizer`` whose tokenizer (an id or a folder) counts for it on this machine.
    """

    source: str
    revision: str | None = None
    quant: Literal["nf4", "int8", "int4"] | None = None
    dtype: str | None = None
    device: str | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    api_base: str | None = field(default=None, repr=False)
    api_key_name: str | None = None
    server: str | None = None
    tokenizer: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @property
    def kind(self) -> str:
        """``local``, ``llamacpp``, ``endpoint`` or ``scripted``."""
        if self.api_base or self.api_key_name or self.shared:
            return "endpoint"
        if re.match(r"scripted(:|$)", self.source):
            return "scripted"
        return "llamacpp" if self.quant == "int4" or is_gguf(self.source) else "local"

    @property
    def shared(self) -> bool:
        """Whether it is a model of ``tokmagic serve``."""
        return self.server == SHARED

    @property
    def traits(self) -> EngineTraits:
        """What holds of its kind of engine."""
        return traits_of(self.kind)

    @property
    def of_tokenizer(self) -> ModelSpec | None:
        """The model whose tokenizer was named. Raises UsageError."""
        if self.tokenizer is None:
            return None
        source, revision = parse_source(self.tokenizer)
        return ModelSpec(source, revision=revision)


def is_gguf(source: str) -> bool:
    """Whether a model is a GGUF file, or a folder whose weights are nothing else."""
    if source.lower().endswith(".gguf"):
        return True
    if not source.startswith(("/", ".", "~")):
        return False
    with suppress(OSError, UsageError, ValueError):  # what is wrong with a folder is told when it is opened
        folder = expanded(source)
        return any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors"))
    return False


def parse_source(text: str) -> tuple[str, str | None]:
    """Split ``ID@REVISION``. Folders keep their ``@``. Raises UsageError for an empty part."""
    if text.startswith(("/", ".", "~", "scripted")):
        return text, None
    source, at, revision = text.partition("@")
    if not source or (at and not revision):
        raise UsageError(f"{text!r} is not a model; give a Hugging Face id (ID or ID@REVISION) or a folder")
    return source, revision or None
