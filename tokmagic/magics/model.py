"""``%model``: the models of this session."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tokmagic.engines.base import Measured, ModelSpec, Shared, Tokenized, Weighed
from tokmagic.engines.registry import require_served
from tokmagic.errors import TokmagicError, UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.magics import shared
from tokmagic.magics.display import view
from tokmagic.magics.memory import memory_rows
from tokmagic.magics.shell import Shell
from tokmagic.prompts.options import add_endpoint, add_engine
from tokmagic.prompts.parser import Parser, integer
from tokmagic.runs import request
from tokmagic.runs.session import Session
from tokmagic.tokens.agreement import compare

ACTIONS = ("list", "add", "use", "load", "unload", "info")
_INFO = (
    *("name", "model_id", "revision", "engine", "device", "dtype", "quant", "context_tokens"),
    *("arithmetic", "tokenizer_sha256", "server", "provider"),
)
_MOST = 1_000_000_000
# Whose the options are that do not say how a model is added.
_OWNERS = {"all": "unload", "keep": "load", "measure": "info", "context": "info", "batch": "info"}

_QUANT = "nf4, int8: quantise while loading; int4: run the model's GGUF file with llama.cpp"


def parser() -> Parser:
    """The words and options of ``%model``."""
    made = Parser("%model")
    add = made.add_argument
    add("action", nargs="?", choices=ACTIONS, default="list", help="what to do; none: list them")
    add("name", nargs="?", help="the model's name in this session")
    add("spec", nargs="?", help="Hugging Face id, folder, GGUF file, or the name at an endpoint")
    add("--all", action="store_true", help="unload every model")
    add("--keep", action="store_true", help="keep the models already loaded")
    add(
        "--measure", action="store_true", help="with info: measure speed and perplexity of a model here; takes a minute"
    )
    add("--quant", choices=["nf4", "int8", "int4", "none"], help=_QUANT)
    add("--dtype", metavar="TYPE", help="bf16, fp16 or fp32; default: the checkpoint's")
    add("--device", metavar="DEVICE", help="cpu, cuda or cuda:N; default: CUDA if available")
    add("--compile", choices=["auto", "on", "off"], default="auto", help="torch.compile with a static cache")
    add("--context", metavar="N", help="info: tokens of prompt and answer (default: the model's limit)")
    add("--batch", metavar="N", help="info: answers at once (default: 1)")
    add("--revision", metavar="REV", help="branch, tag or commit on the hub")
    add_endpoint(made)
    add_engine(made)
    add("--trust-remote-code", action="store_true", help="let the model run its own code")
    add("--allow-pickle", action="store_true", help="read pickled weights, which can run code")
    return made


def run(at: Shell, line: str) -> Table:
    """List, add, use, load, unload or describe models."""
    made = parser()
    options = at.parse(made, line)
    session, action, name = at.session, options.action, options.name
    if action in ("add", "use", "load", "info") and not name:
        raise UsageError(f"%model {action} needs a name; known: {', '.join(name for name, _ in session.models)}")
    _require_own(made, options)
    if action == "info":
        context, batch = _count("--context", options.context), _count("--batch", options.batch) or 1
        return _info(at, name, context, batch, measure=options.measure)
    if action == "add":
        if not options.spec:
            raise UsageError("%model add NAME SPEC: give a Hugging Face id, a folder or scripted")
        _add(session, name, request.spec(options, options.spec))
    elif action == "use":
        session.use(name)
    elif action == "load":
        shown = view(at)
        session.load(name, shown.progress, keep_others=options.keep)
        shown.clear()
    elif action == "unload":
        if not options.all and not name:
            raise UsageError("%model unload needs a name, or --all")
        for each in session.models.loaded() if options.all else [session.models.resolve(name)]:
            session.models.unload(each)
    session.channel.touch()
    return _table(session)


def _require_own(made: Parser, options: argparse.Namespace) -> None:
    """Raise UsageError for what is another action's: passed over, it would be taken for done."""
    owners = {dest: _OWNERS.get(dest, "add") for dest in vars(options) if dest not in ("action", "name")}
    for dest, owner in owners.items():
        if owner != options.action and getattr(options, dest) != made.get_default(dest):
            option = "SPEC" if dest == "spec" else f"--{dest.replace('_', '-')}"
            raise UsageError(f"{option} belongs to %model {owner}{' NAME SPEC' if owner == 'add' else ''}")


def _add(session: Session, name: str, spec: ModelSpec) -> None:
    require_served(name, spec, session.settings)
    before = dict(session.models).get(name)
    session.models.add(name, spec)
    if before is not None and before != dict(session.models)[name]:
        # What was set for the one is no price of the other.
        session.prices.reset(name)


def _table(session: Session) -> Table:
    loaded = session.models.loaded()
    try:
        current: str | None = session.models.current
    except TokmagicError:
        current = None
    rows = tuple(
        (
            f"{'* ' if name == current else ''}{name}",
            spec.source,
            spec.kind,
            session.info(name).server or spec.quant or spec.dtype or "auto",
            "loaded" if name in loaded and not spec.traits.remote else "—",
        )
        for name, spec in session.models
    )
    note = "\n".join([*_idle(session), *shared.notes(session)])
    return Table(("model", "source", "engine", "as", "state"), rows, note, figures=False)


def _idle(session: Session) -> Iterator[str]:
    """One line for each option that a model was added with and that has no effect where it runs."""
    for name, spec in session.models:
        if spec.kind == "local" and spec.compile == "on":
            engine = session.models.engine(name)
            facts = engine.facts() if isinstance(engine, Measured) else ()
            yield from (f"{name}: {option} has {told}" for option, told in facts if option.startswith("--"))


def _count(option: str, given: str | None) -> int | None:
    """A number of 1 or more. Raises UsageError."""
    try:
        number = None if given is None else integer(given)
    except ValueError:
        number = 0
    if number is not None and not 0 < number <= _MOST:
        raise UsageError(f"{option} {given!r} is not a number from 1 to {_MOST:,}")
    return number


def _info(at: Shell, name: str, context: int | None, batch: int, *, measure: bool) -> Table:
    engine = at.session.models.engine(name)
    known: tuple[tuple[str, str], ...] = engine.facts() if isinstance(engine, Measured) else ()
    if measure:
        if not isinstance(engine, Measured):
            raise UsageError(f"{name} has no weights on this machine; leave out --measure, or try `tokmagic bench`")
        shown = view(at)
        at.session.load(name, shown.progress)
        known += engine.measure(shown.progress)
        shown.clear()
    rows = [(field, str(getattr(engine.info, field) or numbers.UNKNOWN)) for field in _INFO]
    if engine.info.tokenizer_sha256 is not None and isinstance(engine, Tokenized):
        tokenizer = engine.tokenizer()
        agreement = compare(tokenizer)
        rows += [("tokenizer", tokenizer.origin), ("compared", agreement.told if agreement else numbers.UNKNOWN)]
    if isinstance(engine, Shared):
        rows += [("there", shared.told_of(engine, at.session.models.spec(name).source))]
    if isinstance(engine, Weighed):
        rows += memory_rows(at.session, name, engine, context, batch)
    return Table(("", "value"), (*rows, *known, ("state", engine.state)), figures=False)
