"""Which prompt a cell's source holds, and its messages as far as they are known without running anything.

The option line is read by the parsers of its magic, and nothing on it is filled in. Of the body only ``{{ name }}`` is,
and only where the name holds a text, a number, a truth value or None: exactly these types, so that no code of a
variable's own ever runs, and the notebook can go on computing meanwhile.
"""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from tokmagic.core.prompt import Message, Role, Sampling
from tokmagic.prompts.options import check_sampling, generate_parser, model_names, sampling, tokens_parser
from tokmagic.prompts.parser import Unknown, split
from tokmagic.prompts.template import ROLE_LINE, without_last_newline

# As IPython finds a cell magic: below blank lines, its name ended by a space.
_HEAD = re.compile(r"(?:[ \t\r]*\n)*%%(generate|tokens)(?: ([^\n]*)|[ \t\r]*)(?:\n|\Z)")
# IPython takes such prompts out of a cell before its magic sees it.
_SESSION = re.compile(r"\n[ \t]*(?:>>>|In \[)")
_IN_INPUT = frozenset({"", "model", "system", "chat", "reset", "literal", "completion"})
_OPENING = re.compile(r"\{[{%]")
# Found in a fraction of the time that a pattern with ^ takes, and sooner than by ``in``.
_AFTER_END = re.compile(r"\n---")
_NAME = re.compile(r"\s*([^\W\d]\w*)\s*")
_PLAIN = (str, int, float, bool, type(None))
# What Jinja itself means by these names, whatever the notebook calls so.
_CONSTANTS = {"true": "True", "True": "True", "false": "False", "False": "False", "none": "None", "None": "None"}
_JINJAS_OWN = frozenset({"self", "super", "loop", "caller", "varargs", "kwargs"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A cell's prompt as it is written. ``max_output_tokens`` is None where it is unknown, and where nothing is run."""

    body: str
    model: str | None
    system: str | None
    chat: str | None
    literal: bool
    completion: bool
    max_output_tokens: int | None
    runs: bool
    doubt: str | None
    """Why its input can only be estimated; None where it is all known."""
    model_known: bool
    sampling: Sampling | None = None
    """How its answer is drawn; None where that is not all known, and where nothing is run."""
    cache: bool | None = None
    """Whether the cache is asked; None leaves it to the run."""
    refresh: bool = False
    dry_run: bool = False
    adds_to: str | None = None
    """The conversation that its answer is added to, begun anew or not."""


def read(source: str) -> Asked | None:
    """Return the prompt of a cell, None where it is none. Raises UsageError as its magic would."""
    head = _HEAD.match(source)
    if head is None:
        return None
    options, unknown = _options(head[1], (head[2] or "").strip())
    # IPython ends the last line where it is not, and a message is without its last line's end: it makes no difference.
    body = source[head.end() :]
    runs = head[1] == "generate"
    if runs:
        model, chat, most = options.model, None if options.reset else options.chat, _most(options, unknown)
    else:
        model, chat, most = next(iter(model_names(options.model)), None), None, None
    return Asked(
        body,
        model,
        options.system,
        chat,
        options.literal,
        options.completion,
        most,
        runs,
        _doubt(source, unknown),
        model_known="model" not in unknown and "" not in unknown,
        sampling=sampling(options) if runs and not unknown and options.json_schema is None else None,
        cache=(True if options.cache else False if options.no_cache else None) if runs else None,
        refresh=runs and options.refresh,
        dry_run=runs and options.dry_run,
        adds_to=options.chat if runs else None,
    )


# The line stays the same while the prompt below it is written, and argparse takes longer than all the rest.
@lru_cache(maxsize=8)
def _options(magic: str, line: str) -> tuple[argparse.Namespace, frozenset[str]]:
    parser = generate_parser() if magic == "generate" else tokens_parser()
    options, unknown = parser.parse_known_words(split(line, Unknown))
    return options, unknown


def _most(options: argparse.Namespace, unknown: frozenset[str]) -> int | None:
    drawn = check_sampling(sampling(options))
    return None if unknown & {"", "max_tokens", "n"} else drawn.max_tokens * drawn.n


def _doubt(source: str, unknown: frozenset[str]) -> str | None:
    if unknown & _IN_INPUT:
        return "the option line contains a $name or an {expression}, which only a run fills in"
    if _SESSION.search(source):
        return "a line begins with a prompt such as >>>, which IPython removes"
    return None


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
