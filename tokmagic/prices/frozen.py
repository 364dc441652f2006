"""Rates as they are frozen into a run's row: JSON with decimal strings, and back."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tokmagic.core.money import Rates, Tier, plain

_TOKEN_RATES = ("input", "output", "cached", "cache_write")


def rates_dict(rates: Rates) -> dict[str, Any]:
    """Rates as decimal strings, with their source and version; what is unknown is left out."""
    found: dict[str, Any] = {**_amounts(rates, (*_TOKEN_RATES, "device_hour")), "source": rates.source}
    if rates.version:
        found["version"] = rates.version
    if rates.tiers:
        found["tiers"] = [{"above_tokens": tier.above_tokens, **_amounts(tier, _TOKEN_RATES)} for tier in rates.tiers]
    if rates.shadow is not None:
        found["shadow_model"], found["shadow"] = rates.shadow_model, rates_dict(rates.shadow)
    return found


def _amounts(of: Rates | Tier, names: tuple[str, ...]) -> dict[str, str]:
    values = {name: plain(getattr(of, name)) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def rates_of(values: dict[str, Any]) -> Rates:
    """The inverse of :func:`rates_dict`."""
    shadow = values.get("shadow")
    return Rates(
        **_decimals(values, (*_TOKEN_RATES, "device_hour")),
        source=values["source"],
        version=values.get("version"),
        tiers=tuple(Tier(it["above_tokens"], **_decimals(it, _TOKEN_RATES)) for it in values.get("tiers", ())),
        shadow_model=values.get("shadow_model"),
        shadow=None if shadow is None else rates_of(shadow),
    )


def _decimals(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: Decimal(values[name]) for name in names if name in values}
