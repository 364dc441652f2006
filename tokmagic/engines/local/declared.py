"""What a local model will be, as far as it is known without torch, which takes seconds to import."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

from tokmagic.engines.base import ModelSpec
from tokmagic.engines.fit import Need, need
from tokmagic.errors import ModelError, UsageError, nearest

AS_TRANSFORMERS = "as transformers"
INT8 = "int8 weights with a scale for each row"
_DTYPES = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "float16": "float16",
    "fp32": "float32",
    "float32": "float32",
}
# NVIDIA's driver, that of its small boards, WSL's and AMD's: torch reaches a GPU through one of them.
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")


def expected_device(asked: str | None) -> str:
    """Return the device that a model will be on, such as ``cpu`` or ``cuda:0``. Raises ModelError, UsageError.

    Only where a GPU may be here, or one is asked for, is torch needed to tell.
    """
    if _is_cpu(asked):
        return "cpu"
    # start-up: as for the weights, which a count needs as little.
    try:
        from tokmagic.engines.local.device import pick_device
    except (ImportError, OSError) as error:
        raise cannot_import(error) from error
    return str(pick_device(asked))


def cannot_import(error: ImportError | OSError) -> ModelError:
    """Say what local models lack: a package, or one of the libraries that torch itself loads."""
    if isinstance(error, ModuleNotFoundError):
        return ModelError(f"local models need the package {error.name}; run: pip install 'tokmagic[local]'")
    return ModelError(f"torch or transformers cannot be imported: {error}; see `tokmagic doctor`")


def known_device(asked: str | None) -> str | None:
    """As :func:`expected_device`, importing nothing: any thread may ask, and None is what only torch could tell."""
    if _is_cpu(asked):
        return "cpu"
    # A thread that is importing it has not got this far.
    pick_device = getattr(sys.modules.get("tokmagic.engines.local.device"), "pick_device", None)
    return None if pick_device is None else str(pick_device(asked))


def _is_cpu(asked: str | None) -> bool:
    return asked == "cpu" or (asked is None and sys.platform == "linux" and not any(map(_exists, _GPU_FILES)))


def _exists(path: str) -> bool:
    return Path(path).exists()


def dtype_name(asked: str | None) -> str:
    """Return what torch calls a dtype, ``auto`` (the checkpoint's own) for none. Raises UsageError."""
    if asked is None or asked == "auto":
        return "auto"
    if asked not in _DTYPES:
        raise UsageError(f"--dtype {asked!r} is unknown{nearest(asked, _DTYPES)}; use bf16, fp16 or fp32")
    return _DTYPES[asked]


def declared_dtype(folder: Path, spec: ModelSpec) -> str:
    """Return the dtype that a model will have as far as that is known without its weights, else ``auto``.

    Raises UsageError.
    """
    asked = dtype_name(spec.dtype)
    if asked != "auto":
        return asked
    if spec.quant is not None:  # the checkpoint's own dtype is not the one that is computed in
        return "auto"
    # A configuration that cannot be read is for loading to tell of.
    with suppress(ModelError):
        return configured_dtype(folder) or "auto"
    return "auto"


def needed(folder: Path, spec: ModelSpec) -> Need | None:
    """Return what a model will take of a device's memory; None where its weights cannot be read. Raises UsageError."""
    return need(folder, dtype_name(spec.dtype), spec.quant)


def is_rounded_here(spec: ModelSpec, device: str) -> bool:
    """Whether the weights of a model on such a device are quantised by tokmagic; otherwise bitsandbytes does it."""
    return spec.quant == "int8" and device.partition(":")[0] == "cpu"


def never_compiled(spec: ModelSpec, device: str) -> str | None:
    """Why a model on a device is not compiled, though that was asked for; None where it is, or was not asked for."""
    if spec.compile != "on":
        return None
    if device.partition(":")[0] == "cpu":
        return "on a CPU nothing is compiled"
    return None if spec.quant is None else f"with --quant {spec.quant} nothing is compiled"


def follows_transformers(spec: ModelSpec) -> bool:
    """Who names a dtype of 16 bits gets transformers' arithmetic, to the bit; of 32 bits no order of sums is right.

    Raises UsageError.
    """
    return dtype_name(spec.dtype) not in {"auto", "float32"}


def asked_arithmetic(spec: ModelSpec, device: str) -> str | None:
    """What is known of how a model on a device will be computed, without its weights. Raises UsageError."""
    if is_rounded_here(spec, device):
        return INT8
    return AS_TRANSFORMERS if follows_transformers(spec) else None


def configured_dtype(folder: Path) -> str | None:
    """Return the dtype that a checkpoint's configuration names. Raises ModelError where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}; fetch the model again") from error
    dtype = (config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else None
    return str(dtype) if dtype else None
