"""tokenizer.model, by SentencePiece: pieces are chosen by their scores, which no list of merges replaces."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokmagic.tokens.vocabularies.base import Span
from tokmagic.tokens.vocabularies.folder import TokenizerFolder

# normalizer_spec.add_dummy_prefix = false, as a field of the model's message: in protobuf what comes later holds.
_NO_PREFIX = bytes([0x1A, 0x02, 0x18, 0x00])
_BLANKS = re.compile(r"\s*")


class SentencePieceVocabulary:
    """A SentencePiece model, with the special tokens that chat templates spell.

    SentencePiece itself finds no control symbol in a text. As everywhere with these models, a text is cut at its
    special tokens, and each part between is a text of its own. Each then begins with a blank unless the folder's
    settings say ``legacy: false``; the first one always does, if the model has it so.
    """

    reader = "sentencepiece"
    backend = None

    def __init__(self, folder: TokenizerFolder, file: Path) -> None:
        """Read a model. Raises ImportError, OSError, and RuntimeError where SentencePiece cannot read it."""
        from sentencepiece import SentencePieceProcessor

        content = file.read_bytes()
        self.read_from = file.name
        self._whole: Any = SentencePieceProcessor(model_proto=content)
        self._inner: Any = SentencePieceProcessor(model_proto=content + _NO_PREFIX)
        self._size = int(self._whole.get_piece_size())
        self._prefix_each = folder.config.get("legacy") is not False
        own = [it for it in range(self._size) if self._whole.is_control(it) or self._whole.is_unknown(it)]
        listed = self._numbered(folder)
        added = {it: str(token["content"]) for it, token in listed.items()}
        self._tokens: dict[int, str] = {it: self._whole.id_to_piece(it) for it in own} | added
        self._ids_of = {token: it for it, token in self._tokens.items()}
        plain = {it for it, token in listed.items() if not token.get("special", True)}
        self.special_ids = frozenset(self._tokens) - plain
        self.unknown_id: int | None = int(self._whole.unk_id())
        self._takes_before, self._takes_after, alone = (
            frozenset(it for it in self._tokens if listed.get(it, {}).get(flag))
            for flag in ("lstrip", "rstrip", "single_word")
        )
        longest_first = sorted(self._ids_of, key=len, reverse=True)
        spelled = (_spelled(token, alone=self._ids_of[token] in alone) for token in longest_first)
        self._cut = re.compile("|".join(spelled) or r"(?!)")
        self._before = [self._whole.bos_id()] if folder.adds("bos") else []
        self._after = [self._whole.eos_id()] if folder.adds("eos") else []
        flags = [sorted(it) for it in (self._takes_before, self._takes_after, alone)]
        settings = [sorted(self._tokens.items()), self._prefix_each, self._before, self._after]
        settings += [flags] if any(flags) else []
        self.identity = f"{hashlib.sha256(content).hexdigest()} {settings}"

    def _numbered(self, folder: TokenizerFolder) -> dict[int, dict[str, Any]]:
        """The tokens that the settings list.

        As in transformers, one without an id is the piece that is written like it, or else follows all the others.
        """
        found = folder.added()
        there = {str(token["content"]) for token in found.values()}
        free = max([self._size - 1, *found]) + 1
        for token, flags in folder.special.items():
            if not token or token in there:
                continue
            piece = int(self._whole.piece_to_id(token))
            is_new = self._whole.id_to_piece(piece) != token
            found[free if is_new else piece] = {"content": token, **flags}
            free += is_new
        return found

    @property
    def named(self) -> dict[str, str]:
        """What the model itself calls its special tokens."""
        ends = {"bos_token": self._whole.bos_id(), "eos_token": self._whole.eos_id(), "unk_token": self._whole.unk_id()}
        return {name: self._whole.id_to_piece(it) for name, it in ends.items() if it >= 0}

    def ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        found = [
            it
            for part, special, processor in self._parts(text)
            for it in ([special] if special is not None else processor.encode(part))
        ]
        return [*self._before, *found, *self._after] if add_special_tokens else found

    def trace(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[Span] | None]:
        ids: list[int] = []
        spans: list[Span] = []
        at = 0
        for part, special, processor in self._parts(text):
            if special is not None:
                ids.append(special)
                spans.append((at, at + len(part)))
            else:
                mapped = processor.encode_as_offset_mapping(part)
                ids += mapped["ids"]
                spans += [(at + start, at + end) for start, end in mapped["offsets"]]
            at += len(part)
        if not add_special_tokens:
            return ids, spans
        begin, end = [(0, 0)] * len(self._before), [(at, at)] * len(self._after)
        return [*self._before, *ids, *self._after], [*begin, *spans, *end]

    def count(self, text: str, *, add_special_tokens: bool) -> int:
        return len(self.ids(text, add_special_tokens=add_special_tokens))

    def decode(self, ids: Sequence[int]) -> str:
        text = ""
        known = [it for it in ids if it not in self.special_ids and (it < self._size or it in self._tokens)]
        for added, run in groupby(known, key=lambda it: it in self._tokens):
            pieces = list(run)
            if added:
                text += "".join(self._tokens[it] for it in pieces)
            else:
                # Where a blank was put in front, the first piece gives one up.
                text += (self._whole if self._prefix_each or not text else self._inner).decode(pieces)
        return text

    def token_bytes(self, token_id: int) -> bytes | None:
        if token_id in self._tokens:
            return self._tokens[token_id].encode()
        if not 0 <= token_id < self._size:
            return None
        piece = str(self._whole.id_to_piece(token_id))
        if self._whole.is_byte(token_id):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace("▁", " ").encode()

    def _parts(self, text: str) -> Iterator[tuple[str, int | None, Any]]:
        """The parts of a text: the id of a special token, or a text and what reads it.

        To a special token belong the blanks beside it, on the sides where its flags say so.
        """
        at = 0
        for found in self._cut.finditer(text):
            begin, end, token_id = found.start(), found.end(), self._ids_of[found[0]]
            if begin < at:  # among the blanks of the token before
                continue
            if token_id in self._takes_before:
                begin = at + len(text[at:begin].rstrip())
            if token_id in self._takes_after:
                blanks = _BLANKS.match(text, end)
                end = blanks.end() if blanks is not None else end
            if begin > at:
                yield text[at:begin], None, self._whole if self._prefix_each or at == 0 else self._inner
            yield text[begin:end], token_id, None
            at = end
        if at < len(text):
            yield text[at:], None, self._whole if self._prefix_each or at == 0 else self._inner


def _spelled(token: str, *, alone: bool) -> str:
    """The pattern of a special token; one that stands ``alone`` is none within a word."""
    return rf"(?<!\w){re.escape(token)}(?!\w)" if alone else re.escape(token)
