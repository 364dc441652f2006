"""Rates of hosted models, from the package genai-prices: the only place that knows it.

Its data are read into our own rates, so that the bill is computed by one formula, and what that formula cannot express
is refused. What it does on its own is kept out: other libraries can replace its data for the whole process, names may
match loosely, a missing time means now, and a missing provider means any.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from tokmagic.errors import PriceError, nearest
from tokmagic.events import Rates, Tier
from tokmagic.prices.money import rate

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_FIELDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "cache_write",
}
# Units in which text goes through a model without tools bills nothing.
_NOT_TEXT = re.compile(r"audio|image|video|document|web_search|storage_search|cache_write_1h")
_DATED = re.compile(r"-(20\d{2}-?[01]\d-?[0-3]\d|latest)$")


def hosted_rates(model: str, at: datetime) -> Rates:
    """Return the rates of ``PROVIDER/MODEL`` at a time. Raises PriceError for what is not known exactly."""
    provider_id, slash, name = model.partition("/")
    if not slash or not provider_id or not name:
        raise PriceError(f"{model!r} names no hosted model; give PROVIDER/MODEL, such as openai/gpt-5-mini")
    provider = _provider(provider_id)
    info = _model(provider, name)
    moment = at.astimezone(UTC)
    prices = _prices(f"{provider.id}/{info.id}", info.get_prices(moment))
    version = f"{importlib.metadata.version('genai-prices')}, as of {moment:%Y-%m-%d}"
    return Rates(
        **_at(prices, 0),
        source=f"genai-prices: {provider.id}/{info.id}",
        version=version,
        tiers=tuple(Tier(start, **_at(prices, start)) for start in _starts(prices)),
    )


@cache
def _providers() -> dict[str, Provider]:
    # Imported here: it takes half a second. Its bundled data themselves, which nobody can replace.
    from genai_prices.data import providers

    return {provider.id: provider for provider in providers}


def _provider(name: str) -> Provider:
    known = _providers()
    if name not in known:
        raise PriceError(f"no prices of the provider {name!r} are known{nearest(name, known)}; set them with %price")
    return known[name]


def _model(provider: Provider, name: str) -> ModelInfo:
    exact = [info for info in provider.models if name.lower() in _names(info)]
    if len(exact) == 1:
        return exact[0]
    # A dated or "latest" release of a model that is listed without its date.
    base = _DATED.sub("", name.lower())
    dated = [info for info in provider.models if base in _names(info) and info.is_match(name)]
    if len(dated) == 1 and base != name.lower():
        return dated[0]
    listed = [info.id for info in provider.models]
    tuned = "; a fine-tuned model has a price of its own" if name.startswith("ft:") else ""
    raise PriceError(
        f"no price of {name!r} at {provider.id} is known{nearest(name, listed)}{tuned}; set its rates with %price"
    )


def _names(info: ModelInfo) -> set[str]:
    return {info.id.lower(), *(name.lower() for name in _equals(info.match))}


def _equals(clause: Any) -> Iterator[str]:
    """The names that a matching rule spells out; what it matches loosely is left out."""
    name = getattr(clause, "equals", None)
    if name is not None:
        yield name
    for part in getattr(clause, "or_", ()):
        yield from _equals(part)


def _prices(model: str, prices: ModelPrice) -> dict[str, Any]:
    """The prices that our formula knows, by our names. Raises PriceError where others would be billed too."""
    found: dict[str, Any] = {}
    for key, value in vars(prices).items():
        if value is None or key.startswith("_"):
            continue
        if key in _FIELDS:
            found[_FIELDS[key]] = value
        elif not _NOT_TEXT.search(key):
            raise PriceError(
                f"{model} also bills {key.replace('_', ' ')}, which cannot be metered; set rates with %price"
            )
    for needed in ("input", "output"):
        if needed not in found:
            raise PriceError(f"the price table has no {needed} price of {model}; set its rates with %price")
    return found


def _starts(prices: dict[str, Any]) -> list[int]:
    tiers: Iterable[Any] = (tier for value in prices.values() for tier in getattr(value, "tiers", ()))
    return sorted({tier.start for tier in tiers})


def _at(prices: dict[str, Any], above: int) -> dict[str, Any]:
    """The rates in force above so many input tokens; 0 is the base."""
    return {name: _price(value, above) for name, value in prices.items()}


def _price(value: Any, above: int) -> Decimal:
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return rate(value)
    reached = [tier.price for tier in tiers if above and tier.start <= above]
    return rate(reached[-1] if reached else value.base)
