"""What each row says of where it ran: versions that could explain a number, whose run it is, in which notebook."""

from __future__ import annotations

import getpass
import importlib.metadata
import importlib.util
import os
import platform
import re
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from tokmagic.core.forks import whole
from tokmagic.core.prompt import spelled
from tokmagic.core.record import EngineInfo
from tokmagic.core.version import __version__
from tokmagic.engines import gpu

PACKAGES = ("torch", "transformers", "tokenizers", "bitsandbytes", "llguidance", "xllamacpp")
"""Packages that have a part in what a local model answers."""
_FROM_IMAGE = {"image": "TOKMAGIC_IMAGE", "image_base": "TOKMAGIC_IMAGE_BASE"}


@cache
@whole()
def environment() -> tuple[tuple[str, str], ...]:
    """Name and version of what there is: packages, interpreter, CUDA, driver, GPU, container image. Imports no package.

    ``cuda`` is the version that torch was built for; ``image`` is the container image with its build, ``image_base``
    what that was built on. It is looked up once a process.
    """
    stamps = {"tokmagic": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            stamps[package] = importlib.metadata.version(package)
    if cuda := torch_cuda():
        stamps["cuda"] = cuda
    gpus = gpu.look()
    if gpus.driver:
        stamps["driver"] = gpus.driver
    if gpus.devices:
        stamps["gpu"] = gpus.devices[0].name
    stamps |= {name: value for name, variable in _FROM_IMAGE.items() if (value := os.environ.get(variable))}
    return tuple(stamps.items())


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, such as ``12.8``; None for a CPU build and without torch.

    Read from the file that torch's build writes, since importing torch takes seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    with suppress(OSError):
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
        if found := re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE):
            return found[1]
    return None


def expected_device(info: EngineInfo, wanted: str | None) -> EngineInfo:
    """A model's info with the device that it will run on, as far as that is known before it is loaded.

    Looked up without torch; ``wanted`` is what its ``--device`` says.
    """
    if not info.traits.billed_by_device or info.device_name is not None:
        return info
    here = dict(environment())
    gpu_name = here.get("gpu") if "cuda" in here else None
    device = info.device or wanted or ("cuda:0" if gpu_name else "cpu")
    return replace(info, device=device, device_name=None if device.startswith("cpu") else gpu_name)


def user_name() -> str | None:
    """Who runs this process, as the operating system says."""
    try:
        return spelled(getpass.getuser())
    except (KeyError, OSError):  # a container's uid without a name
        return str(os.getuid())
