"""A CUDA device that is played on the CPU: where its tensors may be used, and what waits for it, are a GPU's.

A tensor of it is an ordinary one that says it is elsewhere. What a GPU refuses is refused: an operation on tensors of
both, numpy's view of one, an answer for the host while a graph is being captured. What is computed is the CPU's own, so
that a test can ask for the same logits. Nothing is said of speed, of memory, or of what a GPU's kernels round.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
FREE_BYTES = 8 * 2**30
_FACTORIES = (
    "arange",
    "empty",
    "empty_strided",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "scalar_tensor",
    "tensor",
    "zeros",
)
# What a GPU does with tensors of both: it copies, or looks places up in a list of the host's.
_COPIES = {
    torch._has_compatible_shallow_copy_type,
    Tensor.copy_,
    Tensor.__getitem__,
    Tensor.__setitem__,
    Tensor.index_put_,
}
# What the host has to wait for.
_ANSWERS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.cpu,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    Tensor.nonzero,
    torch.equal,
}


_CAPTURING = "CUDA error: operation not permitted when stream is capturing"


class _Here(threading.local):
    tape: list[Callable[[], None]] | None = None
    # What tensors held before a capture, by their storage; those that it makes are not among them.
    before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]]
    made: dict[int, torch.UntypedStorage]


_here = _Here()
_counted = SimpleNamespace(answers=0, replays=0)


class OnDevice(Tensor):
    """A tensor of the device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return False
        if func is Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        _refuse_both(func, args, kwargs)
        if func in _ANSWERS:
            _answer()
        return _do(func, args, kwargs, _target(func, kwargs))


def _target(func: Any, kwargs: Any) -> torch.device:
    """Where an operation's result will be; ``kwargs`` ask the CPU for it."""
    asked = kwargs.get("device")
    if asked is not None:
        kwargs["device"] = torch.device("cpu")
    return torch.device("cpu") if func is Tensor.cpu else DEVICE if asked is None else torch.device(asked)


def _do(func: Any, args: Any, kwargs: Any, target: torch.device) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        given = _storages((args, kwargs))
        if _here.tape is not None:
            for at, storage in given.items():
                if at not in _here.before and at not in _here.made:
                    _here.before[at] = storage, storage.clone()
        result = func(*args, **kwargs)
        moved = tree_map(_plain if target.type == "cpu" else _placed, result)
        if _here.tape is not None:
            _here.made |= {at: it for at, it in _storages(result).items() if at not in given}
            _here.tape.append(_again(func, args, kwargs, result))
    return moved


def _storages(of: Any) -> dict[int, torch.UntypedStorage]:
    found = [it.untyped_storage() for it in tree_flatten(of)[0] if isinstance(it, Tensor)]
    return {it.data_ptr(): it for it in found}


def _again(func: Any, args: Any, kwargs: Any, result: Any) -> Callable[[], None]:
    """Do an operation once more, with what its tensors hold by then; results go to where they were."""
    wanted = [it for it in tree_flatten(result)[0] if isinstance(it, Tensor)]
    given = _storages((args, kwargs))

    def work() -> None:
        with torch._C.DisableTorchFunctionSubclass():
            made = [it for it in tree_flatten(func(*args, **kwargs))[0] if isinstance(it, Tensor)]
            for old, new in zip(wanted, made, strict=True):
                if old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)

    return work


def _placed(it: Any) -> Any:
    return it.as_subclass(OnDevice) if isinstance(it, Tensor) and type(it) is Tensor else it


def _plain(it: Any) -> Any:
    return it.as_subclass(Tensor) if isinstance(it, OnDevice) else it


def _refuse_both(func: Any, args: Any, kwargs: Any) -> None:
    if func in _COPIES:
        if _here.tape is not None and any(type(it) is Tensor and it.dim() for it in args):
            raise RuntimeError(_CAPTURING)
        return
    given = tree_flatten((args, kwargs))[0]
    for it in given:
        if isinstance(it, _Generator) and it.place != "cuda":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    tensors = [it for it in given if isinstance(it, Tensor)]
    elsewhere = [it for it in tensors if not isinstance(it, OnDevice) and it.dim()]
    if elsewhere and len(elsewhere) < len(tensors):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({getattr(func, '__name__', func)})"
        )


def _answer() -> None:
    if _here.tape is not None:
        raise RuntimeError(_CAPTURING)
    _counted.answers += 1


def answers() -> int:
    """How often the host has waited for the device so far."""
    return int(_counted.answers)


