"""Which part of a prompt takes how many tokens, its variables told from what is written in the cell.

The parts add up to the whole, whatever they are.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import TokmagicError
from tokmagic.explain.pieces import Trace
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


TEMPLATE = "template overhead"
"""What neither the messages nor their variables hold: roles, special tokens, what the template says by itself."""


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens of one part of a prompt: a variable, or what is written in the cell itself."""

    section: str
    variable: str | None
    tokens: int


def parts(trace: Trace, prompt: Prompt, origins: Origins | None) -> tuple[Part, ...] | None:
    """Give each token to the part that holds its first character, in the order of the prompt, the overhead last.

    None where the trace does not tell where tokens or messages are.
    """
    if trace.pieces is None or trace.contents is None:
        return None
    overhead: tuple[str, str | None] = (TEMPLATE, None)
    names = ["text"] if prompt.completion else sections(prompt.messages)
    starts, owners = [0], [overhead]

    def begin(at: int, owner: tuple[str, str | None]) -> None:
        if starts[-1] == at:
            owners[-1] = owner
        else:
            starts.append(at)
            owners.append(owner)

    for stretch in trace.contents:
        section = names[stretch.message]
        begin(stretch.start, (section, None))
        shift = stretch.start - stretch.offset
        for origin in origins[stretch.message] if origins else ():
            first, last = max(origin.start + shift, stretch.start), min(origin.end + shift, stretch.end)
            if first < last:
                begin(first, (section, origin.name))
                begin(last, (section, None))
        begin(stretch.end, overhead)

    tokens: dict[tuple[str, str | None], int] = dict.fromkeys(owners, 0)
    for at in trace.pieces.starts():
        owner = overhead if at is None else owners[bisect_right(starts, at) - 1]
        tokens[owner] += 1
    tokens[overhead] = tokens.pop(overhead)
    return tuple(Part(section, variable, count) for (section, variable), count in tokens.items() if count)


def sections(messages: Sequence[Message]) -> list[str]:
    """Name what each message of a chat is for: system, few-shot examples, and the question that ends it."""
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    names: list[str] = []
    example = 1
    for at, message in enumerate(messages):
        if message.role == "system" or at >= last:
            names.append(message.role)
            continue
        names.append(f"example {example} {message.role}")
        example += message.role == "assistant"
    return names
