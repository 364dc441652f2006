"""The draft's messages (docs/wire.md): changes of a cell's text, the text that they make, and what is answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from tokmagic.core.money import Cost, plain
from tokmagic.core.stream import Source
from tokmagic.errors import UsageError
from tokmagic.runs.channel import VERSION
from tokmagic.runs.drafts.likely import Likely

_SURROGATE = re.compile("[\ud800-\udfff]")

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
    device_hour: Decimal | None = None
    """USD an hour of the device that it would run on, where that is the price; it has no cost before it has run."""
    list_price: str | None = None
    """Whose price that is, where nobody set one."""
    reason: str | None = None
    """Why there is no count, or only an estimate."""
    likely: Likely | None = None
    """What it is likely to cost, from the cell's earlier runs."""
    costly: bool = False
    """Each count takes the whole of a long text: better to wait for a pause in typing."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One request: turns the text of request ``base`` (None: no text) into that of request ``seq``.

    At ``offset`` so many code units are replaced by ``inserted``; both are counted in UTF-16.
    """

    cell_id: str
    seq: int
    base: int | None
    offset: int
    deleted: int
    inserted: str


def parse(request: Mapping[str, Any]) -> Edit:
    """Read a request. Raises UsageError."""
    cell_id, base, text = request.get("cell_id"), request.get("base"), request.get("text")
    numbers = [request.get(name) for name in ("seq", "offset", "deleted")]
    whole = [type(it) is int for it in (*numbers, 0 if base is None else base)]
    if not isinstance(cell_id, str) or not isinstance(text, str) or not all(whole):
        raise UsageError("this 'draft' is not a message of the live protocol; reload the page")
    seq, offset, deleted = (int(number or 0) for number in numbers)
    return Edit(cell_id, seq, base, offset, deleted, text)


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
        "cost_source": draft.high.source if draft.low.usd is None else draft.low.source,
        "device_hour_usd": plain(draft.device_hour),
        "list_price": draft.list_price,
        **likely_wire(draft.likely),
        "reason": draft.reason,
        "costly": draft.costly,
    }


def likely_wire(found: Likely | None) -> dict[str, Any]:
    """What a run is likely to cost, as the fields of a message."""
    return {
        "likely_usd": plain(found.usd) if found else None,
        "likely_low_usd": plain(found.low) if found else None,
        "likely_high_usd": plain(found.high) if found else None,
        "likely_runs": found.runs if found else 0,
        "predicted": found is not None and found.predicted,
        "edited": found is not None and found.edited,
    }


class Text:
    """One text. Each of its code units is a character of ``_units``, so that a change is a slice."""

    def __init__(self) -> None:
        self._units = ""
        # Once there was one, each look pays for putting pairs together; without, a look costs nothing.
        self._surrogates = False

    def change(self, offset: int, deleted: int, inserted: str) -> bool:
        """Make a change and say whether it lies within the text; one that does not is not made."""
        end = offset + deleted
        if not 0 <= offset <= end <= len(self._units):
            return False
        if not inserted.isascii():
            inserted = re.sub("[\U00010000-\U0010ffff]", _pair, inserted)
        self._surrogates = self._surrogates or bool(not inserted.isascii() and _SURROGATE.search(inserted))
        self._units = self._units[:offset] + inserted + self._units[end:]
        return True

    def __str__(self) -> str:
        """The text; an incomplete character stays one."""
        if not self._surrogates:
            return self._units
        return self._units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _pair(match: re.Match[str]) -> str:
    """The two UTF-16 code units of a character."""
    above = ord(match[0]) - 0x10000
    return chr(0xD800 + (above >> 10)) + chr(0xDC00 + (above & 0x3FF))
