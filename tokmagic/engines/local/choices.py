"""Which arithmetic a CPU gets: measured once on this machine, and kept, so that a seed gives the same text tomorrow.

Each way rounds elsewhere. Measured at every load, two ways that are about as fast, or a machine that is busy for a
moment, would make the choice a matter of chance, and with it the text.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tokmagic.core.files import atomic_write
from tokmagic.engines.local.passes import alone, can_be_native
from tokmagic.engines.local.products import PIECE, ROWS, Arithmetic, Matrix, Way
from tokmagic.engines.local.threads import threads

Choose = Callable[[Sequence[Matrix], torch.dtype], Arithmetic]
"""Chooses how products of rows in a dtype with such weights, a layer's each, are computed."""

_FILE = "arithmetic.json"
# How it is measured: with another number what was kept is measured anew.
_VERSION = 2
# Numbers of rows at which torch's own kernels are tried beside oneDNN's, and how much sooner they have to be done.
_FEW = (1, 2, 3, 4)
_SOONER = 1.2
# Numbers of rows, of batches and prompts, at which oneDNN is tried for widened weights, and which share of the other
# ways' time it may take on average.
_MANY = (8, 16, 64)
# Of so many layers, a piece of each: in 32 bits they are 64 MB.
_PIECES = 8
_PAYS = 0.95
# Of weights that are read in turn, to try torch's own kernels: more than a processor keeps in its caches.
_READ_BYTES = 128 * 2**20
_TRIES = 3
# The time that the processor spent on it: what else runs here does not count. Windows counts it in steps of 16 ms.
_clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-6 else time.perf_counter


def kept(home: Path, measured: Choose) -> Choose:
    """The choice that ``measured`` makes, or made before on this machine: ``home``, where it exists, keeps it."""
    file = home / _FILE

    def choose(matrices: Sequence[Matrix], dtype: torch.dtype) -> Arithmetic:
        asked = {
            "by": [_VERSION, measured.__name__],
            "machine": _machine(),
            "weights": [[type(it).__name__, str(it.weight.dtype), *it.weight.shape] for it in matrices],
            "rows": str(dtype),
        }
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        if known := _known(_read(file).get(key)):
            return known
        found = measured(matrices, dtype)
        entries = _read(file)
        if known := _known(entries.get(key)):  # by another process meanwhile
            return known
        entries[key] = {**asdict(found), "in_parts": sorted(found.in_parts)}
        with suppress(OSError):
            atomic_write(file, json.dumps(entries, indent=1) + "\n")
        return found

    return choose


def _known(entry: Any) -> Arithmetic | None:
    try:
        found = Arithmetic(**{**entry, "in_parts": frozenset(entry["in_parts"])})
    except (TypeError, KeyError):
        return None
    numbers = [found.native_to, *found.in_parts, *([] if found.wide_from is None else [found.wide_from])]
    return found if all(type(it) is int for it in numbers) and type(found.onednn) is bool else None


def _machine() -> list[Any]:
    """What the ways depend on: torch, the processor, and the instructions that either may use."""
    told: Any = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
    processor = sorted((name, value) for name, value in told.items() if not name.startswith("num_"))
    used = [torch.backends.cpu.get_cpu_capability(), can_be_native(), os.environ.get("ONEDNN_MAX_CPU_ISA")]
    return [torch.__version__, *used, processor]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def for_own_passes(matrices: Sequence[Matrix], dtype: torch.dtype) -> Arithmetic:
    """Try out on this machine which of all ways are fastest; some 500 ms, and twice 64 MB meanwhile.

    The rows are in ``dtype``. In 32 bits nothing is widened; several rows are computed the same way.
    """
    width = matrices[0].weight.shape[1]
    pieces = [it.part(0, max(1, PIECE // width)) for it in matrices[:_PIECES]]
    matrix = pieces[0]
    wide_from = 2 if dtype == torch.float32 else None
    divided = set()
    for rows in ROWS:
        given = torch.ones(rows, width)
        from_left, in_parts, as_transformers = _seconds(
            partial(_pass, partial(matrix.wide, given, "left")),
            partial(_pass, partial(matrix.wide, given, "parts")),
            partial(_pass, partial(matrix.product, given.to(dtype))),
        )
        if dtype != torch.float32:
            # It has to pay for all more rows, too: prompts have hundreds.
            pays = min(from_left, in_parts) < as_transformers
            wide_from = (wide_from or rows) if pays else None
        if in_parts < from_left:
            divided.add(rows)
    native_to = _native_to(matrices, dtype)
    if wide_from is not None and dtype != torch.float32 and _is_onednn_sooner(pieces):
        return Arithmetic(wide_from, frozenset(), native_to, onednn=True)
    return Arithmetic(wide_from, frozenset() if wide_from is None else frozenset(divided), native_to)


def _is_onednn_sooner(pieces: Sequence[Matrix]) -> bool:
    """Whether oneDNN multiplies widened weights sooner than the other ways do, each with weights in its own form.

    With several layers' in turn, as in a pass: of weights that a cache holds oneDNN has no advantage.
    """
    if not pieces[0].can_be_doubled("onednn"):
        return False
    packed, wide = [it.doubled("onednn") for it in pieces], [it.doubled("left") for it in pieces]

    def products(forms: Sequence[Matrix], given: torch.Tensor, way: Way) -> None:
        for form in forms:
            form.wide(given, way)

    shares = []
    for rows in _MANY:
        given = torch.ones(rows, pieces[0].weight.shape[1])
        by_onednn, *others = _seconds(
            partial(_pass, partial(products, packed, given, "onednn")),
            partial(_pass, partial(products, wide, given, "left")),
            partial(_pass, partial(products, wide, given, "parts")),
        )
        shares.append(by_onednn / min(others))
    return fmean(shares) < _PAYS


def for_transformers(matrices: Sequence[Matrix], dtype: torch.dtype) -> Arithmetic:
    """Try out on this machine up to how many rows torch's own kernels serve transformers' modules better."""
    return Arithmetic(native_to=_native_to(matrices, dtype))


def _native_to(matrices: Sequence[Matrix], dtype: torch.dtype) -> int:
    """Up to how many rows torch's own kernels are done sooner than oneDNN's.

    With the weights of several layers in turn: oneDNN's loses where they come from memory.
    """
    if not matrices or not can_be_native():
        return 0
    read_bytes = list(accumulate(it.weight.nbytes for it in matrices))
    tried = matrices[: 1 + sum(it < _READ_BYTES for it in read_bytes)]
    for rows in _FEW:
        given = [torch.ones(rows, it.weight.shape[1], dtype=dtype) for it in tried]

        def products(given: Sequence[torch.Tensor] = given) -> None:
            for matrix, some in zip(tried, given, strict=True):
                matrix.product(some)

        by_onednn, by_torch = _seconds(partial(_pass, products), partial(_pass, products, native=True))
        if _SOONER * by_torch > by_onednn:
            return rows - 1
    return _FEW[-1]


def _pass(work: Callable[[], object], *, native: bool = False) -> None:
    with alone(native=native):  # or another model's pass could have switched oneDNN off
        work()


def _seconds(*ways: Callable[[], object]) -> list[float]:
    """How long each takes at best, tried in turn, so that what slows this machine down slows all of them."""

    def once(work: Callable[[], object]) -> float:
        began = _clock()
        work()
        return _clock() - began

    # On one thread: of several, one may be kept waiting by whatever else computes at this moment.
    with threads(1):
        return [min(of_one) for of_one in zip(*([once(it) for it in ways] for _ in range(_TRIES)), strict=True)]
