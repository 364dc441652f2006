"""The deployments of a pool: the gateway, which Ray Serve's proxy hands requests to, and one for each model."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.record import RunRecord
from tokmagic.core.version import __version__
from tokmagic.engines.base import ModelSpec, no_progress
from tokmagic.engines.registry import Models, open_engine
from tokmagic.pool.engine import Endings, pool_engine
from tokmagic.pool.messages import Described, Ending
from tokmagic.pool.plan import Plan, plan_of, refuse_other_version
from tokmagic.pool.remote import GATEWAY, RayReplicas, tell_gateway
from tokmagic.pool.replica import EngineReplica
from tokmagic.prices import PriceBook
from tokmagic.serve import process
from tokmagic.serve.app import build
from tokmagic.serve.gateway import Bounds, Gateway
from tokmagic.serve.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp

APP = "tokmagic"
"""The application's name on its cluster."""
LAST_WORDS_S = 10
"""What a client gets, after the drain, to read why its answer ends."""
_HEAD = "node:__internal_head__"
"""What Ray's head node has of itself: the gateway runs there, where the volume with its ledger is."""
_LOOK_BACK_S = 12.0
"""Over which time requests are averaged; more than the interval at which Ray Serve collects them."""
_POLL_S = 0.05


class Replica(EngineReplica):
    """An engine's replica as Ray Serve starts it."""

    def __init__(self, name: str, spec: ModelSpec, at_once: int, version: str) -> None:
        process.log_to_stderr()
        super().__init__(name, spec, at_once, version, tell_gateway)

    def __del__(self) -> None:
        # Ray Serve calls it when it has drained the replica; one that could not be made has no engine.
        if hasattr(self, "_engine"):
            self.close()


class GatewayReplica:
    """The gateway as Ray Serve starts it. ``replicas`` are the handles of the models' deployments, by name."""

    async def __init__(self, plan: Plan, replicas: dict[str, Any]) -> None:  # type: ignore[misc]
        process.log_to_stderr()
        refuse_other_version(plan.version, __version__)
        settings = TokMagic()
        models, prices = Models(settings), PriceBook(lambda: settings.prices)
        self._endings = Endings()
        for name, spec in plan.models.items():
            if name in replicas:
                bare = open_engine(name, spec, settings)
                models.register(pool_engine(bare, RayReplicas(replicas[name]), self._endings), spec)
            else:
                models.add(name, spec)
        for name, rates in plan.rates.items():
            prices.set(name, rates)
        self._metrics = Metrics()
        self._gateway = Gateway(
            settings,
            list(plan.models),
            models=models,
            prices=prices,
            bounds=Bounds(plan.most_at_once, plan.waiting, plan.max_tokens),
            ended=self._ended,
        )
        self._metrics.watch(self._gateway)
        await asyncio.to_thread(self._gateway.load, no_progress)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build(self._gateway, self._metrics)

    def _ended(self, record: RunRecord, waited_s: float) -> None:
        self._metrics.ended(record, waited_s)
        process.log_run(record, waited_s)

    async def ended(self, run: str, ending: Ending) -> None:
        """A replica tells the end of a run that was cancelled here."""
        self._endings.put(run, ending)

    async def infos(self) -> dict[str, Described]:
        """What the models' replicas are, by name: what is served."""
        engines = {name: self._gateway.models.engine(name) for name in self._gateway.served}
        return {name: Described(engine.info, engine.identity()) for name, engine in engines.items()}

    async def rates(self) -> dict[str, Rates]:
        """What is charged for each model."""
        return await asyncio.to_thread(self._gateway.rates)

    async def drain(self, drain_s: float) -> None:
        """Take no more requests; return when all have ended, of which those that outlast the drain are stopped."""
        self._gateway.drain()
        if not await self._idle_within(drain_s):
            self._gateway.stop_all()
            await self._idle_within(LAST_WORDS_S)

    async def _idle_within(self, seconds: float) -> bool:
        turns, until = self._gateway.turns, time.monotonic() + seconds
        while turns.running or turns.waiting:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def __del__(self) -> None:
        # Ray Serve calls it when it has drained the replica.
        if hasattr(self, "_gateway"):
            self._gateway.close()


def application(plan: Plan) -> Any:
    """The pool as Ray Serve runs it."""
    graceful_s = plan.drain_s + LAST_WORDS_S
    engines = {}
    for number, name in enumerate(plan.pooled):
        scale = plan.scale
        engine = serve.deployment(
            Replica,
            name=f"model-{number}",  # a model's own may have a slash
            max_ongoing_requests=plan.at_once,
            ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
            graceful_shutdown_timeout_s=graceful_s,
            health_check_period_s=5,
            autoscaling_config=AutoscalingConfig(
                min_replicas=scale.least,
                initial_replicas=scale.least,
                max_replicas=scale.most,
                target_ongoing_requests=plan.at_once,
                look_back_period_s=_LOOK_BACK_S,
                upscale_delay_s=scale.up_after_s,
                downscale_delay_s=scale.down_after_s,
            ),
        )
        engines[name] = engine.bind(name, plan.models[name], plan.at_once, plan.version)
    gateway = serve.deployment(
        serve.ingress()(GatewayReplica),
        name=GATEWAY,
        num_replicas=1,
        # Its own queue decides who waits and who is told 429: Ray Serve's must not fill up before.
        max_ongoing_requests=2 * (plan.most_at_once + plan.waiting) + 1000,
        ray_actor_options={"num_cpus": 0, "resources": {_HEAD: 0.001}},
        graceful_shutdown_timeout_s=graceful_s,
        health_check_period_s=5,
    )
    return gateway.bind(plan, engines)


def from_args(args: dict[str, Any]) -> Any:
    """The pool of a Ray Serve configuration: ``models`` and, by name, the options that :func:`plan_of` takes.

    Raises UsageError.
    """
    options = dict(args)
    models = Models(TokMagic())
    return application(plan_of(models, options.pop("models", None) or [models.current], options))
