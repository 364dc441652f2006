"""What engines say of themselves: the same by a model's spec, by its engine and by a row of an old ledger."""

from __future__ import annotations

import pytest

from tokmagic.core.config import TokMagic
from tokmagic.core.record import REMOTE, EngineInfo, EngineTraits
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.registry import open_engine

SPECS = {
    "local": ModelSpec("owner/name"),
    "endpoint": ModelSpec("m", api_base="http://localhost:8000/v1"),
    "scripted": ModelSpec("scripted"),
}


@pytest.mark.parametrize(
    ("kind", "remote", "has_weights", "billed_by_device"),
    [("local", False, True, True), ("endpoint", True, False, False), ("scripted", False, False, False)],
)
def test_a_kind_of_engine_has_its_traits_wherever_it_is_asked(
    kind: str, remote: bool, has_weights: bool, billed_by_device: bool
) -> None:
    traits = EngineTraits(remote, has_weights, billed_by_device)
    engine = open_engine("mine", SPECS[kind], TokMagic())
    assert SPECS[kind].kind == engine.info.engine == kind
    assert SPECS[kind].traits == engine.info.traits == EngineInfo("old", "m", kind).traits == traits
    assert (kind in REMOTE) == remote


def test_nothing_is_supposed_of_an_engine_of_another_version() -> None:
    assert EngineInfo("m", "m", "quantum").traits == EngineTraits()
