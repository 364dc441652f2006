"""A prompt cut into tokens: which characters each one stands for, and where the messages lie in it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tokmagic.errors import PromptError
from tokmagic.events import Message, Prompt, Source


class Piece(NamedTuple):
    """One token. ``start`` to ``end`` are the characters of the trace's text that it touches."""

    id: int | None
    """None for a token of a format that is not public: it is there, but nobody can tell which."""
    start: int
    end: int
    special: bool = False
    added: bool = False
    """Stands for no character of the text: the tokenizer or the chat's format added it."""
    raw: bytes | None = None
    """Its bytes where its characters are not its own: it stands for none, or shares them. Empty if unknown."""


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
    pieces: tuple[Piece, ...] | None
    """None where the tokenizer does not tell which characters a token stands for."""
    contents: tuple[Stretch, ...] | None
    """Where the messages' contents are; None where the chat template changed them beyond recognition."""
    source: Source = "counted"


def cut(
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    special: frozenset[int],
    token_bytes: Callable[[int], bytes | None],
) -> tuple[Piece, ...]:
    """Make pieces of ids and of the characters that a tokenizer says they stand for.

    Characters that it leaves out between two tokens, blanks mostly, belong to the later one.
    """
    pieces: list[Piece] = []
    reached = 0
    shared: list[int] = []
    for index, (token_id, (start, end)) in enumerate(zip(ids, spans, strict=True)):
        if start == end:
            raw = token_bytes(token_id) or b""
            pieces.append(Piece(token_id, reached, reached, token_id in special, added=True, raw=raw))
            continue
        if start < reached:
            shared += [index - 1, index]
        pieces.append(Piece(token_id, min(start, reached), end, token_id in special))
        reached = max(reached, end)
    for index in shared:
        piece = pieces[index]
        if not piece.added and piece.id is not None:
            pieces[index] = piece._replace(raw=token_bytes(piece.id) or b"")
    return tuple(pieces)


def cut_bytes(ids: Sequence[int], parts: Sequence[bytes], base: int = 0) -> list[Piece]:
    """Make pieces of ids and their bytes, which together are a text in UTF-8; ``base`` is the first one's character."""
    pieces: list[Piece] = []
    begun = base
    for token_id, part in zip(ids, parts, strict=True):
        try:
            begins, whole = len(part.decode()), True
        except UnicodeDecodeError:
            begins, whole = sum(byte & 0xC0 != 0x80 for byte in part), False
        start = begun if whole or part[0] & 0xC0 != 0x80 else begun - 1
        begun += begins
        pieces.append(Piece(token_id, start, begun, raw=None if whole else part))
    return pieces


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
