"""How each model's prompts are counted, found out in the background: reading a tokenizer takes seconds.

Only what is on this machine is read. A draft fetches nothing and loads no weights.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import Engine, ModelSpec, Tokenized, no_progress
from tokmagic.engines.local.store import locate
from tokmagic.errors import ModelError, PromptError
from tokmagic.prompts.template import build
from tokmagic.runs.drafts.cells import Asked, fill
from tokmagic.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class CountMethod:
    """By the model's tokenizer, else by its engine's own estimate, else by length, for the ``reason`` given."""

    tokenizer: Tokenizer | None = None
    engine: Engine | None = None
    reason: str | None = None


def said_in(session: Session, asked: Asked) -> Sequence[Message]:
    """The conversation that a cell continues, as it stands now."""
    return session.chats.get(asked.chat, ()) if asked.chat else ()


def prompt_of(session: Session, asked: Asked, said: Sequence[Message] | None = None) -> tuple[Prompt, str | None]:
    """The prompt as far as it is known, and why that is not all of it. Raises PromptError.

    ``said`` is what is known of the conversation that it continues, where cells above it go on with that first.
    """
    messages, exact = fill(asked.body, session.variables(), literal=asked.literal)
    doubt = asked.doubt
    if not exact:
        doubt = doubt or "the template holds more than {{ name }} of a string or number, which only a run fills in"
    if said is not None:
        doubt = doubt or "cells above it go on with its conversation, and only a run tells what is answered there"
    history = said if said is not None else said_in(session, asked)
    sampling = asked.sampling or Sampling()
    try:
        prompt = build(messages, sampling, system=asked.system, history=history, completion=asked.completion)
    except PromptError as error:
        raise PromptError(doubt or str(error)) from None
    return prompt, doubt


class CountMethods:
    """The ways of a session's models. For any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._models = session.models
        # By name; a model that was added anew, or that was loaded since, is looked at again.
        self._found: dict[str, tuple[ModelSpec, bool, CountMethod]] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.RLock()

    def find(self, name: str, spec: ModelSpec) -> CountMethod | None:
        """Return how a registered model counts, None where that is not known yet."""
        known_spec, was_ready, way = self._found.get(name, (None, False, None))
        return way if known_spec == spec and was_ready == self._is_ready(name) else None

    def seek(self, name: str, spec: ModelSpec, then: Callable[[], None]) -> None:
        """Find it out in the background and call ``then`` in the caller's context, on another thread or at once."""
        there = contextvars.copy_context()
        with self._lock:
            if self.find(name, spec) is not None:
                there.run(then)
            elif name in self._waiting:
                self._waiting[name].append(lambda: there.run(then))
            else:
                self._waiting[name] = [lambda: there.run(then)]
                threading.Thread(
                    target=self._seek, args=(name, spec), name=f"tokmagic-draft-{name}", daemon=True
                ).start()

    def _seek(self, name: str, spec: ModelSpec) -> None:
        ready = False
        try:
            with self._turn(name):
                ready, was_open = self._is_ready(name), name in self._models.opened()
                way = self._way(name, spec)
                # An engine that has nothing to load is ready as soon as it is open.
                ready = ready if was_open else self._is_ready(name)
        except Exception as error:
            # Whatever is wrong with the model's files: the run will tell, and a draft only has no count of it.
            way = CountMethod(
                reason=str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            )
        with self._lock:
            self._found[name] = (spec, ready, way)
            waiting = self._waiting.pop(name)
        for then in waiting:
            then()

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Wait until imports are safe: no cell runs, or the one that does has read the tokenizer by itself."""
        while not self._is_read(name):
            if self._session.import_lock.acquire(timeout=_LOOK_AGAIN_S):
                try:
                    yield
                finally:
                    self._session.import_lock.release()
                return
        yield

    def _way(self, name: str, spec: ModelSpec) -> CountMethod:
        named = spec if spec.traits.has_weights else spec.of_tokenizer
        if named is not None and locate(named, self._session.settings) is None:
            return CountMethod(reason=f"the tokenizer of {name} is not on this machine yet; the first run fetches it")
        readying = self._session.readying
        # The head shows one model; what is read for another one is no stage of it.
        if name != self._session.shown_model:
            return self._read(readying.open(self._models, name, no_progress), name, fails=named is not None)
        with readying.telling() as report:
            return self._read(readying.open(self._models, name, report), name, fails=named is not None)

    def _read(self, engine: Engine, name: str, *, fails: bool) -> CountMethod:
        if not isinstance(engine, Tokenized):
            return CountMethod(engine=engine)
        try:
            return CountMethod(engine.tokenizer())
        except ModelError:
            if fails:
                raise
        # Whatever the engine itself needs for its estimate is read now rather than at the first keystroke.
        _, source = engine.estimate(Prompt((Message("user", "?"),)))
        reason = f"the chat format of {name} is not public, or its tokenizer is not on this machine"
        return CountMethod(engine=engine, reason=reason if source == "estimated" else None)

    def _is_read(self, name: str) -> bool:
        """Whether the engine has its tokenizer, so that nothing is left to import."""
        return name in self._models.opened() and self._models.engine(name).info.tokenizer_sha256 is not None

    def _is_ready(self, name: str) -> bool:
        return name in self._models.opened() and self._models.engine(name).state == "ready"
