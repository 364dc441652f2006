"""Token boundaries made visible: colours in a notebook, separators in a terminal.

The two fills are blue and orange of the Okabe-Ito palette, which people tell apart whatever their colour vision. They
are laid over the theme's own background, light or dark, with the same opacity, so that orange is the lighter of the two
on both, and neighbours differ in grey as well; a line between them does not depend on colour at all.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice

from tokmagic.explain.pieces import Piece, Trace
from tokmagic.formatting.numbers import counted
from tokmagic.formatting.tables import escape

FILLS = ("rgba(0,114,178,.35)", "rgba(230,159,0,.35)")
SPECIAL_FILL = "rgba(204,121,167,.45)"
_EDGE = "border-left:1px solid"
_TOKEN = tuple(f"{_EDGE};background:{fill}" for fill in FILLS)
_SPECIAL = f"{_EDGE};background:{SPECIAL_FILL};font-weight:bold"
_BOX = (
    "white-space:pre-wrap;overflow-wrap:anywhere;font-family:var(--jp-code-font-family,monospace);"
    "line-height:1.7;max-height:30em;overflow:auto"
)
_SEPARATOR = "│"
_NAMED = {"\n": "↵\n", "\r": "␍", "\t": "⇥\t"}
# Of no width, or they turn the order of what follows.
_INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Co", "Cs", "Cn")


def as_html(trace: Trace, limit: int) -> str:
    """The first ``limit`` tokens as HTML, each with its id as a tooltip. The text is escaped."""
    if trace.pieces is None:
        return ""
    spans = []
    for index, piece in enumerate(islice(trace.pieces, limit)):
        style = _SPECIAL if piece.special else _TOKEN[index % 2]
        title = "part of the chat format, not known exactly" if piece.id is None else f"id {piece.id}"
        spans.append(f'<span style="{style}" title="{title}">{escape(visible(trace, piece))}</span>')
    left_out = _left_out(trace, limit)
    more = f"<p>{escape(left_out)}</p>" if left_out else ""
    return f'<div class="tex2jax_ignore mathjax_ignore" style="{_BOX}">{"".join(spans)}</div>{more}'


def as_text(trace: Trace, limit: int) -> str:
    """The first ``limit`` tokens as text with a separator between them, special ones in ⟦ ⟧."""
    if trace.pieces is None:
        return ""
    shown = _SEPARATOR.join(
        f"⟦{visible(trace, piece)}⟧" if piece.special else visible(trace, piece)
        for piece in islice(trace.pieces, limit)
    )
    return "\n".join(filter(None, [shown, _left_out(trace, limit)]))


def visible(trace: Trace, piece: Piece) -> str:
    """A token's text with nothing in it left unseen: line ends, tabs, lone blanks, bytes, characters of no width."""
    if piece.id is None:
        return "▢"
    text = trace.text[piece.start : piece.end] if piece.raw is None else piece.raw.decode("utf-8", "surrogateescape")
    if not text:
        return f"‹id {piece.id}›"
    if not text.strip(" "):
        return text.replace(" ", "·")
    return "".join(map(_visible, text))


def from_the_text(trace: Trace) -> int:
    """Return how many special tokens the messages' own text turned into: what was meant to be read became structure."""
    stretches = trace.contents or ()
    starts = [it.start for it in stretches]
    special = trace.pieces.special_starts() if trace.pieces is not None else []
    within = ((at, bisect_right(starts, at) - 1) for at in special)
    return sum(index >= 0 and at < stretches[index].end for at, index in within)


def _visible(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if " " <= character <= "~" or unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    # What decoding made of a byte that is no character by itself.
    return f"‹{code - 0xDC00:02X}›" if 0xDC80 <= code <= 0xDCFF else f"‹U+{code:04X}›"


def _left_out(trace: Trace, limit: int) -> str:
    rest = trace.tokens - limit
    return f"… {counted(rest, 'more token')} not shown (--show N shows more)" if rest > 0 else ""


def legend(traces: Sequence[Trace], limit: int) -> str:
    """What the signs mean, of those alone that are shown."""
    pieces = [piece for trace in traces for piece in islice(trace.pieces or (), limit)]
    told = []
    if any("\ufffd" in piece.raw.decode("utf-8", "replace") for piece in pieces if piece.raw):
        told.append("‹F0› is a byte of a character that spans several tokens")
    if any(piece.id is None for piece in pieces):
        told.append("▢ is a token of the chat format; their number is an estimate")
    return "; ".join(told)
