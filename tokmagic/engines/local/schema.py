"""Answers that fit a JSON schema: at each step only the tokens that can still lead to one may be drawn.

llguidance says which those are. Its own way of applying them compiles code for seconds, so that is done here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from transformers import LogitsProcessor

from tokmagic.errors import ModelError, UsageError
from tokmagic.tokens.tokenizer import Tokenizer


class SchemaTokenizer:
    """A tokenizer as the constraints need it: reading it takes a second, so it is kept with the model."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, eos: frozenset[int]) -> None:
        """``vocabulary`` is the number of logits. Raises ModelError."""
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise ModelError(
                f"a JSON schema needs the package {error.name}; run: pip install 'tokmagic[local]'"
            ) from error
        self.vocabulary = vocabulary
        spelled: Any = (
            _Spelled(tokenizer, vocabulary, eos).wrapped()
            if tokenizer.backend is None
            else _one_alphabet(tokenizer.backend.to_str())
        )
        self._tokenizer = LLTokenizer(spelled, n_vocab=vocabulary, eos_token=sorted(eos))

    def constraint(self, schema: str, choices: int, prompt_tokens: int) -> SchemaConstraint:
        """Return what holds ``choices`` answers to a schema, given as JSON text. Raises UsageError."""
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema)
            wrong = LLMatcher.validate_grammar(grammar, self._tokenizer)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise UsageError(f"the JSON schema cannot be used: {' '.join(wrong.split())}")
        matchers = [LLMatcher(self._tokenizer, grammar) for _ in range(choices)]
        return SchemaConstraint(matchers, prompt_tokens, self.vocabulary)


class _Spelled:
    """What llguidance asks of a tokenizer that the package tokenizers does not read; its names are llguidance's."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, eos: frozenset[int]) -> None:
        special = tokenizer.special_ids
        spelled = [tokenizer.token_bytes(it) for it in range(vocabulary)]
        if not any(it for at, it in enumerate(spelled) if at not in special):
            raise ModelError("a JSON schema needs to know how tokens are spelled; this model's tokenizer does not tell")
        self._tokenizer = tokenizer
        self.tokens = [it or b"" for it in spelled]
        self.special_token_ids = sorted(it for it in special if it < vocabulary)
        self.eos_token_id = min(eos)
        self.bos_token_id = None

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):  # llguidance tries bytes first
            raise TypeError
        return self._tokenizer.text_ids(text)

    def wrapped(self) -> Any:
        from llguidance import TokenizerWrapper

        return TokenizerWrapper(self)


def _one_alphabet(tokenizer: str) -> str:
    """A tokenizer's JSON whose decoder names one way to spell bytes.

    Some conversions name two, ``<0xC3>`` (ByteFallback) before the one that the vocabulary is written in (ByteLevel).
    llguidance goes by the first it meets, and would then ask for other characters than the schema's.
    """
    spec = json.loads(tokenizer)
    steps = (spec["decoder"] or {}).get("decoders", ())
    spec["decoder"] = next((step for step in steps if step["type"] == "ByteLevel"), spec["decoder"])
    return json.dumps(spec)


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
