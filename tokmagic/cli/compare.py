"""``tokmagic compare``: variants of a prompt from a TOML file, on the same inputs."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokmagic.cli.common import print_json, read_text
from tokmagic.comparisons.amounts import amount
from tokmagic.comparisons.api import compare_in
from tokmagic.core.money import Rates
from tokmagic.engines.registry import require_served
from tokmagic.errors import PriceError, UsageError, nearest
from tokmagic.formatting import terminal
from tokmagic.prompts.options import SAVINGS, add_endpoint, add_engine, add_own_rates
from tokmagic.prompts.parser import integer
from tokmagic.runs import api, request

if TYPE_CHECKING:
    from tokmagic.comparisons.results import Comparison
    from tokmagic.comparisons.tally import Stand
    from tokmagic.runs.session import Session

_KEYS = (
    *("variants", "over", "model", "score", "repeat", "budget", "seed", "baseline", "pilot", "concurrency", "tags"),
    *("sampling", "savings", "models"),
)


def add_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("file", metavar="FILE", help="TOML file with the variants, the inputs and how to score")
    add("--budget", metavar="USD", help="maximum that all of it may cost, in place of the file's")
    add("--pilot", type=integer, metavar="N", help="run only so many items, for a forecast of the rest")
    add("--savings", metavar="USD", help=SAVINGS)
    add("--concurrency", type=integer, metavar="N", help="how many runs go on at once at each server or local model")
    add("--markdown", action="store_true", help="print Markdown")
    add("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> int:
    """Compare: the result on stdout, how far it is on stderr."""
    if given.json and given.markdown:
        raise UsageError("--json and --markdown are two formats; give one of them")
    asked = _read(given.file)
    for name in ("budget", "pilot", "savings", "concurrency"):
        if getattr(given, name) is not None:
            asked[name] = getattr(given, name)
    sampling, savings = asked.pop("sampling", {}), asked.pop("savings", None)
    if savings is not None:
        savings = amount(savings, "savings")
    session = api.session()
    for name, table in asked.pop("models", {}).items():
        try:
            _add_model(session, name, table, Path(given.file).name)
        except (UsageError, PriceError) as error:
            raise UsageError(f"{given.file}: [models.{name}]: {error}") from None
    found = compare_in(session, **asked, **sampling, progress=_progress)
    if savings is not None:
        try:
            found = found.with_savings(savings, progress=_progress)
        except KeyboardInterrupt:
            _print(given, found)  # what was paid for before is whole
            raise
    _print(given, found)
    return int(_failed(found))


def _failed(found: Comparison) -> bool:
    """Whether nothing ran, or a model failed so often that its part was given up: then it is not what was asked for."""
    return bool(found.outcome.given_up) or not any(it.ran for it in found.answers)


def _add_model(session: Session, name: str, table: Any, given_in: str) -> None:
    """Name a model: what it is and how it is run, as for ``%model add``, and its price. Raises UsageError."""
    options = argparse.ArgumentParser(add_help=False)
    for option in ("--spec", "--quant", "--dtype", "--device", "--revision"):
        options.add_argument(option)
    add_endpoint(options)
    add_engine(options)
    add_own_rates(options)
    told = options.parse_args([])
    if not isinstance(table, dict):
        raise UsageError(f"it is no table; give one with {', '.join(vars(told))}")
    for key, value in table.items():
        if key not in told:
            raise UsageError(f"unknown key {key!r}{nearest(key, vars(told))}; known: {', '.join(vars(told))}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageError(f"{key} is {value!r}; give text or a number")
        setattr(told, key, str(value))
    spec = request.spec(told, told.spec or name)
    require_served(name, spec, session.settings)
    session.models.add(name, spec)
    if request.has_rates(told):
        session.prices.set(name, request.rates(told, Rates(), given_in))


def _print(given: argparse.Namespace, found: Comparison) -> None:
    terminal.progress("", 1.0)
    if given.markdown:
        print(found.to_markdown(), end="")
    elif given.json:
        print_json(found.to_json())
    else:
        print(found)


def _progress(stand: Stand) -> None:
    terminal.progress(str(stand))


def _read(file: str) -> dict[str, Any]:
    """What the file asks for; a path in it is from the file's own folder. Raises UsageError."""
    try:
        asked = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not TOML: {error}; fix it") from None
    for name in asked:
        if name not in _KEYS:
            raise UsageError(f"{file}: unknown key {name!r}{nearest(name, _KEYS)}; known: {', '.join(_KEYS)}")
    if not isinstance(asked.get("variants"), dict):
        raise UsageError(f"{file} has no variants; give a table [variants] with a prompt under each name")
    if not isinstance(asked.get("models", {}), dict):
        raise UsageError(f"{file}: models are tables such as [models.small]; model = [...] says which are compared")
    if not isinstance(asked.get("sampling", {}), dict) or set(asked.get("sampling", {})) & set(_KEYS):
        raise UsageError(f"{file}: sampling is a table of sampling options, such as max_tokens; seed stands outside it")
    if isinstance(asked.get("over"), str):
        asked["over"] = str(Path(file).parent / Path(asked["over"]).expanduser())
    return {"over": None, **asked}
