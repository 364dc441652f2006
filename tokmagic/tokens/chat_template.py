"""A model's chat template: the messages of a prompt become the text that is tokenised.

Templates are programs of strangers, so they run in Jinja2's sandbox, with what the format gives them: messages, the
spellings of special tokens, and a few functions. docs/decisions/0019-a-tokenizer-is-read-by-its-own-file.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from tokmagic.core.prompt import Message

if TYPE_CHECKING:
    from jinja2 import Template

    from tokmagic.tokens.vocabularies.folder import TokenizerFolder

FILE = "chat_template.jinja"


# What templates name the date with; they also ask whether there is such a function.
_NOW = re.compile(r"\bstrftime_now\s*\(\s*(?:(['\"])(.*?)\1\s*\))?")


class ChatTemplate(Protocol):
    """What makes one text of a chat's messages."""

    @property
    def source(self) -> Any:
        """The template's text, or texts by their names; None where the model has none."""
        ...

    def render(self, messages: Sequence[Message]) -> str:
        """Return the chat up to where the answer begins. Raises whatever the template's author meant it to."""
        ...


def dated(source: Any) -> str | None:
    """What a template says of the present, as strftime has it, each form once; None where it says nothing.

    A form that is no literal may be any: then it is all that there is.
    """
    text = source.get("default") if isinstance(source, Mapping) else source
    forms = {it[2] or "%c" for it in _NOW.finditer(text)} if isinstance(text, str) else set()
    return "\n".join(sorted(forms)) or None


def read(folder: TokenizerFolder, named: Mapping[str, str]) -> JinjaTemplate:
    """Return a folder's template: the file of its own, else the one in the settings. Raises OSError, ValueError."""
    file = folder.path / FILE
    source = file.read_text(encoding="utf-8") if file.is_file() else folder.config.get("chat_template")
    if isinstance(source, list):
        source = {str(it["name"]): it["template"] for it in source}
    return JinjaTemplate(source, named)


class JinjaTemplate:
    """A template in Jinja2, as a model's folder holds it."""

    def __init__(self, source: Any, named: Mapping[str, str]) -> None:
        """``source`` is a text, texts by their names, or None; ``named`` how special tokens are spelled."""
        self.source = source
        self._named = dict(named)

    def render(self, messages: Sequence[Message]) -> str:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        given = {"messages": chat, "tools": None, "documents": None, "add_generation_prompt": True}
        return self._template.render(self._named | given)

    @cached_property
    def _template(self) -> Template:
        source = self.source["default"] if isinstance(self.source, dict) else self.source
        from tokmagic.tokens.sandbox import environment  # start-up: jinja2 takes 40 ms

        return environment().from_string(source)
