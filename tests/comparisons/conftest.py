"""Desks on the test's own ledger."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.comparisons.desk import Answers, Desk, right
from tokmagic.comparisons import intervals


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer samples; and no collection of garbage, which statsmodels asks for at each correction of p values."""
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


@pytest.fixture
def make_desk(make_session: Callable[..., Any]) -> Callable[..., Desk]:
    """Make a desk; models by keyword, else one that is always right."""

    def make(*, settings: dict[str, Any] | None = None, **models: Answers) -> Desk:
        return Desk(make_session(**(settings or {})), **(models or {"small": right}))

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()
