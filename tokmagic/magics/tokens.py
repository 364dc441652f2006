"""``%tokens`` and ``%%tokens``: which prompt their words mean, and for which models."""

from __future__ import annotations

import argparse
import re
from typing import Any

from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.errors import UsageError
from tokmagic.explain import TokenView, look, origins
from tokmagic.magics.shell import Shell
from tokmagic.prompts.options import model_names, tokens_parser
from tokmagic.prompts.template import build, parse
from tokmagic.runs import api
from tokmagic.runs.generation import Generation

_OPTION_BEHIND = re.compile(r"\s(-m|--[a-z]+)\b")


def run(at: Shell, line: str, cell: str | None) -> TokenView:
    """Count a prompt for one or several models and take it apart. Raises PromptError, UsageError, ModelError."""
    parser = tokens_parser()
    words, expression = parser.leading(line) if cell is None else (line, "")
    options = at.parse(parser, words)
    if options.show < 0:
        raise UsageError(f"--show is {options.show:,}; give how many tokens to show, 0 for none")
    if cell is not None:
        prompt, found = _of_cell(at, options, cell)
    elif expression:
        prompt, found = _of_value(options, _evaluated(at, expression)), None
    else:
        raise UsageError("%tokens needs what to count: an expression such as a variable, or a cell below %%tokens")
    models = model_names(options.model) or [at.session.models.current]
    return look(at.session, prompt, models, origins=found, show=options.show)


def _evaluated(at: Shell, expression: str) -> Any:
    try:
        return at.evaluated(expression, "%tokens")
    except UsageError as error:
        if (behind := _OPTION_BEHIND.search(expression)) is None:
            raise
        raise UsageError(f"{error}; {behind[1]} stands before it, as in: %tokens -m smollm2 text") from None


def _of_cell(at: Shell, options: argparse.Namespace, cell: str) -> tuple[Prompt, Any]:
    """The prompt that ``%%generate`` would make of the cell, and where each part of it comes from."""
    messages = parse(cell, at.variables, literal=options.literal)
    prompt = build(messages, Sampling(), system=options.system, completion=options.completion)
    found = None if options.literal else origins(cell, at.variables, messages)
    if found is not None and options.system is not None:
        found = ((), *found)
    return prompt, found


def _of_value(options: argparse.Namespace, value: Any) -> Prompt:
    """A text, a chat, or what a Generation was asked."""
    if isinstance(value, Generation | Prompt):
        if options.system is not None or options.completion:
            raise UsageError("--system and --completion are for strings; this is already a prompt")
        return value.prompt if isinstance(value, Generation) else value
    messages = tuple(api.messages(value))
    if options.system is not None:
        return build(messages, Sampling(), system=options.system, completion=options.completion)
    if options.completion and not isinstance(value, str):
        raise UsageError("--completion takes a string; this is a list of messages")
    return Prompt(messages, completion=isinstance(value, str))
