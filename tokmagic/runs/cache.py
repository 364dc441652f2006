"""The answer cache: an identical run is replayed from the ledger, byte for byte, instead of being generated again.

What is identical is said by :func:`key`. A replay is a run of its own, with its own row: it costs nothing, and says
what it saved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.core.record import INFO_IN_ENV, USAGE_IN_ENV, EngineInfo, Reading, RunRecord
from tokmagic.core.stream import Logprob, Usage
from tokmagic.engines.base import Engine
from tokmagic.errors import GenerationInterrupted, LedgerError, TokmagicError
from tokmagic.prices import bill, replay
from tokmagic.runs.generation import Choice, Generation, answers_sha256

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger

_VERSION = 2
"""Of the key and of what is kept: raised with each change, so that older answers are not found."""
_COMPLETE = frozenset({"stop", "length", None})
"""Why an answer that is kept ended; None: its server ended it and did not say why."""
_KEPT_INFO = ("model_id", "engine", "revision", "device", "dtype", "quant", *INFO_IN_ENV)


def key(identity: EngineInfo, prompt: Prompt) -> str:
    """Return the hex digest of all that an answer depends on.

    ``identity`` is the engine's own. The device counts by its kind, and the session's name for a model does not count.
    """
    question = {
        "version": _VERSION,
        "model_id": identity.model_id,
        "revision": identity.revision,
        "quant": identity.quant,
        "dtype": identity.dtype,
        "device": (identity.device or "").partition(":")[0],
        "engine": identity.engine,
        "endpoint": identity.server,
        "tokenizer": identity.tokenizer_sha256,
        "messages": [[message.role, message.content] for message in prompt.messages],
        "completion": prompt.completion,
        "sampling": _canonical(prompt.sampling),
    }
    # Where they say nothing they are left out: the keys of answers that were kept before stay as they are.
    if prompt.ignore_eos:
        question["ignore_eos"] = True
    if prompt.min_tokens:
        question["min_tokens"] = prompt.min_tokens
    if identity.arithmetic is not None:
        question["arithmetic"] = identity.arithmetic
    if identity.dated is not None and not prompt.completion:
        # Tomorrow the model is fed another prompt.
        question["dated"] = datetime.now().strftime(identity.dated)
    text = json.dumps(question, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(sampling: Sampling) -> dict[str, Any]:
    """Sampling options, the same whichever way a number or a set of stop strings was written."""
    floats = [it.name for it in fields(Sampling) if it.type == "float | None"]
    given = asdict(sampling) | {"stop": sorted(set(sampling.stop))}
    # Added to 0.0 a negative zero becomes the other one.
    return given | {name: float(given[name]) + 0.0 for name in floats if given[name] is not None}


def repeatable(sampling: Sampling) -> bool:
    """Whether the same prompt gets the same answer: greedily, or with a seed."""
    return sampling.temperature == 0 or sampling.seed is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of a run that ended well: enough to show it again and to say what it would cost."""

    run_id: str
    info: EngineInfo
    usage: Usage
    device_s: float | None
    choices: tuple[Choice, ...]


def dump(key: str, answer: Answer) -> str:
    """An answer as text that any database takes, with a digest that also binds it to its key."""
    body = {
        # What is unknown is left out, so that a field more or less stops no other version from reading it.
        "info": {name: value for name in _KEPT_INFO if (value := getattr(answer.info, name)) is not None},
        "usage": {name: value for name, value in asdict(answer.usage).items() if value is not None},
        "device_s": answer.device_s,
        "choices": [[it.text, it.tokens, it.finish_reason, it.logprobs] for it in answer.choices],
        **({"reasoning": thoughts} if any(thoughts := [it.reasoning for it in answer.choices]) else {}),
    }
    # A lone surrogate, which no database takes, is written out as JSON's own escape.
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace").decode()
    return f"{_digest(key, text)} {text}"


def parse(key: str, run_id: str, kept: str) -> Answer | None:
    """The inverse of :func:`dump`; None for anything that is damaged or incomplete."""
    # A file's column may hold anything, whatever its type is called.
    digest, _, text = kept.partition(" ") if isinstance(kept, str) else ("", "", "")
    if digest != _digest(key, text):
        return None
    body = json.loads(text)
    kept_choices: list[Any] = body["choices"]
    reasoning: list[str] = body.get("reasoning") or [""] * len(kept_choices)
    choices = tuple(
        Choice(text, tuple(tokens), reason, tuple(Logprob(*it) for it in logprobs), thoughts)
        for (text, tokens, reason, logprobs), thoughts in zip(kept_choices, reasoning, strict=True)
    )
    info, usage = _known(EngineInfo, body["info"]), _known(Usage, body["usage"])
    return Answer(run_id, EngineInfo(name="", **info), Usage(**usage), body["device_s"], choices)


