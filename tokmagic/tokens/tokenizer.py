"""Tokenizers and chat templates of models, without their weights: ids, counts, and text from ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokmagic.core.prompt import Message, Prompt, utf8
from tokmagic.errors import ModelError, PromptError


class Tokenizer:
    """A model's own tokenizer and chat template, read from its folder."""

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        """Read the tokenizer in ``folder``. Raises ModelError."""
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:
            # transformers raises many types here; all of them mean that these files make no tokenizer.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{folder} has no readable tokenizer: {reason}") from error
        self.backend: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        """The ``tokenizers.Tokenizer`` underneath, or ``None`` for a tokenizer written in Python."""
        self._encode = lru_cache(maxsize=4)(self._encode_uncached)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the ids the model is fed, special tokens included.

        Chats go through the model's chat template with the generation prompt; completions are
        tokenised as they stand. Raises PromptError.
        """
        return self._encode(prompt.messages, prompt.completion)

    def _encode_uncached(self, messages: tuple[Message, ...], completion: bool) -> tuple[int, ...]:
        if completion:
            utf8(messages[0].content)
            return tuple(self._tokenizer(messages[0].content)["input_ids"])
        return tuple(self._in_template(messages, return_dict=False))

    def text(self, prompt: Prompt) -> str:
        """Return what is tokenised: a chat in the model's template, a completion as it stands. Raises PromptError."""
        if prompt.completion:
            utf8(prompt.messages[0].content)
            return prompt.messages[0].content
        return str(self._in_template(prompt.messages, tokenize=False))

    def trace(self, prompt: Prompt) -> tuple[str, tuple[int, ...], tuple[tuple[int, int], ...] | None]:
        """Return :meth:`text`, the ids of :meth:`encode`, and for each id its characters in the text (start, end).

        These are empty where the tokenizer added the id, and shared where a character spans tokens; None for a
        tokenizer that does not tell. Raises PromptError.
        """
        text = self.text(prompt)
        if self.backend is None:
            return text, self.encode(prompt), None
        found = self.whole_backend().encode(text, add_special_tokens=prompt.completion)
        return text, tuple(found.ids), tuple(found.offsets)

    def count(self, prompt: Prompt) -> int:
        """Return how many ids :meth:`encode` gives, a third sooner: nobody asks where they lie. Raises PromptError."""
        if self.backend is None:
            return len(self.encode(prompt))
        (found,) = self.whole_backend().encode_batch_fast([self.text(prompt)], add_special_tokens=prompt.completion)
        return len(found.ids)

    def token_bytes(self, token_id: int) -> bytes | None:
        """Return the bytes that a token stands for by itself, or None where its spelling does not tell."""
        spelled = str(self._tokenizer.convert_ids_to_tokens(token_id))
        if token_id in self.special_ids:
            return spelled.encode()
        single = _BYTE_TOKEN.fullmatch(spelled)
        if single:
            return bytes([int(single[1], 16)])
        if "ByteLevel" in self._decoding and all(character in _BYTE_OF for character in spelled):
            return bytes(_BYTE_OF[character] for character in spelled)
        return spelled.replace("▁", " ").encode() if "▁" in self._decoding else None

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids that structure the text (begin, end, role) rather than stand for some of it."""
        added = self._tokenizer.added_tokens_decoder
        return frozenset(self._tokenizer.all_special_ids) | {it for it, token in added.items() if token.special}

    @cached_property
    def _decoding(self) -> str:
        """How the vocabulary spells what is no plain text, as the backend tells it."""
        return "" if self.backend is None else repr(self.backend.decoder)

    def whole_backend(self) -> Any:
        """The backend that cuts nothing off and fills nothing up: a tokenizer's file may say otherwise."""
        # As transformers sets it before each call of its own; only where it has to be, since other threads may encode.
        if self.backend.truncation is not None:
            self.backend.no_truncation()
        if self.backend.padding is not None:
            self.backend.no_padding()
        return self.backend

    def _in_template(self, messages: Sequence[Message], **options: bool) -> Any:
        for message in messages:
            utf8(message.content)
        if not self._tokenizer.chat_template:
            raise PromptError("this model has no chat template; use --completion to feed it plain text")
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, **options)
        except Exception as error:
            # Templates refuse with jinja2's errors ("roles must alternate"), whatever the model's author wrote.
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error

    def count_text(self, text: str) -> int:
        """Return the tokens of a text by itself, without special tokens; half a character counts as U+FFFD."""
        clean = text.encode("utf-8", "replace").decode()
        return len(self._tokenizer(clean, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @cached_property
    def sha256(self) -> str:
        """Digest of the vocabulary, merges and chat template: two models with the same one count alike."""
        template = json.dumps(self._tokenizer.chat_template, sort_keys=True)
        if self.backend is not None:
            content = self.backend.to_str()
        else:
            content = json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(f"{content}\0{template}".encode()).hexdigest()


# What English text comes to with the tokenizers of today, and what a template adds to a message.
_BYTES_PER_TOKEN = 4
_MESSAGE_TOKENS = 4


def rough_count(prompt: Prompt) -> int:
    """Tokens of a prompt by its length, for any model: an estimate where nothing better is known."""
    return sum(rough_count_text(message.content) + _MESSAGE_TOKENS for message in prompt.messages)


def rough_count_text(text: str) -> int:
    """Tokens of a text by its length: at least one where there is any."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def _byte_alphabet() -> dict[str, int]:
    """How byte-level vocabularies spell bytes: the printable ones as themselves, the others from U+0100 on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Decoder:
    """Text from ids, one id at a time. A character that spans several tokens comes out whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text = ""
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
        self._text += piece
        return piece

    def flush(self) -> str:
        """Return the text that was still held back, incomplete characters as U+FFFD."""
        tail = self._rest()
        self._text += tail
        return tail

    def _rest(self) -> str:
        whole = self._tokenizer.decode(self._ids)
        return whole[len(self._text) :] if whole.startswith(self._text) else ""
