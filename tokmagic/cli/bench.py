"""``tokmagic bench``: how fast a model answers, what that costs, and what the machine could do."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path

from tokmagic.bench import charts, showing
from tokmagic.bench.files import as_dict
from tokmagic.bench.plan import LEVELS, OUTPUT_TOKENS, PROMPT_TOKENS, WARMUP, Plan
from tokmagic.bench.running import Bench, bench
from tokmagic.cli.common import print_json
from tokmagic.core.files import atomic_write, expanded
from tokmagic.core.money import Rates
from tokmagic.errors import GenerationInterrupted, UsageError
from tokmagic.formatting import terminal
from tokmagic.prices.budgets import usd
from tokmagic.prompts.options import add_endpoint, add_own_rates
from tokmagic.prompts.parser import integer
from tokmagic.reports import plots
from tokmagic.runs import api, request

# A seed that nobody gave is new each time: a server may still have the prompts of the last bench in its prefix cache.
_SEED_BITS = 32


def add_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("name", nargs="?", metavar="MODEL", help="model's name, Hugging Face id or folder (the current model)")
    add("-m", "--model", metavar="NAME", help="the same; with --api-base the model's name at that server")
    add_endpoint(verb)
    add("--url", dest="api_base", metavar="URL", help="the same as --api-base")
    told = f"numbers of requests at once ({','.join(map(str, LEVELS))})"
    add("--concurrency", type=_levels, metavar="N,N,…", default=LEVELS, help=told)
    add("--requests", type=integer, metavar="N", help="requests of each level (4 for each at once, at least 8)")
    add("--warmup", type=integer, metavar="N", default=WARMUP, help="requests before the first level (1)")
    told = "tokens of each prompt, chat template included (128)"
    add("--prompt-tokens", type=integer, metavar="N", default=PROMPT_TOKENS, help=told)
    add("--output-tokens", type=integer, metavar="N", default=OUTPUT_TOKENS, help="most tokens of an answer (64)")
    add("--ignore-eos", action="store_true", help="ask for answers that go on to the last of these tokens")
    told = "words at the beginning that are the same in all prompts, a token each (0)"
    add("--shared-prefix", type=integer, metavar="N", default=0, help=told)
    add("--seed", type=integer, metavar="N", help="makes the same prompts again (new ones each time)")
    add("--max-cost", metavar="USD", help="maximum that all of it may cost")
    add_own_rates(verb)
    add("--plot", metavar="FILE", help="draw it into this .svg or .png file")
    add("--json", metavar="FILE", help="write all figures into this file; - prints them in place of the tables")


def run(given: argparse.Namespace) -> int:
    """Measure, then print, draw and write what was measured, also after an interrupt or a failure."""
    session = api.session()
    if given.name is not None:
        if given.model is not None or given.api_base or given.api_key_name:
            raise UsageError("the model is named twice; give it as MODEL or with -m, a server's with -m alone")
        if given.name.startswith(("http://", "https://")):
            raise UsageError(f"{given.name} is a server's URL; give it with --url, and its model's name with -m")
        given.model = given.name
    plan = Plan(
        seed=secrets.randbits(_SEED_BITS) if given.seed is None else given.seed,
        levels=given.concurrency,
        prompt_tokens=given.prompt_tokens,
        output_tokens=given.output_tokens,
        requests=given.requests,
        warmup=given.warmup,
        shared_prefix=given.shared_prefix,
        ignore_eos=given.ignore_eos,
    )
    cap = None if given.max_cost is None else usd(given.max_cost, what="--max-cost")
    picture = None if given.plot is None else _writable(given.plot)
    if picture is not None:
        plots.check_picture(picture)
        plots.drawing("--plot")  # before anything is paid for
    figures = None if given.json in (None, "-") else _writable(given.json)
    name = request.model(session, given)
    if request.has_rates(given):
        session.prices.set(name, request.rates(given, Rates(), "command line"))
    found = bench(
        session,
        name,
        plan,
        max_usd=cap,
        announce=lambda forecast: print(showing.forecast(forecast, name), file=sys.stderr),
        progress=terminal.progress,
    )
    terminal.progress("", 1.0)
    if found.levels:
        if given.json == "-":
            print_json(as_dict(found), indent=1)
        else:
            print(showing.text(found), flush=True)
        if picture is not None:
            plots.save(charts.plot(found), picture)
        if figures is not None:
            _write(figures, as_dict(found))
    return _ended(found)


def _ended(found: Bench) -> int:
    """Raise what ended it early, now that what was measured is told."""
    measured = sum(len(level.done) for level in found.levels)
    total = sum(map(found.plan.requests_at, found.plan.levels))
    so_far = f"{measured:,} of {total:,} requests were measured"
    if found.interrupted:
        raise GenerationInterrupted(f"the bench was interrupted: {so_far}")
    if found.failure is not None:
        raise type(found.failure)(f"{found.failure} ({so_far})")
    return 0


def _levels(text: str) -> tuple[int, ...]:
    return tuple(integer(word) for word in text.split(",") if word.strip())


def _writable(text: str) -> Path:
    """A file in a folder that is there. Raises UsageError."""
    path = expanded(text)
    if not path.parent.is_dir() or path.is_dir():
        why = "is a folder" if path.is_dir() else f"is in {path.parent}, which is no folder"
        raise UsageError(f"{text} {why}; name a file that can be written")
    return path


def _write(path: Path, figures: object) -> None:
    try:
        atomic_write(path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}; name another file") from error
