"""What holds of every run by one kind of engine: asked by trait, so that nobody compares the names of engines.

By the name that the ledger keeps of an engine, since rows of long ago are asked too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """One kind of engine."""

    remote: bool = False
    """A server computes and counts: it may keep to no limit, go on after a broken connection, and answer otherwise."""
    has_weights: bool = False
    """Its model's files are read on this machine, and its weights take a device's memory."""
    billed_by_device: bool = False
    """Where there are no token rates it costs the device's time."""


_TRAITS: Mapping[str, EngineTraits] = MappingProxyType(
    {
        "local": EngineTraits(has_weights=True, billed_by_device=True),
        "endpoint": EngineTraits(remote=True),
        "scripted": EngineTraits(),
    }
)
REMOTE = tuple(kind for kind, traits in _TRAITS.items() if traits.remote)
"""The kinds that are remote, for queries."""


def traits_of(kind: str) -> EngineTraits:
    """The traits of a kind of engine; of one that is not known here nothing is supposed."""
    return _TRAITS.get(kind, EngineTraits())
