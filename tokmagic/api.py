"""The public functions: the magics are a thin skin over the same session."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from tokmagic.errors import UsageError, nearest
from tokmagic.events import Message, Prompt, Role, Sampling
from tokmagic.generation import Generation
from tokmagic.prompt import build
from tokmagic.run import Session

if TYPE_CHECKING:
    from tokmagic.ledger import Ledger

_session: Session | None = None


def session() -> Session:
    """Return this process's session, made at the first call."""
    global _session
    if _session is None:
        _session = Session()
        atexit.register(_session.close)
    return _session


def generate(
    prompt: str | Sequence[Mapping[str, str] | Message] | Prompt,
    model: str | None = None,
    *,
    system: str | None = None,
    completion: bool = False,
    tags: Iterable[str] = (),
    **sampling: Any,
) -> Generation:
    """Run a prompt, metered and recorded, and return its Generation.

    ``prompt`` is a text, a list of ``{"role": …, "content": …}`` messages, or a Prompt; nothing in it
    is a template. ``sampling`` takes Sampling's fields: ``max_tokens``, ``temperature``, ``top_p``,
    ``top_k``, ``min_p``, ``repetition_penalty``, ``stop``, ``seed``, ``n``.

    Raises PromptError, UsageError, ModelError, and GenerationInterrupted after an interrupt; whatever
    is raised, the run's row is settled first.
    """
    if not isinstance(prompt, Prompt):
        prompt = build(messages(prompt), _sampling(sampling), system=system, completion=completion)
    elif sampling or system is not None or completion:
        raise UsageError("a Prompt brings its own sampling and system message; give a text to set them here")
    return session().generate(prompt, model, tags=tuple(tags)).raise_for_status()


def generate_many(prompts: Iterable[Any], model: str | None = None, **options: Any) -> list[Generation]:
    """Run several prompts one after another; see :func:`generate`."""
    return [generate(prompt, model, **options) for prompt in prompts]


def count(text: str | Sequence[Mapping[str, str] | Message], model: str | None = None) -> int:
    """Return the input tokens of a plain text, or of a chat with the model's template, without loading weights.

    Raises PromptError and ModelError.
    """
    prompt = Prompt(tuple(messages(text)), completion=isinstance(text, str))
    return session().models.engine(model).count(prompt)


def ledger() -> Ledger:
    """Return this process's ledger. Raises LedgerError."""
    return session().ledger()


def messages(prompt: str | Sequence[Mapping[str, str] | Message]) -> list[Message]:
    """Turn a text or a chat into messages. Raises UsageError for anything else."""
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    if not isinstance(prompt, Iterable) or isinstance(prompt, Mapping):
        raise UsageError(f"{prompt!r} is no prompt; give a text, or a list of messages")
    return [message if isinstance(message, Message) else _message(message) for message in prompt]


def _message(given: Mapping[str, str]) -> Message:
    role = given.get("role") if isinstance(given, Mapping) else None
    content = given.get("content") if isinstance(given, Mapping) else None
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise UsageError(f"{given!r} is no message; give {{'role': 'user', 'content': 'text'}}")
    return Message(cast(Role, role), content)


def _sampling(given: dict[str, Any]) -> Sampling:
    known = Sampling.__dataclass_fields__
    for name in given:
        if name not in known:
            raise UsageError(f"unknown option {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    stop = given.get("stop", ())
    # Anything that is no list is kept as it is, for check_sampling to name.
    texts = tuple(stop) if isinstance(stop, list | tuple | set) else (stop,)
    return Sampling(**{**given, "stop": texts})
