"""The public functions: the magics are a thin skin over the same session."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

from tokmagic.core.forks import in_child, whole
from tokmagic.core.prompt import Message, Prompt, Role, Sampling
from tokmagic.errors import UsageError, nearest
from tokmagic.prompts.template import build, json_schema

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger
    from tokmagic.runs.generation import Generation
    from tokmagic.runs.pace import Pace
    from tokmagic.runs.session import Session

_session: Session | None = None
_lock = threading.Lock()


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_renew)

furnish: Callable[[type[Session]], Session] | None = None
"""Makes this process's session where magics have a shell for it."""


def session() -> Session:
    """Return this process's session, made at the first call."""
    global _session
    if _session is not None:
        return _session
    with whole():
        from tokmagic.runs.session import Session  # start-up: %load_ext needs this module, and no session yet
    with _lock:  # a sidebar asks from a thread of its own
        if _session is None:
            _session = furnish(Session) if furnish else _of_a_notebook(Session())
            atexit.register(_session.close)
        return _session


def _of_a_notebook(made: Session) -> Session:
    """A session of what a notebook's kernel started, such as a worker process: its notebook's, and under its budget."""
    made.notebook = os.environ.get("JPY_SESSION_NAME") or None
    return made


def made_session() -> Session | None:
    """Return this process's session if there is one already."""
    return _session


def generate(
    prompt: str | Sequence[Mapping[str, str] | Message] | Prompt,
    model: str | None = None,
    *,
    system: str | None = None,
    completion: bool = False,
    stream: bool = True,
    tags: Iterable[str] = (),
    budget: str | Decimal | None = None,
    yes: bool = False,
    cache: bool | None = None,
    refresh: bool = False,
    **sampling: Any,
) -> Generation:
    """Run a prompt, metered and recorded, and return its Generation.

    ``prompt`` is a text, a list of ``{"role": …, "content": …}`` messages, or a Prompt; nothing in it
    is a template. ``sampling`` takes Sampling's fields: ``max_tokens``, ``temperature``, ``top_p``,
    ``top_k``, ``min_p``, ``repetition_penalty``, ``stop``, ``seed``, ``n``, ``json_schema`` (a dict or JSON text).
    ``stream`` False asks a server for the whole answer at once.
    ``budget`` is the most that the run may cost, in USD; ``yes`` lets a prompt pass that is longer than the
    cell's budget lets pass unasked.
    An identical run is replayed from the cache, where temperature 0 or a seed makes it repeatable: ``cache=True`` asks
    for that in any case, ``cache=False`` keeps the run out of it, and ``refresh`` generates and renews what is cached.

    Raises PromptError, UsageError, BudgetError, ModelError, and GenerationInterrupted after an interrupt; whatever
    is raised, the run's row is settled first.
    """
    call = _call(model, tags=tags, budget=budget, yes=yes, cache=cache, refresh=refresh)
    asked = _asked(prompt, sampling, system=system, completion=completion, stream=stream)
    return call(asked).raise_for_status()


def panel() -> Any:
    """The sidebar's view as a widget, live while its kernel runs: for front ends that have no sidebar.

    Needs the package anywidget (``pip install 'tokmagic[panel]'``). A cell that makes a panel anew replaces its own.
    Raises UsageError.
    """
    here = session()
    return here.panels.open(here.cell_id(), magics=furnish is not None)


def generate_many(
    prompts: Iterable[str | Sequence[Mapping[str, str] | Message] | Prompt],
    model: str | None = None,
    *,
    concurrency: int | None = None,
    return_errors: bool = False,
    progress: bool | Callable[[Pace], None] | None = None,
    **options: Any,
) -> list[Generation]:
    """Run several prompts at the same time and return their Generations, in their order.

    ``options`` are those of :func:`generate`, for each of the prompts. ``concurrency`` is how many run at once: by
    default as many as a local model batches, 32, and 8 at a server. A run that does not fit a budget beside the others
    waits until they have ended. Of prompts that are the same one runs, where its answer may be cached for the others.

    All prompts are checked before the first one runs. If some fail the others finish all the same, and the first error
    is raised then; with ``return_errors`` nothing is raised, and the Generations of those have their ``error`` set.
    An interrupt stops all of them; every row is settled first. Raises as :func:`generate` does.

    How far it is, with tokens, cost and what is still to come, is shown in the output of a notebook's cell; with
    ``progress=True`` on standard error elsewhere too, with False nowhere. A function is called with a
    :class:`~tokmagic.runs.pace.Pace` each time that something is done.
    """
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable):
        raise UsageError(f"{prompts!r} are not prompts; give a list of them")
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise UsageError(f"concurrency is {concurrency!r}; give a whole number above 0")
    generations = _many(prompts, model, concurrency, progress, **options)
    if not return_errors:
        for generation in generations:
            generation.raise_for_status()
    return generations


