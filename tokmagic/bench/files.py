"""A bench as JSON: each level in the shape of aiperf's ``profile_export_aiperf.json``, with what it costs beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from tokmagic.bench import roofs
from tokmagic.bench.costs import Price, prices
from tokmagic.bench.figures import Level, Spread, spread
from tokmagic.bench.running import Bench
from tokmagic.core.money import plain, rates_dict
from tokmagic.core.version import __version__

SCHEMA = "1.4"
"""The version of aiperf's shape that levels have."""
_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def as_dict(bench: Bench) -> dict[str, Any]:
    """The whole bench, unrounded: unknown is None, money a decimal string."""
    info, plan = bench.info, bench.plan
    return {
        "tokmagic_version": __version__,
        "model": {
            "name": info.name,
            "id": info.model_id,
            **{name: getattr(info, name) for name in ("revision", "engine", "device", "device_name", "dtype", "quant")},
            "server": info.server,
        },
        "plan": asdict(plan) | {"levels": list(plan.levels), "exact_prompts": bench.exact_prompts},
        "rates": rates_dict(bench.rates),
        "roof": None if bench.roof is None else asdict(bench.roof) | {"matrix": list(map(asdict, bench.roof.matrix))},
        "work": None if bench.work is None else asdict(bench.work),
        "ended": None if bench.failure is None else str(bench.failure),
        "interrupted": bench.interrupted,
        "levels": [_level(level, bench) for level in bench.levels],
    }


def _level(level: Level, bench: Bench) -> dict[str, Any]:
    """One level under aiperf's names, then what is ours."""
    usage, done = level.usage, len(level.done)
    counts = {
        name: spread(getattr(it.reading.usage, f"{name}_tokens") for it in level.done) for name in ("input", "output")
    }
    errors = Counter(str(it.error) for it in level.failed)
    found: dict[str, Any] = {
        "schema_version": SCHEMA,
        "request_throughput": _one("requests/sec", level.per_s(done)),
        "request_latency": _many("ms", level.latency_s, 1e3),
        "request_count": _one("requests", done),
        "time_to_first_token": _many("ms", level.ttft_s, 1e3),
        "inter_token_latency": _many("ms", level.tpot_s, 1e3),
        "inter_chunk_latency": _many("ms", level.itl_s, 1e3),
        "output_token_throughput": _one("tokens/sec", level.output_per_s),
        "output_token_throughput_per_user": _many("tokens/sec/user", level.speed),
        "total_token_throughput": _one("tokens/sec", level.per_s(level.total_tokens)),
        "output_sequence_length": _many("tokens", counts["output"]),
        "input_sequence_length": _many("tokens", counts["input"]),
        "total_osl": _one("tokens", usage.output_tokens),
        "total_isl": _one("tokens", usage.input_tokens),
        "benchmark_duration": _one("sec", level.duration_s),
        # Of those that ended: what was stopped on the way is neither.
        "request_error_rate": _one("%", 100 * len(level.failed) / (done + len(level.failed))),
        "input_config": _config(level, bench),
        "was_cancelled": bench.interrupted and not level.complete,
        "is_complete": level.complete,
        "error_summary": [{"error_details": {"message": text}, "count": count} for text, count in errors.items()],
        "start_time": level.began.isoformat(),
        "end_time": level.ended.isoformat(),
    }
    return {name: value for name, value in found.items() if value is not None} | _ours(level, bench)


def _ours(level: Level, bench: Bench) -> dict[str, Any]:
    price = prices(level, bench.rates)
    return {
        "concurrency": level.concurrency,
        "gaps_are_between": "tokens" if level.by_token else "chunks",
        "cost_usd": plain(level.cost.usd),
        "cost_source": level.cost.source,
        "cost_bound": level.cost.bound,
        "usd_per_million_output": plain(price.best.output),
        "usd_per_million_tokens": plain(price.best.total),
        "at_utilisation": {plain(share): _price(it) for share, it in price.at.items()},
        "energy_j": level.energy_j,
        "of_roof": _of_roof(level, bench),
    }


def _of_roof(level: Level, bench: Bench) -> dict[str, Any] | None:
    if bench.roof is None or bench.work is None:
        return None
    both = {"decode": roofs.decode, "prefill": roofs.prefill}
    found = {name: of(level, bench.roof, bench.work) for name, of in both.items()}
    return {name: None if it is None else asdict(it) | {"share": it.share} for name, it in found.items()}


def _price(it: Price) -> dict[str, str | None]:
    return {"usd_per_million_output": plain(it.output), "usd_per_million_tokens": plain(it.total)}


def _config(level: Level, bench: Bench) -> dict[str, Any] | None:
    """How it was asked for, as far as aiperf has a place for it: it knows servers alone."""
    plan, info = bench.plan, bench.info
    if info.server is None:
        return None
    lengths = {"isl": {"mean": plan.prompt_tokens}, "osl": {"mean": plan.output_tokens}}
    extra = {"extra": {"ignore_eos": True}} if plan.ignore_eos else {}
    data = {"name": "main", "type": "synthetic", "entries": level.wanted, "random_seed": plan.seed, "prompts": lengths}
    warmup = {"name": "warmup", "kind": "warmup", "exclude_from_results": True}
    phases = [_phase(warmup, plan.warmup, 1)] if plan.warmup else []
    measured = _phase({"name": "profiling", "kind": "profiling"}, level.wanted, level.concurrency)
    return {
        "models": {"items": [{"name": info.model_id}]},
        "endpoint": {"urls": [info.server], "type": "chat", "streaming": True, "use_server_token_count": True, **extra},
        "datasets": [data],
        "phases": [*phases, measured],
    }


def _phase(named: dict[str, Any], requests: int, concurrency: int) -> dict[str, Any]:
    return named | {"type": "concurrency", "requests": requests, "concurrency": concurrency}


def _one(unit: str, value: float | None) -> dict[str, Any] | None:
    return None if value is None else {"unit": unit, "avg": float(value)}


def _many(unit: str, values: Spread | None, factor: float = 1.0) -> dict[str, Any] | None:
    if values is None:
        return None
    scaled = Spread(tuple(value * factor for value in values.values))
    return {
        "unit": unit,
        "avg": scaled.mean,
        **{f"p{percent}": scaled.at(percent / 100) for percent in _PERCENTILES},
        "min": min(scaled.values),
        "max": max(scaled.values),
        "std": scaled.deviation,
        "count": len(scaled.values),
        "sum": sum(scaled.values),
    }
