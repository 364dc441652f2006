"""A stand-in for nvidia-ml-py where there is no GPU: its own names, errors and structures over boards made up here.

What a board does not answer raises what NVML raises, NVML_ERROR_NOT_SUPPORTED.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pynvml as real
import pytest

GIB = 2**30


@dataclass(eq=False)
class Device:
    """A GPU or a MIG instance, as NVML would describe it; a number that is None it does not tell.

    Powers in mW, energies in mJ, clocks in MHz, utilisation in percent, memory in bytes. A callable is asked each time.
    """

    name: str = "NVIDIA H200"
    uuid: str = "GPU-11111111-aaaa-bbbb-cccc-000000000000"
    total: int = 140 * GIB
    used: int = 2 * GIB
    reserved: int | None = GIB // 2
    busy: tuple[int, int] | None = (37, 12)
    power: int | Callable[[], int | None] | None = 250_500
    limit: int | None = 700_000
    energy: int | Callable[[], int | None] | None = 1_000_000
    temperature: int | None = 41
    clock: int | None = 1980
    memory_clock: int | None = 3201
    processes: Mapping[int, int | None] | None = field(default_factory=dict)
    drawing: Mapping[int, int | None] | None = None
    instances: list[Device | None] | None = None
    """Its MIG instances by their places, None for an empty one; None: it is not divided."""
    parent: Device | None = None


def answer(value: Any) -> Any:
    """What NVML gives back, or the error that it raises."""
    value = value() if callable(value) else value
    if value is None:
        raise real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED)
    return value


class Functions:
    """NVML's functions over some boards, under their own names."""

    def __init__(self, boards: list[Device], driver: str, cuda: int, fails: int | None) -> None:
        self.boards, self.driver, self.cuda, self.fails = boards, driver, cuda, fails
        self.opened = 0

    def nvmlInit(self) -> None:
        if self.fails is not None:
            raise real.NVMLError(self.fails)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self._check()
        self.opened -= 1

    def _check(self) -> None:
        if not self.opened:
            raise real.NVMLError(real.NVML_ERROR_UNINITIALIZED)

    def nvmlSystemGetDriverVersion(self) -> str:
        self._check()
        return self.driver

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        self._check()
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        return self.boards[index]

    def nvmlDeviceGetName(self, handle: Device) -> str:
        return handle.name

    def nvmlDeviceGetUUID(self, handle: Device) -> str:
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Device, version: int | None = None) -> Any:
        self._check()
        memory = real.c_nvmlMemory_t() if version is None else real.c_nvmlMemory_v2_t()
        memory.total, memory.used = handle.total, handle.used
        memory.free = handle.total - handle.used
        if version is not None:
            memory.reserved = answer(handle.reserved)
            memory.used -= memory.reserved
        return memory

    def nvmlDeviceGetUtilizationRates(self, handle: Device) -> Any:
        rates = real.c_nvmlUtilization_t()
        rates.gpu, rates.memory = answer(handle.busy)
        return rates

    def nvmlDeviceGetPowerUsage(self, handle: Device) -> int:
        return int(answer(_whole(handle).power))

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Device) -> int:
        return int(answer(_whole(handle).limit))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Device) -> int:
        self._check()
        return int(answer(_whole(handle).energy))

    def nvmlDeviceGetTemperature(self, handle: Device, sensor: int) -> int:
        assert sensor == real.NVML_TEMPERATURE_GPU
        return int(answer(_whole(handle).temperature))

    def nvmlDeviceGetClockInfo(self, handle: Device, type: int) -> int:
        clocks = {real.NVML_CLOCK_SM: _whole(handle).clock, real.NVML_CLOCK_MEM: _whole(handle).memory_clock}
        return int(answer(clocks[type]))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Device) -> list[Any]:
        return _listed(handle.processes)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Device) -> list[Any]:
        return _listed(handle.drawing)

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:
        if device.parent is not None:
            raise real.NVMLError(real.NVML_ERROR_INVALID_ARGUMENT)
        return [int(device.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Device) -> int:
        return len(answer(device.instances))

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Device, index: int) -> Device:
        found = answer(device.instances)[index]
        if found is None:
            raise real.NVMLError(real.NVML_ERROR_NOT_FOUND)
        assert isinstance(found, Device)
        return found


def _listed(processes: Mapping[int, int | None] | None) -> list[Any]:
    listed: Mapping[int, int | None] = answer(processes)
    return [real.nvmlFriendlyObject({"pid": pid, "usedGpuMemory": held}) for pid, held in listed.items()]


def _whole(handle: Device) -> Device:
    """NVML answers these questions for whole boards alone."""
    if handle.parent is not None:
        raise real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED)
    return handle


FUNCTIONS = {name for name, _ in inspect.getmembers(Functions, inspect.isfunction) if name.startswith("nvml")}
"""The functions that it has."""


def stand_in(
    boards: list[Device], *, driver: str = "580.95.05", cuda: int = 13_000, fails: int | None = None
) -> ModuleType:
    """A module to put in pynvml's place; ``fails``: NVML cannot be initialised, with this nvmlReturn_t."""
    module = ModuleType("pynvml")
    kept = ("NVML", "nvmlMemory_v2", "c_nvml")
    module.__dict__.update({name: value for name, value in vars(real).items() if name.startswith(kept)})
    functions = Functions(boards, driver, cuda, fails)
    module.__dict__.update({name: getattr(functions, name) for name in FUNCTIONS})
    module.__dict__["functions"] = functions
    return module


def divided(*names: str | None, **more: Any) -> Device:
    """A board with a MIG instance for each name, and an empty place for each None."""
    board = Device(name="NVIDIA H200", **more)
    board.instances = [None if name is None else _instance(board, number, name) for number, name in enumerate(names)]
    return board


def _instance(board: Device, number: int, name: str) -> Device:
    uuid = f"MIG-{number:08}-0000-0000-0000-000000000000"
    of = f"{board.name} MIG {name}"
    return Device(of, uuid, total=16 * GIB, used=GIB, reserved=None, busy=None, parent=board)


def install(monkeypatch: pytest.MonkeyPatch, *boards: Device, **more: Any) -> Functions:
    """Put the stand-in in pynvml's place for a test."""
    module = stand_in(list(boards), **more)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    functions: Functions = module.__dict__["functions"]
    return functions
