"""The messages about an opened run (docs/wire.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from tokmagic.core.prompt import Message
from tokmagic.core.record import RunRecord
from tokmagic.core.stream import Logprob
from tokmagic.errors import UsageError
from tokmagic.runs.channel import VERSION
from tokmagic.runs.details.changes import Line, Setting
from tokmagic.runs.live import row_wire
from tokmagic.runs.token_times import Piece

MOST_CHARS = 20_000
"""How much of a prompt, and of an answer, one message carries."""
MOST_PIECES = 4_000
"""How many pieces of an answer it carries."""
_OF_ROW = (
    *("run_id", "started_at", "status", "model", "input_tokens", "input_source", "output_tokens", "output_source"),
    *("cost_usd", "cost_source", "cost_bound", "saved_usd", "ttft_s", "itl_mean_s", "latency_s"),
)
_INFO = ("model_id", "revision", "engine", "device", "dtype", "quant")

Missing = Literal["texts", "times", "tokenizer", "server", "length", "refused", "nothing"]
"""Why something is not there: texts are not kept; the run's kernel is gone; the tokenizer was not read here yet; no
server answered; too long; it was refused before anything was sent; no answer came."""


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for a cell's runs and one of them in full: ``run_id``, or the latest where that is None."""

    cell_id: str
    seq: int
    run_id: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the run before."""

    since: str
    settings: Sequence[Setting]
    prompt: Sequence[Line] | None
    same_answer: bool | None


@dataclass(frozen=True, slots=True)
class Detail:
    """One run in full. Unknown is None; ``missing`` says why, by field."""

    record: RunRecord
    messages: Sequence[Message] | None = None
    parts: Sequence[tuple[str, int]] | None = None
    """What its prompt consists of, with the tokens of each part; they add up to the input."""
    pieces: Sequence[Piece] | None = None
    by_token: bool = True
    logprobs: Sequence[Logprob] = ()
    changes: Changes | None = None
    python: str | None = None
    curl: str | None = None
    missing: Mapping[str, Missing] = field(default_factory=dict)


def parse(request: Mapping[str, Any]) -> Request:
    """Read a request. Raises UsageError."""
    cell_id, seq, run_id = (request.get(name) for name in ("cell_id", "seq", "run_id"))
    if not isinstance(cell_id, str) or type(seq) is not int or not isinstance(run_id, str | None):
        raise UsageError("this 'detail' is not a message of the live protocol; reload the page")
    return Request(cell_id, seq, run_id)


def detail_wire(request: Request, runs: Sequence[RunRecord], detail: Detail | None, *, more: bool) -> dict[str, Any]:
    """The answer: the cell's latest runs, oldest first (``more``: there are older ones), and one of them in full."""
    return {
        "v": VERSION,
        "type": "detail",
        "cell_id": request.cell_id,
        "seq": request.seq,
        "runs": [_run_wire(record) for record in runs],
        "more": more,
        "run": None if detail is None else _detail_wire(detail),
    }


def _run_wire(record: RunRecord) -> dict[str, Any]:
    row = row_wire(record)
    return {name: row[name] for name in _OF_ROW}


def _detail_wire(detail: Detail) -> dict[str, Any]:
    record = detail.record
    return {
        "run_id": record.run_id,
        "params": dict(record.params),
        "info": {name: getattr(record.info, name) for name in _INFO},
        "rates": record.rates.source,
        "messages": None if detail.messages is None else _messages_wire(detail.messages),
        "parts": None if detail.parts is None else [list(part) for part in detail.parts],
        "answer": None if detail.pieces is None else _answer_wire(detail),
        "changes": None if detail.changes is None else _changes_wire(detail.changes),
        "python": detail.python,
        "curl": detail.curl,
        "missing": dict(detail.missing),
    }


def _messages_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    found, left = [], MOST_CHARS
    for message in messages:
        text = message.content[: max(left, 0)]
        found.append({"role": message.role, "text": text, "cut": len(text) < len(message.content)})
        left -= len(text)
    return found


def _answer_wire(detail: Detail) -> dict[str, Any]:
    pieces, cut = _cut(detail.pieces or ())
    logprobs, _ = _cut(detail.logprobs)
    return {
        "by_token": detail.by_token,
        "pieces": [[text, None if ms is None else round(ms, 3)] for text, ms in pieces],
        "logprobs": [
            [text, None if value is None or not isfinite(value) else round(value, 5)] for text, value in logprobs
        ],
        "cut": cut,
    }


def _cut(pieces: Sequence[tuple[str, float | None]]) -> tuple[list[tuple[str, float | None]], bool]:
    """As many as fit a message, and whether something is left out."""
    left, found = MOST_CHARS, []
    for text, value in pieces[:MOST_PIECES]:
        found.append((text[:left], value))
        left -= len(text)
        if left < 0:
            return found, True
    return found, len(pieces) > MOST_PIECES


def _changes_wire(changes: Changes) -> dict[str, Any]:
    return {
        "since": changes.since,
        "settings": [it._asdict() for it in changes.settings],
        "prompt": None if changes.prompt is None else [list(line) for line in changes.prompt],
        "same_answer": changes.same_answer,
    }
