"""What looks at each step of a generation: a stopping criterion, with stop strings and log probabilities."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from tokmagic.core.prompt import Sampling
from tokmagic.core.stream import FinishReason, Logprob, Token
from tokmagic.engines.local.stream import LocalStream
from tokmagic.engines.stops import StopFilter
from tokmagic.tokens.tokenizer import Decoder


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
    """Sees the new ids of each step: stamps, decodes and hands them on, and says which rows are done."""

    def __init__(
        self,
        stream: LocalStream,
        eos: frozenset[int],
        decoders: list[Decoder],
        sampling: Sampling,
        logprobs: LogprobTap | None = None,
    ) -> None:
        self._stream = stream
        self._eos = eos
        self._decoders = decoders
        self._stops = [StopFilter(sampling.stop) for _ in decoders]
        self._reasons: list[FinishReason | None] = [None] * len(decoders)
        self._logprobs = logprobs
        self._flags: Any = None
        self.generated = 0

    def __call__(self, input_ids: Any, *_scores: Any, **_options: Any) -> Any:
        row = input_ids[:, -1].tolist()
        # After tolist(): on CUDA a token's instant is when its id has reached the host.
        now_ns = time.perf_counter_ns()
        changed = self._flags is None
        logprobs = None if self._logprobs is None else self._logprobs.of(row)
        for choice, token_id in enumerate(row):
            if self._reasons[choice] is None:
                changed |= self._take(choice, token_id, now_ns, None if logprobs is None else logprobs[choice])
        if self._stream.closed:
            return torch.ones(len(row), dtype=torch.bool, device=input_ids.device)
        if changed:
            done = [reason is not None for reason in self._reasons]
            self._flags = torch.tensor(done, dtype=torch.bool, device=input_ids.device)
        return self._flags

    def _take(self, choice: int, token_id: int, now_ns: int, logprob: float | None) -> bool:
        stop = self._stops[choice]
        text = self._decoders[choice].push(token_id)
        piece = stop.push(text)
        self.generated += 1
        logprobs = () if logprob is None else (Logprob(text, logprob),)
        self._stream.put(Token(now_ns, piece, token_id, choice, logprobs=logprobs))
        if token_id in self._eos or stop.stopped:
            self._reasons[choice] = "stop"
            return True
        return False

    def end(self, *, interrupted: bool) -> tuple[tuple[str, ...], tuple[FinishReason, ...]]:
        """Return each choice's last text and finish reason."""
        tails = []
        for decoder, stop in zip(self._decoders, self._stops, strict=True):
            rest = decoder.flush()
            tails.append(stop.push(rest) + stop.flush())
        unfinished: FinishReason = "interrupted" if interrupted else "length"
        return tuple(tails), tuple(reason or unfinished for reason in self._reasons)
