"""List prices of devices, so that a first run already shows what its share of the machine is worth, and says so."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokmagic.core.money import Rates
from tokmagic.core.record import EngineInfo

_BRANDS = frozenset({"NVIDIA", "TESLA", "GEFORCE"})

_CPUS = re.compile(r"list price: (\d+) vCPU, ")

DeviceKey = frozenset[str]


def device_key(name: str) -> DeviceKey:
    """What two spellings of one device's name share: ``Tesla T4`` and ``NVIDIA T4``, ``A100-SXM4-80GB``."""
    return frozenset(re.split(r"[\s-]+", name.strip().upper())) - _BRANDS


def device_of(info: EngineInfo) -> DeviceKey | None:
    """The device that a local model runs on; None where that is not known."""
    if not info.traits.billed_by_device or info.device is None:
        return None
    if info.device.startswith("cpu"):
        return device_key("cpu")
    return None if info.device_name is None else device_key(info.device_name)


def list_rates(device: DeviceKey) -> Rates:
    """Return the list price of a device; unknown for one that is not listed.

    A CPU counts with all virtual CPUs that this process may use.
    """
    if device == device_key("cpu"):
        return _of_cpus(cpus())
    for gpu in _table()["gpu"]:
        if device in [device_key(name) for name in gpu["names"]]:
            return _rates(Decimal(gpu["usd"]), gpu["source"], gpu["date"])
    return Rates()


def with_its_cpus(rates: Rates, then: Rates) -> Rates:
    """A CPU's list price with as many virtual CPUs as it had for a run with the rates ``then``.

    Whoever asks what that run would cost today may do so on a machine that has others.
    """
    had = _CPUS.search(then.source)
    if rates.device_hour is None or had is None or _CPUS.match(rates.source) is None:
        return rates
    listed = _of_cpus(int(had[1]))
    return replace(rates, device_hour=listed.device_hour, source=listed.source, version=listed.version)


def _of_cpus(count: int) -> Rates:
    cpu = _table()["cpu"]
    return _rates(Decimal(cpu["usd"]) * count, f"{count} vCPU, {cpu['source']}", cpu["date"])


def _rates(usd: Decimal, what: str, date: str) -> Rates:
    return Rates(device_hour=usd, source=f"list price: {what}", version=date)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("tokmagic.prices") / "prices.toml").read_text(encoding="utf-8"))


@cache
def cpus() -> int:
    """How many virtual CPUs this process may use at once: what it is bound to, and its container's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(bound, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return bound
