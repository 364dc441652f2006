"""JSON schemas: what llguidance needs to know of a tokenizer to say which tokens an answer may go on with."""

from __future__ import annotations

import json
from typing import Any

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

    def matchers(self, schema: str, choices: int) -> list[Any]:
        """Return llguidance's matchers that hold ``choices`` answers to a schema, given as JSON text.

        Raises UsageError.
        """
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema)
            wrong = LLMatcher.validate_grammar(grammar, self._tokenizer)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise UsageError(f"the JSON schema cannot be used: {' '.join(wrong.split())}")
        first = LLMatcher(self._tokenizer, grammar)
        # A large schema takes seconds to read.
        return [first, *(first.deep_copy() for _ in range(choices - 1))]


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
