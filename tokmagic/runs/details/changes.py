"""What differs between two runs of a cell: its settings, and its prompt line by line."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import unified_diff
from typing import Any, NamedTuple

from tokmagic.core.prompt import Message
from tokmagic.core.record import RunRecord

MOST_LINES = 400
"""How many lines of each prompt are compared: the time grows with their product."""
_INFO = ("model_id", "revision", "engine", "device", "dtype", "quant")


class Setting(NamedTuple):
    """A setting that changed; None is one that was not given."""

    name: str
    before: Any
    after: Any


Line = tuple[str, str]
"""A line of a prompt after its sign: ``-`` is gone, ``+`` is new, a blank is the same, ``…`` stands for others."""


def settings(before: RunRecord, after: RunRecord) -> list[Setting]:
    """The model, how it was run, and the options: those that differ."""
    one, other = _settings(before), _settings(after)
    names = dict.fromkeys((*one, *other))
    return [Setting(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]


def _settings(record: RunRecord) -> dict[str, Any]:
    info = {name: getattr(record.info, name) for name in _INFO}
    # From a ledger a list comes back as one.
    params = {name: list(it) if isinstance(it, tuple) else it for name, it in record.params.items()}
    return {"model": record.info.name, **info, **params}


def lines(before: Sequence[Message], after: Sequence[Message]) -> list[Line] | None:
    """The lines of a prompt that differ, each with its neighbours; none for the same, None where it is too long."""
    one, other = _lines(before), _lines(after)
    if len(one) > MOST_LINES or len(other) > MOST_LINES:
        return None
    found: list[Line] = []
    # The first two name files.
    for line in list(unified_diff(one, other, n=1, lineterm=""))[2:]:
        found.append(("…", "") if line.startswith("@@") else (line[0], line[1:]))
    return found


def _lines(messages: Sequence[Message]) -> list[str]:
    return [line for message in messages for line in (f"--- {message.role}", *message.content.split("\n"))]
