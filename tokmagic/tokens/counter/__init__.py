"""Token counts of text that is being edited: exact as a full count, at the price of the edit's neighbourhood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokmagic.core.prompt import utf8
from tokmagic.tokens.counter.cuts import Cuts, NoCuts

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class LiveCounter:
    """Counts one text again after each edit.

    The text is kept as pieces with their counts, cut where no token, in whatever context, can go across. What an edit
    leaves alone at both ends keeps its counts; the pieces between are cut and counted anew. For one thread at a time.
    """

    def __init__(self, backend: Tokenizer, *, add_special_tokens: bool = False, piece_chars: int = 256) -> None:
        """Count as ``backend.encode(text, add_special_tokens=…)`` does; what ``backend`` is made of must stay as it is.

        Pieces have about ``piece_chars`` characters, more where text has no place to be cut.
        """
        self._backend = backend
        self._specials = backend.num_special_tokens_to_add(False) if add_special_tokens else 0
        self._add_special_tokens = add_special_tokens
        self._piece_chars = piece_chars
        self._pieces: list[str] = []
        self._counts: list[int] = []
        self._total = 0
        try:
            self._cuts: Cuts | None = Cuts(backend)
        except NoCuts:
            self._cuts = None

    @property
    def incremental(self) -> bool:
        """Whether an edit costs its neighbourhood alone. If not, each update is a full count: wait for pauses."""
        return self._cuts is not None and self._cuts.at_spaces() and not self._bounded

    @property
    def _bounded(self) -> bool:
        """The length of an encoding is then not the sum of its parts; others may set this at any time."""
        return self._backend.truncation is not None or self._backend.padding is not None

    def update(self, text: str) -> int:
        """Take the whole text as it is now and return its number of tokens.

        Raises PromptError for an incomplete character, and keeps what it knew.
        """
        if self._cuts is None or self._bounded:
            return self._count(text, self._add_special_tokens)
        first, begin = self._unchanged_front(text)
        if first < len(self._pieces) or begin < len(text):
            last, end = self._unchanged_back(text, first, begin)
            self._replace(text, *self._widened(text, first, begin, last, end), self._cuts)
        return self._total + self._specials

    def _unchanged_front(self, text: str) -> tuple[int, int]:
        """Return how many pieces, and how many characters, ``text`` begins with."""
        begin = 0
        for index, piece in enumerate(self._pieces):
            if not text.startswith(piece, begin):
                return index, begin
            begin += len(piece)
        return len(self._pieces), begin

    def _unchanged_back(self, text: str, first: int, begin: int) -> tuple[int, int]:
        """Return from which piece and from which character on ``text`` ends as before."""
        end = len(text)
        for index in range(len(self._pieces), first, -1):
            piece = self._pieces[index - 1]
            if not text.endswith(piece, begin, end):
                return index, end
            end -= len(piece)
        return first, end

    def _widened(self, text: str, first: int, begin: int, last: int, end: int) -> tuple[int, int, int, int]:
        """Take in what must be cut anew: a neighbour whose cut is none any more, and one of too short a piece."""
        assert self._cuts is not None
        if first > 0 and begin < len(text) and not self._cuts(text[begin - 1 : begin + 1]):
            first, begin = first - 1, begin - len(self._pieces[first - 1])
        if last < len(self._pieces) and end > 0 and not self._cuts(text[end - 1 : end + 1]):
            last, end = last + 1, end + len(self._pieces[last])
        if end - begin < self._piece_chars and last < len(self._pieces):
            last, end = last + 1, end + len(self._pieces[last])
        return first, begin, last, end

    def _replace(self, text: str, first: int, begin: int, last: int, end: int, cuts: Cuts) -> None:
        pieces = list(_cut(text[begin:end], self._piece_chars, cuts))
        counts = [self._count(piece, False) for piece in pieces]
        self._total += sum(counts) - sum(self._counts[first:last])
        self._pieces[first:last] = pieces
        self._counts[first:last] = counts

    def _count(self, text: str, add_special_tokens: bool) -> int:
        try:
            return len(self._backend.encode(text, add_special_tokens=add_special_tokens))
        except TypeError:
            utf8(text)  # a str that cannot be written as UTF-8 is none to the library
            raise


def _cut(text: str, piece_chars: int, cuts: Cuts) -> Iterator[str]:
    """Yield the pieces of ``text``; none but the only one is shorter than ``piece_chars``."""
    begin, at = 0, piece_chars
    while at + piece_chars <= len(text):
        if cuts(text[at - 1 : at + 1]):
            yield text[begin:at]
            begin, at = at, at + piece_chars
        else:
            at += 1
    if begin < len(text):
        yield text[begin:]
