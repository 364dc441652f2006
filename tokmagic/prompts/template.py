"""A cell's text and the notebook's variables become a prompt.

The body is a sandboxed Jinja2 template with strict undefined; only ``{{ … }}`` and ``{% … %}`` are
special. A line ``--- system``, ``--- user`` or ``--- assistant`` in the cell's own source starts a
message with that role; the same words inside a variable's value never do.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast, get_args

from tokmagic.core.prompt import Message, Prompt, Role, Sampling
from tokmagic.errors import PromptError, UsageError

if TYPE_CHECKING:
    from jinja2 import nodes

Rewrite = Callable[["nodes.Template"], None]
"""Changes a template's syntax tree before it is filled in."""

ROLE_LINE = re.compile(r"^---[ \t]+(system|user|assistant)[ \t]*(\r?\n|\Z)", re.MULTILINE)
_ROLES = get_args(Role)
# What somebody may have meant to be one.
_LIKE_A_ROLE_LINE = re.compile(r"^---[ \t]*([A-Za-z]+)[ \t]*\r?$", re.MULTILINE)
# An end of line in a text whose lines do not all end with \r\n.
_NOT_CRLF = re.compile(r"(?<!\r)\n|\r(?!\n)")


def render(body: str, variables: Mapping[str, Any], rewrite: Rewrite | None = None) -> str:
    """Fill in a template. Newlines are kept; comments are off, so ``{#`` means itself.

    Raises PromptError that names the undefined variable or the line of the syntax error.
    """
    return _filler(body, rewrite)(variables)


def _filler(body: str, rewrite: Rewrite | None = None) -> Callable[[Mapping[str, Any]], str]:
    """What fills a template in with variables, raising PromptError as it does itself for a syntax error."""
    # Imported here: jinja2 takes 40 ms, and loading the extension should not pay for it.
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    never, carriage_return = uuid.uuid4().hex, uuid.uuid4().hex
    crlf = "\r" in body and not _NOT_CRLF.search(body)
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        newline_sequence="\r\n" if crlf else "\n",
        comment_start_string=f"{{{never}",
        comment_end_string=f"{never}}}",
    )
    try:
        # Jinja makes all ends of line of the source alike; where they differ, a stand-in keeps each as it was typed.
        tree = environment.parse(body if crlf else body.replace("\r", carriage_return))
        if rewrite is not None:
            rewrite(tree)
        code, known = environment.compile(tree), environment.make_globals(None)
        template = environment.template_class.from_code(environment, code, known)
    except Exception as error:
        raise _told(error) from error

    def fill(variables: Mapping[str, Any]) -> str:
        try:
            return template.render(dict(variables)).replace(carriage_return, "\r")
        except Exception as error:
            raise _told(error) from error

    return fill


def _told(error: Exception) -> PromptError:
    """What is wrong with a template, or with what it was filled in with."""
    from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError

    if isinstance(error, TemplateSyntaxError):
        return PromptError(
            f"line {error.lineno} of the prompt: {error.message}; fix the template, "
            "or use --literal if {{ and {% are meant literally"
        )
    if isinstance(error, UndefinedError):
        return PromptError(f"{error.message}; define it, or use --literal if {{{{ … }}}} is meant literally")
    if isinstance(error, TemplateError):
        return PromptError(f"the template cannot be filled in: {error}")
    # A variable's own code failed (its __str__, an operator, a filter's argument).
    says = " ".join(str(error).split())
    return PromptError(f"the template cannot be filled in: {type(error).__name__}: {says}")


def parse(
    body: str,
    variables: Mapping[str, Any] | None = None,
    *,
    literal: bool = False,
    rewrite: Rewrite | None = None,
) -> tuple[Message, ...]:
    """Turn a cell's body into messages: template first, role lines of the source respected.

    With ``literal`` every character means itself, role lines too. The one newline that ends a
    message's last line is not part of it. ``rewrite`` may change the template's tree. Raises PromptError.
    """
    if literal:
        return (Message("user", without_last_newline(body)),)
    return _messages(body, rewrite)(variables or {})


