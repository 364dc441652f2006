"""The documentation as the tests read it: Markdown pages with their blocks, headings, links and tables."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.conftest import ROOT

_DIRECTIVE = re.compile(r"<!-- (not run: .+|raises \w+) -->\s*")
_ASSIGNMENT = re.compile(r"\w+=")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``directive`` is what a comment right before it says of it, such as ``raises BudgetError``."""

    page: Page
    line: int
    language: str
    text: str
    directive: str

    def __str__(self) -> str:
        return f"{self.page} line {self.line}"


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT) if ROOT in self.path.parents else self.path)

    @cached_property
    def tokens(self) -> list[Token]:
        return MarkdownIt("gfm-like", {"linkify": False}).parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def blocks(self) -> list[Block]:
        found, directive = [], ""
        for token in self.tokens:
            if token.type == "fence":
                assert token.map is not None
                found.append(Block(self, token.map[0] + 1, token.info, token.content, directive))
            comment = _DIRECTIVE.fullmatch(token.content) if token.type == "html_block" else None
            directive = comment[1] if comment else ""
        return found

    def of(self, *languages: str) -> list[Block]:
        """The blocks in these languages."""
        return [block for block in self.blocks if block.language in languages]

    @cached_property
    def headings(self) -> list[tuple[str, str]]:
        """Tags (``h2``) and texts."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        return [(opening.tag, _text(inline)) for opening, inline in pairs if opening.type == "heading_open"]

    @cached_property
    def anchors(self) -> set[str]:
        """What a link's fragment may name, by GitHub's rule."""
        seen: Counter[str] = Counter()
        found = set()
        for _, text in self.headings:
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return found

    def _inline(self) -> Iterator[Token]:
        for token in self.tokens:
            yield from token.children or ()

    @property
    def links(self) -> list[str]:
        """The targets of links."""
        return [str(token.attrs["href"]) for token in self._inline() if token.type == "link_open"]

    @property
    def images(self) -> list[tuple[str, str]]:
        """The targets of pictures, and what stands there for those who cannot see them."""
        return [(str(token.attrs["src"]), token.content) for token in self._inline() if token.type == "image"]

    @property
    def code(self) -> list[str]:
        """What stands in the text as code."""
        return [token.content for token in self._inline() if token.type == "code_inline"]

    def section(self, heading: str) -> list[Token]:
        """What stands below a heading of the second level, down to the next."""
        starts = [
            index for index, token in enumerate(self.tokens) if token.type == "heading_open" and token.tag <= "h2"
        ]
        for start, end in zip(starts, [*starts[1:], len(self.tokens)], strict=True):
            if _text(self.tokens[start + 1]) == heading:
                return self.tokens[start + 3 : end]
        raise AssertionError(f"{self} has no section {heading!r}")


def _text(inline: Token) -> str:
    return "".join(it.content for it in inline.children or () if it.type in ("text", "code_inline"))


def rows(tokens: list[Token]) -> list[list[Token]]:
    """The tables' rows, heads included, as their cells' contents."""
    found: list[list[Token]] = []
    for token, before in zip(tokens[1:], tokens, strict=False):
        if token.type == "tr_open":
            found.append([])
        elif before.type in ("td_open", "th_open"):
            found[-1].append(token)
    return found


def codes(inline: Token) -> list[str]:
    """What is code in a text."""
    return [it.content for it in inline.children or () if it.type == "code_inline"]


@cache
def pages() -> tuple[Page, ...]:
    """Every page that people read."""
    tops = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return tuple(Page(path) for path in [*tops, *sorted((ROOT / "docs").rglob("*.md"))])


def page(name: str) -> Page:
    """The page of this path."""
    return next(it for it in pages() if str(it) == name)


def commands(block: Block) -> list[list[str]]:
    """The simple commands of a block of shell lines, as words; of a session, those behind its prompts."""
    text = block.text
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    # Comments end with their line, which separates commands as a semicolon does.
    lexer = shlex.shlex(text.replace("\\\n", " ").replace("\n", "\n; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            found.append([])
        elif found[-1] or not _ASSIGNMENT.match(word):
            found[-1].append(word)
    return [words for words in found if words]
