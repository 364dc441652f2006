"""List prices of devices, so that a first run already shows what its share of the machine is worth, and says so."""

from __future__ import annotations

import os
import re
import tomllib
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from tokmagic.events import Rates

# What a device of a known name can be without being worth its price.
_NOT_WHOLE = frozenset({"MIG", "LAPTOP", "MOBILE", "MAX-Q"})


def list_rates(device: str | None, gpu_name: str | None) -> Rates:
    """Return the list price of the device a model runs on; unknown for a GPU that is not listed.

    ``device`` is ``cpu`` or ``cuda:N``, ``gpu_name`` is its name as NVML gives it. A CPU counts with all cores that
    this process may use.
    """
    if device == "cpu":
        cpu, cores = _table()["cpu"], len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        return _rates(Decimal(cpu["usd"]) * cores, f"{cores} × {cpu['source']}", cpu["date"])
    if gpu_name is None or device is None or not device.startswith("cuda"):
        return Rates()
    words = frozenset(re.split(r"[ \-]+", gpu_name.upper()))
    if words & _NOT_WHOLE:
        return Rates()
    for gpu in _table()["gpu"]:
        if frozenset(gpu["name"].upper().split()) <= words:
            return _rates(Decimal(gpu["usd"]), f"{gpu['name']}, {gpu['source']}", gpu["date"])
    return Rates()


def _rates(usd: Decimal, what: str, date: str) -> Rates:
    return Rates(device_hour=usd, source=f"list price: {what}", version=date)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("tokmagic.prices") / "prices.toml").read_text(encoding="utf-8"))
