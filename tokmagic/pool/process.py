"""``tokmagic serve --pool`` as a process: a cluster of its own or one that runs, and an end that cuts nothing short."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import MappingProxyType
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from tokmagic.engines.base import Progress
from tokmagic.errors import ModelError
from tokmagic.pool.deployments import APP, LAST_WORDS_S, application
from tokmagic.pool.plan import Plan
from tokmagic.serve.process import Listening, kept

_KEEP_ALIVE_S = 75
_OURS = re.compile(r"tokmagic\.errors\.\w+: (.+)")
_GRACE_S = 30
_REACH_S = 10
_ATTEMPTS = 5
"""Ray gives its own processes 15 s to start, and ends where a busy machine takes longer."""
_ENVIRONMENT = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs its workers, and so the gateway and the replicas, at niceness 15: three busy programs on two cores
        # would leave them so little that a start fails and an answer takes minutes.
        "RAY_worker_niceness": "0",
    }
)
"""What Ray reads when a cluster starts, unless the user has set it."""
_log = logging.getLogger("tokmagic.pool")


def serve(
    plan: Plan,
    *,
    host: str,
    port: int,
    address: str | None,
    progress: Progress,
    listening: Listening,
) -> None:
    """Run a pool until SIGTERM or an interrupt, then let what runs end within the plan's drain.

    ``address`` is a Ray cluster that runs; by default one is started on this machine and ends with the pool.
    ``listening`` is told the URL and the models' rates once requests are answered. Raises UsageError where the
    address cannot be had, and ModelError where the pool cannot start.
    """
    stop = threading.Event()
    with ExitStack() as keeping:
        port, url = keeping.enter_context(kept(host, port))
        if address is not None:
            keeping.close()  # how the proxy of a cluster that runs binds its port is not known here
        with _cluster(address, progress):
            # Ray has a handler of its own by now. A start is given up as by an interrupt: nothing is there to drain.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            gateway = _start(plan, host, port, progress)
            keeping.close()
            rates = gateway.rates.remote().result()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda _number, _frame: stop.set())
            listening(url, rates)
            while not stop.wait(1.0):
                pass
            _end(gateway, plan.drain_s)
            if address is None:
                ray_serve.shutdown()


@contextmanager
def _cluster(address: str | None, progress: Progress) -> Iterator[None]:
    """A Ray cluster. What this process starts ends with it, even if it is killed."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray's processes open hundreds of ports before the proxy binds its own, which is kept for it by the same option.
    os.environ["SERVE_SOCKET_REUSE_PORT_ENABLED"] = "1"
    progress("starting Ray" if address is None else f"joining the cluster at {address}", None)
    if address is not None:
        _reach(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is None:
        address, options = "local", options | {"include_dashboard": False}
    attempts = _ATTEMPTS if address == "local" else 1
    for attempt in range(1, attempts + 1):
        try:
            ray.init(address=address, **options)
            break
        except Exception as error:  # Ray raises bare ones
            told = " ".join(str(error).split())
            if attempt == attempts:
                raise ModelError(f"the pool's cluster at {address} cannot be used: {told}") from error
            _log.warning("Ray did not start: %s", told)
            ray.shutdown()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise ModelError unless something listens at HOST:PORT: Ray itself would try again for many minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        return  # one of Ray's own words, such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or error
        raise ModelError(f"the pool's cluster at {address} cannot be used: {told}; start its head there") from error


def _start(plan: Plan, host: str, port: int, progress: Progress) -> Any:
    """Have Ray Serve run the application; the gateway's handle. Raises ModelError."""
    progress("starting the gateway and the replicas", None)
    try:
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(host=host, port=port, keep_alive_timeout_s=_KEEP_ALIVE_S),
        )
        return ray_serve.run(application(plan), name=APP, route_prefix="/")
    except (RuntimeError, RayError, RayServeException) as error:
        raise ModelError(f"the pool could not be started: {why(str(error), *_messages())}") from error


def _messages() -> list[str]:
    """What Ray Serve tells of each deployment."""
    with suppress(RayError, RayServeException, KeyError):
        return [it.message for it in ray_serve.status().applications[APP].deployments.values()]
    return []


def why(told: str, *messages: str) -> str:
    """A line of ours in what Ray Serve tells of the deployments, else the last line of what it told first."""
    if found := [line for message in (told, *messages) for line in _OURS.findall(message)]:
        return str(found[0]).strip()
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return lines[-1] if lines else "Ray Serve does not say why; look at its log"


def _end(gateway: Any, drain_s: int) -> None:
    """Let what runs end, then take the application down: Ray Serve alone would cut its streams."""
    with suppress(TimeoutError, RayError, RayServeException):  # a gateway that does not answer is ended all the same
        gateway.drain.remote(float(drain_s)).result(timeout_s=drain_s + LAST_WORDS_S + _GRACE_S)
    with suppress(RayError, RayServeException):
        ray_serve.delete(APP)
