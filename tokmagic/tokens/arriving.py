"""The tokens of a text that arrives in pieces: most servers send one at a time, some cut their answers to any size."""

from __future__ import annotations

import re
from collections.abc import Callable

from tokmagic.tokens.tokenizer import BYTES_PER_TOKEN

_WORD_BYTES_PER_TOKEN = 2
"""Words have more bytes a token than this in the mean, also in a language that the vocabulary was not made for."""
_PARTS = re.compile(r"(?P<word>[^\W\d_]+)|(?P<space> (?!\s))|(?P<blank>\s+)|(?P<sign>.)", re.DOTALL)
_GAP = re.compile(r"(?<=\S)\s")
_LONGEST_TAIL = 64
"""Characters without a space, as of Chinese, that are counted again with each piece."""


class ByPieces:
    """An estimate without a tokenizer, by the pieces and by the length of all: it never goes down.

    As many pieces are as many tokens, and more where they are long, unless that is more than the text can have: then
    they were cut to another size, as letters are, and the length alone tells.
    """

    def __init__(self) -> None:
        self.tokens = 0
        """At least one where there is any text."""
        self._pieces = self._bytes = self._most = 0
        # The part that the next piece may go on with.
        self._kind: str | None = None
        self._size = 0

    def take(self, text: str) -> None:
        """The next piece."""
        self._pieces += 1
        self._bytes += _bytes(text)
        for part in _PARTS.finditer(text):
            if part.lastgroup != self._kind or part.lastgroup == "sign":
                self._most += _most(self._kind, self._size, before=part.lastgroup)
                self._kind, self._size = part.lastgroup, 0
            self._size += _bytes(part.group())
        by_length = -(-self._bytes // BYTES_PER_TOKEN)
        is_cut = self._pieces > self._most + _most(self._kind, self._size)
        self.tokens = max(1, self.tokens, by_length, 0 if is_cut else self._pieces)


class ByTokenizer:
    """A count by a tokenizer, word after word, which is near that of the whole text: it never goes down."""

    def __init__(self, count: Callable[[str], int]) -> None:
        self.tokens = 0
        self._count = count
        self._counted = 0
        self._tail = ""

    def take(self, text: str) -> None:
        """The next piece."""
        self._tail += text
        end = max((found.start() for found in _GAP.finditer(self._tail)), default=0)
        if len(self._tail) - end > _LONGEST_TAIL:
            end = len(self._tail)
        if end:
            self._counted += self._count(self._tail[:end])
            self._tail = self._tail[end:]
        self.tokens = max(1, self.tokens, self._counted + (self._count(self._tail) if self._tail else 0))


def _most(kind: str | None, size: int, before: str | None = None) -> int:
    """Not fewer tokens than such a part of so many bytes has: a space is in the token of the word that it is before."""
    if kind == "word":
        return -(-size // _WORD_BYTES_PER_TOKEN)
    return 0 if kind is None or (kind == "space" and before == "word") else 1


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