def _many(
    prompts: Iterable[str | Sequence[Mapping[str, str] | Message] | Prompt],
    model: str | None,
    concurrency: int | None,
    progress: bool | Callable[[Pace], None] | None,
    *,
    system: str | None = None,
    completion: bool = False,
    stream: bool = True,
    tags: Iterable[str] = (),
    budget: str | Decimal | None = None,
    yes: bool = False,
    cache: bool | None = None,
    refresh: bool = False,
    **sampling: Any,
) -> list[Generation]:
    call = _call(model, tags=tags, budget=budget, yes=yes, cache=cache, refresh=refresh)
    asked = [_asked(prompt, sampling, system=system, completion=completion, stream=stream) for prompt in prompts]
    with whole():
        from tokmagic.runs.many import run_all, told  # start-up: one prompt needs none of this
    with told(session(), progress) as tell:
        return run_all(session(), asked, call, model, concurrency, cache=cache, refresh=refresh, progress=tell)


def _call(
    model: str | None,
    *,
    tags: Iterable[str],
    budget: str | Decimal | None,
    yes: bool,
    cache: bool | None,
    refresh: bool,
) -> Callable[..., Generation]:
    """What runs a prompt, beside others if they are given, with these options. Raises UsageError."""
    labels = texts_of("tags", tags)
    if cache not in (None, True, False) or refresh not in (True, False):
        raise UsageError(f"cache is {cache!r} and refresh {refresh!r}; give True or False")
    if cache is False and refresh:
        raise UsageError("cache=False keeps the run out of the cache, refresh renews what is in it; give one of them")
    return partial(
        session().generate,
        model=_model(model),
        cell_id=session().cell_id(),
        tags=labels,
        budget=budget,
        confirm=(lambda _question: True) if yes else None,
        cache=cache,
        refresh=refresh,
    )


def _asked(
    prompt: str | Sequence[Mapping[str, str] | Message] | Prompt,
    sampling: dict[str, Any],
    *,
    system: str | None,
    completion: bool,
    stream: bool,
) -> Prompt:
    if system is not None and not isinstance(system, str):
        raise UsageError(f"system is {system!r}; give a string")
    if not isinstance(prompt, Prompt):
        made = build(messages(prompt), sampling_of(sampling), system=system, completion=completion)
        return replace(made, stream=bool(stream))
    if sampling or system is not None or completion:
        raise UsageError("a Prompt has its own sampling and system message; give a string to set them here")
    if not isinstance(prompt.messages, tuple) or any(not _is_message(message) for message in prompt.messages):
        raise UsageError(f"{prompt.messages!r} are not messages; give a tuple of Message(role, text)")
    stop: object = prompt.sampling.stop
    # Prompts are told apart by their hash, which a list has not.
    return replace(prompt, sampling=replace(prompt.sampling, stop=tuple(stop))) if isinstance(stop, list) else prompt


def count(text: str | Sequence[Mapping[str, str] | Message], model: str | None = None) -> int:
    """Return the input tokens of a plain text, or of a chat with the model's template, without loading weights.

    Raises PromptError and ModelError.
    """
    prompt = Prompt(tuple(messages(text)), completion=isinstance(text, str))
    return session().models.engine(_model(model)).count(prompt)


def ledger() -> Ledger:
    """Return this process's ledger. Raises LedgerError."""
    return session().ledger()


def messages(prompt: str | Sequence[Mapping[str, str] | Message]) -> list[Message]:
    """Turn a text or a chat into messages. Raises UsageError for anything else."""
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    if not isinstance(prompt, Iterable) or isinstance(prompt, Mapping):
        raise UsageError(f"{prompt!r} is not a prompt; give a string, or a list of messages")
    return [_message(message) for message in prompt]


def _message(given: Mapping[str, str] | Message) -> Message:
    if isinstance(given, Mapping):
        given = Message(cast(Role, given.get("role")), cast(str, given.get("content")))
    if not _is_message(given):
        raise UsageError(f"{given!r} is not a message; give {{'role': 'user', 'content': 'text'}}")
    return given


def _is_message(given: object) -> bool:
    known = get_args(Role)
    return isinstance(given, Message) and given.role in known and isinstance(given.content, str)


def _model(given: str | None) -> str | None:
    if given is not None and not isinstance(given, str):
        raise UsageError(f"model is {given!r}; give its name, a Hugging Face id or a folder")
    return given


def texts_of(what: str, given: Iterable[str]) -> tuple[str, ...]:
    """``given`` as a tuple of strings. Raises UsageError, which names ``what``, for anything else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{what} is {given!r}; give a list of strings")
    texts = tuple(given)
    if any(not isinstance(text, str) for text in texts):
        raise UsageError(f"{what} is {list(texts)!r}; give a list of strings")
    return texts


def sampling_of(given: dict[str, Any]) -> Sampling:
    """Sampling options by their names, their values unchecked. Raises UsageError for a name that is none."""
    known = Sampling.__dataclass_fields__
    for name in given:
        if name not in known:
            raise UsageError(f"unknown option {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    stop = given.get("stop", ())
    # Anything that is no list is kept as it is, for check_sampling to name.
    texts = tuple(stop) if isinstance(stop, list | tuple | set) else (stop,)
    schema = given.get("json_schema")
    schemas = {} if schema is None else {"json_schema": json_schema(schema)}
    return Sampling(**{**given, "stop": texts, **schemas})
