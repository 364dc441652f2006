"""Holds the local engine's passes, so that what a test does meanwhile comes in time on any machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tokmagic.engines.local.batch import Batch

WAIT_S = 60.0


@contextmanager
def held() -> Iterator[Callable[[int], None]]:
    """Within the block a model on the CPU makes no pass but so many as are let: as many tokens of an answer."""
    from tokmagic.engines.local.batch import Batch

    may, step = threading.Condition(), Batch.step
    left, is_held = 0, True

    def let(passes: int) -> None:
        nonlocal left
        with may:
            left += passes
            may.notify_all()

    def waiting(batch: Batch) -> None:
        nonlocal left
        with may:
            may.wait_for(lambda: left or not is_held, WAIT_S)
            left -= 1
        step(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "step", waiting)
        try:
            yield let
        finally:
            with may:
                is_held = False
                may.notify_all()
