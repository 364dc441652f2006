"""``%price``: the rates of the models."""

from __future__ import annotations

import re

from tokmagic.core.money import Rates, Tier
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.magics.display import view
from tokmagic.magics.shell import Shell
from tokmagic.prompts.options import add_rates
from tokmagic.prompts.parser import Parser
from tokmagic.runs import request
from tokmagic.runs.session import Session

# A number behind the model.
_BARE_RATE = re.compile(r"\s*[^\s-]\S*\s+([$.]?\d\S*)")
_EXAMPLE = "write %price MODEL --input 0.15 --output 0.60"


def parser() -> Parser:
    """The words and options of ``%price``."""
    made = Parser("%price")
    made.add_argument("model", nargs="?", help="the model whose rates are shown or set; none: list all")
    made.add_argument("off", nargs="?", choices=["off"], help="remove all rates set for the model")
    add_rates(made)
    return made


def run(at: Shell, line: str) -> Table:
    """List the rates, or show or set those of a model."""
    if bare := _BARE_RATE.match(line):
        raise UsageError(f"{bare[1]!r} is no rate's name; {_EXAMPLE}; see %price --help")
    options = at.parse(parser(), line)
    session, book = at.session, at.session.prices
    if options.model is None:
        if request.has_rates(options) or options.shadow:
            raise UsageError(f"the model is missing whose rates these are; {_EXAMPLE}")
        return _table(session)
    name = session.models.resolve(options.model)
    has_rates = request.has_rates(options)
    if options.off and (options.shadow or has_rates):
        raise UsageError("off removes all rates set for a model; give no other options with it")
    if options.off:
        book.reset(name)
        return _table(session)
    if not has_rates and not options.shadow:
        return _shown(at, name)
    # Everything is read before anything is changed.
    rates = request.rates(options, book.get(name), "%price") if has_rates else None
    if options.shadow:
        book.shadow(name, None if options.shadow == "off" else options.shadow)
    if rates is not None:
        book.set(name, rates)
    return _table(session)


def _shown(at: Shell, name: str) -> Table:
    """The rates of one model; a shared engine is asked for what it charges."""
    if at.session.models.spec(name).shared:
        progress = view(at)
        at.session.load(name, progress.progress)
        progress.clear()
    return _table(at.session, name)


def _table(session: Session, only: str | None = None) -> Table:
    rows = []
    for name, spec in session.models:
        if only not in (None, name):
            continue
        rates = session.rates(session.info(name))
        source = _waits_for(session, name, spec) if rates.source == "unknown" else None
        source = source or rates.source
        rows.append((name, *_cells(rates), source, rates.version or numbers.UNKNOWN))
        rows += [(f"  above {tier.above_tokens:,} in", *_cells(tier), "", "") for tier in rates.tiers]
        if rates.shadow is not None:
            shadow = rates.shadow
            rows.append((f"  as {rates.shadow_model}", *_cells(shadow), shadow.source, shadow.version or ""))
        charged = session.models.told_rates(name)
        if charged is not None and rates.source != charged.source:
            rows.append(("  there", *_cells(charged), charged.source, charged.version or numbers.UNKNOWN))
    columns = ("model", "input /1M", "output /1M", "cached /1M", "cache-write /1M", "device /h", "source", "as of")
    note = session.prices.problem or "set rates with %price MODEL --input 0.15 --output 0.60"
    return Table(columns, tuple(rows), note)


def _waits_for(session: Session, name: str, spec: ModelSpec) -> str | None:
    """Where the rates of a model will come from once more is known of it."""
    if spec.shared:
        return f"its shared engine's; %price {name} asks for them"
    if spec.traits.billed_by_device and name not in session.models.opened():
        return "its device's list price, once it is loaded"
    return None


def _cells(rates: Rates | Tier) -> tuple[str, ...]:
    values = (rates.input, rates.output, rates.cached, rates.cache_write, getattr(rates, "device_hour", None))
    return tuple(numbers.usd(value) for value in values)
