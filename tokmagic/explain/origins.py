"""Which stretches of a filled-in template came from which variable."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokmagic.core.prompt import Message
from tokmagic.errors import TokmagicError
from tokmagic.prompts.template import Rewrite, parse

if TYPE_CHECKING:
    from jinja2 import nodes


@dataclass(frozen=True, slots=True)
class Origin:
    """Characters ``start`` to ``end`` of a message that an expression of the template gave."""

    name: str
    start: int
    end: int


Origins = tuple[tuple[Origin, ...], ...]
"""For each message what came from variables, in order, nothing twice."""


def origins(body: str, variables: Mapping[str, Any], messages: tuple[Message, ...]) -> Origins | None:
    """Tell what of ``messages``, which ``body`` was turned into, came from variables.

    The template is filled in once more with a mark around each ``{{ … }}``. None where that gives another text than
    the first time: the template measures or changes its own output, or a variable differs from one look to the next.
    """
    mark = f"{secrets.randbits(128):039d}"
    names: list[str] = []
    try:
        again = parse(body, variables, rewrite=_marking(mark, names))
    except TokmagicError:
        return None
    unmarked = [_unmarked(message.content, mark, names) for message in again]
    if len(unmarked) == len(messages) + 1 and not unmarked[0][0].strip():
        del unmarked[0]  # a first message that was nothing but marks
    if len(unmarked) != len(messages):
        return None
    found = []
    for message, (text, stretches) in zip(messages, unmarked, strict=True):
        # A mark after it kept the last newline from being taken off.
        if text.removeprefix(message.content) not in ("", "\n", "\r\n") or not text.startswith(message.content):
            return None
        size = len(message.content)
        found.append(tuple(Origin(it.name, it.start, min(it.end, size)) for it in stretches if it.start < size))
    return tuple(found)


def _marking(mark: str, names: list[str]) -> Rewrite:
    """A change of the tree that puts ``MARK N;`` before the expression ``names[N]`` and ``MARK ;`` after it."""

    def rewrite(tree: nodes.Template) -> None:
        from jinja2 import nodes

        for output in list(tree.find_all(nodes.Output)):
            marked: list[nodes.Expr] = []
            for node in output.nodes:
                name = None if isinstance(node, nodes.TemplateData) else _name(node)
                if name is None:
                    marked.append(node)
                    continue
                opening, closing = nodes.TemplateData(f"{mark}{len(names)};"), nodes.TemplateData(f"{mark};")
                marked += [opening, node, closing]
                names.append(name)
            output.nodes = marked

    return rewrite


def _unmarked(text: str, mark: str, names: list[str]) -> tuple[str, list[Origin]]:
    """The text without its marks, and what stood between them; where they nest, the inner one counts."""
    pieces = re.split(f"{mark}([0-9]*);", text)
    plain, length, opened = [pieces[0]], len(pieces[0]), list[str]()
    found: list[Origin] = []
    for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if number:
            opened.append(names[int(number)])
        elif opened:
            opened.pop()
        if opened and piece:
            found.append(Origin(opened[-1], length, length + len(piece)))
        plain.append(piece)
        length += len(piece)
    return "".join(plain), found


def _name(node: nodes.Node) -> str | None:
    """An expression as one recognises it, by the variable that it begins with; None where there is none."""
    from jinja2 import nodes

    match node:
        case nodes.Name():
            return None if node.name == "loop" else str(node.name)
        case nodes.Getattr():
            base = _name(node.node)
            return f"{base}.{node.attr}" if base else None
        case nodes.Getitem():
            base = _name(node.node)
            key = repr(node.arg.value) if isinstance(node.arg, nodes.Const) else "…"
            return f"{base}[{key}]" if base else None
        case nodes.Call():
            base = _name(node.node)
            return f"{base}()" if base else None
        case nodes.Filter() if node.node is not None:
            return _name(node.node)
    return next((name for child in node.iter_child_nodes() if (name := _name(child))), None)
