"""What a server sends as JSON, a whole answer or an event of a stream, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokmagic.core.stream import FinishReason, Logprob, Token
from tokmagic.engines.endpoint.beside import NOTHING, Beside, read_beside
from tokmagic.engines.endpoint.dialects import (
    CALL_KINDS,
    CALL_TEXTS,
    COUNTS,
    HIDDEN_PART,
    PART_TEXTS,
    REASONING,
    TIMED_OUTPUT,
    TIMES,
    USAGE_KEYS,
    end_of,
    is_thought,
)
from tokmagic.engines.endpoint.surrogates import whole as whole_text
from tokmagic.errors import EndpointError

_NO_ERROR = frozenset({"", "0", "200", "ok", "success", "none", "null"})
_SPARE_CHOICES = 64
_CODES = ("code", "error_code", "status_code", "err_code")
_WORDS = ("message", "msg", "error_msg", "status_msg", "error_message", "detail")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk, or a complete answer, brought for one choice.

    ``call`` is the text of calls of tools: generated and billed, and shown nowhere. ``error``: the server's words for a
    failure.
    """

    token: Token
    reason: FinishReason | None
    call: str = ""
    refused: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One object of the server.

    A piece's choice is the one that the server says, which may not be one that was asked for. ``usages`` are those that
    it sent, each with the choice that it is of, None for all of them; ``of_one``: they are surely of that one alone.
    ``error`` is why there is no answer, or no more of it, ``beside`` what it tells beside it.
    """

    pieces: tuple[Piece, ...] = ()
    usages: tuple[tuple[int | None, object], ...] = ()
    of_one: bool = False
    error: str | None = None
    beside: Beside = NOTHING


def read_answer(given: object, choices: int, at_ns: int, *, whole: bool) -> Answer:
    """Read a ``whole`` answer that should have so many choices, or an event of a stream, that arrived at ``at_ns``.

    An event that carries nothing gives an empty answer. Raises EndpointError for what is no object of a server.
    """
    if not given and not whole:
        return Answer()
    if not isinstance(given, Mapping):
        raise EndpointError(f"it sent {_short(given)} where an object should be")
    said, listed = _error_in(given), given.get("choices") or []
    if whole and not listed and said is None and not any(name in given for name in ("usage", "object", "id")):
        raise EndpointError(f"it sent {_short(given)}, which is not an answer of an OpenAI-compatible server")
    error = None if said is None else f"it reports: {said}"
    try:
        found = _choices(listed, choices)
        numbers = _numbers(found, choices, whole=whole)
    except EndpointError as wrong:
        # What is told beside it is billed all the same.
        found, numbers, error = [], [], error or str(wrong)
    pieces = tuple(_piece(choice, number, at_ns) for number, choice in zip(numbers, found, strict=True))
    of_one = len(pieces) > 1 and _counts_one(given)
    usages = _usages(given, found, pieces, choices, of_one=of_one)
    return Answer(pieces, usages, of_one, error, read_beside(given, (usage for _, usage in usages)))


def _choices(listed: object, choices: int) -> list[Mapping[str, Any]]:
    """The choices of an object. Raises EndpointError for what is no list of them, and for far more than can be."""
    if not isinstance(listed, list) or not all(isinstance(choice, Mapping | None) for choice in listed):
        raise EndpointError(f"its choices are {_short(listed)}")
    found = [choice for choice in listed if choice is not None]
    if len(found) > _SPARE_CHOICES + choices:
        raise EndpointError(f"it sent {len(found):,} choices at once, {choices} were requested")
    return found


def _usages(
    given: Mapping[str, Any],
    listed: list[Mapping[str, Any]],
    pieces: tuple[Piece, ...],
    choices: int,
    *,
    of_one: bool,
) -> tuple[tuple[int | None, object], ...]:
    """The usages of one object: its own, those under a vendor's key, and those in its choices."""
    under = [value for value in given.values() if isinstance(value, Mapping)]
    found = [place[key] for key in USAGE_KEYS for place in (given, *under) if place.get(key)]
    inside = [
        (piece.token.choice, choice[key])
        for choice, piece in zip(listed, pieces, strict=True)
        for key in USAGE_KEYS
        if choice.get(key)
    ]
    if choices == 1:
        return tuple((None, usage) for usage in (*found, *(usage for _, usage in inside)))
    # While one of several choices is streamed, the usage beside it counts that one.
    of = pieces[0].token.choice if len(pieces) == 1 or of_one else None
    return tuple((of, usage) for usage in found) or tuple(inside)


