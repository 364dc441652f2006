"""What a model wrote, made safe to show: it can neither run nor load anything.

The answer is parsed as Markdown with HTML off, and written as one block of the plainest HTML, which every
renderer of Markdown passes through as it stands: none of them gets to read the model's own characters a
second time. Images become links, since loading one would tell its server about the reader. Links lead to
http, https, mailto and anchors alone. Dollars and backslashes stand in elements of their own, so that no
front end takes what lies between two of them for math.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

_SAFE_LINK = re.compile(r"https?://|mailto:|#", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What turns the direction of the text after it round, so that a line reads otherwise than it is.
_TURNS = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
_HALF = re.compile(r"[\ud800-\udfff]")
_MATH = re.compile(r"[$\\]")
# A parser's time is spent on what may begin or end a construct; an answer of this size has 25,000 tokens.
_SIGNS = "\n!&*:<>[\\]_`|~"
_MOST_CHARS, _MOST_SIGNS = 100_000, 10_000
_ADDRESS = re.compile(r"(?:https?://|mailto:)[^\W_][\w\-.~:/?#\[\]@!$&()*+,;=%]*", re.IGNORECASE)
_SCHEME = re.compile(r"(?<![A-Za-z0-9.+-])(?:https?|mailto)\Z", re.IGNORECASE)
# What could start a formula, begin a construct or end the block, where the renderer reads raw characters.
_RAW = {"$": "&#36;", "\\": "&#92;", "\n": "&#10;"}


def safe_markdown(text: str) -> str:
    """Return ``text``, which is Markdown of anybody's, as Markdown that is safe to show.

    What would take long to parse is shown as text.
    """
    if is_long(text):
        return code_block(text)
    body = _parser().render(plain_text(text)).strip()
    # A blank line would end the block; within <pre> line ends are entities already.
    return "<div>\n" + re.sub("\n{2,}", "\n", body) + "\n</div>"


def is_long(*texts: str) -> bool:
    """Whether it would take more than about a second to parse these texts as Markdown."""
    size = sum(map(len, texts))
    return size > _MOST_CHARS or sum(text.count(sign) for text in texts for sign in _SIGNS) > _MOST_SIGNS


def code_block(text: str) -> str:
    """Return ``text`` as one block of code."""
    return f"<pre><code>{_raw(plain_text(text))}</code></pre>"


def note(text: str) -> str:
    """Return one line of text, set off from the answer."""
    return f"<p><em>{_shown(text)}</em></p>"


def plain_text(text: str) -> str:
    """Return ``text`` without the control characters that could drive a terminal.

    What turns the direction of the text is spelled out, as in ⟨202E⟩. An incomplete character (a lone surrogate), which
    no output can hold, becomes the replacement character.
    """
    shown = _CONTROL.sub("", text.replace("\r\n", "\n"))
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", _TURNS.sub(lambda sign: f"⟨{ord(sign[0]):04X}⟩", shown))


@cache
def _parser() -> MarkdownIt:
    # Imported here: it takes 60 ms, and loading the extension should not pay for it.
    from markdown_it import MarkdownIt

    class Parser(MarkdownIt):
        def validateLink(self, url: str) -> bool:
            return _SAFE_LINK.match(url) is not None

    parser = Parser("gfm-like", {"html": False, "linkify": False})
    # With HTML off an entity is what the model wrote, too. A definition hides text, and gives a link its
    # target far from where it is read.
    parser.disable(["image", "reference", "entity"])
    # The parser's own rule for addresses tries each of a long run anew: 36 kB of them took 10 s.
    parser.inline.ruler.at("linkify", _address)
    for kind, rule in (("text", _text), ("code_inline", _code_inline), ("code_block", _code), ("fence", _code)):
        parser.add_render_rule(kind, rule)
    return parser


def _address(state: StateInline, silent: bool) -> bool:
    """Make a link of an address that stands in the text, at the colon behind its scheme."""
    scheme = _SCHEME.search(state.pending[-len("xmailto") :]) if state.src[state.pos] == ":" else None
    if scheme is None or state.linkLevel > 0:
        return False
    start = state.pos - len(scheme[0])
    if (match := _ADDRESS.match(state.src, start, state.posMax)) is None:
        return False
    shown = _without_what_ends_a_sentence(match[0])
    url = state.md.normalizeLink(shown)
    if not state.md.validateLink(url):
        return False
    if not silent:
        state.pending = state.pending[: -len(scheme[0])]
        state.push("link_open", "a", 1).attrs = {"href": url}
        state.push("text", "", 0).content = shown
        state.push("link_close", "a", -1)
    state.pos = start + len(shown)
    return True


def _without_what_ends_a_sentence(address: str) -> str:
    unopened = address.count(")") - address.count("(")
    end = len(address)
    while end and (address[end - 1] in ".,;:!?*_~&[]" or (address[end - 1] == ")" and unopened > 0)):
        unopened -= address[end - 1] == ")"
        end -= 1
    return address[:end]


def _text(_self: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    return _shown(tokens[index].content)


def _code_inline(_self: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    return f"<code>{_raw(tokens[index].content)}</code>"


def _code(_self: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    return f"<pre><code>{_raw(tokens[index].content)}</code></pre>\n"


def _shown(text: str) -> str:
    return _MATH.sub(lambda sign: f"<span>{_RAW[sign[0]]}</span>", html.escape(text))


def _raw(text: str) -> str:
    return "".join(_RAW.get(char, char) for char in html.escape(text))
