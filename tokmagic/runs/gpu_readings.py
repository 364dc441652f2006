"""The GPU that a model is on, as the sidebar's head shows it: looked at only where a message is sent anyway."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from tokmagic.core.forks import in_child
from tokmagic.engines.base import Weighed
from tokmagic.engines.fit import Held
from tokmagic.engines.gpu import Gpu, look
from tokmagic.engines.gpu.memory import Split, split
from tokmagic.engines.gpu.visible import gpu_of
from tokmagic.engines.registry import Models

EVERY_S = 1.0
"""A device is not asked more often: what it tells is a mean over about as long."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What NVML said of a device at ``at`` (UTC), and who held its memory; None where torch does not count that."""

    gpu: Gpu
    split: Split | None
    at: datetime


def held_beside(models: Models, name: str, device: str) -> Iterator[Held]:
    """What this process's other models hold of a device."""
    for other in models.loaded():
        engine = models.engine(other)
        if other != name and isinstance(engine, Weighed) and engine.info.device == device:
            held = engine.held()
            if held is not None:
                yield held


class GpuReadings:
    """The latest reading of the device that is shown. For any thread."""

    def __init__(self, models: Models, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._clock_s = clock_s
        self._asked: tuple[str, float] | None = None
        self._last: GpuReading | None = None
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def of(self, name: str) -> GpuReading | None:
        """Read the GPU that a model is loaded on; None where it is on none, or NVML does not tell of it."""
        if name not in self._models.loaded():
            return None
        engine = self._models.engine(name)
        device = engine.info.device
        if device is None or not isinstance(engine, Weighed) or device.partition(":")[0] != "cuda":
            return None
        with self._lock:
            now_s = self._clock_s()
            if self._asked is None or self._asked[0] != name or now_s - self._asked[1] >= EVERY_S:
                self._last = self._read(name, engine, device)
                self._asked = name, now_s
            return self._last

    def _read(self, name: str, engine: Weighed, device: str) -> GpuReading | None:
        gpu = gpu_of(device, look().devices)
        held = engine.held()
        if gpu is None:
            return None
        others = sum(it.weights_bytes for it in held_beside(self._models, name, device))
        return GpuReading(gpu, None if held is None else split(gpu, held, others), datetime.now(UTC))
