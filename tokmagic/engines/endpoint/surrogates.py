"""Characters that come in halves: as JSON's two escapes of UTF-16, one in a chunk and one in the next."""

from __future__ import annotations

from dataclasses import dataclass


def whole(text: str) -> str:
    """``text`` with the halves of characters joined; a half without the other becomes the replacement character."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@dataclass(slots=True)
class Joined:
    """A text that arrives in pieces."""

    _half: str = ""

    def take(self, text: str) -> str:
        """What is certain with this piece: a first half at its end waits for the second."""
        if not text:
            return ""
        text = self._half + text
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        return whole(text[: len(text) - len(self._half)])

    def end(self) -> str:
        """What is left at the end."""
        return whole(self._half)
