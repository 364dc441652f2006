"""The tokenizer of each kind of model: which one it is (``label``), prompts cut into tokens, and their number."""

from __future__ import annotations

from tokmagic.core.prompt import Prompt
from tokmagic.core.stream import Source
from tokmagic.engines.base import Tokenized
from tokmagic.engines.registry import Models
from tokmagic.errors import ModelError
from tokmagic.explain.pieces import Pieces, Stretch, Trace, cut, cut_bytes, place
from tokmagic.tokens import encodings
from tokmagic.tokens.tokenizer import Tokenizer


def reader_for(models: Models, name: str) -> Reader:
    """Return the tokenizer of a registered model; no weights are read. Raises ModelError, UsageError."""
    spec, engine = models.spec(name), models.engine(name)
    if not isinstance(engine, Tokenized):
        raise ModelError(f"{name} has no tokenizer: it only plays back a fixed answer; name another model with -m")
    if not spec.traits.remote:
        return LocalReader(engine.tokenizer())
    try:
        return LocalReader(engine.tokenizer(), f"that of {spec.tokenizer or spec.source}")
    except ModelError:
        if spec.tokenizer is not None or spec.shared:
            raise
        return EncodingReader(spec.source)


class LocalReader:
    """A Hugging Face tokenizer with the model's own chat template. Its methods raise PromptError."""

    def __init__(self, tokenizer: Tokenizer, label: str = "the model's own") -> None:
        self.tokenizer = tokenizer
        self.label = label
        self.count = tokenizer.count

    def trace(self, prompt: Prompt) -> Trace:
        """Cut a prompt up."""
        text, ids, spans = self.tokenizer.trace(prompt)
        pieces = None if spans is None else cut(self.tokenizer, text, ids, spans)
        whole = (Stretch(0, 0, len(text)),)
        contents = whole if prompt.completion else place(text, prompt, self.tokenizer.text)
        return Trace(text, len(ids), pieces, contents)


class EncodingReader:
    """An encoding of OpenAI's. What a chat's format adds is known in number only, and that by estimate."""

    def __init__(self, model: str) -> None:
        self._encoding = encodings.openai_encoding(model)
        self.label: str = self._encoding.name

    def trace(self, prompt: Prompt) -> Trace:
        """Cut a prompt up. Raises PromptError."""
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
        """Return the tokens of a prompt, as many as :meth:`trace` tells of. Raises PromptError."""
        return encodings.count(self._encoding, prompt)[0]


Reader = LocalReader | EncodingReader


def _add_unknown(pieces: Pieces, at: int, tokens: int) -> None:
    for _ in range(tokens):
        pieces.add(None, at, at, special=True)