def replays() -> int:
    """How often a graph has been played so far."""
    return int(_counted.replays)


def _factory(real: Any) -> Any:
    def made(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        if device is None or torch.device(device).type != "cuda":
            return real(*args, **kwargs) if device is None else real(*args, device=device, **kwargs)
        if _here.tape is not None and real is _real_tensor:
            raise RuntimeError(_CAPTURING)
        return _do(real, args, kwargs, DEVICE)

    return made


_real_tensor = torch.tensor
_real_to = Tensor.to
_PLACE = (torch.device, str, Tensor)


def _to(it: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to``: between the devices it copies, and the host waits."""
    places = [*args, kwargs.get("device"), kwargs.get("other")]
    asked = [of.device if isinstance(of, Tensor) else torch.device(of) for of in places if isinstance(of, _PLACE)]
    target = torch.device(asked[0].type, 0) if asked and asked[0].type == "cuda" else asked[0] if asked else it.device
    args = tuple(torch.device("cpu") if isinstance(of, torch.device | str) else of for of in args)
    args = tuple(of.dtype if isinstance(of, Tensor) else of for of in args)
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    crosses = target.type != it.device.type
    if crosses:
        _answer()

    def moved(given: Tensor) -> Tensor:
        made = _real_to(given, *args, **kwargs)
        return made.clone() if crosses else made

    if not crosses and not isinstance(it, OnDevice):
        return moved(it)
    with torch._C.DisableTorchFunctionSubclass():
        if moved(it) is it:
            return it
    return _do(moved, (it,), {}, target)


# The graphs that are left of each pool, and the pools that ever had one.
_pools: dict[Any, WeakSet[_Graph]] = {}
_used: set[Any] = set()
_handles = itertools.count(1)


class _Graph:
    """A graph of the device: what was captured, done again by each replay."""

    def __init__(self) -> None:
        self.tape: list[Callable[[], None]] = []

    def capture_begin(self, pool: Any = None, **_options: Any) -> None:
        alive = _pools.setdefault(pool, WeakSet())
        if pool is not None and len(alive) == 0 and pool in _used:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED: no graph of this pool is left")
        alive.add(self)
        _used.add(pool)
        _here.tape, _here.before, _here.made = self.tape, {}, {}

    def capture_end(self) -> None:
        _here.tape = None
        # A GPU does nothing while it is told what a graph will do.
        for storage, before in _here.before.values():
            storage.copy_(before)
        for at in _here.made.keys() - _here.before.keys():
            _here.made[at].fill_(255)  # bytes of numbers that are none
        _here.before, _here.made = {}, {}

    def replay(self) -> None:
        _counted.replays += 1
        with torch.no_grad():
            for step in self.tape:
                step()


class _Stream:
    def __init__(self, *_given: Any) -> None: ...

    def wait_stream(self, other: _Stream) -> None: ...


class _Generator(torch.Generator):
    """One that knows where its random numbers are drawn."""

    place: str

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.place = torch.device(device).type
        return made


def played(patch: pytest.MonkeyPatch, *, has_fused_norms: bool = False) -> None:
    """Let torch have one such device, until ``patch`` is undone; ``has_fused_norms`` as later releases on a GPU."""
    _counted.answers = _counted.replays = 0
    # torch remembers at its first `with torch.device(...)` which functions make tensors: the real ones.
    _device_constructors()
    for name in _FACTORIES:
        patch.setattr(torch, name, _factory(getattr(torch, name)))
    patch.setattr(torch, "Generator", _Generator)
    told = SimpleNamespace(
        total_memory=FREE_BYTES, uuid=None, major=9, minor=0, name="a played GPU", multi_processor_count=8
    )
    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: told.name,
        "get_device_properties": lambda *_: told,
        "get_device_capability": lambda *_: (9, 0),
        "mem_get_info": lambda *_: (FREE_BYTES, FREE_BYTES),
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 1,
        "reset_peak_memory_stats": lambda *_: None,
        "synchronize": lambda *_: _answer(),
        "empty_cache": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "CUDAGraph": _Graph,
        "graph_pool_handle": lambda: (0, next(_handles)),
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda *_: nullcontext(),
        "device": lambda *_: nullcontext(),
    }
    for name, value in cuda.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: has_fused_norms)
    # Else a module would take over a tensor's numbers without its place.
    patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    patch.setattr(torch.Tensor, "to", _to)
    patch.setattr(torch.Tensor, "cuda", lambda it, *_, **__: it.to(DEVICE))
