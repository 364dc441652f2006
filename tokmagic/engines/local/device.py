"""The devices that torch can use here, and their memory."""

from __future__ import annotations

import gc

import torch

from tokmagic.engines.fit import Held
from tokmagic.engines.local.memory import free_ram
from tokmagic.errors import ModelError, UsageError
from tokmagic.formatting.numbers import counted


def pick_device(asked: str | None) -> torch.device:
    """Return the device to run on: CUDA where there is one. Raises ModelError for one that is not there."""
    if asked is None:
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device("cuda:0" if asked in {"cuda", "gpu"} else asked)
    except RuntimeError:
        raise UsageError(f"--device {asked!r} is unknown; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"--device {asked}: no CUDA device can be used here; use --device cpu, or start the container with "
            "--gpus all and see `tokmagic doctor`"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"--device {asked}: this machine has {counted(torch.cuda.device_count(), 'CUDA device')}; use cuda:0"
        )
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"--device {asked!r} is not supported; use cpu, cuda or cuda:N")
    return device


def device_name(device: torch.device | None) -> str | None:
    """What the driver calls a GPU, part of one included (``… MIG 1g.10gb``); None for a CPU."""
    if device is None or device.type != "cuda":
        return None
    return str(torch.cuda.get_device_name(device))


def free_memory(device: torch.device | None) -> None:
    """Give what is no longer referenced back to the device."""
    gc.collect()
    if device is not None and device.type == "cuda":
        torch.cuda.empty_cache()


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on ``device``, or ``None`` where it cannot be told."""
    if device.type != "cuda":
        return free_ram()
    # What torch keeps for later is the first that it gives out.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def available_if_used(device: str) -> int | None:
    """The same of a CUDA device; None where this process has not begun to use CUDA."""
    return available_bytes(torch.device(device)) if _cuda_is_used() else None


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Begin to look for the peak of a GPU's memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """What torch held of a GPU's memory at most since then; None on a CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def held(device: torch.device, model: torch.nn.Module, twice_bytes: int = 0) -> Held:
    """What a model and torch hold of a device's memory; ``twice_bytes`` of its weights are there a second time."""
    # Weights that layers share are one tensor in memory.
    tensors = {it.data_ptr(): it.nbytes for it in (*model.parameters(), *model.buffers())}
    weights_bytes = sum(tensors.values()) + twice_bytes
    if device.type != "cuda":
        return Held(weights_bytes)
    return Held(weights_bytes, torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))


def cuda_uuid(device: str) -> str | None:
    """The UUID of a CUDA device, as torch writes it; None where it cannot tell, or has not begun to use CUDA."""
    if not _cuda_is_used():
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else str(uuid)


def _cuda_is_used() -> bool:
    # To begin takes seconds, and memory on each device, so nobody begins only to look.
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
