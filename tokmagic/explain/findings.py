"""What a prompt says twice, and spaces it does not need. What removing each saves is counted, not estimated."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import PromptError
from tokmagic.explain.pieces import Trace

REPEAT_TOKENS = 20
"""The least that a stretch must have for its repetition to be pointed out."""
_MOST_REPEATS = 5
# Indentation is left alone, since it has a meaning in code, and so is one blank line between two paragraphs.
_BLANKS = {
    "blank lines": (re.compile(r"(?<=\n)[ \t]*\r?\n(?:[ \t]*\r?\n)+"), "\n"),
    "spaces at line ends": (re.compile(r"[ \t]+(?=\r?\n|\Z)"), ""),
    "runs of spaces": (re.compile(r"(?<=\S)[ \t]{3,}(?=\S)"), " "),
}


@dataclass(frozen=True, slots=True)
class Edit:
    """In message ``message`` put ``put`` in place of the characters from ``start`` to ``end``."""

    message: int
    start: int
    end: int
    put: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that could go, with what that saves."""

    kind: str
    edits: tuple[Edit, ...]
    text: str = ""
    """The repeated text; empty for blanks."""
    tokens: int = 0
    """What the prompt is shorter by without it."""


def find(trace: Trace, prompt: Prompt, count: Callable[[Prompt], int]) -> tuple[tuple[Finding, ...], int]:
    """Return what could go, what saves most first, and what leaving all of it out saves, in tokens.

    Of repeated stretches the longest few are looked at. ``count`` counts a prompt as the trace does.
    """
    candidates = repeats(trace, prompt.messages)[:_MOST_REPEATS]
    for kind, (pattern, put) in _BLANKS.items():
        edits = tuple(
            Edit(at, match.start(), match.end(), put)
            for at, message in enumerate(prompt.messages)
            for match in pattern.finditer(message.content)
        )
        candidates += [Finding(kind, edits)] if edits else []

    def saved(edits: Sequence[Edit]) -> int:
        try:
            return trace.tokens - count(edited(prompt, edits))
        except PromptError:  # a template may insist on what would be left out
            return 0

    counted = [replace(it, tokens=saved(it.edits)) for it in candidates]
    # Blanks that the tokenizer joins to what follows cost nothing.
    found = sorted((it for it in counted if it.tokens > 0), key=lambda it: -it.tokens)
    together = saved([edit for it in found for edit in it.edits]) if len(found) > 1 else sum(it.tokens for it in found)
    return tuple(found), together


def repeats(trace: Trace, messages: Sequence[Message]) -> list[Finding]:
    """Stretches of at least REPEAT_TOKENS tokens that were there before, longest first; linear in the tokens."""
    ids, places = _content(trace)
    # Bytes rather than tuples of numbers: ten thousand of those would set the garbage collector off.
    packed = array("q", ids)
    width = packed.itemsize
    raw = packed.tobytes()
    seen: dict[bytes, int] = {}
    found: dict[str, list[Edit]] = {}
    at, ended = 0, Edit(-1, 0, 0)
    while at + REPEAT_TOKENS <= len(ids):
        window = raw[at * width : (at + REPEAT_TOKENS) * width]
        earlier = seen.setdefault(window, at)
        if earlier + REPEAT_TOKENS > at:
            at += 1
            continue
        length = REPEAT_TOKENS
        while earlier + length < at and at + length < len(ids) and ids[earlier + length] == ids[at + length]:
            length += 1
        source = _characters(places, earlier, length)
        edit = _grown(messages, source, _characters(places, at, length), ended)
        if edit is None:
            at += 1
            continue
        found.setdefault(messages[edit.message].content[edit.start : edit.end], []).append(edit)
        # What reaches into a stretch that is to go is nothing to refer to later.
        for before in range(max(at - REPEAT_TOKENS + 1, 0), at):
            window = raw[before * width : (before + REPEAT_TOKENS) * width]
            if seen.get(window) == before:
                del seen[window]
        ended = edit
        at += length
    by_length = sorted(found.items(), key=lambda it: -len(it[0]) * len(it[1]))
    return [Finding("repeated text", tuple(edits), text) for text, edits in by_length]


def edited(prompt: Prompt, edits: Sequence[Edit]) -> Prompt:
    """The prompt with all edits done; of two that overlap, the longer one."""
    contents = [message.content for message in prompt.messages]
    chosen: list[Edit] = []
    for edit in sorted(edits, key=lambda it: (it.message, it.start, -it.end)):
        if not chosen or chosen[-1].message != edit.message or chosen[-1].end <= edit.start:
            chosen.append(edit)
        elif edit.end - edit.start > chosen[-1].end - chosen[-1].start:
            chosen[-1] = edit
    for edit in reversed(chosen):
        text = contents[edit.message]
        contents[edit.message] = text[: edit.start] + edit.put + text[edit.end :]
    messages = tuple(Message(it.role, text) for it, text in zip(prompt.messages, contents, strict=True))
    return replace(prompt, messages=messages)


_Place = tuple[int, int, int]


def _content(trace: Trace) -> tuple[list[int], list[_Place]]:
    """The ids that lie in messages with their place there (message, start, end).

    What lies between messages is a number of its own, so that nothing repeats across it.
    """
    ids: list[int] = []
    places: list[_Place] = []
    if trace.pieces is None or trace.contents is None:
        return ids, places
    stretches = iter(trace.contents)
    stretch = next(stretches, None)
    for index, piece in enumerate(trace.pieces):
        while stretch is not None and piece.start >= stretch.end:
            stretch = next(stretches, None)
        inside = stretch is not None and stretch.start <= piece.start and piece.end <= stretch.end
        if stretch is None or not inside or piece.added or piece.id is None:
            ids.append(-1 - index)
            places.append((-1, 0, 0))
        else:
            shift = stretch.offset - stretch.start
            ids.append(piece.id)
            places.append((stretch.message, piece.start + shift, piece.end + shift))
    return ids, places


def _characters(places: Sequence[_Place], at: int, length: int) -> Edit:
    (message, start, _), (_, _, end) = places[at], places[at + length - 1]
    return Edit(message, start, end)


def _grown(messages: Sequence[Message], source: Edit, copy: Edit, ended: Edit) -> Edit | None:
    """The copy with the characters around it that are alike too; None where its text is not alike after all."""
    theirs, ours = messages[source.message].content, messages[copy.message].content
    start, end = copy.start, copy.end
    if theirs[source.start : source.end] != ours[start:end] or not ours[start:end].strip():
        return None
    floor = ended.end if ended.message == copy.message else 0
    shift = source.start - start
    same = source.message == copy.message
    while start > floor and start + shift > 0 and theirs[start + shift - 1] == ours[start - 1]:
        start -= 1
    while end < len(ours) and end + shift < (start if same else len(theirs)) and theirs[end + shift] == ours[end]:
        end += 1
    if same and end + shift > start:  # it would reach into what it repeats
        start = end + shift
    return Edit(copy.message, start, end)
