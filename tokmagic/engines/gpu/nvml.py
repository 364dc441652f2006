"""The one door to NVML, by nvidia-ml-py: its devices and MIG instances as handles, and what may be asked of them.

Hardly any device answers every question, and a container may be told less than its host. So a question that NVML
does not answer is answered by None; only that NVML itself cannot be used is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_MIG_ON = 1  # NVML_DEVICE_MIG_ENABLE, nvml.h


class NvmlUnavailable(Exception):
    """NVML cannot be used. ``code`` is its nvmlReturn_t; None where its binding is not installed."""

    def __init__(self, code: int | None, says: str = "") -> None:
        super().__init__(says)
        self.code = code


@dataclass(frozen=True, slots=True)
class Handle:
    """A device that CUDA can run on: a whole GPU, or a MIG instance of one.

    ``index`` is that of its GPU in the order of PCI buses, ``instance`` the number of the MIG instance on it.
    ``whole`` is its GPU's handle, the same as ``own`` unless it is an instance.
    """

    index: int
    instance: int | None
    own: Any
    whole: Any


class Nvml:
    """NVML, initialised. Of what it reports the numbers are as NVML gives them: mJ, mW, °C, MHz, bytes, percent."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        # The latter is raised, by newer bindings, where the driver knows a function only by an older version.
        mismatch = getattr(binding, "NVMLLibraryMismatchError", binding.NVMLError)
        self._no_answer: tuple[type[Exception], ...] = (binding.NVMLError, mismatch)

    def ask(self, question: str, *about: Any) -> Any:
        """Call one of NVML's functions by its name; None where this device or this driver does not answer it."""
        try:
            return getattr(self._binding, question)(*about)
        except self._no_answer:
            return None

    def handles(self) -> Iterator[Handle]:
        """What CUDA can run on: of a GPU that is divided by MIG, the instances that this process may see.

        Raises NvmlUnavailable.
        """
        with _told(self._binding):
            count = int(self._binding.nvmlDeviceGetCount())
            wholes = [self._binding.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        for index, whole in enumerate(wholes):
            mode = self.ask("nvmlDeviceGetMigMode", whole)
            if mode is None or mode[0] != _MIG_ON:
                yield Handle(index, None, whole, whole)
                continue
            for place in range(int(self.ask("nvmlDeviceGetMaxMigDeviceCount", whole) or 0)):
                own = self.ask("nvmlDeviceGetMigDeviceHandleByIndex", whole, place)
                if own is not None:
                    yield Handle(index, place, own, whole)

    def handle(self, uuid: str) -> Handle | None:
        """The device that has this UUID. Raises NvmlUnavailable."""
        return next((it for it in self.handles() if self.ask("nvmlDeviceGetUUID", it.own) == uuid), None)

    def versions(self) -> tuple[str, int]:
        """The driver's version, and the newest CUDA it runs as 1000 × major + 10 × minor. Raises NvmlUnavailable."""
        with _told(self._binding):
            driver = str(self._binding.nvmlSystemGetDriverVersion())
            return driver, int(self._binding.nvmlSystemGetCudaDriverVersion())

    def memory(self, handle: Any) -> tuple[int, int, int]:
        """The bytes of a device's memory, how many of these are used, and how many of those the driver keeps itself.

        Raises NvmlUnavailable.
        """
        with _told(self._binding):
            memory = self._binding.nvmlDeviceGetMemoryInfo(handle)
        # Only its second version tells the driver's part, which its first counts among what is used.
        told = self.ask("nvmlDeviceGetMemoryInfo", handle, self._binding.nvmlMemory_v2)
        return int(memory.total), int(memory.used), 0 if told is None else int(told.reserved)

    def name(self, handle: Any) -> str:
        """What the driver calls a device. Raises NvmlUnavailable."""
        with _told(self._binding):
            return str(self._binding.nvmlDeviceGetName(handle))

    def processes(self, handle: Any) -> dict[int, int | None] | None:
        """The bytes that each process holds on a device, by its id on the host; None where that is not told."""
        computing = self.ask("nvmlDeviceGetComputeRunningProcesses", handle)
        if computing is None:
            return None
        # Those that draw take power as well; a device that cannot draw has none.
        drawing = self.ask("nvmlDeviceGetGraphicsRunningProcesses", handle) or []
        return {int(it.pid): it.usedGpuMemory for it in (*drawing, *computing)}


@contextmanager
def _told(binding: Any) -> Iterator[None]:
    try:
        yield
    except binding.NVMLError as error:
        raise NvmlUnavailable(int(error.value), str(error)) from None


def open_nvml() -> Nvml:
    """Initialise NVML, for as long as the process lives. Raises NvmlUnavailable."""
    try:
        import pynvml  # the module of nvidia-ml-py
    except ImportError:
        raise NvmlUnavailable(None) from None
    with _told(pynvml):
        pynvml.nvmlInit()
    return Nvml(pynvml)


@contextmanager
def nvml() -> Iterator[Nvml]:
    """NVML for a block. Raises NvmlUnavailable."""
    opened = open_nvml()
    try:
        yield opened
    finally:
        opened.ask("nvmlShutdown")
