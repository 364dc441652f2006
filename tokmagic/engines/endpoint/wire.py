"""OpenAI's chat and completions as JSON: what is asked, and what comes back, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokmagic.core.prompt import DRAWING, PENALTIES, Prompt
from tokmagic.core.stream import FinishReason, Logprob, Token
from tokmagic.engines.endpoint.servers import OWN, Server
from tokmagic.errors import EndpointError, UsageError

_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk, or a complete answer, brought for one choice."""

    token: Token
    reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One object of the server. ``usage`` is what it sent under that name, None where there was nothing."""

    pieces: tuple[Piece, ...]
    usage: object


def request_of(model: str, prompt: Prompt, server: Server) -> dict[str, Any]:
    """Return the request's body: what was asked for, and nothing that was not, but for the limit of output tokens.

    Raises UsageError for an option that this server does not take.
    """
    sampling = prompt.sampling
    body: dict[str, Any] = {"model": model}
    if prompt.completion:
        body["prompt"] = prompt.messages[0].content
        body["max_tokens"] = sampling.max_tokens
    else:
        body["messages"] = [{"role": message.role, "content": message.content} for message in prompt.messages]
        body[server.max_tokens] = sampling.max_tokens
    for name in (*DRAWING, *PENALTIES, "seed"):
        if (value := getattr(sampling, name)) is None:
            continue
        if name not in OWN and not server.extras:
            raise UsageError(f"this server does not accept --{name.replace('_', '-')}; leave it out")
        body[server.names.get(name, name)] = value
    ignored = {
        "-n": sampling.n > 1 and not server.samples,
        "--json-schema": sampling.json_schema is not None and not server.schemas,
        "--logprobs": sampling.logprobs and not server.logprobs,
    }
    for option, asked in ignored.items():
        if asked:
            raise UsageError(f"this server ignores {option}; leave it out")
    if sampling.logprobs:
        # Completions take the number of likeliest tokens to tell of beside the one that was drawn.
        body["logprobs"] = 1 if prompt.completion else True
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.n > 1:
        body["n"] = sampling.n
    if sampling.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(sampling.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if prompt.stream:
        body["stream"] = True
        if server.stream_usage:
            body["stream_options"] = {"include_usage": True}
        if server.continuous_usage:
            body["stream_options"]["continuous_usage_stats"] = True
    return body


def read_answer(given: object, choices: int, at_ns: int) -> Answer:
    """Read a chunk or a complete answer that should have so many choices, and that arrived at ``at_ns``.

    Raises EndpointError for anything else.
    """
    if not isinstance(given, Mapping):
        raise EndpointError(f"it sent {_short(given)} where an object should be")
    if given.get("error") is not None:
        raise EndpointError(f"it reports: {error_text(given)}")
    listed = given.get("choices")
    if listed is None:
        listed = []
        if not any(name in given for name in ("usage", "object", "id")):
            raise EndpointError(f"it sent {_short(given)}, which is not an answer of an OpenAI-compatible server")
    if not isinstance(listed, list) or not all(isinstance(choice, Mapping) for choice in listed):
        raise EndpointError(f"its choices are {_short(listed)}")
    return Answer(tuple(_piece(choice, choices, at_ns) for choice in listed), given.get("usage"))


def _piece(choice: Mapping[str, Any], choices: int, at_ns: int) -> Piece:
    index = choice.get("index", 0)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < choices:
        raise EndpointError(f"it sent choice {_short(index)}, {choices} were requested")
    said = next((choice[name] for name in ("delta", "message") if isinstance(choice.get(name), Mapping)), choice)
    text = _text(said.get("content")) or _text(said.get("text")) or _text(said.get("refusal"))
    reasoning = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))
    reason = choice.get("finish_reason")
    known = None if reason is None else _REASONS.get(str(reason), "other")
    logprobs = _logprobs(choice.get("logprobs"))
    return Piece(Token(at_ns, text, None, index, reasoning, logprobs=logprobs), known)


def _logprobs(given: object) -> tuple[Logprob, ...]:
    """Log probabilities in a chat's shape or a completion's; what is neither is left out."""
    if not isinstance(given, Mapping):
        return ()
    listed = given.get("content")
    if isinstance(listed, list):
        pairs = [(it.get("token"), it.get("logprob")) for it in listed if isinstance(it, Mapping)]
    else:
        tokens, values = given.get("tokens"), given.get("token_logprobs")
        pairs = list(zip(tokens, values, strict=False)) if isinstance(tokens, list) and isinstance(values, list) else []
    return tuple(
        Logprob(text, float(value))
        for text, value in pairs
        if isinstance(text, str) and isinstance(value, int | float) and not isinstance(value, bool)
    )


def _text(content: object) -> str:
    """A text, or the texts of a list of parts; empty for what is neither."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, Mapping))
    return ""


def error_text(given: object) -> str:
    """What a server says went wrong, in one line, whichever shape it uses."""
    said = given
    for _ in range(3):  # {"error": {"message": …}}, {"detail": …}, {"error": …}, {"message": …}
        if isinstance(said, Mapping):
            said = next((said[name] for name in ("error", "message", "detail") if said.get(name)), said)
    return _short(said)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= 300 else f"{text[:300]}…"
