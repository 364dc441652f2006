"""``tokmagic count``: the tokens of a plain text; for several models a table."""

from __future__ import annotations

import argparse

from tokmagic.cli.common import add_file, add_json, print_table, read_text
from tokmagic.core.prompt import Prompt
from tokmagic.explain import look
from tokmagic.prompts.options import add_models, model_names
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    add_file(verb, "text")
    add_models(verb)
    add_json(verb)


def run(given: argparse.Namespace) -> int:
    """Count without running anything."""
    session = api.session()
    prompt = Prompt(tuple(api.messages(read_text(given.file))), completion=True)
    names = model_names(given.model) or [session.models.current]
    if len(names) > 1 or given.json:
        return print_table(look(session, prompt, names).counts(), given)
    print(session.models.engine(names[0]).count(prompt))
    return 0
