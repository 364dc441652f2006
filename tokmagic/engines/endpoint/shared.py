"""A model of ``tokmagic serve``: counted, priced and metered by the server, whose figures the run's row takes over."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tokmagic.core.config import TokMagic
from tokmagic.core.forks import in_child
from tokmagic.core.metered import RUN_ID_HEADER, UNRECORDED, Metered
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Source
from tokmagic.engines.base import SHARED, EngineState, ModelSpec, Progress, ServedModel, Share
from tokmagic.engines.endpoint.asking import NoSuchRunError, ask
from tokmagic.engines.endpoint.counting import Counter
from tokmagic.engines.endpoint.engine import EndpointEngine
from tokmagic.engines.endpoint.http import Connections
from tokmagic.engines.endpoint.metered import KEY, info_told, rates_told, read_metered, text_told
from tokmagic.engines.endpoint.servers import SERVERS
from tokmagic.engines.endpoint.stream import EndpointStream
from tokmagic.engines.endpoint.target import Target, target_of
from tokmagic.engines.local.store import locate
from tokmagic.errors import EndpointError, ModelError, TokmagicError, UsageError
from tokmagic.tokens.tokenizer import Tokenizer

# Nobody waits longer for what is only shown, or for a count that can be bounded without it.
_QUICK_S = 5.0
# What a draft needs is asked while no cell can begin.
_HURRY_S = 2.0
# How long the row of a run that broke off is waited for: its engine ends after a forward pass.
_SETTLE_S = 5.0
_LOOK_S = 0.05
# How long a row that is not there is looked for: one that is about to be written comes sooner.
_UNSEEN_S = 0.5
_API = "/v1"
_LARGEST = 10**15


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says of the model. ``info`` holds texts by the names of KNOWN_BY_SERVER."""

    context_tokens: int | None
    info: Mapping[str, str | None]
    rates: Rates | None