@lru_cache(maxsize=256)
def read(body: str) -> Callable[[Mapping[str, Any]], tuple[Message, ...]]:
    """A body that is filled in many times, read once: what makes messages of variables, as :func:`parse` does.

    Raises PromptError.
    """
    return _messages(body, None)


def _messages(body: str, rewrite: Rewrite | None) -> Callable[[Mapping[str, Any]], tuple[Message, ...]]:
    # Role lines are marked before templating with a word that no variable's value can guess, and
    # split after it, so that a loop may produce messages while a value never can. Digits, which have
    # no upper case: the line may stand in a {% filter %} block.
    _check_role_lines(body)
    mark = f"{uuid.uuid4().int:039d}"
    # The newline stays in front of the semicolon, so that a syntax error names the cell's own line.
    marked = ROLE_LINE.sub(lambda match: f"{mark}{match[1]}{match[2]};", body)
    fill = _filler(marked, rewrite)
    return lambda variables: _split(fill(variables), mark)


def _check_role_lines(body: str) -> None:
    """Raise PromptError for a role line with a slip: as text it would make all below it part of another message."""
    for found in _LIKE_A_ROLE_LINE.finditer(body):
        word = found[1].lower()
        near = get_close_matches(word, _ROLES, n=1, cutoff=0.8)
        # A plural is a heading.
        if near and not ROLE_LINE.match(found[0].strip()) and word != f"{near[0]}s":
            line = body.count("\n", 0, found.start()) + 1
            raise PromptError(
                f"line {line} of the prompt is {found[0].strip()!r}, which begins no message; "
                f"write '--- {near[0]}', or use --literal if it is meant literally"
            )


def _split(text: str, mark: str) -> tuple[Message, ...]:
    """The messages of a text that was filled in, each but the first with its role behind a mark."""
    first, *rest = text.split(mark)
    messages: list[Message] = []
    if first.strip():
        messages.append(Message("user", without_last_newline(first)))
    for part in rest:
        word, _, content = part.partition(";")
        role = word.strip().lower()
        if role not in _ROLES:
            raise PromptError("a filter of the template changed a '--- role' line; keep these lines out of its block")
        messages.append(Message(cast(Role, role), without_last_newline(content)))
    return tuple(messages)


def without_last_newline(text: str) -> str:
    """A message without the one newline that ends its last line."""
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def build(
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    system: str | None = None,
    history: Sequence[Message] = (),
    completion: bool = False,
) -> Prompt:
    """Put a prompt together: system message, history, then the new messages.

    Raises PromptError where there is nothing to ask, and where roles contradict each other.
    """
    roles = [message.role for message in messages]
    if not any(message.content.strip() for message in messages if message.role != "system"):
        raise PromptError("the prompt is empty; write what to ask, in a cell below the %%generate or %%tokens line")
    if completion:
        if system is not None or history or roles != ["user"]:
            raise PromptError("--completion takes plain text: no --system, no --chat and no role lines")
        return Prompt(tuple(messages), sampling, completion=True)
    if system is not None and "system" in roles:
        raise PromptError("the system message is given twice; keep --system or the '--- system' line")
    if any(message.role == "system" for message in history) and (system is not None or "system" in roles):
        raise PromptError("this conversation already has a system message; start again with --reset to change it")
    opening = (Message("system", system),) if system is not None else ()
    return Prompt((*opening, *history, *messages), sampling)


def json_schema(given: object) -> str:
    """A JSON schema as text: of an object, or of text that is one already. Raises UsageError."""
    try:
        schema = json.loads(given) if isinstance(given, str) else given
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the JSON schema cannot be read: {error}; give a dict, or JSON text") from None
    if not isinstance(schema, Mapping):
        raise UsageError(f"{text} is not a JSON schema; give an object such as {{'type': 'object'}}")
    return text


def sha256(prompt: Prompt) -> str:
    """The hex digest of the rendered messages: the same question has the same digest on every machine."""
    question = {
        "completion": prompt.completion,
        "messages": [[message.role, message.content] for message in prompt.messages],
    }
    text = json.dumps(question, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
