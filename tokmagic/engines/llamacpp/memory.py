"""Whether memory holds what is to be put there, before the operating system ends a process for it."""

from __future__ import annotations

from tokmagic.engines.local.memory import free_ram
from tokmagic.errors import OutOfMemoryError

LEAST_CELLS = 4096
"""How many tokens the KV cache holds at first: a dozen short answers at once. Who needs more makes it anew, larger."""


def require(needed: int, what: str, advice: str) -> None:
    """Raise OutOfMemoryError where memory does not hold so many bytes more."""
    free = free_ram()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB, the machine has {free / 2**30:.1f} GiB free; {advice}"
        )