class SharedEngine(EndpointEngine):
    """One model at one shared engine. What is known of it is asked when it is loaded, and kept up by its answers."""

    def __init__(self, name: str, spec: ModelSpec, settings: TokMagic) -> None:
        """Nothing is connected yet. Raises UsageError for an invalid URL."""
        self._facts: Facts | None = None
        self._learning = threading.Lock()
        in_child(self._renew)
        counter = SharedCounter(name, spec, settings, self._known)
        target = shared_target(spec.api_base or "", spec.api_key_name)
        super().__init__(name, spec, settings, target=target, counter=counter)
        self._shared_counter = counter
        # Their own, since a run's connection has other limits of time.
        self._questions = Connections(target)

    def _renew(self) -> None:
        self._learning = threading.Lock()

    @property
    def info(self) -> EngineInfo:
        facts = self._facts
        found = EngineInfo(self._name, self._spec.source, "endpoint", server=self._target.shown)
        if facts is not None:
            found = replace(found, context_tokens=facts.context_tokens, **_given(facts.info))
        # Who reads that there is a tokenizer expects it on this machine.
        return replace(found, tokenizer_sha256=self._counter.sha256)

    @property
    def state(self) -> EngineState:
        return "unloaded" if self._facts is None else "ready"

    @property
    def rates(self) -> Rates | None:
        """The server's rates for the model; None where it has none, and before it is loaded."""
        return None if self._facts is None else self._facts.rates

    def identity(self) -> EngineInfo | None:
        facts = self._facts
        if facts is None:
            return None
        # Where the files are known it does not matter which server has them.
        server = None if facts.info.get("revision") else self._target.identity
        return replace(EngineInfo("", self._spec.source, "endpoint", server=server), **_given(facts.info))

    def load(self, progress: Progress) -> None:
        if self._facts is None:
            # A server that is starting takes connections and answers once its models are loaded.
            progress(f"asking the shared engine at {self._target.shown}", None)
            self._learn(self._settings.first_token_timeout_s)
        progress("ready", 1.0)

    def count(self, prompt: Prompt) -> int:
        """By a tokenizer that was read, else by the server's. Raises PromptError, ModelError."""
        if self._counter.sha256 is not None:
            return self._counter.tokenizer().count(prompt)
        given = self._ask("/tokenize", _tokenizing(self._spec.source, prompt), wait_s=_QUICK_S)
        count = given.get("count") if isinstance(given, Mapping) else None
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise EndpointError(f"{self._target.shown}/tokenize gave no count; is it tokmagic serve?")
        return count

    def estimate(self, prompt: Prompt) -> tuple[int, Source]:
        # Asked at each keystroke, so never of the server.
        return self._counter.input(prompt, load=False)

    def stream(self, prompt: Prompt) -> EndpointStream:
        return self._submit(prompt)

    def stream_for(self, prompt: Prompt, run_id: str, *, alone: bool = True) -> EndpointStream:
        """Submit ``prompt`` and tell the server the run's id, so that the run is counted once."""
        return self._submit(prompt, run_id, alone=alone)

    def _submit(self, prompt: Prompt, run_id: str | None = None, *, alone: bool = True) -> EndpointStream:
        # The counts beside one of several answers are of all of them, which no other server's are.
        server = replace(SERVERS[SHARED], continuous_usage=prompt.sampling.n == 1)
        request = self._request(prompt, server)
        request = replace(request, path=f"{_API}{request.path}")
        tally = self._tally(prompt)
        if run_id is None:
            return EndpointStream(self._connections, request, tally, self._clock(request), self._heard)
        request = replace(request, headers={RUN_ID_HEADER: run_id})
        settled = partial(self._settled, run_id if alone else None)
        return EndpointStream(self._connections, request, tally, self._clock(request), self._heard, settled)

    def _settled(self, run_id: str | None, server_run_id: str | None) -> Metered | None:
        """What the server recorded of a run that broke off, once it has settled its row; None where it does not say.

        UNRECORDED where it has none, as of a request that was left while it waited for its turn. It is asked by its own
        id of the run where it has told that, else by ours; of several requests for one run that would be any of them.
        """
        run_id = server_run_id or run_id
        if run_id is None:  # it tells its id when it begins
            return UNRECORDED
        began = time.monotonic()
        until = began + _SETTLE_S
        while (left_s := until - time.monotonic()) > 0:
            try:
                given = self._ask(f"{_API}/runs/{run_id}", wait_s=left_s)
            except NoSuchRunError:
                if time.monotonic() - began >= _UNSEEN_S:
                    return UNRECORDED
                time.sleep(_LOOK_S)
                continue
            except TokmagicError:  # it is gone: what was seen has to do
                return None
            if not isinstance(given, Mapping):
                return None
            if given.get("status") != "running":
                return read_metered(given.get("usage"))
            time.sleep(_LOOK_S)
        return None

    def _heard(self, told: Metered) -> None:
        """An answer says how the model runs now: the server may have been started anew since it was asked."""
        facts = self._facts
        if facts is None:
            return
        same = all(facts.info.get(name) == value for name, value in told.info.items())
        self._facts = replace(facts, rates=told.rates) if same else None

    def served(self) -> Sequence[ServedModel]:
        """Ask which models there are and who uses them. Raises EndpointError, UsageError."""
        given = self._ask(f"{_API}/models", wait_s=_QUICK_S)
        listed = given.get("data") if isinstance(given, Mapping) else None
        if not isinstance(listed, list):
            raise self._no_engine()
        return tuple(_served(model) for model in listed if isinstance(model, Mapping))

    def share(self) -> Share:
        """Ask how the model stands there, and the key. Raises EndpointError, UsageError."""
        given = self._ask(f"{_API}/models/{quote(self._spec.source)}", wait_s=_QUICK_S)
        if not isinstance(given, Mapping) or not isinstance(given.get(KEY), Mapping):
            raise self._no_engine()
        return _share(given)

    def _known(self) -> Facts:
        """What is known of the model, asked in a hurry where nothing is yet."""
        return self._facts or self._learn(_HURRY_S)

    def _learn(self, wait_s: float) -> Facts:
        with self._learning:
            if self._facts is None:
                facts = self._read(self._ask(f"{_API}/models/{quote(self._spec.source)}", wait_s=wait_s))
                self._shared_counter.expect(facts.info.get("tokenizer_sha256"))
                self._facts = facts
            return self._facts

    def _read(self, given: object) -> Facts:
        told = given.get(KEY) if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(told, Mapping):
            raise self._no_engine()
        context = given.get("max_model_len")
        known = isinstance(context, int) and not isinstance(context, bool) and context > 0
        return Facts(context if known else None, info_told(told), rates_told(told.get("rates")))

    def _no_engine(self) -> EndpointError:
        return EndpointError(
            f"{self._target.shown} is no shared engine; give the URL of tokmagic serve, or add the model with "
            "--api-base"
        )

    def _ask(self, path: str, body: object = None, *, wait_s: float) -> object:
        connect_s = min(self._settings.connect_timeout_s, wait_s)
        return ask(self._questions, path, self._key(), body, connect_s=connect_s, wait_s=wait_s)

    def close(self) -> None:
        self._facts = None
        self._questions.close()
        super().close()


