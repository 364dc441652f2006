"""Memory that can still be taken on a device, and whether a model will fit into it. Imports no torch."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tokmagic.engines.fit import Need
from tokmagic.engines.gpu import look
from tokmagic.engines.gpu.visible import gpu_of
from tokmagic.errors import OutOfMemoryError

FIRST_TOKENS = 1024
"""The context with which a model must fit to be loaded at all: that of a first, short conversation."""
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: str) -> int | None:
    """Memory that can still be taken on ``cpu`` or ``cuda:N``, or None where it cannot be told."""
    if device.partition(":")[0] == "cpu":
        return free_ram()
    # Where torch has begun to use the device it knows best, since it keeps memory for itself.
    available = getattr(sys.modules.get("tokmagic.engines.local.device"), "available_if_used", None)
    if available is not None and (free := available(device)) is not None:
        return int(free)
    gpu = gpu_of(device, look().devices)
    return None if gpu is None else gpu.free_bytes


def free_ram(cgroup: Path = _CGROUP) -> int | None:
    """Main memory that can still be taken: the machine's, or what is left of the container's limit."""
    try:
        import psutil
    except ImportError:
        return None
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, LookupError):  # no container, or one without a limit ("max")
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        # Files that were read and can be dropped count as used.
        cached = int(dict(line.split() for line in lines)["inactive_file"])
        free = min(free, max(0, limit - used + cached))
    return free


def require_room(wanted: Need | None, device: str, free: int | None) -> None:
    """Refuse before the operating system kills the kernel for it. Raises OutOfMemoryError, which says what would fit.

    ``free``: the bytes that can be taken on ``device``.
    """
    if wanted is None or free is None:
        return
    total = wanted.total_bytes(FIRST_TOKENS)
    if total > free:
        raise OutOfMemoryError(
            f"{wanted.name} needs {_gib(total)} GiB in {wanted.form}, {device} has {_gib(free)} GiB free; "
            f"{what_fits(wanted, free)}"
        )


def require_ram(needed_bytes: int, what: str, advice: str) -> None:
    """Refuse what main memory does not hold. Raises OutOfMemoryError."""
    free = free_ram()
    if free is not None and needed_bytes > free:
        raise OutOfMemoryError(
            f"{what} needs {_gib(needed_bytes)} GiB, the machine has {_gib(free)} GiB free; {advice}"
        )


def what_fits(wanted: Need, free: int) -> str:
    """Say which other form of a model would fit."""
    for name, weights_bytes in wanted.smaller.items():
        total = replace(wanted, weights_bytes=weights_bytes).total_bytes(FIRST_TOKENS)
        if total <= free:
            option = f"--dtype {name}" if name == "bf16" else f"--quant {name}"
            return f"{option} needs {_gib(total)} GiB and would fit"
    return "nothing smaller of this model fits; unload other models (%model unload --all) or choose a smaller one"


def _gib(count_bytes: int) -> str:
    """Bytes in GiB, the same unit throughout so that they can be compared: ``14.9``, ``0.25``."""
    amount = count_bytes / 2**30
    return f"{amount:.2f}" if 0.005 <= amount < 0.95 else f"{amount:.1f}"
