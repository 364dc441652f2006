"""What a prompt is made of, in tokens, for one or several models, before anything runs.

A prompt becomes a ``Trace`` for each model (``readers``, ``pieces``): the tokens with the characters they stand for.
From it come the parts of the prompt (``anatomy``, variables told from what is written in the cell), what could go
(``findings``), and what is shown (``boundaries``, ``view``).
"""

from __future__ import annotations

from collections.abc import Sequence

from tokmagic.core.prompt import Prompt
from tokmagic.errors import TokmagicError
from tokmagic.explain.anatomy import Origins, origins, parts
from tokmagic.explain.findings import find
from tokmagic.explain.readers import Reader, reader_for
from tokmagic.explain.view import Counted, TokenView
from tokmagic.runs.session import Session

__all__ = ["Counted", "TokenView", "look", "origins", "parts_of"]


def look(
    session: Session, prompt: Prompt, models: Sequence[str], *, origins: Origins | None = None, show: int = 500
) -> TokenView:
    """Count a prompt for each of ``models`` and take it apart; ``origins`` tell what in it came from variables.

    A model that cannot count it is told of beside the others. Raises ModelError or PromptError where none of them can,
    and UsageError for a name that is unknown.
    """
    counted: list[tuple[Counted, Reader]] = []
    refused: dict[str, TokmagicError] = {}
    for name in dict.fromkeys(session.models.resolve(name) for name in models):
        try:
            reader = reader_for(session.models, name)
            trace = reader.trace(prompt)
            rates = session.rates(session.info(name))
            counted.append((Counted(name, reader.label, trace, rates, parts(trace, prompt, origins)), reader))
        except TokmagicError as error:
            refused[name] = error
    if not counted:
        raise next(iter(refused.values()))
    first, reader = counted[0]
    found, together = find(first.trace, prompt, reader.count)
    reasons = tuple((name, str(error)) for name, error in refused.items())
    return TokenView(prompt, tuple(it for it, _ in counted), found, together, reasons, show)


def parts_of(session: Session, model: str, prompt: Prompt) -> list[tuple[str, int]] | None:
    """What a prompt consists of for one model: its messages, each with its tokens, and what the chat's format adds.

    None where the tokenizer does not tell. Raises ModelError, PromptError, UsageError.
    """
    found = parts(reader_for(session.models, model).trace(prompt), prompt, None)
    return None if found is None else [(part.section, part.tokens) for part in found]
