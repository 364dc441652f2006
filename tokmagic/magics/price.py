"""``%price``: the rates of the models."""

from __future__ import annotations

from tokmagic.core.money import Rates, Tier
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.magics.shell import Shell
from tokmagic.prompts.options import add_rates
from tokmagic.prompts.parser import Parser
from tokmagic.runs import request
from tokmagic.runs.session import Session


def parser() -> Parser:
    """The words and options of ``%price``."""
    made = Parser("%price")
    made.add_argument("model", nargs="?", help="the model whose rates are set; none: list the rates")
    made.add_argument("off", nargs="?", choices=["off"], help="remove all rates set for the model")
    add_rates(made)
    return made


def run(at: Shell, line: str) -> Table:
    """List the rates, or set those of a model."""
    options = at.parse(parser(), line)
    session, book = at.session, at.session.prices
    if options.model is None:
        return _table(session)
    name = session.models.resolve(options.model)
    has_rates = request.has_rates(options)
    if options.off and (options.shadow or has_rates):
        raise UsageError("off removes all rates set for a model; give no other options with it")
    if options.off:
        book.reset(name)
        return _table(session)
    # Everything is read before anything is changed.
    rates = request.rates(options, book.get(name), "%price") if has_rates or not options.shadow else None
    if options.shadow:
        book.shadow(name, None if options.shadow == "off" else options.shadow)
    if rates is not None:
        book.set(name, rates)
    return _table(session)


def _table(session: Session) -> Table:
    rows = []
    for name, spec in session.models:
        rates = session.rates(session.info(name))
        waits = rates.source == "unknown" and name not in session.models.opened() and spec.traits.billed_by_device
        source = "its device's list price, once it is loaded" if waits else rates.source
        rows.append((name, *_cells(rates), source, rates.version or numbers.UNKNOWN))
        rows += [(f"  above {tier.above_tokens:,} in", *_cells(tier), "", "") for tier in rates.tiers]
        if rates.shadow is not None:
            shadow = rates.shadow
            rows.append((f"  as {rates.shadow_model}", *_cells(shadow), shadow.source, shadow.version or ""))
    columns = ("model", "input /1M", "output /1M", "cached /1M", "cache-write /1M", "device /h", "source", "as of")
    note = session.prices.problem or "set rates with %price MODEL --input 0.15 --output 0.60"
    return Table(columns, tuple(rows), note)


def _cells(rates: Rates | Tier) -> tuple[str, ...]:
    values = (rates.input, rates.output, rates.cached, rates.cache_write, getattr(rates, "device_hour", None))
    return tuple(numbers.usd(value) for value in values)
