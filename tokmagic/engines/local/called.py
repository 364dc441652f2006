"""Weights that another library multiplies, in a module of its own: what they look like in memory is its affair."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokmagic.engines.local.products import Matrix, Way


def is_called(linear: nn.Linear) -> bool:
    """Whether a linear layer is one that each row of a pass may go through: bitsandbytes' of 4 bits.

    That of 8 bits computes a row otherwise by what the other rows hold.
    """
    library: Any = sys.modules.get("bitsandbytes")
    return library is not None and type(linear) is library.nn.Linear4bit


class Called(Matrix):
    """Weights [out, in] of linear layers one below the other, their biases included."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(torch.empty(0))
        self._layers = layers

    def joined(self, parts: Sequence[Matrix]) -> Called:
        """One matrix of several like this one."""
        return Called(*(layer for it in parts if isinstance(it, Called) for layer in it._layers))

    def product(self, given: Tensor) -> Tensor:
        """Return the products [rows, out] of ``given`` [rows, in] as the layers compute them."""
        parts = [layer(given) for layer in self._layers]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def add_to(self, hidden: Tensor, given: Tensor) -> None:
        """Add the products [rows, out] of ``given`` [rows, in] to ``hidden``."""
        hidden += self.product(given)

    def doubled(self, way: Way | None) -> Called:
        """Itself: it is there for its size."""
        del way
        return self
