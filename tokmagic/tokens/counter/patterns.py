r"""Which neighbours the patterns of pre-tokenizers can never take in one match.

A pattern is read into the pairs of character sets that may stand side by side in one match, found or merely tried
(Glushkov's construction, with equal sets not kept apart). What cannot be read, or would look further than one character
ahead or at all behind, is refused, so that whoever asks falls back to reading the whole text.

Characters are known where every version of Unicode says the same of them: ASCII, common ideographs, kana and their
punctuation. For others stand ``SPACELESS`` (some character other than white space) and ``ANY``. An answer about these
can be ``None``: it may be so. The dialect is Oniguruma's with its Ruby syntax, which the ``tokenizers`` package uses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

ANY = "any character"
SPACELESS = "any character but white space"
SPACES = " \t\n\r\v\f"

CharSet = Callable[[str], bool | None]
"""Whether a known character, or one of the two placeholders, is in the set; ``None`` if that is not known."""

_PROPERTY = re.compile(r"\\([pP])\{(C[cfnos]?|L[lmotu]?|M[cen]?|N[dlo]?|P[cdefios]?|S[ckmo]?|Z[lps]?)\}")
_QUANTIFIER = re.compile(r"([?*+])([?+]?)|\{(\d+)(,?)(\d*)\}")
_NOT_BEFORE_TEXT = r"(?!\S)"


class UnreadPattern(ValueError):
    """The pattern uses what this module does not argue about."""


@dataclass(frozen=True)
class Pattern:
    """What one pattern can match, as far as cutting text needs to know."""

    neighbours: tuple[tuple[CharSet, CharSet], ...]
    """Sets whose characters may follow each other in one match."""
    watched: tuple[CharSet, ...]
    r"""Sets behind which the pattern may look one character ahead, with ``(?!\S)``."""
    alone: tuple[CharSet, ...]
    """Sets whose characters match by themselves, whatever follows."""

    def bound_to(self, right: str) -> tuple[CharSet, ...]:
        r"""Return the sets of which no character may be parted from ``right`` behind it.

        A match may take both, or end otherwise where the text ends between them. (To ``(?!\S)`` white space and the end
        of the text are the same.)
        """
        bound = tuple(a for a, b in self.neighbours if b(right) is not False)
        return bound if right in SPACES else bound + self.watched

    def starts(self, right: str) -> bool:
        """Whether a match begins at ``right`` if none that began before takes it."""
        return any(one(right) is True for one in self.alone)


def read(pattern: str) -> Pattern:
    """Read a regular expression. Raises UnreadPattern."""
    return _Reader(pattern).pattern()


def literal(text: str) -> Pattern:
    """Return the pattern of a fixed text."""
    sets = [_range(char, char) for char in text]
    if not sets:
        raise UnreadPattern("a pattern that matches nothing")
    return Pattern(tuple(pairwise(sets)), (), tuple(sets) if len(sets) == 1 else ())


def _range(low: str, high: str) -> CharSet:
    def within(char: str) -> bool | None:
        if char == ANY or (char == SPACELESS and not (low == high and low in SPACES)):
            return None
        return char != SPACELESS and low <= char <= high

    return within


def _space(char: str) -> bool | None:
    return None if char == ANY else char in SPACES


def _category(name: str) -> CharSet:
    return lambda char: None if char in (ANY, SPACELESS) else unicodedata.category(char).startswith(name)


def _word(char: str) -> bool | None:
    return None if char in (ANY, SPACELESS) else char == "_" or unicodedata.category(char)[0] in "LMN"


def _union(sets: Iterable[CharSet], char: str) -> bool | None:
    answers = {one(char) for one in sets}
    return True if True in answers else None if None in answers else False


def _not(chars: CharSet) -> CharSet:
    def outside(char: str) -> bool | None:
        answer = chars(char)
        return None if answer is None else not answer

    return outside


def _either_case(chars: CharSet) -> CharSet:
    def folded(char: str) -> bool | None:
        return _union([chars], char) if char in (ANY, SPACELESS) else any(map(chars, (char.lower(), char.upper())))

    return folded


_ESCAPES: dict[str, CharSet] = {
    "s": _space,
    "S": _not(_space),
    "d": _category("Nd"),
    "D": _not(_category("Nd")),
    "w": _word,
    "W": _not(_word),
    **{name: _range(char, char) for name, char in (("r", "\r"), ("n", "\n"), ("t", "\t"), ("f", "\f"))},
}


@dataclass(frozen=True)
class _Part:
    """A piece of a pattern: what it may begin and end with, what it takes alone, whether it may take nothing."""

    first: tuple[CharSet, ...] = ()
    last: tuple[CharSet, ...] = ()
    alone: tuple[CharSet, ...] = ()
    empty: bool = True
    """It may match nothing."""
    yields: bool = True
    """It matches nothing wherever the rest needs that: what is possessive or looks ahead does not."""
    looks: bool = False


class _Reader:
    """Recursive descent over a pattern: alternatives of sequences of repeated atoms."""

    def __init__(self, pattern: str) -> None:
        self._rest = pattern
        self._folds = False
        self._neighbours: list[tuple[CharSet, CharSet]] = []
        self._watched: list[CharSet] = []

    def pattern(self) -> Pattern:
        whole = self._alternatives()
        if self._rest or whole.empty:
            raise UnreadPattern("an unmatched bracket" if self._rest else "a pattern that can match nothing")
        return Pattern(tuple(self._neighbours), tuple(self._watched), whole.alone)

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._took("|"):
            parts.append(self._sequence())
        return _Part(
            tuple(one for part in parts for one in part.first),
            tuple(one for part in parts for one in part.last),
            tuple(one for part in parts for one in part.alone),
            any(part.empty for part in parts),
            any(part.yields for part in parts),
        )

    def _sequence(self) -> _Part:
        whole = _Part()
        while self._rest and self._rest[0] not in "|)":
            part = self._repeated()
            if part.looks and whole.empty:
                raise UnreadPattern("an assertion that begins a match")
            if part.looks:
                self._watched += whole.last
            self._neighbours += product(whole.last, part.first)
            whole = _Part(
                whole.first + part.first if whole.empty else whole.first,
                part.last + whole.last if part.empty else part.last,
                (whole.alone if part.yields else ()) + (part.alone if whole.yields else ()),
                whole.empty and part.empty,
                whole.yields and part.yields,
            )
        return whole

    def _repeated(self) -> _Part:
        part = self._atom()
        found = _QUANTIFIER.match(self._rest)
        if found is None:
            return part
        self._rest = self._rest[found.end() :]
        if part.looks or self._rest[:1] in ("?", "*", "+", "{"):
            raise UnreadPattern("a repeated assertion, or a quantifier of a quantifier")
        sign, mark, least, comma, most = found.groups()
        loops = sign in ("*", "+") if sign else (comma and not most) or int(most or least) > 1
        optional = sign in ("?", "*") if sign else int(least) == 0
        if loops:
            self._neighbours += product(part.last, part.first)
        return _Part(
            part.first,
            part.last,
            part.alone if sign or int(least) < 2 else (),
            part.empty or optional,
            (part.yields or optional) and mark != "+",
        )

    def _atom(self) -> _Part:
        if self._took(_NOT_BEFORE_TEXT):
            return _Part(yields=False, looks=True)
        if self._took("("):
            return self._group()
        if self._took("["):
            chars = self._class()
        elif self._took("."):
            chars = _not(_range("\n", "\n"))
        elif self._rest[0] in "^$?*+{":
            raise UnreadPattern("an anchor, or a quantifier of nothing")
        else:
            chars = self._one()
        return _Part((chars,), (chars,), (chars,), False, False)

    def _group(self) -> _Part:
        outside = self._folds
        if self._took("?i:"):
            self._folds = True
        elif not self._took("?:") and self._rest[:1] == "?":
            raise UnreadPattern("an assertion or option")
        part = self._alternatives()
        if not self._took(")"):
            raise UnreadPattern("an unmatched bracket")
        self._folds = outside
        return part

    def _class(self) -> CharSet:
        negated = self._took("^")
        members = []
        while not self._took("]"):
            if not self._rest or self._rest[0] == "[" or self._rest.startswith("&&"):
                raise UnreadPattern("a set of sets")
            members.append(self._one(ranges=True))
        if not members:
            raise UnreadPattern("an empty set")
        chars = partial(_union, members)
        return _not(chars) if negated else chars

    def _one(self, ranges: bool = False) -> CharSet:
        """Read one escape or character, or one range of characters where these are allowed."""
        if self._rest[0] == "\\" and self._rest[1:2].isalnum():
            return self._escape()
        low = high = self._character()
        if ranges and self._rest[:1] == "-" and self._rest[1:2] != "]":
            self._rest = self._rest[1:]
            if self._rest[:1] == "[" or (self._rest[:1] == "\\" and self._rest[1:2].isalnum()):
                raise UnreadPattern("a range that ends in a set")
            high = self._character()
        if self._folds and not (low + high).isascii():
            raise UnreadPattern("a case-insensitive letter outside ASCII")
        return _either_case(_range(low, high)) if self._folds else _range(low, high)

    def _escape(self) -> CharSet:
        if self._folds:
            raise UnreadPattern("a case-insensitive set")
        named = _PROPERTY.match(self._rest)
        if named is not None:
            self._rest = self._rest[named.end() :]
            chars = _category(named[2])
            return _not(chars) if named[1] == "P" else chars
        kind, self._rest = self._rest[1], self._rest[2:]
        if kind not in _ESCAPES:
            raise UnreadPattern(f"the escape \\{kind}")
        return _ESCAPES[kind]

    def _character(self) -> str:
        self._took("\\")
        if not self._rest:
            raise UnreadPattern("a pattern that ends within a character")
        char, self._rest = self._rest[0], self._rest[1:]
        return char

    def _took(self, expected: str) -> bool:
        if not self._rest.startswith(expected):
            return False
        self._rest = self._rest[len(expected) :]
        return True
