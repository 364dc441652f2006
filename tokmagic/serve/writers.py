"""What events become on the wire: chat completions and completions. The Responses API has a module of its own."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tokmagic.core.stream import Finished, Logprob, Started, Token, Usage
from tokmagic.runs.generation import Choice, Generation
from tokmagic.serve import figures
from tokmagic.serve.asking import Asked
from tokmagic.serve.failures import ApiError

DONE = b"data: [DONE]\n\n"
# Why an answer has not ended by itself: its run was.
_CUT = ("error", "interrupted", "budget")
_LEAST_LOGPROB = -9999.0
"""OpenAI's word for as good as impossible."""


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event with JSON."""
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {dumped(data)}\n\n".encode("utf-8", "replace")


def dumped(data: Any) -> str:
    """JSON as it is sent."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


class Writer(Protocol):
    """Writes one answer in one API's shape."""

    def piece(self, event: Started | Token | Finished, usage: Usage) -> Iterable[bytes]:
        """What is sent when an event has come, with the counts after it."""
        ...

    def ending(self, generation: Generation, waited_s: float) -> Iterable[bytes]:
        """What is sent after the last event of an answer that ended well, or at a limit."""
        ...

    def failing(self, error: ApiError, generation: Generation | None, waited_s: float) -> Iterable[bytes]:
        """What is sent where it failed in mid-stream: the error, with what was counted and costs."""
        ...

    def whole(self, generation: Generation, waited_s: float) -> dict[str, Any]:
        """The answer as one object."""
        ...


def error_with_usage(error: ApiError, generation: Generation | None, waited_s: float) -> dict[str, Any]:
    """An error in mid-stream: what was generated until then was counted, and costs what it says."""
    body = error.body()
    if generation is not None:
        body["usage"] = figures.billed(generation.record, waited_s)
    return body


