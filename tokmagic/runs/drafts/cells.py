"""Which prompt a cell's source holds, read by the parsers of its magics; nothing on its option line is filled in."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from functools import lru_cache

from tokmagic.errors import UsageError
from tokmagic.prompts.options import Unknown, generate_parser, sampling, split, tokens_parser
from tokmagic.prompts.template import check_sampling

# As IPython finds a cell magic: below blank lines, its name ended by a space.
_HEAD = re.compile(r"(?:[ \t\r]*\n)*%%(generate|tokens)(?: ([^\n]*)|[ \t\r]*)(?:\n|\Z)")
# IPython takes such prompts out of a cell before its magic sees it.
_SESSION = re.compile(r"\n[ \t]*(?:>>>|In \[)")
_IN_INPUT = frozenset({"", "model", "system", "chat", "reset", "literal", "completion"})


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
    model_known: bool = True


def read(source: str) -> Asked | None:
    """Return the prompt of a cell, None where it is none. Raises UsageError as its magic would."""
    head = _HEAD.match(source)
    if head is None:
        return None
    options, unknown = _options(head[1], (head[2] or "").strip())
    # IPython ends the last line where it is not, and a message is without its last line's end: it makes no difference.
    body = source[head.end() :]
    doubt = _doubt(source, unknown)
    known = "model" not in unknown and "" not in unknown
    if head[1] == "tokens":
        named = [name.strip() for given in options.model or () for name in given.split(",") if name.strip()]
        model = named[0] if named else None
        literal, completion = options.literal, options.completion
        return Asked(body, model, options.system, None, literal, completion, None, False, doubt, known)
    return Asked(
        body,
        options.model,
        options.system,
        None if options.reset else options.chat,
        options.literal,
        options.completion,
        _most(options, unknown),
        True,
        doubt,
        known,
    )


# The line stays the same while the prompt below it is written, and argparse takes longer than all the rest.
@lru_cache(maxsize=8)
def _options(magic: str, line: str) -> tuple[argparse.Namespace, frozenset[str]]:
    parser = generate_parser() if magic == "generate" else tokens_parser()
    options, unknown = parser.parse_known_words(split(line, Unknown))
    if options.help:
        raise UsageError("--help shows the options and runs nothing")
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
