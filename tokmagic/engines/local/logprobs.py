"""Log probabilities of the local engine's tokens, as the model gives them at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor


class LogprobTap(LogitsProcessor):  # type: ignore[misc]
    """Looks at each step's logits: after penalties, before temperature and the other limits of sampling."""

    def __init__(self) -> None:
        self._last: Any = None

    def __call__(self, _input_ids: Any, scores: Any) -> Any:
        # One step is kept: those of a whole answer would take as much memory as the model.
        self._last = torch.log_softmax(scores.float(), dim=-1)
        return scores

    def of(self, row: Sequence[int]) -> list[float]:
        """The log probability of the token that each choice drew in the newest step."""
        drawn = torch.tensor(row, device=self._last.device).unsqueeze(1)
        values: list[float] = self._last.gather(1, drawn).squeeze(1).tolist()
        return values
