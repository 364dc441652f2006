"""Which prompt a cell's source holds, read by the parsers of its magics; nothing on its option line is filled in."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from tokmagic.errors import UsageError
from tokmagic.options import Parser, Unknown, generate_parser, sampling, split, tokens_parser
from tokmagic.prompt import check_sampling

# As IPython finds a cell magic: below blank lines, its name ended by a space.
_HEAD = re.compile(r"(?:[ \t\r]*\n)*%%(generate|tokens)(?: ([^\n]*)|[ \t\r]*)(?:\n|\Z)")
# IPython takes such prompts out of a cell before its magic sees it.
_SESSION = re.compile(r"^[ \t]*(?:>>>|In \[)", re.MULTILINE)
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
    parser = generate_parser() if head[1] == "generate" else tokens_parser()
    options, unknown = parser.parse_known_words(split((head[2] or "").strip(), Unknown))
    if options.help:
        raise UsageError("--help shows the options and runs nothing")
    body = source[head.end() :]
    if body and not body.endswith("\n"):
        body += "\n"
    doubt = _doubt(source, unknown, parser)
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


def _most(options: argparse.Namespace, unknown: frozenset[str]) -> int | None:
    drawn = check_sampling(sampling(options))
    return None if unknown & {"", "max_tokens", "n"} else drawn.max_tokens * drawn.n


def _doubt(source: str, unknown: frozenset[str], parser: Parser) -> str | None:
    if unknown & _IN_INPUT:
        return f"{parser.prog}'s option line holds a $name or an {{expression}}, which only a run fills in"
    if (">>>" in source or "In [" in source) and _SESSION.search(source):
        return "a line begins with a prompt such as >>>, which IPython takes away"
    return None
