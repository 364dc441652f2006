"""A model's chat template: the messages of a prompt become the text that is tokenised.

Templates are programs of strangers, so they run in Jinja2's sandbox, with what the format gives them: messages, the
spellings of special tokens, and a few functions. docs/decisions/0019-a-tokenizer-is-read-by-its-own-file.md lists them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

from tokmagic.core.prompt import Message

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from tokmagic.tokens.vocabularies.folder import TokenizerFolder

FILE = "chat_template.jinja"


class ChatTemplate(Protocol):
    """What makes one text of a chat's messages."""

    @property
    def source(self) -> Any:
        """The template's text, or texts by their names; None where the model has none."""
        ...

    def render(self, messages: Sequence[Message]) -> str:
        """Return the chat up to where the answer begins. Raises whatever the template's author meant it to."""
        ...


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
        return _environment().from_string(source)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    # Imported here: jinja2 takes 40 ms, and loading the extension should not pay for it.
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %}`` marks what a model is trained on; here it is a block of its own, and no more."""

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

        def _as_it_is(self, caller: Any) -> str:
            return str(caller())

    Generation.tags = {"generation"}

    class PlainNamespace(Namespace):
        """A namespace whose attributes do not reach into Python."""

        def __init__(*args: Any, **given: Any) -> None:
            self, *positional = args
            attributes = dict(*positional, **given)
            for name in attributes:
                _require_plain(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            _require_plain(name)
            super().__setitem__(name, value)

    class PlainDict:
        """``dict`` without the rest of the type."""

        def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
            return dict(*args, **items)

        def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
            return dict.fromkeys(keys, value)

    def _require_plain(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a chat template may not set {name!r}")

    def refuse(message: Any) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _as_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": PlainDict(),
        "namespace": PlainNamespace,
    }
    return environment


def _as_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is: Jinja's own filter would escape what HTML must not hold."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