class _Chunked:
    """What chats and completions have in common: chunks, each a choice's."""

    kind: str
    chunk_kind: str
    prefix: str

    def __init__(self, asked: Asked, model: str, run_id: str) -> None:
        self._asked = asked
        self._begun: set[int] = set()
        self._kept: dict[int, list[Logprob]] = {}
        self._head = {"id": f"{self.prefix}{run_id}", "created": int(time.time()), "model": model}

    def piece(self, event: Started | Token | Finished, usage: Usage) -> Iterable[bytes]:
        """What is sent when an event has come."""
        if isinstance(event, Started):
            return
        if isinstance(event, Token):
            yield from self._token(event, usage)
            return
        for index, reason in enumerate(event.reasons):
            tail = event.tails[index] if index < len(event.tails) else ""
            logprobs = self._kept.pop(index, [])
            if tail or logprobs:
                yield self._chunk(index, tail, logprobs, usage)
            if reason not in _CUT:
                yield self._chunk(index, None, [], usage, figures.finish_reason(reason))

    def ending(self, generation: Generation, waited_s: float) -> Iterable[bytes]:
        """The counts, and the end."""
        if generation.record.status == "interrupted":  # a budget's stop
            for index, choice in enumerate(generation.choices):
                if choice.finish_reason in _CUT:  # the others' ends have been sent
                    yield self._chunk(index, None, [], generation.usage, "length")
        if self._asked.include_usage or self._asked.continuous_usage:
            figures_of = self._figures(generation, waited_s)
            yield sse({**self._head, "object": self.chunk_kind, "choices": [], **figures_of})
        yield DONE

    def failing(self, error: ApiError, generation: Generation | None, waited_s: float) -> Iterable[bytes]:
        """The error, with what was counted."""
        yield sse(error_with_usage(error, generation, waited_s))

    def whole(self, generation: Generation, waited_s: float) -> dict[str, Any]:
        """The answer as one object."""
        choices = [self._choice(index, choice) for index, choice in enumerate(generation.choices)]
        return {**self._head, "object": self.kind, "choices": choices, **self._figures(generation, waited_s)}

    def _figures(self, generation: Generation, waited_s: float) -> dict[str, Any]:
        record = generation.record
        return {"usage": figures.billed(record, waited_s), "metrics": figures.metrics(record, waited_s)}

    def _token(self, token: Token, usage: Usage) -> Iterable[bytes]:
        kept = self._kept.setdefault(token.choice, [])
        kept.extend(token.logprobs)
        # Half a character, or text that may yet be a stop text, has nothing to show.
        if token.text or token.reasoning or (self._asked.continuous_usage and token.has_content):
            self._kept[token.choice] = []
            yield self._chunk(token.choice, token.text, kept, usage, reasoning=token.reasoning)

    def _chunk(
        self,
        index: int,
        text: str | None,
        logprobs: Sequence[Logprob],
        usage: Usage,
        reason: str | None = None,
        reasoning: str = "",
    ) -> bytes:
        told = self._logprobs(index, logprobs) if self._asked.prompt.sampling.logprobs and logprobs else None
        choice = {"index": index, **self._said(index, text, reasoning), "logprobs": told, "finish_reason": reason}
        chunk = {**self._head, "object": self.chunk_kind, "choices": [choice]}
        if self._asked.continuous_usage:
            chunk["usage"] = figures.usage(usage)
        elif self._asked.include_usage:
            chunk["usage"] = None
        return sse(chunk)

    def _said(self, index: int, text: str | None, reasoning: str) -> dict[str, Any]:
        raise NotImplementedError

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError

    def _logprobs(self, index: int, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        raise NotImplementedError


class ChatWriter(_Chunked):
    """``/v1/chat/completions``."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def _said(self, index: int, text: str | None, reasoning: str) -> dict[str, Any]:
        delta: dict[str, Any] = ({} if text is None else {"content": text}) | _reasoning(reasoning)
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", "content": "", **delta}
        return {"delta": delta}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        told = self._logprobs(index, choice.logprobs) if self._asked.prompt.sampling.logprobs else None
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None} | _reasoning(choice.reasoning),
            "logprobs": told,
            "finish_reason": figures.finish_reason(choice.finish_reason),
        }

    def _logprobs(self, index: int, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        del index  # a chat's tokens have no place in the text
        return {
            "content": [
                {
                    "token": it.text,
                    "logprob": _sendable(it.logprob),
                    "bytes": list(it.text.encode("utf-8", "replace")),
                    "top_logprobs": [],
                }
                for it in logprobs
            ],
            "refusal": None,
        }


def _sendable(logprob: float) -> float | None:
    """JSON has no infinity, and no word for what is no number, as scores under an extreme penalty are."""
    return max(_LEAST_LOGPROB, logprob) if logprob < math.inf else None


def _reasoning(text: str) -> dict[str, str]:
    """What a chat says of reasoning, by vLLM's name; nothing where there is none, as OpenAI's own."""
    return {"reasoning_content": text} if text else {}


class CompletionWriter(_Chunked):
    """``/v1/completions``."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, asked: Asked, model: str, run_id: str) -> None:
        super().__init__(asked, model, run_id)
        self._offsets: Counter[int] = Counter()

    def _said(self, index: int, text: str | None, reasoning: str) -> dict[str, Any]:
        del index, reasoning  # a completion has no place for it
        return {"text": text or ""}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        told = self._logprobs(index, choice.logprobs) if self._asked.prompt.sampling.logprobs else None
        reason = figures.finish_reason(choice.finish_reason)
        return {"index": index, "text": choice.text, "logprobs": told, "finish_reason": reason}

    def _logprobs(self, index: int, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        offsets = []
        for it in logprobs:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(it.text)
        return {
            "tokens": [it.text for it in logprobs],
            "token_logprobs": [_sendable(it.logprob) for it in logprobs],
            "top_logprobs": None,
            "text_offset": offsets,
        }
