"""What NVML says about the GPUs. Absent hardware, driver or binding is a normal answer: nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. Memory in bytes."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    driver: str


def devices() -> list[Gpu]:
    """Return the GPUs that NVML sees, none where there is no NVML."""
    try:
        import pynvml  # the module of nvidia-ml-py
    except ImportError:
        return []
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        return [_device(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _device(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(index, str(nvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.used), driver)
