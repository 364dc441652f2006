"""Answers to the same item side by side, the words in which they differ marked."""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tokmagic.formatting import numbers
from tokmagic.formatting.markdown import plain_text
from tokmagic.formatting.tables import escape

# A word, or a character of a script that puts no space between words, a sign, a space.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORDS = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+|[^\w\s]|\s+")
# Comparing takes time by the product of both lengths at worst: this is about a second.
_MOST_PAIRS = 4_000_000
_CHARACTERS = 4_000
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$])")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. ``differs``: it is not in the other answer at that place."""

    text: str
    differs: bool


Pieces = tuple[Piece, ...]


def contrast(one: str, other: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces, those words marked that only one of them has; where both are very long nothing is.

    By difflib.SequenceMatcher over words.
    """
    words, others = _WORDS.findall(one), _WORDS.findall(other)
    if len(words) * len(others) > _MOST_PAIRS:
        return (Piece(one, False),), (Piece(other, False),)
    found: tuple[list[Piece], list[Piece]] = ([], [])
    for tag, *ends in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        for pieces, side, first, last in zip(found, (words, others), ends[::2], ends[1::2], strict=True):
            if text := "".join(side[first:last]):
                pieces.append(Piece(text, tag != "equal"))
    return _joined(found[0]), _joined(found[1])


def _joined(pieces: Sequence[Piece]) -> Pieces:
    """With a space between two marked words marked too: else a phrase would be many marks."""
    joined: list[Piece] = []
    for index, it in enumerate(pieces):
        between = 0 < index < len(pieces) - 1 and not it.text.strip() and pieces[index - 1].differs
        piece = Piece(it.text, it.differs or (between and pieces[index + 1].differs))
        if joined and joined[-1].differs == piece.differs:
            piece = Piece(joined.pop().text + piece.text, piece.differs)
        joined.append(piece)
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two answers to one item: the baseline's and a variant's. Scores are None where there are none."""

    item: int
    """Its number from 1 on."""
    labels: tuple[str, str]
    scores: tuple[float | None, float | None]
    pieces: tuple[Pieces, Pieces]

    @classmethod
    def of(
        cls, item: int, labels: tuple[str, str], scores: tuple[float | None, float | None], texts: tuple[str, str]
    ) -> Contrast:
        """Compare two texts; of long ones the beginning."""
        one, other = (_beginning(plain_text(it)) for it in texts)
        return cls(item, labels, scores, contrast(one, other))

    @property
    def heads(self) -> tuple[str, str]:
        """Each side's label, with its score."""
        one, other = (
            label if score is None else f"{label}: {score:.3g}"
            for label, score in zip(self.labels, self.scores, strict=True)
        )
        return one, other


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Answers side by side, which show themselves in a notebook, a terminal and as Markdown."""

    pairs: tuple[Contrast, ...]
    found: int
    """How many there are; only the first may be among ``pairs``."""
    what: str
    """What they have in common."""

    @property
    def note(self) -> str:
        """How many there are, and how many are shown."""
        more = f"; the first {len(self.pairs):,} are shown" if self.found > len(self.pairs) else ""
        return f"{numbers.counted(self.found, 'pair')} of answers {self.what}{more}"

    def _repr_html_(self) -> str:
        rows = "".join(_html(it) for it in self.pairs)
        # The class keeps MathJax from reading dollars as formulas.
        return f'<div class="tex2jax_ignore mathjax_ignore"><table>{rows}</table><p>{escape(self.note)}</p></div>'

    def to_markdown(self) -> str:
        """A table for each item, in GitHub's Markdown."""
        tables = []
        for it in self.pairs:
            cells = [_marked(side, tag, _escaped) for side, tag in zip(it.pieces, ("del", "ins"), strict=True)]
            heads = map(_escaped, it.heads)
            tables.append(f"Item {it.item:,}\n\n| {' | '.join(heads)} |\n| --- | --- |\n| {' | '.join(cells)} |")
        return "\n\n".join([*tables, _escaped(self.note)]) + "\n"

    def __repr__(self) -> str:
        told = []
        for it in self.pairs:
            signs = (("[-", "-]"), ("{+", "+}"))
            texts = [_signed(side, *pair) for side, pair in zip(it.pieces, signs, strict=True)]
            sides = [f"  {head}\n    {_indented(text)}" for head, text in zip(it.heads, texts, strict=True)]
            told.append("\n".join([f"item {it.item:,}", *sides]))
        return "\n\n".join([*told, self.note])


def _beginning(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} …"


_STYLE = "text-align:left;vertical-align:top;white-space:pre-wrap;width:50%"


def _html(it: Contrast) -> str:
    heads = "".join(f'<th style="text-align:left">{escape(head)}</th>' for head in it.heads)
    cells = "".join(
        f'<td style="{_STYLE}">{_marked(side, tag, escape)}</td>'
        for side, tag in zip(it.pieces, ("del", "ins"), strict=True)
    )
    return f'<tr><th rowspan="2">{it.item:,}</th>{heads}</tr><tr>{cells}</tr>'


def _marked(pieces: Iterable[Piece], tag: str, safe: Callable[[str], str]) -> str:
    return "".join(f"<{tag}>{safe(it.text)}</{tag}>" if it.differs else safe(it.text) for it in pieces)


def _escaped(text: str) -> str:
    """As Markdown in a table's cell that means just this text."""
    lines = (html.escape(_MARKDOWN.sub(r"\\\1", line), quote=False) for line in text.splitlines() or [""])
    return "<br>".join(lines)


def _signed(pieces: Iterable[Piece], before: str, after: str) -> str:
    return "".join(f"{before}{it.text}{after}" if it.differs else it.text for it in pieces)


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")
