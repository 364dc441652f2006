"""One pass through a model at a time on each device, in the whole process.

A pass on a CPU may want torch's own kernels in place of oneDNN's, and that is a switch of all of torch: another model's
pass at the same moment would round elsewhere, and the same seed would no longer give the same answer. And a device that
works for two models at once would be paid for twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from tokmagic.core.forks import in_child
from tokmagic.engines.local.device import wait_for

_backends: Any = torch.backends
_onednn = _backends.mkldnn
_CPU = torch.device("cpu")
_turns: dict[torch.device, threading.Lock] = {}
_was_on: bool | None = None
_here = threading.local()


def _renew() -> None:
    _turns.clear()
    _switch_back()  # the pass is the parent's


in_child(_renew)


def _switch_back() -> None:
    global _was_on
    if _was_on is not None:
        _onednn.enabled, _was_on = _was_on, None


def waited_ns() -> int:
    """How long this thread has waited for its turns so far: the device worked for somebody else meanwhile."""
    return int(getattr(_here, "waited_ns", 0))


def has_onednn() -> bool:
    """Whether oneDNN multiplies at this moment."""
    return bool(_onednn.enabled)


def can_be_native() -> bool:
    """Whether oneDNN is in use, and may be switched off."""
    return has_onednn() and not _backends.flags_frozen()


@contextmanager
def alone(device: torch.device = _CPU, *, native: bool = False) -> Iterator[None]:
    """Do the work of one pass on a device; ``native``, on a CPU: with torch's own kernels."""
    global _was_on
    turn = _turns.setdefault(device, threading.Lock())
    if not turn.acquire(blocking=False):
        came_ns = time.perf_counter_ns()
        turn.acquire()
        _here.waited_ns = waited_ns() + time.perf_counter_ns() - came_ns
    try:
        if native and can_be_native():
            _was_on, _onednn.enabled = bool(_onednn.enabled), False
        yield
    finally:
        if device.type == "cpu":
            _switch_back()
        turn.release()


class Followed:
    """A model of transformers that takes its turn with each call: with up to ``native_to`` rows by torch's kernels."""

    def __init__(self, model: Any) -> None:
        self.native_to = 0
        self._device: torch.device = next(model.parameters()).device
        self._passes: list[AbstractContextManager[None]] = []
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)

    def _begin(self, _model: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        self._end()  # torch calls no hook where a call was ended by what is no Exception
        ids = args[0] if args else given.get("input_ids")
        taken = alone(self._device, native=ids is not None and ids.numel() <= self.native_to)
        taken.__enter__()
        self._passes.append(taken)

    def _end(self, *_given: Any) -> None:
        if self._passes:
            taken = self._passes.pop()
            try:
                wait_for(self._device)
            finally:
                taken.__exit__(None, None, None)