def _counts_one(given: Mapping[str, Any]) -> bool:
    """Whether an object's usage counts no more than the one answer that the times beside it are of: llama.cpp's."""
    times = [given[name].get(TIMED_OUTPUT) for name in TIMES if isinstance(given.get(name), Mapping)]
    usages = [given[name] for name in USAGE_KEYS if isinstance(given.get(name), Mapping)]
    outputs = [usage[name] for usage in usages for name in COUNTS["output"] if usage.get(name) is not None]
    return any(tokens in outputs for tokens in times)


def _numbers(listed: list[Mapping[str, Any]], choices: int, *, whole: bool) -> list[int]:
    """Which choice each listed one is: the one that its index says, or, where indexes tell none apart, its place.

    An event of a stream may hold two pieces of one choice. A number may be beyond those that were asked for. Raises
    EndpointError for one that cannot be.
    """
    said = [it.get("index") for it in listed]
    given = [0 if it is None else it for it in said]
    wrong = [it for it in given if isinstance(it, bool) or not isinstance(it, int) or it < 0]
    apart = wrong == [] and (len(set(given)) == len(given) or not (whole or None in said))
    # As many as were asked for are those, whatever they are called.
    as_asked = len(listed) <= choices and (wrong or any(it >= choices for it in given))
    if len(listed) > 1 and (as_asked or (not apart and (whole or len(listed) <= choices))):
        return list(range(len(listed)))
    if wrong:
        raise EndpointError(f"it sent choice {_short(wrong[0])}, {choices} were requested")
    return given


def _piece(choice: Mapping[str, Any], index: int, at_ns: int) -> Piece:
    said = next((choice[name] for name in ("delta", "message") if isinstance(choice.get(name), Mapping)), choice)
    answer, thoughts = _said(said.get("content"))
    answer, refusal = answer or _said(said.get("text"))[0], _refusal(said)
    # Servers that send reasoning in several fields repeat it there.
    reasoning = thoughts or next(filter(None, ("".join(_said(said.get(name))) for name in REASONING)), "")
    if _marked_as_thought(said):
        answer, reasoning = "", reasoning or answer
    reason, error = _end(choice, said)
    logprobs = _logprobs(choice.get("logprobs"))
    call = _call(said)
    token = Token(at_ns, answer or refusal, None, index, reasoning, logprobs=logprobs, held=bool(call))
    return Piece(token, reason, call, refused=bool(refusal), error=error)


def _call(said: Mapping[str, Any]) -> str:
    """What a model wrote to call tools: their names and what it gives them, as far as a delta or a message has it."""
    listed = said.get("tool_calls")
    tools = [call for call in listed if isinstance(call, Mapping)] if isinstance(listed, list) else []
    calls = [said.get("function_call"), *(call.get(kind) for call in tools for kind in CALL_KINDS)]
    texts = [call[name] for call in calls if isinstance(call, Mapping) for name in CALL_TEXTS if call.get(name)]
    return whole_text("".join(it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in texts))


def _refusal(said: Mapping[str, Any]) -> str:
    """A refusal, in OpenAI's field or as a part of the content."""
    content = said.get("content")
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    return "".join(_said(place.get("refusal"))[0] for place in (said, *parts))


