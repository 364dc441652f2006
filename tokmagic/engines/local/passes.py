"""One pass through a model on the CPU at a time, in the whole process.

A pass may want torch's own kernels in place of oneDNN's, and that is a switch of all of torch: another model's pass at
the same moment would round elsewhere, and the same seed would no longer give the same answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tokmagic.core.forks import in_child

_backends: Any = torch.backends
_onednn = _backends.mkldnn
_turn = threading.Lock()
_was_on: bool | None = None


def _renew() -> None:
    global _turn
    _turn = threading.Lock()
    _switch_back()  # the pass is the parent's


in_child(_renew)


def _switch_back() -> None:
    global _was_on
    if _was_on is not None:
        _onednn.enabled, _was_on = _was_on, None


def can_be_native() -> bool:
    """Whether oneDNN is in use, and may be switched off."""
    return bool(_onednn.enabled) and not _backends.flags_frozen()


@contextmanager
def alone(*, native: bool = False) -> Iterator[None]:
    """Do the work of one pass; ``native``: with torch's own kernels."""
    global _was_on
    with _turn:
        if not native or not can_be_native():
            yield
            return
        _was_on = bool(_onednn.enabled)
        try:
            _onednn.enabled = False
            yield
        finally:
            _switch_back()


def follow(model: Any) -> None:
    """Let a model of transformers take its turn, too, with each call."""
    model.register_forward_pre_hook(lambda *_given: _turn.acquire() and None)
    model.register_forward_hook(lambda *_given: _turn.release(), always_call=True)
