"""A cell's body becomes messages without running anything: what is not plainly known is left out.

Only ``{{ name }}`` is filled in, and only where the name holds a text, a number, a truth value or None: exactly these
types, so that no code of a variable's own ever runs, and the notebook can go on computing meanwhile.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any, cast

from tokmagic.core.prompt import Message, Role
from tokmagic.prompts.template import ROLE_LINE, without_last_newline

_OPENING = re.compile(r"\{[{%]")
# Found in a fraction of the time that a pattern with ^ takes, and sooner than by ``in``.
_AFTER_END = re.compile(r"\n---")
_NAME = re.compile(r"\s*([^\W\d]\w*)\s*")
_PLAIN = (str, int, float, bool, type(None))
# What Jinja itself means by these names, whatever the notebook calls so.
_CONSTANTS = {"true": "True", "True": "True", "false": "False", "False": "False", "none": "None", "None": "None"}
_JINJAS_OWN = frozenset({"self", "super", "loop", "caller", "varargs", "kwargs"})


def fill(body: str, variables: Mapping[str, Any], *, literal: bool) -> tuple[tuple[Message, ...], bool]:
    """Return the messages of ``body``, and whether a run would make exactly these of it."""
    if literal:
        return (Message("user", without_last_newline(body)),), True
    exact = True
    messages: list[Message] = []
    for role, source in _parts(body):
        text, known = _filled(source, variables)
        exact = exact and known
        if role is not None or text.strip():
            messages.append(Message(role or "user", without_last_newline(text)))
    return tuple(messages), exact


def _parts(body: str) -> list[tuple[Role | None, str]]:
    """The source of each message, with the role that its line gives."""
    if not body.startswith("---") and not _AFTER_END.search(body):
        return [(None, body)]
    # For each role line: what stands before it, its role, its end of line.
    first, *rest = ROLE_LINE.split(body)
    return [(None, first), *((cast(Role, role), text) for role, text in zip(rest[::3], rest[2::3], strict=True))]


def _filled(source: str, variables: Mapping[str, Any]) -> tuple[str, bool]:
    pieces: list[str] = []
    exact, at = True, 0
    while found := _OPENING.search(source, at):
        expression = found[0] == "{{"
        end = source.find("}}" if expression else "%}", found.end())
        if end < 0:
            exact = False
            break
        value = _value(source[found.end() : end], variables) if expression else None
        exact = exact and value is not None
        pieces += source[at : found.start()], value or ""
        at = end + 2
    return "".join((*pieces, source[at:])), exact


def _value(expression: str, variables: Mapping[str, Any]) -> str | None:
    """What a plain name is filled in with; None where only a run can tell."""
    match = _NAME.fullmatch(expression)
    name = match[1] if match else ""
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    if not name.isidentifier() or keyword.iskeyword(name) or name in _JINJAS_OWN:
        return None
    value = variables.get(name, _NAME)
    if type(value) not in _PLAIN:
        return None
    try:
        return str(value)
    except ValueError:  # more digits than Python writes out
        return None
