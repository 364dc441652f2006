"""Parsed options become rates and model specs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from tokmagic.core.money import Rates, Tier
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.prices import hourly, rate


def has_rates(options: argparse.Namespace) -> bool:
    """Whether ``%price`` was given a rate."""
    names = ("input", "output", "cached", "cache_write", "per_1k", "gpu_hour")
    return any(getattr(options, name) is not None for name in names)


def rate_cells(rates: Rates | Tier) -> tuple[str, ...]:
    """The rates as a table shows them, in dollars."""
    values = (rates.input, rates.output, rates.cached, rates.cache_write, getattr(rates, "device_hour", None))
    return tuple(numbers.usd(value) for value in values)


def rates_from(options: argparse.Namespace, before: Rates) -> Rates:
    """Rates as ``%price`` gives them, on top of what was set before. Raises UsageError, PriceError."""
    token_rates = ("input", "output", "cached", "cache_write")
    given = {field: getattr(options, field) for field in token_rates if getattr(options, field) is not None}
    if not has_rates(options):
        raise UsageError("no rate is given; use --input and --output, --per-1k or --gpu-hour")
    changed = replace(before, source="%price")
    if options.per_1k is not None:
        if "input" in given or "output" in given:
            raise UsageError("--per-1k sets one rate for input and output; give it alone or give --input and --output")
        both = rate(options.per_1k, what="--per-1k", per=1_000)
        changed = replace(changed, input=both, output=both)
    new: dict[str, Any] = {field: rate(text, what=f"--{field.replace('_', '-')}") for field, text in given.items()}
    changed = replace(changed, **new)
    if options.gpu_hour is not None:
        changed = replace(changed, device_hour=hourly(options.gpu_hour))
    missing = [f"--{field}" for field in ("input", "output") if getattr(changed, field) is None]
    if missing and any(getattr(changed, field) is not None for field in token_rates):
        raise UsageError(f"a bill needs both token rates; give {' and '.join(missing)} too (0 if it is free)")
    return changed


def spec_from(options: argparse.Namespace) -> ModelSpec:
    """A model's SPEC and options as ``%model add`` gives them."""
    return ModelSpec(
        source=options.spec,
        revision=options.revision,
        quant=None if options.quant in (None, "none") else options.quant,
        dtype=options.dtype,
        device=options.device,
        compile=options.compile,
        api_base=options.api_base,
        api_key_name=options.api_key_name,
        server=options.server,
        tokenizer=options.tokenizer,
        trust_remote_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
    )
