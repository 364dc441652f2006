"""The options that the code takes, and those that a page tells of."""

from __future__ import annotations

import re
from typing import Any

from markdown_it.token import Token

from tests.pages import Page, codes, rows
from tokmagic.cli.command import parser
from tokmagic.magics import budget, cache, cost, model, price, tokmagic
from tokmagic.prompts import options

PARSERS = {
    "generate": options.generate_parser,
    "tokens": options.tokens_parser,
    "compare": options.compare_parser,
    "model": model.parser,
    "price": price.parser,
    "budget": budget.parser,
    "cache": cache.parser,
    "cost": cost.parser,
    "tokmagic": tokmagic.parser,
}
OTHERS = {"load_ext", "unload_ext", "reload_ext", "config", "pip", "env"}
"""Magics that are IPython's."""
OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")
HELP = {"-h", "--help"}


def documented(tokens: list[Token]) -> set[str]:
    """The options that the first columns of the tables name."""
    return {
        found for cells in rows(tokens) if cells for code in codes(cells[0]) for found in OPTION.findall(code)
    } - HELP


def verbs() -> dict[str, Any]:
    """The parser of each of the command's verbs."""
    (found,) = [it for it in parser()._actions if it.dest == "verb"]
    return dict(found.choices or {})


def options_of(it: Any) -> list[str]:
    """The option words that a parser knows."""
    return sorted(it._option_string_actions)


def check_no_option_is_invented(it: Page) -> None:
    """What a text shows of a magic or a command has options that these take."""
    for code in it.code:
        found = re.match(r"%{1,2}(\w+) |tokmagic (\w+) ", code)
        if found is None or found[1] in OTHERS:
            continue
        assert found[1] in PARSERS or found[2] in verbs(), f"{it}: {code}: there is no such magic or command"
        known = options_of(PARSERS[found[1]]() if found[1] else verbs()[found[2]])
        assert set(OPTION.findall(code)) <= set(known), f"{it}: {code}"