def _known(kind: type[EngineInfo] | type[Usage], given: dict[str, Any]) -> dict[str, Any]:
    """What this version knows of the fields that another one wrote."""
    return {name: given[name] for name in given.keys() & {it.name for it in fields(kind)}}


def _digest(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def replayed(record: RunRecord, answer: Answer) -> RunRecord:
    """The row of a run whose answer comes from the cache: it costs nothing, takes no time, and says what it saved."""
    kept = {name: count for name in USAGE_IN_ENV if (count := getattr(answer.usage, name)) is not None}
    cost = replay(bill(answer.usage, answer.device_s, record.rates))
    return replace(
        record,
        status="cached",
        finished_at=datetime.now(UTC),
        finish_reason=answer.choices[0].finish_reason,
        reading=Reading(answer.usage, cost),
        replay_of=answer.run_id,
        env=record.env | kept | {"answer_sha256": answers_sha256(choice.text for choice in answer.choices)},
    )


class Cache:
    """The answers in a session's ledger. Where that cannot be used nothing is found, and nothing breaks."""

    def __init__(self, settings: TokMagic, ledger: Callable[[], Ledger]) -> None:
        self._settings = settings
        self.ledger = ledger

    @property
    def on(self) -> bool:
        """Whether answers are looked up and kept: not where texts are not."""
        return self._settings.cache and self._settings.store_text

    def place(self, engine: Engine, prompt: Prompt, wanted: bool | None, *, refresh: bool) -> Place:
        """The place of one run's answer. ``wanted`` None: where the same prompt gets the same answer.

        With ``refresh`` it is not read, only renewed. Raises UsageError.
        """
        asked = wanted if wanted is not None else refresh or repeatable(prompt.sampling)
        # Asked for here, so that an invalid limit is told before anything is generated.
        limit_bytes = self._settings.cache_bytes if self.on and asked else None
        return Place(self, engine, prompt, limit_bytes, limit_bytes is not None and not refresh)

    def find(self, key: str) -> Answer | None:
        """Return the answer kept under ``key``; a damaged one is removed."""
        with suppress(LedgerError):
            ledger = self.ledger()
            if (found := ledger.answer(key)) is not None:
                answer = parse(key, *found)
                if answer is None:
                    ledger.drop_answer(key)
                return answer
        return None


@dataclass(slots=True)
class Place:
    """Where one run's answer is kept, or will be. ``limit_bytes`` None: the run has nothing to do with the cache."""

    cache: Cache
    engine: Engine
    prompt: Prompt
    limit_bytes: int | None
    unread: bool
    identity: EngineInfo | None = None
    key: str = ""

    def find(self) -> Answer | None:
        """Return the answer, if there is one. Until the model is known by its files this may be asked again."""
        if not self.unread:
            return None
        try:
            key = self._key()
        except KeyboardInterrupt:
            raise GenerationInterrupted("the cache lookup was interrupted; nothing was generated") from None
        if key is None:
            return None
        self.unread = False
        return self.cache.find(key)

    def keep(self, generation: Generation) -> None:
        """Keep what a run gave, if it ended well, belongs into the cache and fits."""
        record, choices = generation.record, generation.choices
        complete = bool(choices) and all(choice.finish_reason in _COMPLETE for choice in choices)
        if self.limit_bytes is None or record.status != "ok" or not complete:
            return
        # Asked anew: files without a revision may have changed between the look and the loading.
        key = self._key()
        if key is None:
            return
        info = EngineInfo(name="", **{name: getattr(record.info, name) for name in _KEPT_INFO})
        answer = Answer(record.run_id, info, record.reading.usage, record.reading.device_s, choices)
        text = dump(key, answer)
        # A text in which the halves of a surrogate pair stand apart would come back joined.
        if parse(key, answer.run_id, text) == answer:
            with suppress(LedgerError):
                self.cache.ledger().keep_answer(key, answer.run_id, text, self.limit_bytes)

    def touch(self) -> None:
        """Note that the answer that was found was used."""
        with suppress(LedgerError):
            self.cache.ledger().use_answer(self.key)

    def _key(self) -> str | None:
        # What is wrong with a model is told when it is loaded.
        with suppress(TokmagicError):
            identity = self.engine.identity()
            if identity != self.identity and identity is not None:
                self.identity, self.key = identity, key(identity, self.prompt)
            return None if identity is None else self.key
        return None
