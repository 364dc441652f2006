"""The replicas of a model as Ray Serve reaches them. What Ray raises is turned into ReplicaLost here."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from tokmagic.core.prompt import Prompt
from tokmagic.pool.engine import ReplicaLost
from tokmagic.pool.messages import Described, Ending, Told

GATEWAY = "gateway"
"""The gateway's deployment."""
_TELLING_S = 5.0


class RayReplicas:
    """One model's replicas, by the handle of its deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def describe(self) -> Described:
        """Wait until there is one, and return what it says. Not in an event loop. Raises ReplicaLost."""
        try:
            described: Described = self._handle.describe.remote().result()
        except (RayError, RayServeException) as error:
            raise _lost(error) from error
        return described

    def run(self, run: str, prompt: Prompt) -> RayReplies:
        """Have a prompt run by the replica that Ray Serve chooses."""
        return RayReplies(self._handle.options(method_name="stream", stream=True).remote(run, prompt))


class RayReplies:
    """What one replica tells of one run. It is read by one thread, which has no event loop."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __next__(self) -> Told:
        try:
            told: Told = next(self._response)
        except (RayError, RayServeException) as error:
            raise _lost(error) from error
        return told

    def cancel(self) -> None:
        """Stop it, or take it out of Ray Serve's queue; whoever waits for the next reply is woken."""
        self._response.cancel()


def tell_gateway(run: str, ending: Ending) -> None:
    """Tell the gateway of this application the end of a run whose request was cancelled. Raises what Ray raises."""
    serve.get_deployment_handle(GATEWAY).ended.remote(run, ending).result(timeout_s=_TELLING_S)


def _lost(error: Exception) -> ReplicaLost:
    """What Ray raised, in one line."""
    if isinstance(error, RayActorError):
        return ReplicaLost("its process ended")
    cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    told = " ".join(str(cause).split())
    return ReplicaLost(told if isinstance(cause, RayError | RayServeException) else f"{type(cause).__name__}: {told}")
