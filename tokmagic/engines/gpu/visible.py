"""Which of NVML's devices torch's ``cuda:N`` is.

CUDA numbers devices by its own order and by CUDA_VISIBLE_DEVICES, NVML by PCI bus. Both know them by UUID, so where
torch is in memory it is asked for that; before, the environment tells, as far as it does (CUDA's programming guide,
"Environment variables"; NVIDIA's MIG user guide, "Device enumeration").
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from tokmagic.engines.gpu import Gpu


def gpu_of(device: str, devices: Sequence[Gpu], environ: Mapping[str, str] = os.environ) -> Gpu | None:
    """Return the one of NVML's devices that torch calls ``cuda`` or ``cuda:N``; None where that cannot be told."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        return None
    # A thread that is importing it has not got this far.
    cuda_uuid = getattr(sys.modules.get("tokmagic.engines.local.device"), "cuda_uuid", None)
    if cuda_uuid is not None and (uuid := cuda_uuid(device)) is not None:
        return by_uuid(uuid, devices, environ)
    listed = visible(devices, environ)
    return listed[int(number or 0)] if listed is not None and int(number or 0) < len(listed) else None


def by_uuid(uuid: str, devices: Sequence[Gpu], environ: Mapping[str, str] = os.environ) -> Gpu | None:
    """Return the device with a UUID as torch writes it, without NVML's ``GPU-`` or ``MIG-`` before it.

    Some versions of CUDA give a MIG instance its GPU's UUID, so that NVML has no device under it: then CUDA's only
    device is meant, since CUDA opens a single instance in a process.
    """
    for device in devices:
        if device.uuid is not None and device.uuid.partition("-")[2] == uuid:
            return device
    listed = visible(devices, environ)
    return listed[0] if listed is not None and len(listed) == 1 and listed[0].instance is not None else None


def visible(devices: Sequence[Gpu], environ: Mapping[str, str] = os.environ) -> list[Gpu] | None:
    """Return the devices in CUDA's order; None where only CUDA itself knows it."""
    setting = environ.get("CUDA_VISIBLE_DEVICES")
    ordered = _in_cudas_order(devices, environ)
    if setting is None:
        return ordered
    found: list[Gpu] = []
    for entry in (it.strip() for it in setting.split(",")):
        if entry.startswith(("GPU-", "MIG-")):
            named = [device for device in devices if device.uuid is not None and device.uuid.startswith(entry)]
        elif not entry.isdecimal():
            break  # as CUDA does: what comes after an entry that means nothing is not visible
        elif ordered is None:
            return None
        else:
            named = ordered[int(entry) : int(entry) + 1]
        if len(named) != 1:
            break
        found += named
    return found


def _in_cudas_order(devices: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu] | None:
    """What CUDA's own numbers mean: the fastest is first unless PCI_BUS_ID is asked for, and among equals the bus."""
    if any(device.instance is not None for device in devices):
        # CUDA opens one instance of all that there are, and where there are whole GPUs beside them it may be these.
        return list(devices) if len(devices) == 1 else None
    alike = len({device.name for device in devices}) <= 1
    return list(devices) if alike or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" else None
