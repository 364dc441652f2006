"""``tokmagic run``: a prompt from a file, run as ``%%generate`` runs a cell."""

from __future__ import annotations

import argparse
import sys

from tokmagic.cli.common import add_file, add_json, print_json, print_table, read_text
from tokmagic.core.money import Rates
from tokmagic.formatting.terminal import Printer, progress
from tokmagic.prompts.options import add_endpoint, add_engine, add_rates, add_run
from tokmagic.runs import api, request


def add_options(verb: argparse.ArgumentParser) -> None:
    add_file(verb, "prompt")
    add_run(verb)
    add_endpoint(verb)
    add_engine(verb)
    told = "a variable of the template (repeatable)"
    verb.add_argument("--set", type=_variable, action="append", default=[], metavar="NAME=VALUE", help=told)
    add_rates(verb)
    add_json(verb)


def run(given: argparse.Namespace) -> int:
    """Run the prompt: the answer on stdout, the numbers on stderr."""
    session = api.session()
    asked = request.prompt(given, read_text(given.file), dict(given.set), schema=read_text)
    name = request.model(session, given)
    if request.has_rates(given):
        session.prices.set(name, request.rates(given, Rates(), "command line"))
    if given.shadow:
        session.prices.shadow(name, None if given.shadow == "off" else given.shadow)
    if given.dry_run:
        return print_table(request.dry_run(session, asked, name), given)
    shown = Printer(stream=not (given.no_stream or given.json or given.quiet))
    generation = request.generate(session, given, asked, name, shown, progress)
    if shown.unread:
        # As with `tokmagic export | head` nothing is wrong: the person has what they wanted, and sees what it cost.
        print(generation.footer, file=sys.stderr)
        return 0
    if given.quiet:
        pass
    elif given.json:
        print_json(generation.as_dict())
    else:
        shown.rest([choice.text for choice in generation.choices])
        print(generation.footer, file=sys.stderr)
    generation.raise_for_status()
    return 0


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not a variable; give NAME=VALUE")
    return name, value