class SharedCounter(Counter):
    """Counts on this machine for a model of a shared engine: exact with a tokenizer of the same digest alone.

    It is read when somebody asks for the tokenizer itself, not for a count, which the server makes.
    """

    def __init__(self, name: str, spec: ModelSpec, settings: TokMagic, known: Callable[[], Facts]) -> None:
        super().__init__(name, spec, settings)
        self._known = known

    def tokenizer(self) -> Tokenizer:
        """A tokenizer of this machine that counts as the server's does. Raises ModelError, UsageError."""
        info = self._known().info  # without the lock, which whoever learns it may need
        with self._seeking:
            if self._tokenizer is None:
                found, wanted = Tokenizer(self._folder_for(info)), info.get("tokenizer_sha256")
                if wanted is None or found.sha256 != wanted:
                    raise self._not_here(other=wanted is not None)
                self._tokenizer = found
            return self._tokenizer

    def expect(self, sha256: str | None) -> None:
        """The server says which tokenizer its model has: another one is of no use any more."""
        with self._seeking:
            if self._tokenizer is not None and self._tokenizer.sha256 != sha256:
                self._tokenizer = None

    def input(self, prompt: Prompt, *, load: bool) -> tuple[int, Source]:
        """By the tokenizer where it was read; a schema adds nothing, since it is no part of what the model is fed."""
        del load
        return self._messages(prompt, load=False)

    def _folder_for(self, info: Mapping[str, str | None]) -> Path:
        if self._spec.tokenizer is not None:
            return self._folder()
        source = info.get("model_id")
        # A server's path is none of this machine's.
        if source is not None and not source.startswith(("/", ".", "~")):
            for revision in dict.fromkeys((info.get("revision"), None)):
                located = locate(ModelSpec(source, revision=revision), self._settings)
                if located is not None:
                    return located.folder
        raise self._not_here()

    def _not_here(self, *, other: bool = False) -> ModelError:
        if other and self._spec.tokenizer is not None:
            return ModelError(
                f"{self._spec.tokenizer} is another tokenizer than that of {self._name} at the shared engine; "
                "leave out --tokenizer"
            )
        return ModelError(f"the tokenizer of {self._name} is not on this machine; the shared engine counts for it")


def shared_target(url: str, key_name: str | None) -> Target:
    """The target of a shared engine's URL, with or without its ``/v1``. Raises UsageError."""
    if not url:
        raise UsageError("--server tokmagic is a shared engine; give its URL with --engine URL")
    target = target_of(url, "--engine")
    # A name in other letters than variables have may be a key that was given in its place.
    shown_key = key_name if key_name and key_name.isupper() else target.key_from
    root = target.url.removesuffix(_API)
    return replace(target, url=root, shown=root, shared=True, key_from=shown_key)


def _given(info: Mapping[str, str | None]) -> dict[str, Any]:
    """What is known of the model as EngineInfo has it; an id that is not told stays the name at the server."""
    return {name: value for name, value in info.items() if value is not None}


def _tokenizing(model: str, prompt: Prompt) -> dict[str, Any]:
    if prompt.completion:
        return {"model": model, "prompt": prompt.messages[0].content}
    return {"model": model, "messages": [{"role": it.role, "content": it.content} for it in prompt.messages]}


def _served(model: Mapping[str, Any]) -> ServedModel:
    told = model.get(KEY)
    told = told if isinstance(told, Mapping) else {}
    users = told.get("users")
    counts = {
        str(user): count
        for user, count in (users.items() if isinstance(users, Mapping) else ())
        if isinstance(count, int) and not isinstance(count, bool) and count > 0
    }
    return ServedModel(str(model.get("id", "")), str(told.get("state", "")), counts)


def _share(model: Mapping[str, Any]) -> Share:
    told = model[KEY]
    requests, key = (it if isinstance(it, Mapping) else {} for it in (told.get("requests"), told.get("key")))
    return Share(
        _served(model),
        running=_whole(requests.get("running")),
        waiting=_whole(requests.get("waiting")),
        key=text_told(key.get("name")),
        team=text_told(key.get("team")),
        cap_usd=_amount(key.get("cap_usd")),
        left_usd=_amount(key.get("left_usd")),
        cap_tokens=_whole(key.get("cap_tokens")),
        left_tokens=_whole(key.get("left_tokens")),
    )


def _whole(given: object) -> int | None:
    known = isinstance(given, int) and not isinstance(given, bool) and abs(given) <= _LARGEST
    return given if known and isinstance(given, int) else None


def _amount(given: object) -> Decimal | None:
    """An amount of USD, which may be below 0 where it is what is left of a cap that was lowered."""
    known = isinstance(given, str) and re.fullmatch(r"-?\d{1,12}(\.\d{1,12})?", given, re.ASCII)
    return Decimal(given) if known and isinstance(given, str) else None
