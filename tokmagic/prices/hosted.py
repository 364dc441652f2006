"""Rates of hosted models, from the package genai-prices: the only place that knows it.

Its data are read into our own rates, so that the bill is computed by one formula, and what that formula cannot express
is refused. What it does on its own is kept out: other libraries can replace its data for the whole process, names may
match loosely, a missing time means now, a missing provider means any, and an unknown tariff means the standard one.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from tokmagic.core.forks import whole
from tokmagic.core.money import Rates, Tier
from tokmagic.errors import PriceError, nearest
from tokmagic.prices.money import rate

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_FIELDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
}
# What text that goes through a model without tools does not use.
_NOT_TEXT = re.compile(
    r"(input|output|cache)_(audio|image|video|document|annotated_document)_\w+|audio_hours"
    r"|(web_searches|social_searches|storage_searches|code_executions)_kcount"
)
# Words for the tier that has no price of its own.
_STANDARD = frozenset({"", "standard", "default", "auto", "on_demand", "none", "null"})
_version = cache(importlib.metadata.version)
_DATED = re.compile(r"(.+)-(20\d\d)-?(\d\d)-?(\d\d)", re.ASCII)


def hosted_rates(model: str, at: datetime) -> Rates:
    """Return the rates of ``PROVIDER/MODEL`` at a time. Raises PriceError for what is not known exactly.

    Another tariff than the standard one is asked for by what the table calls it: ``PROVIDER/MODEL?processing=batch``.
    """
    named, _, query = model.partition("?")
    provider_id, slash, name = named.strip().partition("/")
    if not slash or not provider_id or not name:
        raise PriceError(f"{model!r} is not a hosted model; give PROVIDER/MODEL, such as openai/gpt-5-mini")
    provider = _provider(provider_id)
    info = _model(provider, name)
    moment = at.astimezone(UTC)
    tariff = _tariff(info, query, moment)
    label = f"{provider.id}/{info.id}{f'?{query}' if tariff else ''}"
    prices = _prices(label, info.get_prices(moment, tariff))
    starts = {tier.start for value in prices.values() for tier in getattr(value, "tiers", ())}
    return Rates(
        **_at(label, prices, 0),
        source=f"genai-prices: {label}",
        version=f"{_version('genai-prices')}, as of {moment:%Y-%m-%d}",
        tiers=tuple(Tier(start, **_at(label, prices, start)) for start in sorted(starts)),
    )


def tariff_of(model: str, service_tier: str | None, at: datetime) -> str:
    """The tariff of ``PROVIDER/MODEL`` for a service tier that a server names, as :func:`hosted_rates` takes it.

    It is empty for the standard one. Raises PriceError where the table does not have that tier.
    """
    tier = (service_tier or "").lower().replace("-", "_").removeprefix("on_demand_")
    if tier in _STANDARD:
        return ""
    provider_id, _, name = model.partition("/")
    info = _model(_provider(provider_id), name)
    for variant in info.price_variants or ():
        in_force = variant.constraint is None or variant.constraint.active(at.astimezone(UTC))
        if in_force and list(variant.when.values()) == [tier]:
            ((key, value),) = variant.when.items()
            return f"{key}={value}"
    raise PriceError(f"the price table has no price for {model} at service tier {service_tier!r}")


def provider_of(api_base: str) -> str | None:
    """Return the provider whose public API stands at a URL; None for anybody else's server, this machine's included."""
    try:
        address = urlsplit(api_base)
        public = address.scheme == "https" and address.port in (None, 443) and address.username is None
    except ValueError:
        return None
    matching = (it.id for it in _providers().values() if _stands_at(it, f"https://{address.hostname}", address.path))
    return next(matching, None) if public else None


def _stands_at(provider: Provider, host: str, path: str) -> bool:
    pattern = provider.api_pattern
    # The patterns are beginnings of URLs, so by themselves they would also match "https://api.openai.com.evil".
    if "/" not in pattern.removeprefix("https://").replace("(?:/|$)", "") or ".*" in pattern:
        return re.fullmatch(pattern, host) is not None
    found = re.match(pattern, host + path)
    return found is not None and (found[0].endswith("/") or (host + path)[found.end() :][:1] in ("", "/"))


@cache
def _providers() -> dict[str, Provider]:
    with whole():
        # Imported here: it takes half a second. The bundled data themselves: a snapshot could have been replaced.
        from genai_prices.data import providers

    return {provider.id: provider for provider in providers}


def _provider(name: str) -> Provider:
    known = _providers()
    if name.lower() not in known:
        raise PriceError(
            f"no prices are known for provider {name!r}{nearest(name.lower(), known)}; give a known one, such as "
            "openai/gpt-5-mini, or set the rates with --input and --output"
        )
    return known[name.lower()]


def _model(provider: Provider, name: str) -> ModelInfo:
    names = _names(provider.id)
    wanted = name.lower()
    if wanted in names and not wanted.startswith("ft:"):
        return names[wanted]
    base = _undated(wanted)
    if base is not None:
        # A release of a model that is listed without its date, if the table itself takes it for that.
        listed = names.get(base) or names.get(f"{base}-latest")
        if listed is not None and provider.find_model(wanted) is listed:
            return listed
    if wanted.startswith("ft:"):
        base = wanted.removeprefix("ft:").partition(":")[0]
        raise PriceError(
            f"{name!r} is a fine-tuned model whose price is not that of {base}; set its rates with --input and --output"
        )
    elsewhere = [other for other in provider.fallback_model_providers or () if wanted in _names(other)]
    hint = f", but {elsewhere[0]}/{wanted} has one" if elsewhere else nearest(wanted, names)
    raise PriceError(f"no price is known for {name!r} at {provider.id}{hint}; set its rates with --input and --output")


@cache
def _names(provider_id: str) -> dict[str, ModelInfo]:
    """A provider's models by the names that its table spells out, in small letters."""
    names: dict[str, ModelInfo] = {}
    for info in _providers()[provider_id].models:
        for name in (info.id, *_equals(info.match)):
            names.setdefault(name.lower(), info)
    return names


