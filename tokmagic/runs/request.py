"""What options ask for: one reading of them for ``%%generate`` and ``tokmagic run``, ``%price`` and ``%model``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from tokmagic.core.money import Rates, Uncertainty, plain
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.stream import Source
from tokmagic.engines.base import Engine, ModelSpec, Progress, Shared
from tokmagic.engines.registry import OF_ENDPOINT, shared_spec
from tokmagic.errors import ModelError, UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.prices import hourly, rate, span
from tokmagic.prompts.options import check_sampling, sampling
from tokmagic.prompts.template import build, json_schema, parse
from tokmagic.runs.budget_guard import Confirm
from tokmagic.runs.generation import Generation
from tokmagic.runs.run import Watcher
from tokmagic.runs.session import Session

_TOKEN_RATES = ("input", "output", "cached", "cache_write")


def prompt(
    options: argparse.Namespace,
    body: str,
    variables: Mapping[str, Any],
    *,
    schema: Callable[[str], object],
    history: Sequence[Message] = (),
) -> Prompt:
    """The prompt that the options make of a text; ``schema`` gives what ``--json-schema`` means if it is no JSON.

    Raises PromptError, UsageError.
    """
    conform = options.json_schema
    if conform is not None:
        try:
            conform = json_schema(json.loads(conform))
        except ValueError:
            conform = json_schema(schema(conform))
    sampled = check_sampling(sampling(options, conform))
    messages = parse(body, variables, literal=options.literal)
    made = build(messages, sampled, system=options.system, history=history, completion=options.completion)
    return replace(made, stream=not options.no_stream)


def model(session: Session, options: argparse.Namespace) -> str:
    """The name of the model that is meant, added first where it is one at an endpoint. Raises UsageError."""
    at_engine = getattr(options, "engine", None)
    if not options.api_base and not options.api_key_name and not at_engine:
        if options.server or options.tokenizer:
            raise UsageError("--server and --tokenizer are for a model at an endpoint; give --api-base URL too")
        return session.models.resolve(options.model) if options.model else session.models.current
    if not options.model:
        raise UsageError("name the endpoint's model with -m")
    session.models.add(options.model, spec(options, options.model))
    return str(options.model)


def generate(
    session: Session,
    options: argparse.Namespace,
    asked: Prompt,
    model: str | None,
    watcher: Watcher,
    progress: Progress,
    confirm: Confirm | None = None,
) -> Generation:
    """Run the prompt as the options say; see :meth:`Session.generate`."""
    if options.no_cache and (options.cache or options.refresh):
        other = "--cache" if options.cache else "--refresh"
        raise UsageError(f"--no-cache keeps the run out of the cache, {other} uses it; give one of them")
    return session.generate(
        asked,
        model,
        tags=options.tag,
        budget=options.budget,
        confirm=(lambda _question: True) if options.yes else confirm,
        cache=False if options.no_cache else options.cache or None,
        refresh=options.refresh,
        watcher=watcher,
        progress=progress,
    )


def dry_run(session: Session, asked: Prompt, model: str | None) -> Table:
    """Count and price the prompt: the least an answer costs, and the most."""
    engine = session.models.engine(model)
    input_tokens, source = _counted(engine, asked)
    most = asked.sampling.max_tokens * asked.sampling.n
    low, high = span(input_tokens, source, most, session.rates(engine.info))
    counts = numbers.tokens(input_tokens, source), f"≤ {most:,}"
    row = (engine.info.name, *counts, numbers.cost(low), numbers.cost(high))
    note = "nothing was run" if high.usd is not None else "nothing was run; no token rates are set: %price"
    exact = {
        "model": engine.info.name,
        "input_tokens": input_tokens,
        "input_source": source,
        "most_output_tokens": most,
    }
    for name, it in (("least", low), ("most", high)):
        precision = Uncertainty.of(it).precision(0)
        exact |= {f"{name}_usd": plain(it.usd), f"{name}_estimated": precision.estimated}
    return Table(("model", "in", "out", "least", "most"), (row,), note, exact=(exact,))


def _counted(engine: Engine, asked: Prompt) -> tuple[int, Source]:
    """The prompt's tokens, exactly where that is possible at all. Raises PromptError, ModelError."""
    # A shared engine counts for whoever asks it, and estimates for those that ask at every keystroke.
    if isinstance(engine, Shared):
        with suppress(ModelError):
            return engine.count(asked), "counted"
    return engine.estimate(asked)


def has_rates(options: argparse.Namespace) -> bool:
    """Whether a rate was given."""
    return any(getattr(options, name) is not None for name in (*_TOKEN_RATES, "per_1k", "gpu_hour"))


def rates(options: argparse.Namespace, before: Rates, source: str) -> Rates:
    """The rates that the options give, on top of what was set before. Raises UsageError, PriceError."""
    if not has_rates(options):
        raise UsageError("no rate is given; use --input and --output, --per-1k or --gpu-hour")
    given = {name: text for name in _TOKEN_RATES if (text := getattr(options, name)) is not None}
    new: dict[str, Any] = {name: rate(text, what=f"--{name.replace('_', '-')}") for name, text in given.items()}
    if options.per_1k is not None:
        if "input" in given or "output" in given:
            raise UsageError("--per-1k sets one rate for input and output; give it alone or give --input and --output")
        new["input"] = new["output"] = rate(options.per_1k, what="--per-1k", per=1_000)
    if options.gpu_hour is not None:
        new["device_hour"] = hourly(options.gpu_hour)
    changed = replace(before, source=source, **new)
    missing = [f"--{name}" for name in ("input", "output") if getattr(changed, name) is None]
    if missing and any(getattr(changed, name) is not None for name in _TOKEN_RATES):
        raise UsageError(f"a bill needs both token rates; give {' and '.join(missing)} too (0 if it is free)")
    return changed


def spec(options: argparse.Namespace, source: str) -> ModelSpec:
    """How to run the model at ``source``; what the parser has no option for is as by default."""
    given = {it.name: getattr(options, it.name) for it in fields(ModelSpec) if hasattr(options, it.name)}
    if given.get("quant") == "none":
        given["quant"] = None
    if engine := getattr(options, "engine", None):
        if options.api_base or options.server:
            raise UsageError("--engine is the URL of a shared engine; leave out --api-base and --server")
        there = shared_spec(source, engine, options.api_key_name, options.tokenizer)
        # What else is given is not followed there, which whoever adds it is told.
        return replace(there, **{name: it for name, it in given.items() if name not in OF_ENDPOINT})
    return ModelSpec(**{**given, "source": source})
