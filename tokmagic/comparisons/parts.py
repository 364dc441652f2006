"""A prompt's template in parts that could go: its examples, its messages, its sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tokmagic.prompts.template import ROLE_LINE

# After the end of a sentence, or of a line.
_SENTENCE = re.compile(r"(?<=[.!?])[ \t]+|(?<=[。！？])|(?<=\n)")
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_LABEL = 40


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a template: characters ``start`` to ``end``. ``label`` says what it is."""

    label: str
    start: int
    end: int

    def left_out_of(self, text: str) -> str:
        """The template without it."""
        return text[: self.start] + text[self.end :]


@dataclass(frozen=True, slots=True)
class _Section:
    role: str
    start: int
    body: int
    end: int


def parts(text: str) -> list[Part]:
    """What could be left out of a template, the longest first; what holds an expression is no sentence to leave out.

    Whether a prompt can be made of what remains is for the caller to try.
    """
    found = [*_examples(text), *_systems(text), *_sentences(text)]
    return sorted(found, key=lambda it: it.start - it.end)


def without(text: str, left_out: list[Part]) -> str:
    """The template without any of these parts, which may overlap."""
    kept, at = [], 0
    for it in sorted(left_out, key=lambda part: part.start):
        kept.append(text[at : max(at, it.start)])
        at = max(at, it.end)
    return "".join([*kept, text[at:]])


def _sections(text: str) -> list[_Section]:
    lines = list(ROLE_LINE.finditer(text))
    starts = [*(it.start() for it in lines), len(text)]
    found = [_Section(it[1], it.start(), it.end(), end) for it, end in zip(lines, starts[1:], strict=True)]
    first = starts[0]
    return [_Section("user", 0, 0, first), *found] if text[:first].strip() else found


def _last_user(sections: list[_Section]) -> int:
    return max((at for at, it in enumerate(sections) if it.role == "user"), default=-1)


def _examples(text: str) -> Iterator[Part]:
    """A question with its answer before the last question."""
    sections = _sections(text)
    pairs = [
        (one, other)
        for one, other in pairwise(sections[: _last_user(sections) + 1])
        if (one.role, other.role) == ("user", "assistant")
    ]
    for number, (question, answer) in enumerate(pairs, 1):
        yield Part(f"example {number}", question.start, answer.end)


def _systems(text: str) -> Iterator[Part]:
    for it in _sections(text):
        if it.role == "system":
            yield Part("the system message", it.start, it.end)


def _sentences(text: str) -> Iterator[Part]:
    """Sentences of the system message and of the question, where there are several."""
    sections = _sections(text)
    last = _last_user(sections)
    for at, section in enumerate(sections):
        if section.role != "system" and at < last:
            continue  # of an example: it goes as a whole
        taken = [it.span() for it in _EXPRESSION.finditer(text, section.body, section.end)]
        ends = [it.end() for it in _SENTENCE.finditer(text, section.body, section.end)]
        edges = [section.body, *(it for it in ends if not any(one < it < two for one, two in taken)), section.end]
        spans = [(one, two) for one, two in pairwise(edges) if text[one:two].strip()]
        if len(spans) < 2:
            continue
        for start, end in spans:
            if not any(one < end and start < two for one, two in taken):
                yield Part(_quoted(text[start:end]), start, end)


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return f"“{line if len(line) <= _LABEL else line[: _LABEL - 2] + ' …'}”"
