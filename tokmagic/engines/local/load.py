"""Loading a local model: device, dtype, quantisation, and whether the memory holds it."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from pathlib import Path
from typing import Any

import torch

from tokmagic.core.forks import in_child, whole
from tokmagic.engines.base import ModelSpec, Progress
from tokmagic.engines.fit import QUANT_BYTES
from tokmagic.engines.local.declared import dtype_name, is_rounded_here, needed
from tokmagic.engines.local.device import available_bytes
from tokmagic.engines.local.int8 import quantise
from tokmagic.engines.local.memory import require_room, what_fits
from tokmagic.engines.local.store import check_folder, quiet_transformers
from tokmagic.errors import ModelError, OutOfMemoryError, UsageError, nearest

# oneDNN, which multiplies for torch on a CPU, compiles code for each shape of a product and keeps that of the last
# 1,024. As prompts and batches of other sizes come that is 80 MB for the default model, which has five shapes for each
# number of rows.
_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

# One load at a time in the whole process: transformers changes torch itself meanwhile, which another load would meet.
_turn = threading.Lock()


def _renew() -> None:
    global _turn
    _turn = threading.Lock()


in_child(_renew)


def load_model(folder: Path, spec: ModelSpec, device: torch.device, progress: Progress) -> Any:
    """Load the weights in ``folder`` for inference. Raises ModelError, OutOfMemoryError."""
    os.environ.setdefault(*_KERNELS)  # read at the first product
    check_folder(folder, allow_pickle=spec.allow_pickle)
    if spec.quant is not None and spec.quant not in QUANT_BYTES:
        raise UsageError(f"--quant {spec.quant!r} is unknown{nearest(spec.quant, QUANT_BYTES)}; use nf4 or int8")
    require_room(needed(folder, spec), str(device), available_bytes(device))
    progress("importing transformers", 0.1)
    with whole():
        from transformers import AutoModelForCausalLM

    progress("loading weights", 0.3)
    rounded = is_rounded_here(spec, str(device))
    options: dict[str, Any] = {
        # torch multiplies 8-bit weights quickly with rows in bfloat16 alone.
        "dtype": torch.bfloat16 if rounded and dtype_name(spec.dtype) == "auto" else _torch_dtype(spec.dtype),
        "local_files_only": True,
        "trust_remote_code": spec.trust_remote_code,
        "use_safetensors": not spec.allow_pickle or None,
    }
    if spec.quant is not None and not rounded:
        options |= {"quantization_config": _quantisation(spec), "device_map": {"": str(device)}}
    try:
        with _turn, quiet_transformers():
            model, loaded = AutoModelForCausalLM.from_pretrained(str(folder), output_loading_info=True, **options)
        if missing := sorted(loaded["missing_keys"]):
            # transformers would fill them with random numbers and warn.
            raise ModelError(f"{folder} lacks weights ({missing[0]}, {len(missing)} in all); fetch the model again")
        progress(f"moving to {device}", 0.9)
        if rounded:
            quantise(model)
        elif spec.quant is None:
            model = model.to(device)
        elif spec.quant == "nf4":
            _without_odd_packing(model)
        return model.eval()
    except Exception as error:
        raise map_error(error, f"{folder} cannot be loaded", spec, device, folder) from None


def map_error(
    error: Exception, doing: str, spec: ModelSpec, device: torch.device, loading: Path | None = None
) -> ModelError:
    """Turn what torch, transformers or safetensors raised into tokmagic's own error, with its fix.

    ``loading``: the folder whose weights were being loaded.
    """
    if isinstance(error, ModelError):
        return error
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    full = isinstance(error, RuntimeError) and ("out of memory" in str(error) or "not enough memory" in str(error))
    if full or isinstance(error, MemoryError | torch.OutOfMemoryError):
        advice = "shorten the prompt or lower --max-tokens"
        if loading is not None and (wanted := needed(loading, spec)) is not None:
            advice = what_fits(wanted, available_bytes(device) or 0)
        return OutOfMemoryError(f"{device} is out of memory: {doing}; {advice}")
    if "safetensor" in f"{type(error).__module__}{type(error).__name__}".lower():
        return ModelError(
            f"{doing}: a weights file is broken or truncated ({text}); fetch it again: tokmagic pull --force"
        )
    if "trust_remote_code" in str(error):
        return ModelError(f"{doing}: it needs its own code; add it with --trust-remote-code if you trust its author")
    return ModelError(f"{doing}: {text}")


def _torch_dtype(asked: str | None) -> torch.dtype | str:
    name = dtype_name(asked)
    return name if name == "auto" else getattr(torch, name)


def _quantisation(spec: ModelSpec) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("--quant needs the package bitsandbytes; run: pip install 'tokmagic[local]'")
    # One line for every matrix product, thousands a generation: "inputs will be cast …". The other advises a package
    # that fetches code from the hub.
    for name in ("autograd._functions", "backends.cpu.ops"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)
    from transformers import BitsAndBytesConfig

    if spec.quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = _torch_dtype(spec.dtype)
    compute = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _without_odd_packing(model: torch.nn.Module) -> None:
    """Keep bitsandbytes 0.50 from packing weights that its kernel for CPUs with AVX-512 BF16 has no room for.

    It packs rows by 32 and takes columns by blocks of 64, and fails at the first product where either leaves a rest.
    Without packing the weights are multiplied as on other CPUs.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu") and (layer.out_features % 32 or layer.in_features % 64):
            layer.support_avx512bf16_for_cpu = False
