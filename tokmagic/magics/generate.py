"""``%%generate``: the cell is the prompt."""

from __future__ import annotations

import argparse

from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import UsageError
from tokmagic.formatting.tables import Table
from tokmagic.magics.budget import ask
from tokmagic.magics.display import View, view
from tokmagic.magics.shell import Shell, check_into
from tokmagic.prompts.options import generate_parser
from tokmagic.runs import request
from tokmagic.runs.generation import Generation


def run(at: Shell, line: str, cell: str | None) -> Generation | Table:
    """Run the cell as a prompt, stream the answer and meter it."""
    if cell is None:
        at.help(generate_parser(), line)
        raise UsageError("%%generate takes the cell as its prompt: begin the cell with %%generate (two percent signs)")
    options = at.parse(generate_parser(), line)
    check_into(options.into)
    asked = _prompt(at, options, cell)
    if options.dry_run:
        return request.dry_run(at.session, asked, options.model)
    keep = at.session.settings.notebook_metadata
    shown = View() if options.quiet else view(at, options.format, stream=not options.no_stream, keep_metadata=keep)
    try:
        generation = request.generate(at.session, options, asked, options.model, shown, shown.progress, ask)
    except BaseException:
        shown.clear()
        raise
    generation.format = options.format
    generation.shown_at = at.ipython.execution_count
    shown.finish(generation)
    if options.into:
        at.variables[options.into] = generation
    generation.raise_for_status()
    if options.chat:
        at.session.chats[options.chat] = [*asked.messages, Message("assistant", generation.text)]
    return generation


def _prompt(at: Shell, options: argparse.Namespace, cell: str) -> Prompt:
    if options.chat == "":  # a variable that is empty: what is said would belong to no conversation
        raise UsageError("--chat is empty; name the conversation")
    if options.reset and not options.chat:
        raise UsageError("--reset starts a conversation again; name it with --chat NAME")
    history = [] if options.reset else at.session.chats.get(options.chat, [])

    def schema(expression: str) -> object:
        return at.evaluated(expression, "--json-schema")

    return request.prompt(options, cell, at.variables, schema=schema, history=history)
