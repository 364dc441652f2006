"""The draft's messages (docs/wire.md): what the sidebar tells of a cell's text, and what it is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokmagic.core.money import Cost
from tokmagic.core.stream import Source
from tokmagic.errors import UsageError
from tokmagic.prices import plain
from tokmagic.runs.drafts.texts import Change
from tokmagic.runs.live import VERSION

State = Literal["counted", "counting", "lost"]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a prompt that was not run would take. Unknown is None."""

    model: str | None = None
    input_tokens: int | None = None
    input_source: Source = "unknown"
    max_output_tokens: int | None = None
    context_tokens: int | None = None
    low: Cost = field(default_factory=Cost)
    """The input alone."""
    high: Cost = field(default_factory=Cost)
    """The input and the longest answer."""
    reason: str | None = None
    """Why there is no count, or only an estimate."""
    costly: bool = False
    """Each count takes the whole of a long text: better to wait for a pause in typing."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One request: ``change`` turns the text of request ``base`` (None: no text) into that of request ``seq``."""

    cell_id: str
    seq: int
    base: int | None
    change: Change


def parse(request: Mapping[str, Any]) -> Edit:
    """Read a request. Raises UsageError."""
    cell_id, base, text = request.get("cell_id"), request.get("base"), request.get("text")
    numbers = [request.get(name) for name in ("seq", "offset", "deleted")]
    whole = [type(it) is int for it in (*numbers, 0 if base is None else base)]
    if not isinstance(cell_id, str) or not isinstance(text, str) or not all(whole):
        raise UsageError("this 'draft' is not a message of the live protocol; reload the page")
    seq, offset, deleted = (int(number or 0) for number in numbers)
    return Edit(cell_id, seq, base, Change(offset, deleted, text))


def draft_wire(draft: Draft, *, cell_id: str, seq: int, state: State) -> dict[str, Any]:
    """A draft as a message."""
    return {
        "v": VERSION,
        "type": "draft",
        "cell_id": cell_id,
        "seq": seq,
        "state": state,
        "model": draft.model,
        "input_tokens": draft.input_tokens,
        "input_source": draft.input_source,
        "max_output_tokens": draft.max_output_tokens,
        "context_tokens": draft.context_tokens,
        "low_usd": plain(draft.low.usd),
        "high_usd": plain(draft.high.usd),
        "cost_source": draft.low.source,
        "reason": draft.reason,
        "costly": draft.costly,
    }
