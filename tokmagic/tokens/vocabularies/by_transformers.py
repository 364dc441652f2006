"""What only transformers reads: tokenizers that are code, its own or a model's, and formats of one model each.

It brings torch along, which takes seconds, so nothing else here needs it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokmagic.core.prompt import Message
from tokmagic.tokens.vocabularies.base import Span, Vocabulary
from tokmagic.tokens.vocabularies.by_tokenizers import TokenizersVocabulary


def load(folder: Path, *, trust_remote_code: bool) -> Any:
    """Return what transformers makes of a folder. Raises ImportError, and whatever else it does."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    # What it warns of on the way is told here by what comes of it.
    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
    finally:
        logging.set_verbosity(shown)


def read(folder: Path, *, trust_remote_code: bool) -> tuple[Vocabulary, TransformersTemplate]:
    """Read a folder's tokenizer and chat template. Raises as :func:`load` does."""
    made = load(folder, trust_remote_code=trust_remote_code)
    backend = getattr(made, "backend_tokenizer", None)
    name = type(made).__name__
    if backend is None:
        return PythonVocabulary(made), TransformersTemplate(made)
    special = map(str, made.all_special_tokens)
    return TokenizersVocabulary(backend, special, read_from=name, reader="transformers"), TransformersTemplate(made)


class TransformersTemplate:
    """The template of a tokenizer that may fill it in in its own way."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.source: Any = tokenizer.chat_template

    def render(self, messages: Sequence[Message]) -> str:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return str(self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))


class PythonVocabulary:
    """A tokenizer that is written in Python: which characters a token stands for cannot be told."""

    reader = "transformers"
    backend = None
    unknown_id = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.read_from = type(tokenizer).__name__

    @cached_property
    def special_ids(self) -> frozenset[int]:
        added = self._tokenizer.added_tokens_decoder
        return frozenset(self._tokenizer.all_special_ids) | {it for it, token in added.items() if token.special}

    @cached_property
    def identity(self) -> str:
        return json.dumps(self._tokenizer.get_vocab(), sort_keys=True)

    def ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def trace(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[Span] | None]:
        return self.ids(text, add_special_tokens=add_special_tokens), None

    def count(self, text: str, *, add_special_tokens: bool) -> int:
        return len(self.ids(text, add_special_tokens=add_special_tokens))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_bytes(self, token_id: int) -> bytes | None:
        spelled = str(self._tokenizer.convert_ids_to_tokens(token_id))
        return spelled.encode() if token_id in self.special_ids else None
