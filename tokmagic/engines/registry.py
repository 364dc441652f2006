"""The models of a session: names, how to run them, and which are loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from typing import Any

from tokmagic.core.config import DEFAULT_MODEL, TokMagic
from tokmagic.core.forks import in_child, whole
from tokmagic.core.money import Rates
from tokmagic.core.record import EngineInfo
from tokmagic.engines.base import (
    ENGINE_KEY,
    SHARED,
    Engine,
    ModelSpec,
    Progress,
    Shared,
    Weighed,
    is_gguf,
    parse_source,
)
from tokmagic.engines.local.store import NAMED
from tokmagic.errors import TokmagicError, UsageError, nearest

_HERE = ("/", ".", "~", "scripted")
"""How the names of models begin that are this machine's own, whatever a shared engine may call so."""
OF_ENDPOINT = ("api_base", "api_key_name", "server", "tokenizer")
"""What settings, options and :class:`ModelSpec` alike call what is needed to reach a model at an endpoint."""
_OF_WEIGHTS = ("revision", "quant", "dtype", "device", "compile", "trust_remote_code")
_FOLLOWED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "local": ("a model on this machine", (*_OF_WEIGHTS, "allow_pickle")),
    "llamacpp": ("a GGUF file", _OF_WEIGHTS),
    "endpoint": ("a model at a server", OF_ENDPOINT),
    "scripted": ("a scripted model", ()),
}
"""Each kind of engine in words, and what it follows of a spec beside its source, or refuses in words of its own."""


