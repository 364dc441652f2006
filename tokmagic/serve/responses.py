"""The Responses API's shape: text in, text out, whole or as its typed events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokmagic.core.stream import Finished, Started, Token, Usage
from tokmagic.runs.generation import Generation
from tokmagic.serve import figures
from tokmagic.serve.asking import Asked
from tokmagic.serve.failures import ApiError
from tokmagic.serve.writers import error_with_usage, sse


@dataclass(frozen=True, eq=False)
class _Kind:
    """A kind of output: what its item, its part and its events are called, and what stands there beside the text."""

    prefix: str
    item: Mapping[str, Any]
    part_type: str
    event: str
    in_part: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)

    def part(self, text: str) -> dict[str, Any]:
        """A part of its item's content."""
        return {"type": self.part_type, "text": text, **self.in_part}


_ANSWER = _Kind(
    "msg_",
    {"type": "message", "role": "assistant"},
    "output_text",
    "response.output_text",
    {"annotations": [], "logprobs": []},
    {"logprobs": []},
)
_REASONING = _Kind("rs_", {"type": "reasoning", "summary": []}, "reasoning_text", "response.reasoning_text")


@dataclass
class _Part:
    """What was streamed of one kind, at its index in the output."""

    kind: _Kind
    index: int
    texts: list[str] = field(default_factory=list)


class ResponsesWriter:
    """``/v1/responses``."""

    def __init__(self, asked: Asked, model: str, run_id: str) -> None:
        self._asked = asked
        self._id = f"resp_{run_id}"
        self._run_id = run_id
        self._created = time.time()
        self._model = model
        self._sequence = 0
        self._parts: list[_Part] = []

    def piece(self, event: Started | Token | Finished, usage: Usage) -> Iterable[bytes]:
        """What is sent when an event has come."""
        del usage
        if isinstance(event, Started):
            empty = self._response("in_progress", [], None)
            yield self._event("response.created", response=empty)
            yield self._event("response.in_progress", response=empty)
        elif isinstance(event, Finished):
            yield from self._more(_ANSWER, "".join(event.tails[:1]))
        elif event.choice == 0:
            yield from self._more(_REASONING, event.reasoning)
            yield from self._more(_ANSWER, event.text)

    def ending(self, generation: Generation, waited_s: float) -> Iterable[bytes]:
        """The parts as they are in the end, and the response with its counts."""
        if not any(part.kind is _ANSWER for part in self._parts):
            yield from self._opened(_ANSWER)
        response = self.whole(generation, waited_s)
        for part in self._parts:
            text = "".join(part.texts)
            place = self._place(part)
            yield self._event(f"{part.kind.event}.done", **place, text=text, **part.kind.beside)
            yield self._event("response.content_part.done", **place, part=part.kind.part(text))
            item = response["output"][part.index]
            yield self._event("response.output_item.done", output_index=part.index, item=item)
        kind = "response.completed" if response["status"] == "completed" else "response.incomplete"
        yield self._event(kind, response=response)

    def failing(self, error: ApiError, generation: Generation | None, waited_s: float) -> Iterable[bytes]:
        """The error, with what was counted."""
        response = self._response("failed", [], None)
        told = error_with_usage(error, generation, waited_s)
        response["error"] = {"code": error.code or "server_error", "message": str(error)}
        response["usage"] = _usage(generation, waited_s) if generation is not None else None
        yield self._event("response.failed", response=response, error=told["error"])

    def whole(self, generation: Generation, waited_s: float) -> dict[str, Any]:
        """The answer as one object."""
        reason = figures.finish_reason(generation.finish_reason)
        status = "completed" if reason == "stop" else "incomplete"
        incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
        texts = {_ANSWER: generation.text, _REASONING: generation.choices[0].reasoning if generation.choices else ""}
        # Streamed ones stand in the order in which they began.
        kinds = [part.kind for part in self._parts] or [*([_REASONING] if texts[_REASONING] else []), _ANSWER]
        items = [self._item(kind, status, [kind.part(texts[kind])]) for kind in kinds]
        response = self._response(status, items, None if incomplete is None else {"reason": incomplete})
        response["usage"] = _usage(generation, waited_s)
        response["metrics"] = figures.metrics(generation.record, waited_s)
        return response

    def _more(self, kind: _Kind, text: str) -> Iterable[bytes]:
        """More of the answer, or of the reasoning."""
        if not text:
            return
        part = next((it for it in self._parts if it.kind is kind), None)
        if part is None:
            yield from self._opened(kind)
            part = self._parts[-1]
        part.texts.append(text)
        yield self._event(f"{kind.event}.delta", **self._place(part), delta=text, **kind.beside)

    def _opened(self, kind: _Kind) -> Iterable[bytes]:
        part = _Part(kind, len(self._parts))
        self._parts.append(part)
        item = self._item(kind, "in_progress", [])
        yield self._event("response.output_item.added", output_index=part.index, item=item)
        yield self._event("response.content_part.added", **self._place(part), part=kind.part(""))

    def _event(self, kind: str, **fields: Any) -> bytes:
        numbered = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return sse(numbered, kind)

    def _place(self, part: _Part) -> dict[str, Any]:
        return {"item_id": f"{part.kind.prefix}{self._run_id}", "output_index": part.index, "content_index": 0}

    def _item(self, kind: _Kind, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": f"{kind.prefix}{self._run_id}", **kind.item, "status": status, "content": content}

    def _response(self, status: str, output: list[Any], incomplete: dict[str, str] | None) -> dict[str, Any]:
        sampling = self._asked.prompt.sampling
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "instructions": None,
            "metadata": {},
            "model": self._model,
            "output": output,
            "parallel_tool_calls": False,
            "temperature": sampling.temperature,
            "tool_choice": "none",
            "tools": [],
            "top_p": sampling.top_p,
            "max_output_tokens": self._asked.max_tokens,
            "usage": None,
        }


def _usage(generation: Generation, waited_s: float) -> dict[str, Any]:
    counts = generation.usage
    told = figures.billed(generation.record, waited_s)
    return {
        "input_tokens": counts.input_tokens,
        "input_tokens_details": {
            "cached_tokens": counts.cached_input_tokens or 0,
            "cache_write_tokens": counts.cache_write_input_tokens or 0,
        },
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens or 0},
        "total_tokens": (figures.usage(counts) or {}).get("total_tokens"),
        "tokmagic": told["tokmagic"],
    }
