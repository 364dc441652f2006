"""``tokmagic serve``: models behind an OpenAI-compatible gateway that meters and bounds what each key spends."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.record import RunRecord
from tokmagic.engines.registry import Models
from tokmagic.errors import UsageError
from tokmagic.formatting import terminal
from tokmagic.formatting.rates import in_words
from tokmagic.ledgers import Ledger
from tokmagic.prices import PriceBook
from tokmagic.prompts.options import add_endpoint, add_own_rates
from tokmagic.prompts.parser import integer
from tokmagic.runs import request

_HOST, _PORT = "127.0.0.1", 8000
_NO_PRICE = ", so keys with a cap in USD are refused; give --gpu-hour, or --input and --output"
_OF_POOL = ("replicas", "gpus_per_replica", "cpus_per_replica", "scale_up_after", "scale_down_after")


def add_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("names", nargs="*", metavar="MODEL", help="models' names, Hugging Face ids or folders (the current model)")
    add_endpoint(verb)
    add_own_rates(verb)
    add("--host", default=_HOST, help=f"address to listen at ({_HOST}: this machine alone)")
    add("--port", type=integer, default=_PORT, metavar="N", help=f"port to listen at ({_PORT}; 0 takes a free one)")
    add("--concurrency", type=integer, default=32, metavar="N", help="requests at the engine at once (32)")
    add("--queue", type=integer, default=256, metavar="N", help="requests that may wait for a turn (256)")
    told = "output tokens of an answer where the request does not say (4096, and what the context leaves)"
    add("--max-tokens", type=integer, default=4096, metavar="N", help=told)
    add("--drain", type=integer, default=30, metavar="S", help="seconds that running requests get when it ends (30)")
    add("--pool", action="store_true", help="replicas of each model, on a Ray cluster that is started on this machine")
    add("--pool-address", metavar="ADDRESS", help="the same on a Ray cluster that runs, such as HOST:6379, or auto")
    add("--replicas", metavar="MIN:MAX", help="replicas of each model in a pool (1:1)")
    add("--gpus-per-replica", type=float, metavar="N", help="GPUs of a replica, or a fraction of one such as 0.5 (0)")
    add("--cpus-per-replica", type=float, metavar="N", help="CPU cores of a replica, and torch's threads (1)")
    add("--scale-up-after", type=float, metavar="S", help="seconds of waiting requests that add a replica (10)")
    add("--scale-down-after", type=float, metavar="S", help="seconds after which a spare replica is removed (300)")


def run(given: argparse.Namespace) -> int:
    """Serve until SIGTERM or an interrupt."""
    for name, least in (("concurrency", 1), ("queue", 0), ("max_tokens", 1), ("drain", 0)):
        if getattr(given, name) < least:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is {getattr(given, name)}; give a whole number of at least {least}")
    if not 0 <= given.port < 2**16:
        raise UsageError(f"--port is {given.port}; give a number from 0 to 65535")
    pooled = given.pool or given.pool_address is not None
    only = next((name for name in _OF_POOL if getattr(given, name) is not None and not pooled), None)
    if only is not None:
        raise UsageError(f"--{only.replace('_', '-')} is for a pool; give --pool too")
    try:
        # start-up: a web server is an extra, which --help does without.
        from tokmagic.serve import process
        from tokmagic.serve.gateway import Bounds, Gateway
        from tokmagic.serve.metrics import Metrics
    except ModuleNotFoundError as error:
        raise UsageError(f"serving needs the package {error.name}; run: pip install 'tokmagic[serve]'") from None

    settings = TokMagic(engine_url="")  # an engine that is itself shared runs its models here
    models, prices = Models(settings), PriceBook(lambda: settings.prices)
    names = _names(models, given)
    if request.has_rates(given):
        for name in names or [models.current]:
            prices.set(name, request.rates(given, Rates(), "command line"))
    _need_keys(settings)
    if pooled:
        return _run_pool(given, models, names)
    metrics = Metrics()
    process.log_to_stderr()

    def ended(record: RunRecord, waited_s: float) -> None:
        metrics.ended(record, waited_s)
        process.log_run(record, waited_s)

    gateway = Gateway(
        settings,
        names,
        models=models,
        prices=prices,
        bounds=Bounds(given.concurrency, given.queue, given.max_tokens),
        ended=ended,
    )
    process.serve(
        gateway,
        metrics,
        host=given.host,
        port=given.port,
        drain_s=given.drain,
        progress=terminal.progress,
        listening=_listening,
    )
    return 0


def _run_pool(given: argparse.Namespace, models: Models, names: list[str]) -> int:
    try:
        # start-up: Ray takes seconds, and is an extra.
        from tokmagic.pool import process
        from tokmagic.pool.plan import OPTIONS, plan_of
    except ModuleNotFoundError as error:
        raise UsageError(f"a pool needs the package {error.name}; run: pip install 'tokmagic[pool]'") from None

    rates = request.rates(given, Rates(), "command line") if request.has_rates(given) else None
    options = {name: getattr(given, name) for name in OPTIONS}
    plan = plan_of(models, names or [models.current], options, rates)
    process.serve(
        plan,
        host=given.host,
        port=given.port,
        address=given.pool_address,
        progress=terminal.progress,
        listening=_listening,
    )
    return 0


def _listening(url: str, rates: Mapping[str, Rates]) -> None:
    lines = [f"{', '.join(rates)} at {url}/v1"]
    for name, charged in rates.items():
        none = charged.source == "unknown"
        lines.append(f"{name}: {in_words(charged)}{_NO_PRICE if none else ''}")
    print("\n".join(lines), flush=True)


def _names(models: Models, given: argparse.Namespace) -> list[str]:
    if not given.api_base and not given.api_key_name:
        if given.server or given.tokenizer:
            raise UsageError("--server and --tokenizer are for a model at an endpoint; give --api-base URL too")
        return [models.resolve(name) for name in given.names]
    if not given.names:
        raise UsageError("name the endpoint's model: tokmagic serve NAME --api-base URL")
    for name in given.names:
        models.add(name, request.spec(given, name))
    return list(given.names)


def _need_keys(settings: TokMagic) -> None:
    ledger = Ledger(settings.ledger, store_text=settings.store_text)
    try:
        if all(key.revoked_at is not None for key in ledger.keys.all()):
            raise UsageError(
                f"{ledger.name} has no valid key, so every request would be refused; make one: tokmagic key add NAME"
            )
    finally:
        ledger.close()
