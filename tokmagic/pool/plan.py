"""What a pool is made of: which models, how many replicas of each, and what a replica takes of a machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tokmagic.core.money import Rates
from tokmagic.core.version import __version__
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.registry import Models
from tokmagic.errors import UsageError, nearest


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas a model has, how quickly that changes, and what each of them takes."""

    least: int = 1
    most: int = 1
    gpus: float = 0.0
    """GPUs of a replica: several whole ones, or a fraction of one that it shares."""
    cpus: float = 1.0
    """CPU cores of a replica; torch uses as many threads."""
    up_after_s: float = 10.0
    """How long requests have to wait until a replica is added."""
    down_after_s: float = 300.0
    """How long a replica has to be spare until it is removed."""

    def check(self) -> None:
        """Raise UsageError for a number that cannot be."""
        if not 1 <= self.least <= self.most:
            raise UsageError(f"--replicas is {self.least}:{self.most}; give MIN:MAX with 1 <= MIN <= MAX, such as 1:4")
        for number in (self.gpus, self.cpus, self.up_after_s, self.down_after_s):
            if not math.isfinite(number):
                raise UsageError(f"{number} is no amount of cores, GPUs or seconds; give a number")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise UsageError(f"--gpus-per-replica is {self.gpus:g}; give a fraction of one, such as 0.5, or whole GPUs")
        if self.cpus <= 0:
            raise UsageError(f"--cpus-per-replica is {self.cpus:g}; give a number above 0")
        if self.up_after_s < 0 or self.down_after_s < 0:
            raise UsageError("--scale-up-after and --scale-down-after are seconds; give a number of at least 0")


@dataclass(frozen=True, slots=True)
class Plan:
    """A pool to be started. It is sent to each of its processes, so it holds no secret but what a model's spec has."""

    models: Mapping[str, ModelSpec]
    scale: Scale
    version: str
    """Of the tokmagic that plans it: a process of another one refuses."""
    rates: Mapping[str, Rates] = field(default_factory=dict)
    """Rates that were set for this pool, by the model's name."""
    at_once: int = 32
    """Requests at a replica at the same time: what a batch of the local engine holds."""
    waiting: int = 256
    max_tokens: int = 4096
    drain_s: int = 30

    @property
    def pooled(self) -> list[str]:
        """The models that have replicas; those at an endpoint have a server of their own."""
        return [name for name, spec in self.models.items() if not spec.traits.remote]

    @property
    def most_at_once(self) -> int:
        """Requests at all engines at the same time, when every model has all its replicas."""
        others = len(self.models) - len(self.pooled)
        return self.at_once * (self.scale.most * len(self.pooled) + others)


def replicas(text: str) -> tuple[int, int]:
    """Read ``MIN:MAX``, or one number for both. Raises UsageError."""
    least, colon, most = text.partition(":")
    try:
        return int(least), int(most if colon else least)
    except ValueError:
        raise UsageError(f"--replicas is {text!r}; give MIN:MAX, such as 1:4") from None


def refuse_other_version(version: str, own: str) -> None:
    """Raise UsageError unless the pool was planned by this very version: its messages may be others."""
    if version != own:
        raise UsageError(
            f"this machine has tokmagic {own}, the pool was started by {version}; install one version on all machines"
        )


_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "gpus_per_replica": "gpus",
        "cpus_per_replica": "cpus",
        "scale_up_after": "up_after_s",
        "scale_down_after": "down_after_s",
    }
)
_BOUNDS: Mapping[str, str] = MappingProxyType(
    {"concurrency": "at_once", "queue": "waiting", "max_tokens": "max_tokens", "drain": "drain_s"}
)
OPTIONS = ("replicas", *_OPTIONS, *_BOUNDS)
"""What :func:`plan_of` takes, by the names of the command's options."""


def plan_of(models: Models, names: Iterable[str], options: Mapping[str, Any], rates: Rates | None = None) -> Plan:
    """Return the plan for models that a registry knows, by the options of ``tokmagic serve``; None leaves one out.

    ``rates`` hold for all of them. Raises UsageError.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise UsageError(f"a pool has no option {name!r}{nearest(name, OPTIONS)}; known: {', '.join(OPTIONS)}")
        if value is not None and name != "replicas" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{name} is {value!r}; give a number")
    given = {name: value for name, value in options.items() if value is not None}
    scale: dict[str, Any] = {of: given[name] for name, of in _OPTIONS.items() if name in given}
    if "replicas" in given:
        scale["least"], scale["most"] = replicas(str(given["replicas"]))
    found = Scale(**scale)
    found.check()
    served = list(dict.fromkeys(map(models.resolve, names)))
    return Plan(
        {name: models.spec(name) for name in served},
        found,
        __version__,
        rates={} if rates is None else dict.fromkeys(served, rates),
        **{of: int(given[name]) for name, of in _BOUNDS.items() if name in given},
    )
