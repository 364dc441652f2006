"""Fields of JSON that anybody may have written: each is of its kind, or a ValueError names it in one line."""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from typing import Any

_KINDS = {str: "a string", int: "a whole number from 0 on", bool: "true or false", list: "a list", dict: "an object"}
_HIGHEST = 10**12
# What tokmagic writes: no sign, no exponent, nothing finer than a picodollar.
_AMOUNT = re.compile(r"\d{1,9}(\.\d{1,12})?", re.ASCII)


class TwiceError(ValueError):
    """JSON that says something twice: each reader chooses one of the two, and not all the same one."""


def parse_json(data: bytes) -> Any:
    """Read JSON that says each thing once. Raises TwiceError, ValueError and RecursionError."""
    return json.loads(data, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise TwiceError(f"{shown(name)} stands twice in one object")
    return found


def take(body: Any, field: str, kind: type, *, needed: bool = False) -> Any:
    """The value of a field; None where it is missing and not needed. Raises ValueError."""
    if not isinstance(body, dict):
        raise ValueError("a JSON object is needed")
    value: Any = body.get(field)
    if value is None and not needed:
        return None
    wrong = not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
    if wrong or (kind is int and not 0 <= value <= _HIGHEST):
        raise ValueError(f"{field} is {shown(value)}, and {_KINDS[kind]} is needed")
    return value


def one_of(body: Any, field: str, known: tuple[Any, ...], otherwise: Any = None) -> Any:
    """A text that is one of those known; ``otherwise`` where it is missing. Raises ValueError."""
    value = take(body, field, str)
    value = otherwise if value is None else value
    if value not in known:
        raise ValueError(f"{field} is {shown(value)}")
    return value


def amount(body: Any, field: str) -> Decimal | None:
    """An amount of USD, which JSON holds as a text. Raises ValueError."""
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise ValueError(f"{field} is {shown(value)}, which is not an amount in USD")
    return Decimal(value)


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
