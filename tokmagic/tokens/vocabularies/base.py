"""What every kind of vocabulary can do. A model's tokenizer is one of these and a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Span = tuple[int, int]
"""The characters that a token stands for, from the first to the one after the last; equal where it is for none."""


class Vocabulary(Protocol):
    """Text to ids and back. Texts must be whole characters; ``trace`` and ``count`` raise what ``ids`` does."""

    @property
    def read_from(self) -> str:
        """The file it was read from."""
        ...

    @property
    def reader(self) -> str:
        """The package that reads it."""
        ...

    @property
    def backend(self) -> Tokenizer | None:
        """The ``tokenizers.Tokenizer`` underneath, which can be looked into; None where another package reads it."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that structure the text (begin, end, role) rather than stand for some of it."""
        ...

    @property
    def unknown_id(self) -> int | None:
        """The id, one of the special ones, that also stands for text that the vocabulary lacks; None without such."""
        ...

    @property
    def identity(self) -> str:
        """A text that is the same for vocabularies that count alike."""
        ...

    def ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text, with or without what the tokenizer adds at its ends.

        A special token that is spelled in the text is that token. Raises PromptError for a text that the package cannot
        split.
        """
        ...

    def trace(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[Span] | None]:
        """Return what ``ids`` does, and the characters of each; None where the package does not tell."""
        ...

    def count(self, text: str, *, add_special_tokens: bool) -> int:
        """Return how many ids ``ids`` gives, by the shortest way."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens, U+FFFD for parts of a character; unknown ids are left out."""
        ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """Return the bytes that a token stands for by itself, or None where that cannot be told."""
        ...


def spans_of(parts: Iterable[bytes]) -> list[Span]:
    """The characters of tokens whose bytes, one after the other, are a text in UTF-8; parts of one share it."""
    spans: list[Span] = []
    begun = 0
    for part in parts:
        start = begun if not part or part[0] & 0xC0 != 0x80 else begun - 1
        begun += sum(byte & 0xC0 != 0x80 for byte in part)
        spans.append((start, begun))
    return spans
