"""What looks at each step of transformers' ``generate``: a stopping criterion, and the log probabilities."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from tokmagic.engines.local.answer import Answer
from tokmagic.engines.local.stream import LocalStream


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


class TokenTap(StoppingCriteria):  # type: ignore[misc]
    """Sees the new ids of each step: stamps them, hands them on, and says which answers are over."""

    def __init__(self, stream: LocalStream, answers: list[Answer], logprobs: LogprobTap | None = None) -> None:
        self._stream = stream
        self._answers = answers
        self._logprobs = logprobs
        self._flags: Any = None

    def __call__(self, input_ids: Any, *_scores: Any, **_options: Any) -> Any:
        row = input_ids[:, -1].tolist()
        # After tolist(): on CUDA a token's instant is when its id has reached the host.
        now_ns = time.perf_counter_ns()
        logprobs = None if self._logprobs is None else self._logprobs.of(row)
        changed = self._flags is None
        for at, (answer, token_id) in enumerate(zip(self._answers, row, strict=True)):
            if not answer.is_over:
                answer.take(token_id, now_ns, None if logprobs is None else logprobs[at])
                changed |= answer.is_over
        if self._stream.closed:
            return torch.ones(len(row), dtype=torch.bool, device=input_ids.device)
        if changed:
            done = [answer.is_over for answer in self._answers]
            self._flags = torch.tensor(done, dtype=torch.bool, device=input_ids.device)
        return self._flags
