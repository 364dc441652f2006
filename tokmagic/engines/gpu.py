"""What NVML says about the GPUs. Absent hardware, driver or binding is a normal answer: nothing, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Absence = Literal["no binding", "no library", "mismatch", "no driver", "no permission", "no device", "error"]
"""Why no device is seen: nvidia-ml-py is not installed; the driver's library is not here; its version is not that of
the kernel's module; that is not loaded; the device files may not be opened; there is no device; something else."""

# Codes of nvmlReturn_t, nvml.h.
_ABSENCES: dict[int, Absence] = {4: "no permission", 9: "no driver", 12: "no library", 18: "mismatch"}
_HOST_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. Memory in bytes."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    driver: str


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
        import pynvml  # the module of nvidia-ml-py
    except ImportError:
        return Gpus(absence="no binding")
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        try:
            return _gpus(nvml)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        return Gpus(absence=_ABSENCES.get(int(error.value), "error"), says=str(error))


def host_has_driver() -> bool:
    """Whether the kernel has NVIDIA's module loaded; a container sees that even where it was given no GPU."""
    return _HOST_DRIVER.exists()


def _gpus(nvml: Any) -> Gpus:
    driver = str(nvml.nvmlSystemGetDriverVersion())
    number = int(nvml.nvmlSystemGetCudaDriverVersion())  # 1000 × major + 10 × minor
    cuda = f"{number // 1000}.{number % 1000 // 10}"
    devices = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        devices.append(Gpu(index, str(nvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.used), driver))
    return Gpus(tuple(devices), driver, cuda, None if devices else "no device")
