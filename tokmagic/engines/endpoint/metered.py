"""``usage.tokmagic``: what a shared engine recorded of a run, and what it says of a model, read with suspicion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, get_args

from tokmagic.core.metered import KNOWN_BY_SERVER, Metered
from tokmagic.core.money import Bound, Cost, Rates, rates_of
from tokmagic.core.stream import ServerTimes, Source, Usage, weakest
from tokmagic.errors import PriceError
from tokmagic.prices import hourly, rate, usd

KEY = "tokmagic"
"""Under which name it stands, in a usage and in a model."""
_FROM = "shared engine"
_LONGEST_S = 1e9
_MOST_TOKENS = 1_000_000_000
_MOST_BYTES = 2**60
_MOST_JOULES = 1e15
_LONGEST_TEXT = 1_000


def read_metered(usage: object) -> Metered | None:
    """Read a usage object that a shared engine sent; None where it holds nothing of the kind."""
    told = usage.get(KEY) if isinstance(usage, Mapping) else None
    if not isinstance(usage, Mapping) or not isinstance(told, Mapping):
        return None
    return Metered(
        run_id=text_told(told.get("run_id")),
        usage=_usage(usage, told),
        rates=rates_told(told.get("rates")),
        cost=_cost(told),
        stopped=text_told(told.get("stopped")),
        times=_times(told),
        device_s=_number(told.get("device_s"), _LONGEST_S),
        peak_bytes=_count(told.get("gpu_peak_bytes"), _MOST_BYTES),
        energy_j=_number(told.get("energy_j"), _MOST_JOULES),
        energy_source=_reported(told.get("energy_source")),
        energy_bound=_bound(told.get("energy_bound")),
        info=info_told(told),
    )


def info_told(told: Mapping[str, Any]) -> dict[str, str | None]:
    """What an object says of the model: texts by the names of KNOWN_BY_SERVER, those alone that are there."""
    return {name: text_told(told[name]) for name in KNOWN_BY_SERVER if name in told}


def rates_told(given: object) -> Rates | None:
    """Rates as :func:`rates_dict` writes them, their source marked; None for what is none of them."""
    if not isinstance(given, dict):
        return None
    try:
        rates = rates_of(given)
        _check(rates)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation, RecursionError, PriceError):
        return None
    if rates.source == "unknown":
        return None
    return replace(rates, source=f"{_FROM}: {rates.source[:_LONGEST_TEXT]}")


def _check(rates: Rates) -> None:
    """Raise PriceError or ValueError for rates that no person could have set."""
    if any(_count(tier.above_tokens, _MOST_TOKENS) is None for tier in rates.tiers):
        raise ValueError("a tier has no number of tokens")
    if not all(isinstance(text, str | None) for text in (rates.source, rates.version, rates.shadow_model)):
        raise ValueError("where they came from is no text")
    for of in (rates, *rates.tiers):
        for name in ("input", "output", "cached", "cache_write", "cache_write_1h"):
            if (amount := getattr(of, name)) is not None:
                rate(amount)
    if rates.device_hour is not None:
        hourly(rates.device_hour)
    if rates.shadow is not None:
        _check(rates.shadow)


def _usage(usage: Mapping[str, Any], told: Mapping[str, Any]) -> Usage | None:
    """The counts, ``reported`` or weaker where the server itself only estimated; None where one is unknown."""
    tokens = {name: _count(usage.get(f"{name}_tokens"), _MOST_TOKENS) for name in ("prompt", "completion")}
    if None in tokens.values():
        return None
    names = ("cached_input_tokens", "cache_write_input_tokens", "cache_write_1h_input_tokens", "reasoning_tokens")
    parts = {name: _count(told.get(name), _MOST_TOKENS) for name in names}
    return Usage(
        input_tokens=tokens["prompt"],
        output_tokens=tokens["completion"],
        input_source=_reported(told.get("input_source")) or "reported",
        output_source=_reported(told.get("output_source")) or "reported",
        **parts,
    )


def _cost(told: Mapping[str, Any]) -> Cost:
    amount = _usd(told.get("cost_usd"))
    source = None if amount is None else _reported(told.get("cost_source"))
    return Cost(amount, source or "unknown", _bound(told.get("cost_bound")) or "exact")


def _times(told: Mapping[str, Any]) -> ServerTimes:
    names = ("queue_s", "itl_mean_s", "itl_p50_s", "itl_p95_s", "waited_s", "ttft_s", "latency_s")
    times = {name: _number(told.get(name), _LONGEST_S) for name in names}
    queue_s, waited_s, ttft_s = times["queue_s"], times["waited_s"], times["ttft_s"]
    # It counts the rest from when its engine was asked; a client has waited for both.
    prefill_s = None if ttft_s is None or queue_s is None else max(0.0, ttft_s - queue_s)
    if queue_s is not None or waited_s is not None:
        times["queue_s"] = (queue_s or 0.0) + (waited_s or 0.0)
    return ServerTimes(prefill_s=prefill_s, **times)


def _reported(given: object) -> Source | None:
    """What a server's figure is worth here: what it measured it reports."""
    return next((weakest((source, "reported")) for source in get_args(Source) if source == given), None)


def _bound(given: object) -> Bound | None:
    return next((bound for bound in get_args(Bound) if bound == given), None)


def text_told(given: object) -> str | None:
    """A text that a server told, cut where it is longer than any of ours; None for none."""
    return given[:_LONGEST_TEXT] if isinstance(given, str) and given else None


def _number(given: object, most: float) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(given) if math.isfinite(given) and 0 <= given <= most else None


def _count(given: object, most: int) -> int | None:
    if isinstance(given, bool) or not isinstance(given, int):
        return None
    return given if 0 <= given <= most else None


def _usd(given: object) -> Decimal | None:
    try:
        return usd(given, what="cost") if isinstance(given, str) else None
    except PriceError:
        return None