def _end(choice: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[FinishReason | None, str | None]:
    """Why a choice ended, None where it did not; and the server's words, if it failed."""
    given = choice.get("finish_reason")
    error = next((place["error"] for place in (choice, said) if _tells(place.get("error"))), None)
    word: object = given
    if isinstance(given, Mapping):
        word = next((given[name] for name in ("type", "reason") if given.get(name)), None)
    reason = None if word is None else end_of(str(word))
    if error is not None:
        return "error", error_text(error)
    if reason != "error":
        return reason, None
    if isinstance(given, Mapping) and given.get("message"):
        return reason, error_text(given)
    native = choice.get("native_finish_reason") or choice.get("stop_reason")
    return reason, f"it ended with {_short(word)!r}" + (f" ({_short(native)})" if native and native != word else "")


def _error_in(given: Mapping[str, Any]) -> str | None:
    """What a server reports in the place of an answer, whichever shape it uses; None where it is no error."""
    if any(_tells(given.get(name)) for name in ("error", "errors")):
        return error_text(given)
    kind = given.get("type")
    if given.get("object") == "error" or (isinstance(kind, str) and kind.lower().endswith("error")):
        return error_text(given)
    nested = given.get("base_resp")
    if isinstance(nested, Mapping) and _failed(nested):
        return error_text(nested)
    # Words where an answer should be, with a code or with nothing that says what they are.
    told = any(isinstance(given.get(name), str) and given[name].strip() for name in _WORDS)
    if kind is not None or given.get("choices") or not told:
        return None
    return error_text(given) if _failed(given) or not any(name in given for name in ("object", "id")) else None


def _failed(place: Mapping[str, Any]) -> bool:
    return any(str(place[name]).lower() not in _NO_ERROR for name in _CODES if place.get(name) is not None)


def _tells(error: object) -> bool:
    """Whether what stands in the place of an error is one: fields that are there and empty are none."""
    if isinstance(error, Mapping):
        return any(map(_tells, error.values()))
    if isinstance(error, list):
        return any(map(_tells, error))
    return bool(error) and str(error).strip().lower() not in _NO_ERROR


def _logprobs(given: object) -> tuple[Logprob, ...]:
    """Log probabilities in a chat's shape or a completion's; what is neither is left out."""
    if not isinstance(given, Mapping):
        return ()
    listed = given.get("content")
    if isinstance(listed, list):
        pairs = [(it.get("token", it.get("id")), it.get("logprob")) for it in listed if isinstance(it, Mapping)]
    else:
        tokens, values = given.get("tokens"), given.get("token_logprobs")
        pairs = list(zip(tokens, values, strict=False)) if isinstance(tokens, list) and isinstance(values, list) else []
    return tuple(
        # mlx-lm has ids in the place of texts.
        Logprob(whole_text(text) if isinstance(text, str) else "", float(value))
        for text, value in pairs
        if isinstance(text, str | int) and isinstance(value, int | float) and not isinstance(value, bool)
    )


def _said(content: object) -> tuple[str, str]:
    """The answer's text and the reasoning of a text, a part, or a list of parts; empty for what is none of them."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, list):
        both = [_said(part) for part in content if isinstance(part, str | Mapping)]
        return "".join(answer for answer, _ in both), "".join(thought for _, thought in both)
    if not isinstance(content, Mapping):
        return "", ""
    kind = str(content.get("type") or "")
    if any(word in kind for word in HIDDEN_PART):
        return "", ""
    answer, thoughts = next(filter(any, (_said(content.get(name)) for name in PART_TEXTS)), ("", ""))
    thinks = is_thought(kind) or content.get("thought") is True or "thinking" in content
    return ("", thoughts + answer) if thinks else (answer, thoughts)


def _marked_as_thought(said: Mapping[str, Any]) -> bool:
    """Whether a delta's text is reasoning by a mark beside it, as Google has it."""
    beside = said.get("extra_content")
    google = beside.get("google") if isinstance(beside, Mapping) else None
    return said.get("thought") is True or (isinstance(google, Mapping) and google.get("thought") is True)


def error_text(given: object) -> str:
    """What a server says went wrong, in one line, whichever shape it uses."""
    said = given
    for _ in range(3):  # {"error": {"message": …}}, {"detail": …}, {"error": …}, {"message": …}
        if isinstance(said, Mapping):
            said = next((said[name] for name in ("error", "errors", *_WORDS) if _tells(said.get(name))), said)
    return _short(said)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= 300 else f"{text[:300]}…"
