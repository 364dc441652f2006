"""How many examples a property is tried on: all of them in ``make test-long``, some in ``make test``."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

THOROUGH = os.environ.get("TOKMAGIC_TEST_THOROUGH") == "1"
SHARE = 5


def some(count: int) -> int:
    """``count`` in thorough tests, else a fifth of it, never fewer than ten."""
    return count if THOROUGH else min(count, max(10, count // SHARE))


def examples(count: int, **more: Any) -> settings:
    """Hypothesis's settings for a property that is tried on ``count`` examples where the tests are thorough."""
    return settings(max_examples=some(count), **more)
