"""What torch, its attention kernels and bitsandbytes really do on the devices here: run as a program, it prints JSON.

A program of its own, since a broken driver or library can end the process that tries it, and since whoever asks need
not have torch in memory.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

_TOKENS, _HEADS, _WIDTH = 64, 4, 64
_BACKENDS = {
    "flash": "FLASH_ATTENTION",
    "cuDNN": "CUDNN_ATTENTION",
    "memory-efficient": "EFFICIENT_ATTENTION",
    "math": "MATH",
}


def probe() -> dict[str, Any]:
    """Try everything once on the first device; the fields of :class:`tokmagic.health.Probe`."""
    devices, says = _devices()
    device = "cuda" if devices else "cpu"
    return {
        "cuda": torch.version.cuda,
        "devices": devices,
        "cuda_says": says,
        "device": device,
        "attention": list(_attention(device)),
        "bitsandbytes": _bitsandbytes(device),
    }


def _devices() -> tuple[list[str], str]:
    if torch.version.cuda is None:
        return [], ""
    # The driver is too old, say: torch warns, then knows of no device.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if not found:
        return [], " ".join(_first_line(str(warning.message)) for warning in caught)
    try:
        for index in range(torch.cuda.device_count()):
            # A device whose generation this torch was not built for fails at its first kernel.
            torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        return [], _first_line(str(error))
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())], ""


def _attention(device: str) -> Iterator[str]:
    from torch.nn import attention, functional

    query = torch.ones(1, _HEADS, _TOKENS, _WIDTH, dtype=torch.bfloat16, device=device)
    for name, member in _BACKENDS.items():
        backend = getattr(attention.SDPBackend, member, None)
        if backend is None:
            continue

        def attend(backend: Any = backend) -> None:
            with attention.sdpa_kernel(backend):
                functional.scaled_dot_product_attention(query, query, query, is_causal=True)
            if device == "cuda":
                torch.cuda.synchronize()

        if _failure(attend) is None:
            yield name


def _bitsandbytes(device: str) -> dict[str, str | None]:
    def nf4() -> None:
        from bitsandbytes import functional

        packed, state = functional.quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4")
        _expect(float(functional.dequantize_4bit(packed, state).sum()), 64 * 64)

    def int8() -> None:
        import bitsandbytes

        layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
        layer.weight.data.fill_(1.0)
        out = layer.to(device)(torch.ones(1, 64, dtype=torch.float16, device=device))
        _expect(float(out.float().sum()), 64 * 64)

    # On a CPU int8 needs no bitsandbytes.
    return {"nf4": _failure(nf4)} | ({"int8": _failure(int8)} if device != "cpu" else {})


def _expect(value: float, wanted: float) -> None:
    if not abs(value - wanted) <= 0.05 * wanted:
        raise ArithmeticError(f"gave {value:.0f} where {wanted:.0f} is right")


def _failure(attempt: Callable[[], None]) -> str | None:
    """Why an attempt failed, in one line; None if it did not. Whatever a library raises is an answer here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            attempt()
        except Exception as error:
            return _first_line(str(error)) or type(error).__name__
    return None


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


if __name__ == "__main__":
    # Libraries print while they are imported; the answer is the only thing on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        found = probe()
    sys.stdout.write(f"\n{json.dumps(found)}\n")
