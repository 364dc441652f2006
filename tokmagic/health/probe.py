"""Asks :mod:`tokmagic.engines.local.probe`, in a process of its own, what torch really does here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What torch, its attention kernels and bitsandbytes did on the first device."""

    cuda: str | None = None
    """The CUDA version that torch was built for; None for a CPU build."""
    devices: tuple[str, ...] = ()
    """The names of the GPUs that torch can use."""
    cuda_says: str = ""
    """What torch said where it can use none."""
    device: str = "cpu"
    """``cuda`` or ``cpu``: where the kernels were tried."""
    attention: tuple[str, ...] = ()
    """The attention kernels that ran."""
    bitsandbytes: Mapping[str, str | None] = field(default_factory=dict)
    """Why a format failed, None if it worked."""
    problem: str | None = None
    """Why nothing could be tried, in one line."""


def probe() -> Probe:
    """Try the device's libraries; takes seconds, since torch is imported. Raises nothing."""
    command = [sys.executable, "-P", "-m", "tokmagic.engines.local.probe"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Probe(problem=f"did not answer in {_TIMEOUT_S:.0f} s")
    except OSError as error:
        return Probe(problem=f"no process can be started: {error.strerror or error}")
    said = done.stderr.decode("utf-8", "replace")
    try:
        # What native libraries write to stdout themselves comes before the answer.
        found = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else None
    except (IndexError, ValueError):
        found = None
    if found is None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return Probe(problem=lines[-1] if lines else f"its process ended with status {done.returncode}")
    return Probe(**found | {"devices": tuple(found["devices"]), "attention": tuple(found["attention"])})
