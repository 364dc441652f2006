"""A folder with a SentencePiece model counts as SentencePiece does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tokens.test_vocabularies import LEARNT, TEXTS, completion, ids_of, streamed
from tokmagic.core.prompt import Message, Prompt
from tokmagic.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a folder with a SentencePiece model of the Llama kind and nothing else; settings by keyword."""
    trained = pytest.importorskip("sentencepiece")
    file = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    with file.open("wb") as writer:
        trained.SentencePieceTrainer.train(
            sentence_iterator=(line for text in LEARNT for line in text.splitlines() if line),
            model_writer=writer,
            model_type="bpe",
            vocab_size=900,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            control_symbols=["[INST]", "[/INST]"],
            minloglevel=2,
        )

    def make(folder: Path, **config: Any) -> Path:
        shutil.copy(file, folder / "tokenizer.model")
        if config:
            (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return make


def own(folder: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("config", [{}, {"tokenizer_class": "LlamaTokenizer"}, {"legacy": False}], ids=repr)
def test_a_sentencepiece_model_counts_as_sentencepiece_does(
    tmp_path: Path, pieces: Callable[..., Path], config: dict[str, Any]
) -> None:
    tokenizer, processor = Tokenizer(pieces(tmp_path, **config)), own(tmp_path)
    assert tokenizer.origin == "tokenizer.model, read by sentencepiece"
    whole = (it for it in range(processor.get_piece_size()) if processor.is_control(it) or processor.is_unknown(it))
    special = [processor.id_to_piece(it) for it in whole]
    found = ids_of(tokenizer)
    plain = {name: text for name, text in TEXTS.items() if not any(it in text for it in special)}
    assert len(plain) > 150
    assert {name: found[name] for name in plain} == {name: processor.encode(text) for name, text in plain.items()}
    for name, text in plain.items():
        assert tokenizer.decode(found[name]) == processor.decode(found[name])
        assert "".join(streamed(tokenizer, found[name])) == tokenizer.decode(found[name])
        spelled = b"".join(tokenizer.token_bytes(it) or b"?" for it in found[name])
        # A blank is put in front, and one that is spelled as the vocabulary does it is no other.
        assert spelled.decode() == f" {text}".replace("▁", " ")


@pytest.mark.parametrize(("legacy", "after"), [(True, "▁Hi"), (False, "Hi")])
def test_special_tokens_in_a_template_are_cut_out_and_what_is_between_them_is_a_text(
    tmp_path: Path, pieces: Callable[..., Path], legacy: bool, after: str
) -> None:
    template = "{{ bos_token }}[INST]{{ messages[0]['content'] }}[/INST]"
    tokenizer, processor = Tokenizer(pieces(tmp_path, chat_template=template, legacy=legacy)), own(tmp_path)
    ids = tokenizer.encode(Prompt((Message("user", "Hi"),)))
    ends = [processor.piece_to_id(it) for it in ("<s>", "[INST]", "[/INST]")]
    assert [ids[0], ids[1], ids[-1]] == ends
    assert "".join(processor.id_to_piece(it) for it in ids[2:-1]) == after
    assert tokenizer.special_ids >= set(ends)
    assert tokenizer.decode(ids) == "Hi"


@pytest.mark.parametrize(("begin", "end"), [(True, False), (True, True), (None, None)])
def test_every_text_begins_and_ends_as_the_settings_say(
    tmp_path: Path, pieces: Callable[..., Path], begin: bool | None, end: bool | None
) -> None:
    tokenizer, processor = Tokenizer(pieces(tmp_path, add_bos_token=begin, add_eos_token=end)), own(tmp_path)
    expected = [*([1] if begin else []), *processor.encode("one 2"), *([2] if end else [])]
    _, ids, spans = tokenizer.trace(completion("one 2"))
    assert list(ids) == expected
    assert spans is not None
    assert len(spans) == len(ids)
    assert tokenizer.count_text("one 2") == len(processor.encode("one 2"))


def test_tokens_added_to_a_sentencepiece_model_come_out_again(tmp_path: Path, pieces: Callable[..., Path]) -> None:
    pieces(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<tool>": 900, "<|end|>": 901}', encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|end|>"}}', encoding="utf-8")
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode(completion("one<tool> two<|end|>"))
    assert ids[-1] == 901
    assert 900 in ids
    assert 901 in tokenizer.special_ids
    assert tokenizer.decode(ids) == "one<tool> two"


@pytest.mark.parametrize(
    "listed",
    [
        {"additional_special_tokens": ["<tool>", "<s>"]},
        {"extra_special_tokens": [{"content": "<tool>", "lstrip": False}]},
        {"extra_special_tokens": {"tool_token": "<tool>"}},
        {"mask_token": {"content": "<tool>"}},
    ],
)
def test_special_tokens_that_the_settings_only_list_follow_the_others(
    tmp_path: Path, pieces: Callable[..., Path], listed: dict[str, Any]
) -> None:
    """They have the ids that transformers 5.24 gives them with ``LlamaTokenizer``."""
    tokenizer, processor = Tokenizer(pieces(tmp_path, legacy=False, **listed)), own(tmp_path)
    ids = tokenizer.encode(completion("one<tool>"))
    assert list(ids) == [*processor.encode("one"), processor.get_piece_size()]
    assert tokenizer.decode(ids) == "one"


@pytest.mark.parametrize(
    ("number", "config"),
    [
        (0, {}),
        (0, {"unk_token": "<unk>"}),
        (800, {"additional_special_tokens": ["PIECE"]}),
        (800, {"pad_token": {"content": "PIECE"}}),
        (800, {"added_tokens_decoder": {"800": {"content": "PIECE", "special": True}}}),
        (800, {"added_tokens_decoder": {"800": {"content": "PIECE", "special": False}}}),
    ],
    ids=str,
)
@pytest.mark.parametrize("legacy", [True, False])
def test_a_piece_that_the_settings_list_and_the_unknown_one_are_cut_out_of_a_text(
    tmp_path: Path, pieces: Callable[..., Path], number: int, config: dict[str, Any], legacy: bool
) -> None:
    """As by llama.cpp and by both tokenizers of transformers 4.57; to SentencePiece ``<unk>`` is five letters."""
    plain = Tokenizer(pieces(tmp_path, legacy=legacy))
    piece = own(tmp_path).id_to_piece(number)
    listed = json.loads(json.dumps(config).replace("PIECE", piece))
    tokenizer = Tokenizer(pieces(tmp_path, legacy=legacy, **listed))
    for before, after in [("", ""), ("one", "two"), ("one ", " two"), ("", " 2"), (" ", "")]:
        ids = tokenizer.encode(completion(f"{before}{piece}{after}"))
        # Behind a control symbol a text is no first one, and so it is behind the token.
        assert list(ids) == [*plain.text_ids(before), number, *plain.text_ids(f"<s>{after}")[1:]]
        assert tokenizer.count(completion(f"{before}{piece}{after}")) == len(ids)
    is_text = listed.get("added_tokens_decoder", {}).get("800", {}).get("special") is False
    assert (number in tokenizer.special_ids) is not is_text
    assert tokenizer.decode([number]) == (piece if is_text else "")


def cut_by_tokenizers(text: str, flags: dict[str, bool]) -> list[tuple[str, bool]]:
    """A text's parts as the package tokenizers cuts it at ``<|end|>``, and of each whether it is that token."""
    tokenizers = pytest.importorskip("tokenizers")
    cutter = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    cutter.add_tokens([tokenizers.AddedToken("<|end|>", normalized=False, **flags)])
    found = cutter.encode(text)
    return [(text[begin:end], it == 1) for it, (begin, end) in zip(found.ids, found.offsets, strict=True)]


@pytest.mark.parametrize(
    "text",
    [
        "one<|end|>two",
        "one <|end|> two",
        " \n<|end|>\r\n\t<|end|> \u00a0two",
        "one  <|end|><|end|>  ",
        "one_<|end|>.",
        "<|end|>1",
        "<|end|>",
    ],
)
@pytest.mark.parametrize(
    "flags",
    [
        *({}, {"rstrip": True}, {"lstrip": True}, {"lstrip": True, "rstrip": True}),
        *({"single_word": True}, {"single_word": True, "lstrip": True, "rstrip": True}),
    ],
    ids=",".join,
)
@pytest.mark.parametrize("legacy", [True, False])
def test_an_added_token_takes_the_blanks_beside_it_and_stands_alone_as_its_flags_say(
    tmp_path: Path, pieces: Callable[..., Path], flags: dict[str, bool], text: str, legacy: bool
) -> None:
    added = {"900": {"content": "<|end|>", "special": True, "normalized": False, **flags}}
    tokenizer = Tokenizer(pieces(tmp_path, added_tokens_decoder=added, legacy=legacy))
    plain = Tokenizer(pieces(tmp_path, legacy=legacy))
    expected: list[int] = []
    taken = []
    for at, (part, is_token) in enumerate(cut_by_tokenizers(text, flags)):
        # Behind a control symbol a text is no first one, and so it is behind the token.
        behind = plain.text_ids(f"<s>{part}")[1:] if at else plain.text_ids(part)
        expected += [900] if is_token else behind
        taken += [part] if is_token else []
    _, ids, spans = tokenizer.trace(completion(text))
    assert list(ids) == expected == tokenizer.text_ids(text)
    assert spans is not None
    assert [text[begin:end] for it, (begin, end) in zip(ids, spans, strict=True) if it == 900] == taken


def test_a_control_symbol_of_the_model_has_flags_too_and_long_blanks_are_taken_at_once(
    tmp_path: Path, pieces: Callable[..., Path]
) -> None:
    added = {"2": {"content": "</s>", "special": True, "normalized": False, "rstrip": True, "lstrip": True}}
    tokenizer, processor = Tokenizer(pieces(tmp_path, added_tokens_decoder=added, legacy=False)), own(tmp_path)
    blanks = " " * 200_000
    assert tokenizer.text_ids(f"one{blanks}</s>{blanks}") == [*processor.encode("one"), 2]
