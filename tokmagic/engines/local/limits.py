"""A device's own limits, measured with torch, and what a loaded model asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tokmagic.engines.local.device import available_bytes, wait_for
from tokmagic.engines.roof import MatrixSpeed, Roof, Work

# Far beyond any cache, as a model's weights are, and a small share of what is free.
_READ_BYTES = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}
_LEAST_READ_BYTES = 16 * 2**20
_SHARE_OF_FREE = 8
# The matrix is square.
_SIDE = {"cpu": 2048, "cuda": 8192}
_ROWS = {"cpu": (1, 16, 64, 256, 512), "cuda": (1, 16, 256, 1024, 4096)}
_DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
# One call is too short beside what it takes to start it on a GPU.
_CALLS = {"cpu": 1, "cuda": 20}
_ENOUGH_S = 0.15
_LEAST_ROUNDS, _MOST_S = 3, 1.0
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def measure(device: torch.device) -> Roof:
    """Measure a device; takes a few seconds. Raises what torch does, where its memory is full for one."""
    threads = torch.get_num_threads() if device.type == "cpu" else None
    with torch.inference_mode():
        return Roof(str(device), _read_bytes_per_s(device), tuple(_matrix_speeds(device)), threads)


def work_of(model: Any) -> Work | None:
    """What a model asks of its device; None for a mixture of experts, or one without attention as is usual."""
    config = model.config.get_text_config()
    if any(getattr(config, name, None) for name in _EXPERTS):
        return None  # what it reads depends on its tokens
    try:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    except AttributeError:
        return None
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head = model.get_output_embeddings()
    return Work(
        weight_bytes=_weight_bytes(model, head),
        kv_bytes=2 * layers * kv_heads * head_size * model.dtype.itemsize,
        token_flops=2 * sum(_elements(module) for module in model.modules() if module is not head),
        head_flops=2 * _elements(head),
        pair_flops=4 * layers * heads * head_size,
    )


def _weight_bytes(model: Any, head: Any) -> int:
    """Bytes of all weights, each once; of an input embedding that is not the output's too only one row is read."""
    # Quantised weights may be buffers.
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    embedding = model.get_input_embeddings().weight
    if head is None or head.weight.data_ptr() != embedding.data_ptr():
        tensors.pop(embedding.data_ptr(), None)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _elements(module: Any) -> int:
    """Of a matrix, by its sides: the weights of a quantised one are packed."""
    return int(getattr(module, "in_features", 0) or 0) * int(getattr(module, "out_features", 0) or 0)


def _read_bytes_per_s(device: torch.device) -> float:
    free = available_bytes(device)
    most = _READ_BYTES[device.type] if free is None else min(_READ_BYTES[device.type], free // _SHARE_OF_FREE)
    columns = 4096
    rows = max(_LEAST_READ_BYTES, most) // (4 * columns)
    matrix = torch.ones(rows, columns, device=device)
    vector = torch.ones(columns, device=device)
    # Which of them reads fastest depends on the device, and the roof is what any of them reaches.
    seconds = min(_seconds(lambda: matrix @ vector, device), _seconds(matrix.sum, device))
    return rows * columns * 4 / seconds


def _matrix_speeds(device: torch.device) -> list[MatrixSpeed]:
    side, found = _SIDE[device.type], []
    for dtype in _DTYPES[device.type]:
        matrix = torch.ones(side, side, device=device, dtype=dtype)
        for rows in _ROWS[device.type]:
            given = torch.ones(rows, side, device=device, dtype=dtype)
            seconds = _seconds(partial(torch.nn.functional.linear, given, matrix), device)
            name = str(dtype).removeprefix("torch.")
            found.append(MatrixSpeed(name, rows, 2 * rows * side * side / seconds))
    return found


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds a call, of the quickest round: what else runs on the machine makes the others slower."""
    calls, best, spent, rounds = _CALLS[device.type], float("inf"), 0.0, 0
    work()
    while rounds == 0 or spent < _ENOUGH_S or (rounds < _LEAST_ROUNDS and spent < _MOST_S):
        wait_for(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for(device)
        took = time.perf_counter() - began
        best, spent, rounds = min(best, took / calls), spent + took, rounds + 1
    return best
