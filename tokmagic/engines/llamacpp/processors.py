"""How many threads take part in a step."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usual_threads() -> int:
    """One fewer than the processor's cores, at least one.

    The number is part of what an answer's last bits depend on, so it does not follow how busy the machine is; and all
    threads wait for the slowest, which shares its core with whatever else runs.
    """
    return max(1, _cores() - 1)


def _cores() -> int:
    """The cores that this process may use, two threads of one core counted once."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        usable = os.cpu_count() or 1
    with suppress(ImportError):
        import psutil

        usable = min(usable, psutil.cpu_count(logical=False) or usable)
    with suppress(
        OSError, ValueError
    ):  # where a container has a limit: "200000 100000" are two cores, "max 100000" all
        quota, period = _QUOTA.read_text(encoding="utf-8").split()
        usable = min(usable, max(1, int(quota) // int(period)))
    return usable
