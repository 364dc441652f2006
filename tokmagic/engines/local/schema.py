"""Answers that fit a JSON schema: at each step only the tokens that can still lead to one may be drawn.

llguidance says which those are. Its own way of applying them compiles code for seconds, so that is done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import LogitsProcessor

from tokmagic.engines import schemas


class SchemaTokenizer(schemas.SchemaTokenizer):
    """A tokenizer as the constraints of torch's answers need it."""

    def constraint(self, schema: str, choices: int, prompt_tokens: int) -> SchemaConstraint:
        """Return what holds ``choices`` answers to a schema, given as JSON text. Raises UsageError."""
        return SchemaConstraint(self.matchers(schema, choices), prompt_tokens, self.vocabulary)


class SchemaConstraint(LogitsProcessor):  # type: ignore[misc]
    """Rules out, in each row, the tokens after which no answer fits any more."""

    def __init__(self, matchers: list[Any], prompt_tokens: int, vocabulary: int) -> None:
        self._matchers = matchers
        self._seen = prompt_tokens
        self._vocabulary = vocabulary

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return self.restrict(range(len(self._matchers)), input_ids, scores)

    def restrict(self, choices: Iterable[int], input_ids: Any, scores: Any) -> Any:
        """Rule tokens out in ``scores`` [choices, vocabulary] of these choices, whose ids so far are given."""
        for row, choice in enumerate(choices):
            matcher = self._matchers[choice]
            for token in input_ids[row, self._seen :].tolist():
                if not matcher.is_stopped():  # an answer that has ended is padded while others go on
                    matcher.consume_token(token)
            # A copy: the mask's bytes are not ours to write to.
            bits = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.uint8)
            allowed = (bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8) & 1).flatten()[: self._vocabulary].bool()
            scores[row, : self._vocabulary].masked_fill_(~allowed.to(scores.device), float("-inf"))
        self._seen = input_ids.shape[1]
        return scores
