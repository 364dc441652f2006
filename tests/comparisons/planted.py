"""Simulated comparisons whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Floats = Any

_NORMAL = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
"""Quantiles of the normal distribution: a mean over them is the expectation."""
_EASE, _NOISE, _LENGTH = 0.12, 0.3, 0.4


@dataclass(frozen=True)
class Planted:
    """Differences over ``simulations`` × ``items``, pass rates of the variant, and what is true of them."""

    usd: Floats
    tokens: Floats
    latency_s: Floats
    score: Floats
    passes: Floats
    variant_passed: Floats
    true: dict[str, float]

    def of(self, name: str) -> Floats:
        return getattr(self, name)


def plant(seed: int, simulations: int, items: int = 100, *, equal: bool = False, repeats: int = 1) -> Planted:
    """Items that are easy or hard, long or short, for both; the variant is dearer and passes more, unless ``equal``.

    With ``repeats`` there is a last axis of runs that differ within their item.
    """
    rng = np.random.default_rng(seed)
    shape, once = (simulations, items, repeats), (simulations, items, 1)
    length, ease = rng.lognormal(0, _LENGTH, once), rng.normal(0, _EASE, once)
    factor, rate, better = (1.0, 0.6, 0.0) if equal else (1.4, 0.8, 0.1)

    def passed(rate: float) -> Floats:
        return (rng.random(shape) < np.clip(rate + ease, 0, 1)).astype(float)

    def spread(over: float, times: float = 1.0) -> Floats:
        return times * length * rng.lognormal(-(over**2) / 2, over, shape)

    def scored(better: float) -> Floats:
        return np.tanh(better + ease + rng.normal(0, _NOISE, shape))

    variant_passed = passed(rate)
    return Planted(
        usd=1e-3 * (spread(0.5, factor) - spread(0.5)),
        tokens=np.round(1000 * spread(0.3, factor)) - np.round(1000 * spread(0.3)),
        latency_s=spread(0.6, factor) - spread(0.6),
        score=scored(better) - scored(0.0),
        passes=variant_passed - passed(0.6),
        variant_passed=variant_passed,
        true=_truth(factor, rate, better),
    )


def _truth(factor: float, rate: float, better: float) -> dict[str, float]:
    apart = (factor - 1) * float(np.exp(_LENGTH**2 / 2))

    def passes(rate: float) -> float:
        return float(np.clip(rate + _EASE * _NORMAL, 0, 1).mean())

    more, usd = passes(rate) - passes(0.6), 1e-3 * apart
    return {
        "usd": usd,
        "tokens": 1000 * apart,
        "latency_s": apart,
        "score": float(np.tanh(better + np.hypot(_EASE, _NOISE) * _NORMAL).mean()),
        "passes": more,
        "variant_passed": passes(rate),
        "usd_a_pass": usd / more if more else float("nan"),
    }
