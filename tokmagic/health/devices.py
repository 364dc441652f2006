"""The GPU, its driver, and what torch and bitsandbytes make of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tokmagic.engines import gpu
from tokmagic.engines.gpu import Gpu, Gpus
from tokmagic.formatting.numbers import counted
from tokmagic.health.findings import Finding
from tokmagic.prices.devices import cpus

_RUN = "in a container: docker run --gpus all"
_TOOLKIT = "start the container with --gpus all; the host needs NVIDIA's container toolkit for that"
_NO_FUSED = "update torch; FlashAttention needs a GPU of compute capability 8.0 or newer"
_FUSED = {"flash", "cuDNN", "memory-efficient"}
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


def gpus(seen: Gpus, tried: Probe | None) -> Iterator[Finding]:
    """What NVML sees, and whether torch can use it. ``tried`` is None where there is no torch to try."""
    for device in seen.devices:
        told = (device.name, f"{device.free_bytes / 2**30:.1f} GiB free", f"driver {device.driver}")
        yield Finding(f"gpu {device.label}", True, ", ".join((*told, *_load(device))))
    usable = tried.devices if tried is not None else ()
    if usable and not seen.devices:  # NVML is not everywhere that CUDA is
        for index, name in enumerate(usable):
            yield Finding(f"gpu {index}", True, name)
    if not seen.devices and not usable:
        yield _absent(seen)
    elif tried is not None:
        yield _cuda(seen, tried)


def _load(device: Gpu) -> Iterator[str]:
    """How busy a GPU is and what it draws, as far as NVML says."""
    load = device.load
    # Those of this process too: in a container it may not know which one it is.
    if held := sum(amount or 0 for amount in (device.processes or {}).values()):
        yield f"{held / 2**30:.1f} GiB held by processes"
    if load.busy is not None:
        yield f"{load.busy:.0%} busy"
    if load.power_w is not None:
        limit = "" if load.power_limit_w is None else f" of {load.power_limit_w:.0f}"
        yield f"{load.power_w:.0f}{limit} W"
    if load.temperature_c is not None:
        yield f"{load.temperature_c} °C"
    if load.clock_mhz is not None:
        yield f"{load.clock_mhz:,} MHz"


def _absent(seen: Gpus) -> Finding:
    """Why NVML sees no GPU."""
    instead = f"models run on {counted(cpus(), 'CPU core')}"
    answers = {
        "mismatch": (
            "the driver's library does not match the version that the host's kernel has loaded",
            "reboot the host, or make it load its new driver; then start the container again",
        ),
        "no driver": ("NVIDIA's driver is not loaded on the host", "on the host nvidia-smi must work; then " + _RUN),
        "no permission": ("this user may not open the GPU's device files", _TOOLKIT),
        "no binding": ("nvidia-ml-py is not installed, so GPUs cannot be detected", "pip install 'tokmagic[local]'"),
        "error": (f"the driver does not answer: {seen.says}", "on the host nvidia-smi must work; then " + _RUN),
        "no library": ("the host has NVIDIA's driver, but no GPU was given to this container", _TOOLKIT),
    }
    why, fix = answers.get(seen.absence or "no device", ("", _RUN))
    if not why or (seen.absence == "no library" and not gpu.host_has_driver()):
        return Finding("gpu", False, f"none; {instead}", _RUN)
    return Finding("gpu", False, f"none: {why}; {instead}", fix)


def _cuda(seen: Gpus, tried: Probe) -> Finding:
    """Whether torch can use the GPUs that are there."""
    if tried.devices:
        return Finding("cuda", True, f"torch is built for {tried.cuda}, the driver runs up to {seen.cuda or 'unknown'}")
    instead = f"models run on {counted(cpus(), 'CPU core')}"
    if tried.cuda is None:
        fix = "install a torch that is built for CUDA, or use the container image"
        return Finding("cuda", False, f"this torch is built for CPUs only; {instead}", fix)
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None and not tried.cuda_says:
        return Finding("cuda", False, f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU; {instead}", "unset it")
    if seen.cuda is not None and _version(seen.cuda) < (_version(tried.cuda)[0], 0):
        # Within one major version a newer CUDA runs on an older driver (CUDA's minor version compatibility).
        message = f"driver {seen.driver} runs CUDA up to {seen.cuda}, and torch needs {tried.cuda}; {instead}"
        return Finding("cuda", False, message, "update NVIDIA's driver on the host")
    if "out of memory" in tried.cuda_says:
        message = f"the GPU's memory is full: {tried.cuda_says}; {instead}"
        return Finding("cuda", False, message, "nvidia-smi shows which processes use it: end those you do not need")
    message = f"torch cannot use the GPU: {tried.cuda_says or 'it finds none'}; {instead}"
    fix = "update NVIDIA's driver on the host, or install a torch that supports this GPU's generation"
    return Finding("cuda", False, message, fix)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def attention(tried: Probe) -> Finding:
    """Which of torch's attention kernels run on the first device."""
    kernels, device = ", ".join(tried.attention), tried.device
    if not tried.attention:
        fix = "reinstall torch: pip install --force-reinstall torch"
        return Finding("attention", False, f"no kernel runs on {device}", fix, vital=True)
    if not _FUSED & set(tried.attention):
        message = f"only {kernels} on {device}: long prompts take more time and memory"
        return Finding("attention", False, message, _NO_FUSED)
    return Finding("attention", True, f"{kernels} on {device}")


def bitsandbytes(version: str, tried: Probe) -> Finding:
    """Whether bitsandbytes quantises on the first device."""
    failed = {name: why for name, why in tried.bitsandbytes.items() if why is not None}
    if not failed:
        return Finding("bitsandbytes", True, f"{version}, {' and '.join(tried.bitsandbytes)} on {tried.device}")
    formats, why = " and ".join(failed), next(iter(failed.values()))
    message = f"{version}, but --quant {formats} will not work on {tried.device}: {why}"
    return Finding("bitsandbytes", False, message, "pip install -U bitsandbytes")
