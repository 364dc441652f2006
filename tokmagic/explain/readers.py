"""The tokenizer of each kind of model, behind one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tokmagic.core.prompt import Prompt
from tokmagic.core.stream import Source
from tokmagic.engines.base import Tokenized
from tokmagic.engines.registry import Models
from tokmagic.errors import ModelError
from tokmagic.explain.pieces import Pieces, Stretch, Trace, cut, cut_bytes, place
from tokmagic.tokens import encodings

if TYPE_CHECKING:
    from tokmagic.tokens.tokenizer import Tokenizer


class Reader(Protocol):
    """Cuts prompts into tokens as one model does."""

    @property
    def label(self) -> str:
        """Which tokenizer it is, in a few words."""
        ...

    def trace(self, prompt: Prompt) -> Trace:
        """Cut a prompt up. Raises PromptError."""
        ...

    def count(self, prompt: Prompt) -> int:
        """Return the tokens of a prompt, as many as :meth:`trace` tells of. Raises PromptError."""
        ...


def reader_for(models: Models, name: str) -> Reader:
    """Return the tokenizer of a registered model; no weights are read. Raises ModelError, UsageError."""
    spec, engine = models.spec(name), models.engine(name)
    if not isinstance(engine, Tokenized):
        raise ModelError(f"{name} has no tokenizer: it only plays back a fixed answer; name another model with -m")
    if spec.traits.remote:
        try:
            return _Local(engine.tokenizer(), f"that of {spec.tokenizer or spec.source}")
        except ModelError:
            if spec.tokenizer is not None:
                raise
            return _Encoded(spec.source)
    return _Local(engine.tokenizer())


class _Local:
    """A Hugging Face tokenizer with the model's own chat template."""

    def __init__(self, tokenizer: Tokenizer, label: str = "the model's own") -> None:
        self._tokenizer = tokenizer
        self.label = label

    def trace(self, prompt: Prompt) -> Trace:
        found = self._tokenizer.trace(prompt)
        pieces = None
        if found.spans is not None:
            pieces = cut(found.ids, found.spans, self._tokenizer.special_ids, self._tokenizer.token_bytes)
        whole = (Stretch(0, 0, len(found.text)),)
        contents = whole if prompt.completion else place(found.text, prompt, self._tokenizer.text)
        return Trace(found.text, len(found.ids), pieces, contents)

    def count(self, prompt: Prompt) -> int:
        return self._tokenizer.count(prompt)


class _Encoded:
    """An encoding of OpenAI's. What a chat's format adds is known in number only, and that by estimate."""

    def __init__(self, model: str) -> None:
        self._encoding = encodings.openai_encoding(model)
        self.label: str = self._encoding.name

    def trace(self, prompt: Prompt) -> Trace:
        pieces = Pieces()
        contents: list[Stretch] = []
        text = ""
        for index, message in enumerate(prompt.messages):
            if not prompt.completion:
                _add_unknown(pieces, len(text), encodings.message_overhead(self._encoding, message))
            ids = encodings.encode(self._encoding, message.content)
            cut_bytes(pieces, ids, self._encoding.decode_tokens_bytes(ids), len(text))
            contents.append(Stretch(index, len(text), len(text) + len(message.content)))
            text += message.content
        if not prompt.completion:
            _add_unknown(pieces, len(text), encodings.REPLY_TOKENS)
        source: Source = "counted" if prompt.completion else "estimated"
        return Trace(text, len(pieces), pieces, tuple(contents), source)

    def count(self, prompt: Prompt) -> int:
        return encodings.count(self._encoding, prompt)[0]


def _add_unknown(pieces: Pieces, at: int, tokens: int) -> None:
    for _ in range(tokens):
        pieces.add_extra(None, at, special=True, raw=None)
