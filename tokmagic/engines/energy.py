"""Meters of a device's energy: NVML's counter, or its power added up over time, for a GPU; RAPL for a CPU.

Each counts a whole device, whoever uses it: a board with all its MIG instances, or a machine's CPU packages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from tokmagic.core.stream import Source
from tokmagic.engines.gpu import look, others_bytes
from tokmagic.engines.gpu.nvml import Handle, Nvml, NvmlUnavailable, open_nvml
from tokmagic.engines.gpu.visible import gpu_of

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL, AMD's too (its documentation, "Power Capping Framework")."""
_NVML_RESOLUTION_S = 0.1
"""What NVML reads from a board is renewed every 20 to 100 ms, by its generation."""


class Meter(Protocol):
    """What has counted a device's energy since some moment: only differences of its readings mean anything."""

    name: str
    """What it reads: ``NVML energy counter``, ``NVML power`` or ``RAPL``."""
    source: Source
    """``measured`` by a counter, ``estimated`` from samples of the power."""
    resolution_s: float
    """How old a reading may be, in seconds."""

    def joules(self) -> float | None:
        """Read it; None where it cannot be read now. To be called every few seconds at least."""
        ...

    def is_shared(self) -> bool | None:
        """Whether other processes use the device at this moment; None where that cannot be told."""
        ...


def energy_meter(device: str, *, powercap: Path = POWERCAP) -> Meter | None:
    """Return the meter of a device that torch calls ``cpu``, ``cuda`` or ``cuda:N``; None where it has none."""
    if device.partition(":")[0] == "cpu":
        return Rapl.found(powercap)
    gpu = gpu_of(device, look().devices)
    if gpu is None or gpu.uuid is None:
        return None
    try:
        opened = open_nvml()
        handle = opened.handle(gpu.uuid)
    except NvmlUnavailable:
        return None
    if handle is None:
        return None
    board = Board(opened, handle)
    kinds: tuple[type[NvmlCounter | NvmlPower], ...] = (NvmlCounter, NvmlPower)
    return next((meter for meter in (kind(board) for kind in kinds) if meter.joules() is not None), None)


class Board:
    """A GPU, or the one that a MIG instance is a part of, as its meters ask it."""

    def __init__(self, nvml: Nvml, handle: Handle) -> None:
        self._nvml = nvml
        self._handle = handle

    def ask(self, question: str) -> Any:
        """What NVML says of the whole board: of a part it says nothing."""
        return self._nvml.ask(question, self._handle.whole)

    def is_shared(self) -> bool | None:
        """Whether others use it; what those in other MIG instances do is not seen from within one."""
        if self._handle.instance is not None:
            return None
        try:
            _, used, reserved = self._nvml.memory(self._handle.own)
        except NvmlUnavailable:
            return None
        others = others_bytes(self._nvml.processes(self._handle.own), used - reserved, is_used=True)
        return None if others is None else others > 0


class NvmlCounter:
    """A board's energy since its driver was loaded, from Volta on."""

    name = "NVML energy counter"
    source: Source = "measured"
    resolution_s = _NVML_RESOLUTION_S

    def __init__(self, board: Board) -> None:
        self.is_shared = board.is_shared
        self._board = board

    def joules(self) -> float | None:
        millijoules = self._board.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000


class NvmlPower:
    """The power of a board that has no counter, added up by the trapezoidal rule from one reading to the next."""

    name = "NVML power"
    source: Source = "estimated"
    resolution_s = _NVML_RESOLUTION_S

    def __init__(self, board: Board, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.is_shared = board.is_shared
        self._board = board
        self._clock_ns = clock_ns
        self._last: tuple[int, float] | None = None
        self._joules = 0.0

    def joules(self) -> float | None:
        milliwatts, now_ns = self._board.ask("nvmlDeviceGetPowerUsage"), self._clock_ns()
        if milliwatts is None:
            return None
        watts = milliwatts / 1000
        if self._last is not None:
            then_ns, before_w = self._last
            self._joules += (before_w + watts) / 2 * (now_ns - then_ns) / 1e9
        self._last = now_ns, watts
        return self._joules


class Rapl:
    """The energy of all CPU packages: cores, caches and what else is on them, without the memory's chips."""

    name = "RAPL"
    source: Source = "measured"
    resolution_s = 0.001

    def __init__(self, packages: list[_Package]) -> None:
        self._packages = packages

    @classmethod
    def found(cls, powercap: Path) -> Rapl | None:
        """Return the meter of this machine; None where it shows none, or not to this user: most kernels ask for root.

        A zone is a package, or the whole platform (``psys``), which has the packages in it.
        """
        try:
            zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
            packages = _each_once(_Package(zone) for zone in zones if _text(zone / "name").startswith("package"))
        except (OSError, ValueError):
            return None
        return cls(packages) if packages else None

    def joules(self) -> float | None:
        try:
            return sum(package.joules() for package in self._packages)
        except (OSError, ValueError):
            return None

    def is_shared(self) -> bool:
        """Always: a machine has other processes, and they run on the same packages."""
        return True


class _Package:
    """The counter of one package, or of one die of it, which begins again at 0 when it has reached its range."""

    def __init__(self, zone: Path) -> None:
        self._energy = zone / "energy_uj"
        self._name, _, _ = _text(zone / "name").partition("-die-")
        self._range_uj = int(_text(zone / "max_energy_range_uj"))
        self._last_uj = int(_text(self._energy))
        self._wrapped_uj = 0

    def is_that_of(self, other: _Package) -> bool:
        """Whether both dies of a package read the same counter: then it lies between two readings around it."""
        if self._name != other._name:
            return False
        before, here, after = (int(_text(it._energy)) for it in (other, self, other))
        return 0 < before <= here <= after

    def joules(self) -> float:
        now_uj = int(_text(self._energy))
        if now_uj < self._last_uj:
            self._wrapped_uj += self._range_uj
        self._last_uj = now_uj
        return (self._wrapped_uj + now_uj) / 1e6


def _each_once(packages: Iterable[_Package]) -> list[_Package]:
    """Without those that read another's counter: Linux shows one for each die, and AMD's first Zens have one in all."""
    found: list[_Package] = []
    for package in packages:
        if not any(package.is_that_of(other) for other in found):
            found.append(package)
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
