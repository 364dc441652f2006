"""How many examples a property or a table is tried on: all of them in ``make test-long``, some in ``make test``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings

THOROUGH = os.environ.get("TOKMAGIC_TEST_THOROUGH") == "1"
SHARE = 5


def some(count: int) -> int:
    """``count`` in thorough tests, else a fifth of it, never fewer than ten."""
    return count if THOROUGH else min(count, max(10, count // SHARE))


def examples(count: int, **more: Any) -> settings:
    """Hypothesis's settings for a property that is tried on ``count`` examples where the tests are thorough."""
    return settings(max_examples=some(count), **more)


def first(quick: int, values: Iterable[Any]) -> list[Any]:
    """``values`` for ``parametrize``: ``make test`` takes the first ``quick`` of them, ``make test-long`` the rest."""
    rows = [it if isinstance(it, tuple) else (it,) for it in values]
    return [pytest.param(*row, marks=pytest.mark.slow if at >= quick else ()) for at, row in enumerate(rows)]
