"""``%tokens`` and ``%%tokens``: which prompt their words mean, and for which models."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.errors import UsageError
from tokmagic.explain import TokenView, look, origins
from tokmagic.prompts.template import build, parse
from tokmagic.runs import api
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session


def of_cell(session: Session, options: argparse.Namespace, cell: str, variables: Mapping[str, Any]) -> TokenView:
    """Look at the prompt that ``%%generate`` would make of the cell. Raises PromptError, UsageError, ModelError."""
    messages = parse(cell, variables, literal=options.literal)
    prompt = build(messages, Sampling(), system=options.system, completion=options.completion)
    found = None if options.literal else origins(cell, variables, messages)
    if found is not None and options.system is not None:
        found = ((), *found)
    return look(session, prompt, _models(session, options), origins=found, show=_show(options))


def of_value(session: Session, options: argparse.Namespace, value: Any) -> TokenView:
    """Look at a text, a chat, or what a Generation was asked. Raises PromptError, UsageError, ModelError."""
    return look(session, _prompt(options, value), _models(session, options), show=_show(options))


def evaluated(expression: str, evaluate: Callable[[str], Any]) -> Any:
    """Return the value of what stands behind the options. Raises UsageError."""
    if not expression:
        raise UsageError("%tokens needs what to count: an expression such as a variable, or a cell below %%tokens")
    try:
        return evaluate(expression)
    except Exception as error:
        says = " ".join(str(error).split())
        raise UsageError(
            f"%tokens cannot evaluate {expression!r}: {type(error).__name__}: {says}; give a variable, an "
            "expression, or a string in quotes"
        ) from None


def _prompt(options: argparse.Namespace, value: Any) -> Prompt:
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


def _models(session: Session, options: argparse.Namespace) -> list[str]:
    names = [name.strip() for given in options.model or () for name in given.split(",")]
    return [name for name in names if name] or [session.models.current]


def _show(options: argparse.Namespace) -> int:
    if options.show < 0:
        raise UsageError(f"--show is {options.show:,}; give how many tokens to show, 0 for none")
    return int(options.show)
