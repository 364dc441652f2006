"""A prompt cut into tokens: which characters each one stands for, and where the messages lie in it."""

from __future__ import annotations

import re
import secrets
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.stream import Source
from tokmagic.errors import PromptError
from tokmagic.tokens.tokenizer import Tokenizer


class Piece(NamedTuple):
    """One token. ``start`` to ``end`` are the characters of the trace's text that it touches."""

    id: int | None
    """None for a token of a format that is not public: it is there, but nobody can tell which."""
    start: int
    end: int
    special: bool = False
    raw: bytes | None = None
    """Its bytes where its characters are not its own: it stands for none, or shares them. Empty if unknown."""

    @property
    def added(self) -> bool:
        """Whether it stands for no character of the text: the tokenizer or the chat's format added it."""
        return self.start == self.end


class Pieces:
    """The tokens of a prompt in order, iterable, kept in columns.

    A notebook keeps every cell's value, and tens of thousands of small objects each time would burden its memory and
    set the garbage collector off.
    """

    def __init__(self) -> None:
        self._ids = array("q")
        self._starts = array("q")
        self._ends = array("q")
        self._special: set[int] = set()
        self._raw: dict[int, bytes] = {}

    def add(
        self, token_id: int | None, start: int, end: int, *, special: bool = False, raw: bytes | None = None
    ) -> None:
        """Append a token; one that stands for no character ends where it starts."""
        if special:
            self._special.add(len(self))
        if raw is not None:
            self._raw[len(self)] = raw
        self._ids.append(-1 if token_id is None else token_id)
        self._starts.append(start)
        self._ends.append(end)

    def show_bytes(self, index: int, raw: bytes) -> None:
        """Tell what the bytes of a token are that was appended before."""
        self._raw[index] = raw

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Piece]:
        for index, (token_id, start, end) in enumerate(zip(self._ids, self._starts, self._ends, strict=True)):
            known = None if token_id < 0 else token_id
            yield Piece(known, start, end, index in self._special, self._raw.get(index))

    def starts(self) -> Iterator[int | None]:
        """Iterate over the first characters alone, None for a token that stands for none."""
        return (None if start == end else start for start, end in zip(self._starts, self._ends, strict=True))

    def special_starts(self) -> list[int]:
        """Return where the text itself has special tokens."""
        return [self._starts[index] for index in self._special if self._starts[index] != self._ends[index]]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where some of a message lies: ``text[start:end]`` is its content from ``offset`` on."""

    message: int
    start: int
    end: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """A prompt as a model's tokenizer cuts it up."""

    text: str
    tokens: int
    pieces: Pieces | None
    """None where the tokenizer does not tell which characters a token stands for."""
    contents: tuple[Stretch, ...] | None
    """Where the messages' contents are; None where the chat template changed them beyond recognition."""
    source: Source = "counted"


def cut(tokenizer: Tokenizer, text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Pieces:
    """Make pieces of a text's ids and of the characters that their tokenizer says they stand for.

    Characters that it leaves out between two tokens, blanks mostly, belong to the later one.
    """
    pieces = Pieces()
    reached = 0
    unknown = None if tokenizer.unknown_id is None else tokenizer.token_bytes(tokenizer.unknown_id)
    for index, (token_id, (start, end)) in enumerate(zip(ids, spans, strict=True)):
        special = token_id in tokenizer.special_ids
        if unknown is not None and token_id == tokenizer.unknown_id and start < end:
            special = unknown.decode() in text[start:end]  # else it stands for text that the vocabulary lacks
        if start == end:
            pieces.add(token_id, reached, reached, special=special, raw=tokenizer.token_bytes(token_id) or b"")
            continue
        pieces.add(token_id, min(start, reached), end, special=special)
        if start < reached:
            for sharing in (index - 1, index):
                pieces.show_bytes(sharing, tokenizer.token_bytes(ids[sharing]) or b"")
        reached = max(reached, end)
    return pieces


def cut_bytes(pieces: Pieces, ids: Sequence[int], parts: Sequence[bytes], base: int) -> None:
    """Append ids and their bytes, which together are a text in UTF-8; ``base`` is the first one's character."""
    begun = base
    for token_id, part in zip(ids, parts, strict=True):
        try:
            begins, whole = len(part.decode()), True
        except UnicodeDecodeError:
            begins, whole = sum(byte & 0xC0 != 0x80 for byte in part), False
        start = begun if whole or part[0] & 0xC0 != 0x80 else begun - 1
        begun += begins
        pieces.add(token_id, start, begun, raw=None if whole else part)


def place(text: str, prompt: Prompt, render: Callable[[Prompt], str]) -> tuple[Stretch, ...] | None:
    """Find the messages' contents in ``text``, which is ``prompt`` in a chat template.

    The template is filled in once more with a mark for each content, which tells what it puts around them. Blanks
    that it takes off a content's ends are allowed for; None where it did anything else.
    """
    marks = [f"{secrets.randbits(128):039d}" for _ in prompt.messages]
    marked = tuple(Message(it.role, mark) for it, mark in zip(prompt.messages, marks, strict=True))
    try:
        skeleton = re.split(f"({'|'.join(marks)})", render(replace(prompt, messages=marked)))
    except PromptError:
        return None
    at = len(skeleton[0])
    if not text.startswith(skeleton[0]):
        return None
    found: list[Stretch] = []
    for mark, after in zip(skeleton[1::2], skeleton[2::2], strict=True):
        index = marks.index(mark)
        content = prompt.messages[index].content
        for kept in (content, content.strip(), content.rstrip(), content.lstrip()):
            if text.startswith(kept + after, at):
                found.append(Stretch(index, at, at + len(kept), content.find(kept)))
                at += len(kept) + len(after)
                break
        else:
            return None
    return tuple(found) if at == len(text) else None
