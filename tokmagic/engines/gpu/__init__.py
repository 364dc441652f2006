"""What NVML says about the GPUs. Absent hardware, driver or binding is a normal answer: nothing, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tokmagic.engines.gpu.nvml import Handle, Nvml, NvmlUnavailable, nvml

Absence = Literal["no binding", "no library", "mismatch", "no driver", "no permission", "no device", "error"]
"""Why no device is seen: nvidia-ml-py is not installed; the driver's library is not here; its version is not that of
the kernel's module; that is not loaded; the device files may not be opened; there is no device; something else."""

# Codes of nvmlReturn_t, nvml.h.
_ABSENCES: dict[int | None, Absence] = {
    None: "no binding",
    4: "no permission",
    9: "no driver",
    12: "no library",
    18: "mismatch",
}
_HOST_DRIVER = Path("/proc/driver/nvidia/version")
# From nvml.h: NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM.
_TEMPERATURE, _SM, _MEMORY = 0, 1, 2
_UNLISTED_BYTES = 2**30
"""More than this beyond what the processes and the driver hold is some process that is not listed."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a device is, and what it draws; None where NVML does not say.

    ``busy`` and ``memory_busy`` are shares of the last sampling period, 0 to 1, in which a kernel ran and memory was
    read or written. Of a MIG instance power, temperature and clocks are those of its whole GPU, and its share of
    them is not known.
    """

    busy: float | None = None
    memory_busy: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    clock_mhz: int | None = None
    memory_clock_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A whole GPU, or a MIG instance of one. Memory in bytes.

    ``index`` is the GPU's in the order of PCI buses, which need not be CUDA's, and ``instance`` the number of the MIG
    instance on it. ``used_bytes`` includes the ``reserved_bytes`` that the driver keeps itself. ``processes`` holds
    the bytes of each process on it, by its id on the host; None where NVML does not tell.
    """

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    driver: str
    uuid: str | None = None
    instance: int | None = None
    load: Load = field(default_factory=Load)
    processes: Mapping[int, int | None] | None = field(default=None, hash=False)
    reserved_bytes: int = 0

    @property
    def label(self) -> str:
        """Its number, with that of the instance: ``0``, ``0:1``."""
        return str(self.index) if self.instance is None else f"{self.index}:{self.instance}"

    @property
    def free_bytes(self) -> int:
        """Memory that nobody holds."""
        return self.total_bytes - self.used_bytes

    def others_bytes(self, *, is_used: bool) -> int | None:
        """What other processes than this one hold: see :func:`others_bytes`."""
        return others_bytes(self.processes, self.used_bytes - self.reserved_bytes, is_used=is_used)


def others_bytes(processes: Mapping[int, int | None] | None, used_bytes: int, *, is_used: bool) -> int | None:
    """What other processes than this one hold of a device's ``used_bytes``; None where that cannot be told.

    ``is_used``: this process is known to use the device itself, so that it must be among those that are listed. A
    container has other ids for them than its host: if only one is listed, it is this process; of several none can
    be told for it. A container may also be told of none but its own, while the memory shows that there are more.
    """
    if processes is None or any(amount is None for amount in processes.values()):
        return None
    listed = {number: amount or 0 for number, amount in processes.items()}
    if used_bytes - sum(listed.values()) > _UNLISTED_BYTES:
        return None
    if os.getpid() in listed:
        return sum(listed.values()) - listed[os.getpid()]
    if not is_used:
        return sum(listed.values())
    return 0 if len(listed) == 1 else None


@dataclass(frozen=True, slots=True)
class Gpus:
    """The devices, the driver's version and the newest CUDA it runs, such as ``12.8``; or why there are none."""

    devices: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    absence: Absence | None = None
    says: str = ""
    """What NVML said of it, in its own words."""


def look() -> Gpus:
    """Ask NVML. Raises nothing."""
    try:
        with nvml() as opened:
            return _gpus(opened)
    except NvmlUnavailable as error:
        return Gpus(absence=_ABSENCES.get(error.code, "error"), says=str(error))


def host_has_driver() -> bool:
    """Whether the kernel has NVIDIA's module loaded; a container sees that even where it was given no GPU."""
    return _HOST_DRIVER.exists()


def _gpus(opened: Nvml) -> Gpus:
    driver, number = opened.versions()
    devices = tuple(_gpu(opened, handle, driver) for handle in opened.handles())
    return Gpus(devices, driver, f"{number // 1000}.{number % 1000 // 10}", None if devices else "no device")


def _gpu(opened: Nvml, handle: Handle, driver: str) -> Gpu:
    total, used, reserved = opened.memory(handle.own)
    uuid = opened.ask("nvmlDeviceGetUUID", handle.own)
    return Gpu(
        handle.index,
        opened.name(handle.own),
        total,
        used,
        driver,
        uuid=None if uuid is None else str(uuid),
        instance=handle.instance,
        load=_load(opened, handle),
        processes=opened.processes(handle.own),
        reserved_bytes=reserved,
    )


def _load(opened: Nvml, handle: Handle) -> Load:
    ask, whole = opened.ask, handle.whole
    rates = ask("nvmlDeviceGetUtilizationRates", handle.own)
    return Load(
        busy=None if rates is None else rates.gpu / 100,
        memory_busy=None if rates is None else rates.memory / 100,
        power_w=_watts(ask("nvmlDeviceGetPowerUsage", whole)),
        power_limit_w=_watts(ask("nvmlDeviceGetEnforcedPowerLimit", whole)),
        temperature_c=ask("nvmlDeviceGetTemperature", whole, _TEMPERATURE),
        clock_mhz=ask("nvmlDeviceGetClockInfo", whole, _SM),
        memory_clock_mhz=ask("nvmlDeviceGetClockInfo", whole, _MEMORY),
    )


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
