"""The options that the code takes, and those that a page tells of."""

from __future__ import annotations

import re
from typing import Any

from markdown_it.token import Token

from tests.pages import Page, codes, rows
from tokmagic import cli
from tokmagic.prompts import options

PARSERS = {
    "generate": options.generate_parser,
    "tokens": options.tokens_parser,
    "model": options.model_parser,
    "price": options.price_parser,
    "budget": options.budget_parser,
    "cache": options.cache_parser,
    "cost": options.cost_parser,
}
OTHERS = {"load_ext", "unload_ext", "reload_ext", "config", "pip", "env", "tokmagic"}
"""Magics that are IPython's, or take plain words."""
OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")
HELP = {"-h", "--help"}


def documented(tokens: list[Token]) -> set[str]:
    """The options that the first columns of the tables name."""
    return {
        found for cells in rows(tokens) if cells for code in codes(cells[0]) for found in OPTION.findall(code)
    } - HELP


def verbs() -> dict[str, Any]:
    """The parser of each of the command's verbs."""
    (found,) = [it for it in cli.parser()._actions if it.dest == "verb"]
    return dict(found.choices or {})


def check_no_option_is_invented(it: Page) -> None:
    """What a text shows of a magic or a command has options that these take."""
    for code in it.code:
        found = re.match(r"%{1,2}(\w+) |tokmagic (\w+) ", code)
        if found is None or found[1] in OTHERS:
            continue
        assert found[1] in PARSERS or found[2] in verbs(), f"{it}: {code}: there is no such magic or command"
        known = PARSERS[found[1]]().options() if found[1] else verbs()[found[2]]._option_string_actions
        assert set(OPTION.findall(code)) <= set(known), f"{it}: {code}"
