"""A cell's text and the notebook's variables become a prompt.

The body is a sandboxed Jinja2 template with strict undefined; only ``{{ … }}`` and ``{% … %}`` are
special. A line ``--- system``, ``--- user`` or ``--- assistant`` in the cell's own source starts a
message with that role; the same words inside a variable's value never do.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast, get_args

from tokmagic.core.prompt import Message, Prompt, Role, Sampling
from tokmagic.errors import PromptError, UsageError

if TYPE_CHECKING:
    from jinja2 import nodes

Rewrite = Callable[["nodes.Template"], None]
"""Changes a template's syntax tree before it is filled in."""

ROLE_LINE = re.compile(r"^---[ \t]+(system|user|assistant)[ \t]*(\r?\n|\Z)", re.MULTILINE)
_ROLES = get_args(Role)
# An end of line in a text whose lines do not all end with \r\n.
_NOT_CRLF = re.compile(r"(?<!\r)\n|\r(?!\n)")


def render(body: str, variables: Mapping[str, Any], rewrite: Rewrite | None = None) -> str:
    """Fill in a template. Newlines are kept; comments are off, so ``{#`` means itself.

    Raises PromptError that names the undefined variable or the line of the syntax error.
    """
    # Imported here: jinja2 takes 40 ms, and loading the extension should not pay for it.
    from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    never, carriage_return = secrets.token_hex(16), secrets.token_hex(16)
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
        text = environment.template_class.from_code(environment, code, known).render(dict(variables))
        return text.replace(carriage_return, "\r")
    except TemplateSyntaxError as error:
        raise PromptError(
            f"line {error.lineno} of the prompt: {error.message}; fix the template, "
            "or use --literal if {{ and {% are meant literally"
        ) from None
    except UndefinedError as error:
        raise PromptError(f"{error.message}; define it, or use --literal if {{{{ … }}}} is meant literally") from None
    except TemplateError as error:
        raise PromptError(f"the template cannot be filled in: {error}") from None
    except Exception as error:
        # A variable's own code failed (its __str__, an operator, a filter's argument).
        says = " ".join(str(error).split())
        raise PromptError(f"the template cannot be filled in: {type(error).__name__}: {says}") from error


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
    # Role lines are marked before templating with a word that no variable's value can guess, and
    # split after it, so that a loop may produce messages while a value never can. Digits, which have
    # no upper case: the line may stand in a {% filter %} block.
    mark = f"{secrets.randbits(128):039d}"
    # The newline stays in front of the semicolon, so that a syntax error names the cell's own line.
    marked = ROLE_LINE.sub(lambda match: f"{mark}{match[1]}{match[2]};", body)
    first, *rest = render(marked, variables or {}, rewrite).split(mark)
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
        raise PromptError("the prompt is empty; write what to ask below the %%generate or %%tokens line")
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


# Beyond any model's context, and far inside the 64 bits that the ledger has for sums of tokens.
_MOST = 1_000_000_000


def check_sampling(sampling: Sampling) -> Sampling:
    """Return ``sampling`` if every value is in its range, else raise UsageError naming the option."""

    def number(
        option: str, value: float | None, low: float, high: float, *, open_low: bool = False, whole: bool = False
    ) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UsageError(f"{option} is {value!r}; give a {'whole ' if whole else ''}number")
        # Compared as they are: a long int does not fit a float, and nan compares false.
        if not ((low < value if open_low else low <= value) and value <= high):
            bounds = f"above {low:,}" if open_low else f"at least {low:,}"
            raise UsageError(f"{option} is {_short(value)}; it must be {bounds} and at most {high:,}")

    number("--max-tokens", sampling.max_tokens, 1, _MOST, whole=True)
    number("--temperature", sampling.temperature, 0, _MOST)
    number("--top-p", sampling.top_p, 0, 1, open_low=True)
    number("--top-k", sampling.top_k, 1, _MOST, whole=True)
    number("--min-p", sampling.min_p, 0, 1)
    number("--repetition-penalty", sampling.repetition_penalty, 0, _MOST, open_low=True)
    number("--seed", sampling.seed, 0, 2**63 - 1, whole=True)
    number("-n", sampling.n, 1, 128, whole=True)
    if not isinstance(sampling.logprobs, bool):
        raise UsageError(f"logprobs is {sampling.logprobs!r}; give True or False")
    if any(not isinstance(text, str) for text in sampling.stop):
        raise UsageError(f"--stop is {sampling.stop!r}; give strings")
    if any(not text for text in sampling.stop):
        raise UsageError("--stop is empty; give the text at which the answer should stop")
    return sampling


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


def _short(value: float) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if abs(value) < 10**20 else f"{Decimal(value):.3g}"


def sha256(prompt: Prompt) -> str:
    """The hex digest of the rendered messages: the same question has the same digest on every machine."""
    question = {
        "completion": prompt.completion,
        "messages": [[message.role, message.content] for message in prompt.messages],
    }
    text = json.dumps(question, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
