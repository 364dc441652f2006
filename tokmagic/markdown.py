"""What a model wrote, made safe to show: Markdown that can neither run nor load anything.

Every ``<``, ``&`` and ``$`` the model wrote becomes an entity, in code too, so nothing of it can be
HTML or math whichever renderer reads it and however it parses code spans. Images stay text, since
loading one would tell its server about the reader. Links keep their target only for http, https,
mailto and anchors.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})([^`]*)$")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LINK_END = re.compile(r"\](?=\((?!\s*(?:https?://|mailto:|#)))", re.IGNORECASE)
_DEFINITION = re.compile(r"^(\s*(?:>\s*)*)\[(?=[^\]]*\]:)")
_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_TEXT = {"&": "&amp;", "<": "&lt;", "$": "<span>&#36;</span>"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def safe_markdown(text: str) -> str:
    """Return ``text`` as Markdown whose only HTML is our own."""
    out: list[str] = []
    code: list[str] | None = None
    fence = ""
    for line in _CONTROL.sub("", text).split("\n"):
        opening = _FENCE.match(line)
        if code is not None:
            if opening and opening[1].startswith(fence) and not opening[2].strip():
                out.append(_block(code))
                code = None
            else:
                code.append(line)
        elif opening:
            code, fence = [], opening[1]
        else:
            out.append(_line(line))
    if code is not None:  # an answer that is still streaming, or was cut off
        out.append(_block(code))
    return "\n".join(out)


def code_block(text: str) -> str:
    """Return ``text`` as one block of code."""
    return _block(_CONTROL.sub("", text).split("\n"))


def plain_text(text: str) -> str:
    """Return ``text`` for a terminal: without the control characters that could drive it."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def _block(lines: list[str]) -> str:
    # An HTML block, since in a fenced one an entity would be shown as it is written.
    body = "\n".join("".join(_ENTITY.get(char, "&#36;" if char == "$" else char) for char in line) for line in lines)
    return f"\n<pre><code>{body}\n</code></pre>\n"


def _line(line: str) -> str:
    parts: list[str] = []
    end = 0
    for span in _CODE_SPAN.finditer(line):
        parts += [_prose(line[end : span.start()]), _inline(span[2])]
        end = span.end()
    parts.append(_prose(line[end:]))
    return _DEFINITION.sub(r"\1&#91;", "".join(parts))


def _inline(code: str) -> str:
    # Every mark of Markdown becomes an entity: what is inside <code> tags is Markdown to a renderer.
    return f"<code>{''.join(char if char.isalnum() or char == ' ' else f'&#{ord(char)};' for char in code)}</code>"


def _prose(text: str) -> str:
    text = _LINK_END.sub("&#93;", text.replace("&", "\0")).replace("![", "!&#91;")
    # The ampersands of our own entities above must stay, those of the model must not.
    text = "".join(_TEXT[char] if char in "<$" else char for char in text)
    return text.replace("\0", "&amp;")
