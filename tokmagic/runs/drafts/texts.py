"""A text that is kept up to date by changes, whose places a browser counts in UTF-16 code units."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Change:
    """At ``offset`` so many code units are replaced by ``inserted``; both are counted in UTF-16."""

    offset: int
    deleted: int
    inserted: str


class Text:
    """One text. Each of its code units is a character of ``_units``, so that a change is a slice."""

    def __init__(self) -> None:
        self._units = ""
        # Once there was one, each look pays for putting pairs together; without, a look costs nothing.
        self._surrogates = False

    def apply(self, change: Change) -> bool:
        """Make a change and say whether it lies within the text; one that does not is not made."""
        end = change.offset + change.deleted
        if not 0 <= change.offset <= end <= len(self._units):
            return False
        inserted = change.inserted if change.inserted.isascii() else _units(change.inserted)
        self._surrogates = self._surrogates or bool(not inserted.isascii() and _SURROGATE.search(inserted))
        self._units = self._units[: change.offset] + inserted + self._units[end:]
        return True

    def __str__(self) -> str:
        """The text; an incomplete character stays incomplete."""
        return _characters(self._units) if self._surrogates else self._units


def _units(text: str) -> str:
    """Each UTF-16 code unit as a character of its own."""
    return re.sub("[\U00010000-\U0010ffff]", _pair, text)


def _pair(match: re.Match[str]) -> str:
    above = ord(match[0]) - 0x10000
    return chr(0xD800 + (above >> 10)) + chr(0xDC00 + (above & 0x3FF))


def _characters(units: str) -> str:
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