class Models:
    """Names → engines. An engine is opened at first use and loaded when it first generates."""

    def __init__(self, settings: TokMagic) -> None:
        self._settings = settings
        self._specs: dict[str, ModelSpec] = {name: ModelSpec(name) for name in NAMED}
        # Names that nobody added with a spec of their own: they follow the setting of a shared engine, this one now.
        self._unasked = set(self._specs)
        self._followed = ""
        self._engines: dict[str, Engine] = {}
        self._current: str | None = None
        self._placed: tuple[str, ModelSpec] | None = None
        self._opening = threading.RLock()
        self._loading = threading.Lock()
        in_child(self._renew)

    def _renew(self) -> None:
        self._opening, self._loading = threading.RLock(), threading.Lock()

    @property
    def current(self) -> str:
        """The model used when none is named. Raises UsageError for an unusable setting."""
        # Never stored here: the live channel's threads look too, and would undo a choice made meanwhile.
        chosen = self._current
        return self.resolve(self._settings.model) if chosen is None else chosen

    def __iter__(self) -> Iterator[tuple[str, ModelSpec]]:
        with suppress(UsageError):  # what is wrong with the settings is told where their model is used
            self._follow()
            self._place(self._settings.model)
        return iter(list(self._specs.items()))

    def _follow(self) -> None:
        """Run what nobody added at the shared engine that the settings name, or here again. Raises UsageError."""
        url = self._settings.engine_url
        if url == self._followed:
            return
        with self._opening, _said_of_settings({"--engine": "TOKMAGIC_ENGINE_URL"}):
            for name in list(self._unasked):
                # A name that only the engine knew means nothing here.
                if not url and name not in NAMED and not _is_source(name):
                    self._unasked.discard(name)
                    del self._specs[name]
                    if (engine := self._engines.pop(name, None)) is not None:
                        engine.close()
                else:
                    self._put(name, self._by_default(name))
            self._followed = url

    def _by_default(self, name: str) -> ModelSpec:
        """How a model is run that nobody added: at the shared engine, if there is one and it can know the name."""
        url = self._settings.engine_url
        if url and not name.startswith(_HERE) and not is_gguf(name):
            return shared_spec(name, url)
        source, revision = parse_source(name)
        return ModelSpec(source, revision=revision)

    def _place(self, text: str) -> None:
        """Register the model that the settings name at an endpoint, if it is asked for. Raises UsageError."""
        asked = self._settings
        if not (asked.api_base or asked.api_key_name) or text != asked.model:
            return
        if text == DEFAULT_MODEL:
            raise UsageError("TOKMAGIC_API_BASE needs TOKMAGIC_MODEL: set it to the model's name at that server")
        given: dict[str, Any] = {name: getattr(asked, name) or None for name in OF_ENDPOINT}
        spec = ModelSpec(text, **given)
        with self._opening:
            # Once: what a person adds under this name afterwards stays.
            if self._placed != (text, spec):
                with _said_of_settings({_option(name): f"TOKMAGIC_{name.upper()}" for name in OF_ENDPOINT}):
                    self.add(text, spec)
                self._placed = text, spec

    def add(self, name: str, spec: ModelSpec) -> None:
        """Register ``spec`` under ``name``; an engine of that name is closed. Raises UsageError.

        One at an endpoint is opened at once: that connects to nothing, and says what is wrong with its URL.
        """
        _check_followed(spec)
        with self._opening:
            self._put(name, spec)
            self._unasked.discard(name)

    def _put(self, name: str, spec: ModelSpec) -> None:
        opened: Engine | None = None
        if spec.traits.remote:
            opened = open_engine(name, spec, self._settings)
        else:
            source, revision = parse_source(spec.source)
            spec = replace(spec, source=source, revision=spec.revision or revision)
        with self._opening:
            before = self._engines.pop(name, None)
            self._specs[name] = spec
            if opened is not None:
                self._engines[name] = opened
        if before is not None:
            before.close()

    def register(self, engine: Engine, spec: ModelSpec) -> None:
        """Register an engine that is open already under its own name; one of that name is closed."""
        with self._opening:
            before = self._engines.get(engine.info.name)
            self._specs[engine.info.name], self._engines[engine.info.name] = spec, engine
        if before is not None:
            before.close()

    def use(self, name: str) -> None:
        """Make a model the current one. Raises UsageError."""
        self._current = self.resolve(name)

    def resolve(self, text: str) -> str:
        """Return the name of a registered model, or register a Hugging Face id or folder under its own text.

        Raises UsageError with the nearest name.
        """
        self._follow()
        self._place(text)
        if text in self._specs:
            return text
        if self._is_known_elsewhere(text):
            with self._opening:  # of two threads the second would close the engine of the first
                if text not in self._specs:
                    self._put(text, self._by_default(text))
                    self._unasked.add(text)
            return text
        raise UsageError(
            f"model {text!r} is unknown{nearest(text, self._specs)}; known: {', '.join(self._specs)}; "
            "give a Hugging Face id or a folder, or add one with: %model add NAME SPEC; "
            "one at a server needs --api-base or --api-key-name"
        )

    def peek(self, text: str) -> ModelSpec | None:
        """Return how a model is run; None for an id or a folder that :meth:`resolve` would register.

        Raises UsageError with the nearest name.
        """
        self._follow()
        self._place(text)
        if text not in self._specs and self._is_known_elsewhere(text):
            return None
        return self._specs[self.resolve(text)]

    def _is_known_elsewhere(self, text: str) -> bool:
        """Whether a text is an id or a folder, or what a shared engine may call a model of its own."""
        return _is_source(text) or bool(self._settings.engine_url and text.strip())

    def spec(self, name: str) -> ModelSpec:
        """Return how a model is run. Raises UsageError."""
        return self._specs[self.resolve(name)]

    def info(self, name: str) -> EngineInfo:
        """What is known of a model, without opening its engine for it. Raises UsageError."""
        self._follow()
        if (engine := self._engines.get(name)) is not None:
            return engine.info
        spec = self.spec(name)
        return EngineInfo(name, spec.source, spec.kind)

    def engine(self, name: str | None = None) -> Engine:
        """Return the engine of a model, the current one by default. Raises UsageError, ModelError."""
        name = self.resolve(name) if name is not None else self.current
        engine = self._engines.get(name)
        if engine is not None:
            return engine
        # Opening one takes seconds, and the live channel may ask meanwhile; there must never be two of one model.
        with whole(), self._opening:
            if name not in self._engines:
                self._engines[name] = open_engine(name, self._specs[name], self._settings)
            return self._engines[name]

    def load(self, name: str | None, progress: Progress, *, keep_others: bool = False) -> Engine:
        """Load a model. Other local models are unloaded first unless ``keep_others``. Raises ModelError."""
        engine = self.engine(name)
        with self._loading:
            if engine.state != "ready" and engine.info.traits.has_weights and not keep_others:
                # One loaded model per device unless the person asks for more.
                others = [it for it in list(self._engines.values()) if it is not engine and _is_beside(it, engine)]
                if others and isinstance(engine, Weighed):
                    # While these are there: what does not fit leaves them as they are.
                    engine.require_room(progress, sum(map(_weights_bytes, others)))
                for other in others:
                    other.close()
            engine.load(progress)
        return engine

    def opened(self) -> list[str]:
        """Return the names whose engines exist, loaded or not."""
        return list(self._engines)

    def loaded(self) -> list[str]:
        """Return the names of the models whose weights are in memory."""
        return [name for name, engine in list(self._engines.items()) if engine.state == "ready"]

    def told_rates(self, name: str) -> Rates | None:
        """What the shared engine that runs a model says of its rates; None where that is not known, and for others."""
        engine = self._engines.get(name)
        return engine.rates if isinstance(engine, Shared) else None

    def unload(self, name: str) -> None:
        """Free what a model holds. Raises UsageError."""
        engine = self._engines.get(self.resolve(name))
        if engine is not None:
            engine.close()

    def close(self) -> None:
        """Free what all models hold."""
        for engine in list(self._engines.values()):
            engine.close()


