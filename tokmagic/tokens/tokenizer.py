"""Tokenizers and chat templates of models, without their weights: ids, counts, and text from ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokmagic.core.prompt import Message, Prompt, utf8
from tokmagic.errors import PromptError
from tokmagic.tokens import chat_template, vocabularies

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


_PART_CHARS = 10_000


class Tokenizer:
    """A model's own tokenizer and chat template, read from its folder by its own file: see tokens/vocabularies."""

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        """Read the tokenizer in ``folder``. Raises ModelError."""
        self.folder = folder
        self.trust_remote_code = trust_remote_code
        self._vocabulary, self._template = vocabularies.read(folder, trust_remote_code=trust_remote_code)
        self.special_ids: frozenset[int] = self._vocabulary.special_ids
        """The ids that structure the text (begin, end, role) rather than stand for some of it."""
        self.unknown_id: int | None = self._vocabulary.unknown_id
        """The one of them that also stands for text that the vocabulary lacks."""
        self._encode = lru_cache(maxsize=4)(self._encode_uncached)

    @property
    def backend(self) -> Backend | None:
        """The ``tokenizers.Tokenizer`` underneath, or ``None`` for one that another package reads."""
        return self._vocabulary.backend

    @property
    def origin(self) -> str:
        """The file that it was read from, and the package that reads it."""
        return f"{self._vocabulary.read_from}, read by {self._vocabulary.reader}"

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the ids the model is fed, special tokens included.

        Chats go through the model's chat template with the generation prompt; completions are
        tokenised as they stand. Raises PromptError.
        """
        return self._encode(prompt.messages, prompt.completion)

    def _encode_uncached(self, messages: tuple[Message, ...], completion: bool) -> tuple[int, ...]:
        # A template writes the special tokens itself.
        text = self.text(Prompt(messages, completion=completion))
        return tuple(self._vocabulary.ids(text, add_special_tokens=completion))

    def text(self, prompt: Prompt) -> str:
        """Return what is tokenised: a chat in the model's template, a completion as it stands. Raises PromptError."""
        for message in prompt.messages:
            utf8(message.content)
        if prompt.completion:
            return prompt.messages[0].content
        if not self._template.source:
            raise PromptError("this model has no chat template; use --completion to feed it plain text")
        try:
            text = self._template.render(prompt.messages)
        except Exception as error:
            # Templates refuse with jinja2's errors ("roles must alternate"), whatever the model's author wrote.
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error
        utf8(text)
        return text

    def trace(self, prompt: Prompt) -> tuple[str, tuple[int, ...], tuple[tuple[int, int], ...] | None]:
        """Return :meth:`text`, the ids of :meth:`encode`, and for each id its characters in the text (start, end).

        These are empty where the tokenizer added the id, and shared where a character spans tokens; None for a
        tokenizer that does not tell. Raises PromptError.
        """
        text = self.text(prompt)
        ids, spans = self._vocabulary.trace(text, add_special_tokens=prompt.completion)
        return text, tuple(ids), None if spans is None else tuple(spans)

    def count(self, prompt: Prompt) -> int:
        """Return how many ids :meth:`encode` gives, by the shortest way. Raises PromptError."""
        return self._vocabulary.count(self.text(prompt), add_special_tokens=prompt.completion)

    def token_bytes(self, token_id: int) -> bytes | None:
        """Return the bytes that a token stands for by itself, or None where its spelling does not tell."""
        return self._vocabulary.token_bytes(token_id)

    def count_text(self, text: str) -> int:
        """Return the tokens of a text by itself, without special tokens; half a character counts as U+FFFD.

        A text that cannot be split as a whole is counted in parts, which comes to a token or so more for each.
        """
        clean = text.encode("utf-8", "replace").decode()
        try:
            return self._vocabulary.count(clean, add_special_tokens=False)
        except PromptError:
            if len(clean) <= _PART_CHARS:
                raise
            parts = (clean[at : at + _PART_CHARS] for at in range(0, len(clean), _PART_CHARS))
            return sum(self._vocabulary.count(part, add_special_tokens=False) for part in parts)

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a text by itself, without special tokens at its ends."""
        return self._vocabulary.ids(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out."""
        return self._vocabulary.decode(ids)

    @cached_property
    def sha256(self) -> str:
        """Digest of the vocabulary, its rules and the chat template: two models with the same one count alike."""
        template = json.dumps(self._template.source, sort_keys=True)
        return hashlib.sha256(f"{self._vocabulary.identity}\0{template}".encode()).hexdigest()

    @cached_property
    def dated(self) -> str | None:
        """What the chat template says of the present, as strftime has it: another day makes another prompt."""
        return chat_template.dated(self._template.source)


# What English text comes to with the tokenizers of today, and what a template adds to a message.
BYTES_PER_TOKEN = 4
_MESSAGE_TOKENS = 4


def rough_count(prompt: Prompt) -> int:
    """Tokens of a prompt by its length, for any model: an estimate where nothing better is known."""
    return sum(rough_count_text(message.content) + _MESSAGE_TOKENS for message in prompt.messages)


def rough_count_text(text: str) -> int:
    """Tokens of a text by its length: at least one where there is any."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


class Decoder:
    """Text from ids, one id at a time. A character that spans several tokens comes out whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text = ""
        self._shown = 0  # so many of the ids made the text
        self._stream: Any = None
        if tokenizer.backend is not None:
            from tokenizers.decoders import DecodeStream

            self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """Take one id in and return the text that became certain with it, often empty."""
        self._ids.append(token_id)
        piece = ""
        if self._stream is not None:
            try:
                piece = self._stream.step(self._tokenizer.backend, token_id) or ""
            except Exception:
                # "Invalid prefix": the library gives up on some byte sequences. Decode in full from here on.
                self._stream = None
        if self._stream is None:
            piece = self._rest()
            piece = "" if piece.endswith("�") else piece
        if piece:
            self._text += piece
            self._shown = len(self._ids)
        return piece

    def flush(self) -> str:
        """Return the text that was still held back, incomplete characters as U+FFFD."""
        tail = self._rest()
        self._text += tail
        return tail

    def _rest(self) -> str:
        whole = self._tokenizer.decode(self._ids)
        if not whole.startswith(self._text):
            whole = self._begun_anew()
        return whole[len(self._text) :]

    def _begun_anew(self) -> str:
        """Decode what is not shown yet after as many of the ids before it as leave its text alone.

        Of bytes in a row, as Llama 2 spells the end of a line, a decoder may take all for incomplete as soon as one is:
        those of characters that have been shown, too.
        """
        before, new = self._ids[: self._shown], self._ids[self._shown :]
        while True:
            self._text = self._tokenizer.decode(before)
            whole = self._tokenizer.decode([*before, *new])
            if whole.startswith(self._text):
                self._ids, self._shown = [*before, *new], len(before)
                return whole
            del before[-1:]