def _equals(clause: Any) -> Iterator[str]:
    """The names that a matching rule spells out; what it matches loosely is left out."""
    name = getattr(clause, "equals", None)
    if name is not None:
        yield name
    for part in getattr(clause, "or_", ()):
        yield from _equals(part)


def _undated(name: str) -> str | None:
    """``gpt-5-mini`` for ``gpt-5-mini-2025-08-07`` or ``…-20250807``; None where there is no date."""
    found = _DATED.fullmatch(name)
    if found is None:
        return None
    try:
        date(int(found[2]), int(found[3]), int(found[4]))
    except ValueError:
        return None
    return found[1]


def _tariff(info: ModelInfo, query: str, moment: datetime) -> Mapping[str, str]:
    """What was asked for beside the standard tariff. Raises PriceError where the table does not have exactly that."""
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if query and not asked:
        raise PriceError(f"{query!r} is not a tariff; give KEY=VALUE, such as processing=batch")
    variants = [
        variant.when
        for variant in info.price_variants or ()
        if variant.constraint is None or variant.constraint.active(moment)
    ]
    met = [when for when in variants if when.items() <= asked.items()]
    if asked and {pair for when in met for pair in when.items()} != set(asked.items()):
        known = sorted({"&".join(f"{key}={value}" for key, value in when.items()) for when in variants})
        has = f"it has {', '.join(known)}" if known else "it has only the standard one"
        raise PriceError(f"{info.id} has no tariff {query!r}; {has}")
    return asked


def _prices(model: str, prices: ModelPrice) -> dict[str, Any]:
    """The prices that our formula knows, by our names. Raises PriceError where others would be billed too."""
    found: dict[str, Any] = {}
    for key, value in vars(prices).items():
        if value is None or key.startswith("_"):
            continue
        if key in _FIELDS:
            found[_FIELDS[key]] = value
        elif not _NOT_TEXT.fullmatch(key):
            raise PriceError(
                f"{model} also bills {key.replace('_', ' ')}, which cannot be metered; "
                "set your own rates with --input and --output"
            )
    for needed in ("input", "output"):
        if needed not in found:
            raise PriceError(
                f"the price table has no {needed} price for {model}; set your own rates with --input and --output"
            )
    return found


def _at(model: str, prices: dict[str, Any], above: int) -> dict[str, Any]:
    """The rates in force above so many input tokens; 0 is the base."""
    found = {}
    for name, value in prices.items():
        reached = [tier.price for tier in getattr(value, "tiers", ()) if above and tier.start <= above]
        try:
            found[name] = rate(Decimal(reached[-1] if reached else getattr(value, "base", value)))
        except PriceError as error:
            raise PriceError(f"{model}: its {name} {error}; set your own rates with --input and --output") from None
    return found