def shared_spec(source: str, url: str, key_name: str | None = None, tokenizer: str | None = None) -> ModelSpec:
    """How to run the model that a shared engine at ``url`` calls ``source``."""
    return ModelSpec(source, api_base=url, api_key_name=key_name or ENGINE_KEY, server=SHARED, tokenizer=tokenizer)


@contextmanager
def _said_of_settings(options: dict[str, str]) -> Iterator[None]:
    """What is said of an option holds for the setting of its name."""
    try:
        yield
    except UsageError as error:
        said = str(error)
        for option, setting in options.items():
            said = said.replace(option, setting)
        raise UsageError(said) from None


def _check_followed(spec: ModelSpec) -> None:
    """Raise UsageError for an option that the engine would pass over: it would be taken for done."""
    what, followed = _FOLLOWED[spec.kind]
    for it in fields(ModelSpec):
        value = getattr(spec, it.name)
        if it.name != "source" and it.name not in followed and value != it.default:
            told = f" {value}" if it.name in ("quant", "dtype", "device", "compile") else ""
            raise UsageError(f"{_option(it.name)} is not for {what}; leave out {_option(it.name)}{told}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_beside(other: Engine, engine: Engine) -> bool:
    """Whether another engine has a model in the memory of an engine's device."""
    info = other.info
    return info.traits.has_weights and info.device == engine.info.device and other.state == "ready"


def _weights_bytes(engine: Engine) -> int:
    held = engine.held() if isinstance(engine, Weighed) else None
    return 0 if held is None else held.weights_bytes


def _is_source(text: str) -> bool:
    """Whether a text is an id or a folder rather than the name of a model."""
    return "/" in text or text.startswith((".", "~", "scripted"))


def open_engine(name: str, spec: ModelSpec, settings: TokMagic) -> Engine:
    """Return the engine for ``spec``; nothing is loaded yet. Raises ModelError, UsageError."""
    # start-up: each engine pulls in what it runs on, so only the one that is asked for is imported.
    if spec.kind == "scripted":
        from tokmagic.engines.scripted import ScriptedEngine

        return ScriptedEngine.from_source(name, spec.source)
    if spec.shared:
        from tokmagic.engines.endpoint.shared import SharedEngine

        return SharedEngine(name, spec, settings)
    if spec.kind == "endpoint":
        from tokmagic.engines.endpoint.engine import EndpointEngine

        return EndpointEngine(name, spec, settings)
    if spec.kind == "llamacpp":
        from tokmagic.engines.llamacpp.engine import LlamaCppEngine

        return LlamaCppEngine(name, spec, settings)
    from tokmagic.engines.local.engine import LocalEngine

    return LocalEngine(name, spec, settings)


def require_served(name: str, spec: ModelSpec, settings: TokMagic) -> None:
    """Raise UsageError where a shared engine answers and has no model of this name.

    One that does not answer may be started later, or its key be set.
    """
    if not spec.shared:
        return
    engine = open_engine(name, spec, settings)
    try:
        served = [it.name for it in engine.served()] if isinstance(engine, Shared) else []
    except TokmagicError:
        return
    finally:
        engine.close()
    if spec.source not in served:
        near = nearest(spec.source, served)
        raise UsageError(
            f"model {spec.source!r} is not served at {engine.info.server}{near}; served: {', '.join(served) or 'none'}"
        )
