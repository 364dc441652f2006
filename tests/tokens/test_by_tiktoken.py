"""Vocabularies of ranks count by the pattern and the ranks of their files, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_tokenizers import tekken
from tests.tokens.test_vocabularies import LEARNT, TEXTS, completion, ids_of, streamed
from tokmagic.errors import ModelError, PromptError
from tokmagic.tokens.tokenizer import Tokenizer


def test_a_tekken_file_counts_as_its_pattern_and_ranks_say(tmp_path: Path) -> None:
    encoding = tekken(tmp_path, LEARNT)
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.origin == "tekken.json, read by tiktoken"
    found = ids_of(tokenizer)
    for name, text in TEXTS.items():
        if "[INST]" not in text and "<s>" not in text and "</s>" not in text:
            assert found[name] == encoding.encode_ordinary(text)
            assert tokenizer.decode(found[name]) == text
    for text in TEXTS.values():
        ids = tokenizer.encode(completion(text))
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
    assert tokenizer.encode(completion("<s>[INST]<SPECIAL_9>")) == (1, 3, 9)
    assert tokenizer.special_ids == frozenset(range(10))
    assert tokenizer.token_bytes(3) == b"[INST]"
    assert tokenizer.token_bytes(10 + 65) == b"A"
    assert tokenizer.token_bytes(100_000) is None


def test_a_trace_of_ranks_shares_characters_that_take_several_tokens(tmp_path: Path) -> None:
    tekken(tmp_path)
    _, ids, spans = Tokenizer(tmp_path).trace(completion("a漢b"))
    assert spans is not None
    assert spans[0] == (0, 1)
    assert spans[-1] == (2, 3)
    assert set(spans[1:-1]) == {(1, 2)}
    assert len(ids) == 5


def test_a_run_of_blanks_that_tiktoken_cannot_split_is_refused_in_a_prompt(tmp_path: Path) -> None:
    tekken(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    blanks = " " * 1_000_000
    with pytest.raises(
        PromptError, match=r"^tiktoken cannot split this text \(.*\); shorten its longest run of blanks$"
    ):
        tokenizer.encode(completion(blanks))
    assert tokenizer.count_text(blanks) >= 1, "what a server answers is counted all the same"


def test_ranks_whose_rules_are_not_known_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.tiktoken").write_text("IQ== 0\nIg== 1\n", encoding="utf-8")
    with pytest.raises(ModelError) as told:
        Tokenizer(tmp_path)
    assert str(told.value) == (
        f"{tmp_path} has no readable tokenizer: own.tiktoken holds a vocabulary without the rules by which text is "
        "split, and this file's are not known; use a folder with a tokenizer.json"
    )


def test_a_tokenizer_model_may_hold_ranks(tmp_path: Path) -> None:
    """As Llama 3's does: SentencePiece would not know what to do with it."""
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.model holds a vocabulary without the rules"):
        Tokenizer(tmp_path)
