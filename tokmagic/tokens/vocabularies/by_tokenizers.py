"""tokenizer.json, by the package tokenizers: how text is normalised, split and merged is all in that file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from tokmagic.tokens.vocabularies.base import Span
from tokmagic.tokens.vocabularies.folder import TokenizerFolder

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

FILE = "tokenizer.json"


def _byte_alphabet() -> dict[str, int]:
    """How byte-level vocabularies spell bytes: the printable ones as themselves, the others from U+0100 on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def read(folder: TokenizerFolder) -> TokenizersVocabulary:
    """Read the tokenizer.json of a folder, with the tokens that its settings add.

    Raises ImportError, and whatever tokenizers does about such a file.
    """
    from tokenizers import AddedToken, Tokenizer

    backend = Tokenizer.from_file(str(folder.path / FILE))
    # As transformers does it: the settings' own list may change a token, the older file only adds some.
    key = repr if "added_tokens_decoder" in folder.config else _content
    there = set(map(key, backend.get_added_tokens_decoder().values()))
    backend.add_tokens([token for it in folder.added().values() if key(token := AddedToken(**it)) not in there])
    spelled = set(map(_content, backend.get_added_tokens_decoder().values()))
    special = [AddedToken(it, special=True, **flags) for it, flags in folder.special.items() if it not in spelled]
    backend.add_special_tokens(special)
    return TokenizersVocabulary(backend, folder.named.values())


def _content(token: AddedToken) -> str:
    return token.content


class TokenizersVocabulary:
    """A ``tokenizers.Tokenizer``, which from here on must stay as it is."""

    def __init__(
        self, backend: Tokenizer, named: Iterable[str], *, read_from: str = FILE, reader: str = "tokenizers"
    ) -> None:
        """``named`` are special, too, where the backend's own file does not say so."""
        # A file may say that texts are cut off or filled up; what is counted is the whole text.
        backend.no_truncation()
        backend.no_padding()
        self.backend: Tokenizer = backend
        self.read_from, self.reader = read_from, reader
        self._named = tuple(named)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder()
        named = (self.backend.token_to_id(it) for it in self._named)
        return frozenset(it for it, token in added.items() if token.special) | {it for it in named if it is not None}

    @cached_property
    def unknown_id(self) -> int | None:
        unknown = getattr(self.backend.model, "unk_token", None)
        found = None if unknown is None else self.backend.token_to_id(unknown)
        return found if found in self.special_ids else None

    @cached_property
    def identity(self) -> str:
        return self.backend.to_str()

    def ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def trace(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[Span] | None]:
        found = self.backend.encode(text, add_special_tokens=add_special_tokens)
        return found.ids, found.offsets

    def count(self, text: str, *, add_special_tokens: bool) -> int:
        # A third sooner: nobody asks where the tokens lie.
        (found,) = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return len(found.ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self, token_id: int) -> bytes | None:
        spelled = self.backend.id_to_token(token_id)
        if spelled is None:
            return None
        if token_id in self.special_ids:
            return spelled.encode()
        single = _BYTE_TOKEN.fullmatch(spelled)
        if single:
            return bytes([int(single[1], 16)])
        if "ByteLevel" in self._decoding and all(character in _BYTE_OF for character in spelled):
            return bytes(_BYTE_OF[character] for character in spelled)
        return spelled.replace("▁", " ").encode() if "▁" in self._decoding else None

    @cached_property
    def _decoding(self) -> str:
        """How the vocabulary spells what is no plain text, as the backend tells it."""
        return repr(self.backend.decoder)
