"""Loading a local model: device, dtype, quantisation, and whether the memory holds it."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tokmagic.core.forks import in_child, whole
from tokmagic.engines.base import ModelSpec, Progress
from tokmagic.engines.local.store import check_folder, quiet_transformers
from tokmagic.errors import ModelError, OutOfMemoryError, UsageError, nearest
from tokmagic.formatting.numbers import counted

_DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
}
_DTYPE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
# Bytes a parameter takes in memory; the quantised figures include their scales and what stays unquantised.
_QUANT_BYTES = {"int8": 1.2, "nf4": 0.8}


# One load at a time in the whole process: transformers changes torch itself meanwhile, which another load would meet.
_turn = threading.Lock()


def _renew() -> None:
    global _turn
    _turn = threading.Lock()


in_child(_renew)


def pick_device(asked: str | None) -> torch.device:
    """Return the device to run on: CUDA where there is one. Raises ModelError for one that is not there."""
    if asked is None:
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device("cuda:0" if asked in {"cuda", "gpu"} else asked)
    except RuntimeError:
        raise UsageError(f"--device {asked!r} is unknown; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"--device {asked}: no CUDA device can be used here; use --device cpu, or start the container with "
            "--gpus all and see `tokmagic doctor`"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"--device {asked}: this machine has {counted(torch.cuda.device_count(), 'CUDA device')}; use cuda:0"
        )
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"--device {asked!r} is not supported; use cpu, cuda or cuda:N")
    return device


def device_name(device: torch.device | None) -> str | None:
    """What the driver calls a GPU, part of one included (``… MIG 1g.10gb``); None for a CPU."""
    if device is None or device.type != "cuda":
        return None
    return str(torch.cuda.get_device_name(device))


def pick_dtype(asked: str | None) -> torch.dtype | str:
    """Return the torch dtype for a name, ``"auto"`` (the checkpoint's own) for none. Raises UsageError."""
    if asked is None or asked == "auto":
        return "auto"
    if asked not in _DTYPES:
        raise UsageError(f"--dtype {asked!r} is unknown{nearest(asked, _DTYPES)}; use bf16, fp16 or fp32")
    return _DTYPES[asked]


def declared_dtype(folder: Path, spec: ModelSpec) -> str:
    """Return the dtype that a model will have as far as that is known without its weights, else ``auto``.

    Raises UsageError.
    """
    asked = pick_dtype(spec.dtype)
    if not isinstance(asked, str):
        return str(asked).removeprefix("torch.")
    if spec.quant is not None:  # the checkpoint's own dtype is not the one that is computed in
        return "auto"
    # A configuration that cannot be read is for loading to tell of.
    with suppress(ModelError):
        return _configured_dtype(folder) or "auto"
    return "auto"


def load_model(folder: Path, spec: ModelSpec, device: torch.device, progress: Progress) -> Any:
    """Load the weights in ``folder`` for inference. Raises ModelError, OutOfMemoryError."""
    check_folder(folder, allow_pickle=spec.allow_pickle)
    if spec.quant is not None and spec.quant not in _QUANT_BYTES:
        raise UsageError(f"--quant {spec.quant!r} is unknown{nearest(spec.quant, _QUANT_BYTES)}; use nf4 or int8")
    weights_bytes = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    _require_memory(folder, spec, device, weights_bytes)
    progress("importing transformers", 0.1)
    with whole():
        from transformers import AutoModelForCausalLM

    progress("loading weights", 0.3)
    options: dict[str, Any] = {
        "dtype": pick_dtype(spec.dtype),
        "local_files_only": True,
        "trust_remote_code": spec.trust_remote_code,
        "use_safetensors": not spec.allow_pickle or None,
    }
    if spec.quant is not None:
        options |= {"quantization_config": _quantisation(spec), "device_map": {"": str(device)}}
    try:
        with _turn, quiet_transformers():
            model, loaded = AutoModelForCausalLM.from_pretrained(str(folder), output_loading_info=True, **options)
        if missing := sorted(loaded["missing_keys"]):
            # transformers would fill them with random numbers and warn.
            raise ModelError(f"{folder} lacks weights ({missing[0]}, {len(missing)} in all); fetch the model again")
        progress(f"moving to {device}", 0.9)
        if spec.quant is None:
            model = model.to(device)
        return model.eval()
    except Exception as error:
        raise map_error(error, f"{folder} cannot be loaded", spec, device, weights_bytes) from None


def map_error(
    error: Exception, doing: str, spec: ModelSpec, device: torch.device, weights_bytes: int | None = None
) -> ModelError:
    """Turn what torch, transformers or safetensors raised into tokmagic's own error, with its fix."""
    if isinstance(error, ModelError):
        return error
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    full = isinstance(error, RuntimeError) and ("out of memory" in str(error) or "not enough memory" in str(error))
    if full or isinstance(error, MemoryError | torch.OutOfMemoryError):
        advice = (
            _what_fits(spec, device, weights_bytes) if weights_bytes else "shorten the prompt or lower --max-tokens"
        )
        return OutOfMemoryError(f"{device} is out of memory: {doing}; {advice}")
    if "safetensor" in f"{type(error).__module__}{type(error).__name__}".lower():
        return ModelError(
            f"{doing}: a weights file is broken or truncated ({text}); fetch it again: tokmagic pull --force"
        )
    if "trust_remote_code" in str(error):
        return ModelError(f"{doing}: it needs its own code; add it with --trust-remote-code if you trust its author")
    return ModelError(f"{doing}: {text}")


def free_memory(device: torch.device | None) -> None:
    """Give what is no longer referenced back to the device."""
    gc.collect()
    if device is not None and device.type == "cuda":
        torch.cuda.empty_cache()


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on ``device``, or ``None`` where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _quantisation(spec: ModelSpec) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("--quant needs the package bitsandbytes; run: pip install 'tokmagic[local]'")
    # One line for every matrix product, thousands a generation: "inputs will be cast …".
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    from transformers import BitsAndBytesConfig

    if spec.quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = pick_dtype(spec.dtype)
    compute = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _configured_dtype(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}; fetch the model again") from error
    dtype = (config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else None
    return str(dtype) if dtype else None


def _needed(parameters: float, dtype: str, quant: str | None) -> float:
    return parameters * (_QUANT_BYTES[quant] if quant else _DTYPE_BYTES.get(dtype, 2.0))


def _require_memory(folder: Path, spec: ModelSpec, device: torch.device, weights_bytes: int) -> None:
    """Refuse before the operating system kills the kernel for it."""
    free = available_bytes(device)
    if free is None:
        return
    stored = _configured_dtype(folder) or "float32"
    parameters = weights_bytes / _DTYPE_BYTES.get(stored, 2.0)
    asked = pick_dtype(spec.dtype)
    dtype = stored if asked == "auto" else str(asked).removeprefix("torch.")
    needed = _needed(parameters, dtype, spec.quant)
    if needed > free:
        raise OutOfMemoryError(
            f"{folder.name} needs {needed / 2**30:.1f} GiB in {spec.quant or dtype}, {device} has "
            f"{free / 2**30:.1f} GiB free; {_what_fits(spec, device, weights_bytes, stored)}"
        )


def _what_fits(spec: ModelSpec, device: torch.device, weights_bytes: int, stored: str = "bfloat16") -> str:
    free = available_bytes(device) or 0
    parameters = weights_bytes / _DTYPE_BYTES.get(stored, 2.0)
    smaller = {"bf16": _needed(parameters, "bfloat16", None)}
    smaller |= {quant: _needed(parameters, "", quant) for quant in _QUANT_BYTES}
    fits = [name for name, needed in smaller.items() if needed <= free and name != (spec.quant or spec.dtype or "bf16")]
    if not fits:
        return "nothing smaller of this model fits; unload other models (%model unload --all) or choose a smaller one"
    option = f"--dtype {fits[0]}" if fits[0] == "bf16" else f"--quant {fits[0]}"
    return f"{option} needs {smaller[fits[0]] / 2**30:.1f} GiB and would fit"
