"""A tokenizer's folder counts as its own file says: ids equal those of the package that the file was made for."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from tests.conftest import ROOT
from tests.small_tokenizers import byte_level, save
from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import ModelError, PromptError
from tokmagic.tokens import vocabularies
from tokmagic.tokens.agreement import compare
from tokmagic.tokens.tokenizer import Tokenizer

FIXTURES = ROOT / "tests" / "fixtures" / "tokens"
TEXTS: dict[str, str] = json.loads((FIXTURES / "texts.json").read_text(encoding="utf-8"))
LLAMA_CPP: dict[str, Any] = json.loads((FIXTURES / "llama_cpp.json").read_text(encoding="utf-8"))
CHATS = {
    case["name"]: Prompt(tuple(Message(it["role"], it["content"]) for it in case["messages"]))
    for case in json.loads((ROOT / "tests" / "fixtures" / "prompts.json").read_text(encoding="utf-8"))
}
# Each digit by itself, which GPT-2's own rules do not do.
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
LEARNT = [*TEXTS.values(), "one two three 1 2 3 10 11 12 2026 1234.50 " * 20]


def completion(text: str) -> Prompt:
    return Prompt((Message("user", text),), completion=True)


def ids_of(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """All texts' ids; that they are traced and counted alike is asserted on the way."""
    found = {}
    for name, text in TEXTS.items():
        whole, ids, spans = tokenizer.trace(completion(text))
        assert tokenizer.count(completion(text)) == len(ids)
        assert ids == tokenizer.encode(completion(text))
        assert spans is None or all(0 <= start <= end <= len(whole) for start, end in spans)
        found[name] = list(ids)
    return found


@pytest.fixture(scope="module")
def default(model_home: Path) -> Tokenizer:
    (found,) = (model_home / "models").glob("*/tokenizer.json")
    return Tokenizer(found.parent)


# The default model, and llama.cpp with the file that it was converted from


def test_the_recording_is_of_two_hundred_texts() -> None:
    assert len(set(TEXTS.values())) == len(LLAMA_CPP["texts"]) == 200
    assert TEXTS.keys() == LLAMA_CPP["texts"].keys()


@pytest.mark.model
def test_the_default_model_counts_as_llama_cpp_does_with_the_same_file(default: Tokenizer) -> None:
    assert ids_of(default) == LLAMA_CPP["texts"]


@pytest.mark.model
@pytest.mark.parametrize("name", [name for name, it in CHATS.items() if it.messages[-1].role != "assistant"])
def test_a_chat_with_the_default_model_is_what_llama_cpp_makes_of_it(name: str, default: Tokenizer) -> None:
    """But for one that ends in an answer, with which llama.cpp's server has the model go on."""
    chat = CHATS[name]
    theirs = LLAMA_CPP["chats"][name]
    assert default.text(chat) == theirs["prompt"]
    assert list(default.encode(chat)) == theirs["ids"]
    assert default.count(chat) == len(theirs["ids"])


@pytest.mark.model
def test_transformers_counts_alike_with_the_converted_folder(default: Tokenizer) -> None:
    """So does what is served from it."""
    found = compare(default)
    assert found is not None
    assert found.agrees, found.told


COUNTED = {
    "a tokenizer": """
from tokmagic.tokens.tokenizer import Tokenizer
from pathlib import Path
counts = Tokenizer(Path({folder!r}))
assert counts.sha256
""",
    "a model at an endpoint, named with its tokenizer": """
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.registry import open_engine
spec = ModelSpec("m", api_base="http://localhost:9/v1", tokenizer={folder!r})
counts = open_engine("m", spec, TokMagic(home="/nonexistent"))
assert counts.estimate(prompt)[1] == "counted"
""",
}
NOT_NEEDED = """
import sys
from tokmagic.core.prompt import Message, Prompt
prompt = Prompt((Message("user", "Hi"),))
{made}
assert counts.count(prompt) and counts.count(Prompt(prompt.messages, completion=True))
print(sorted({{"torch", "transformers"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("made", COUNTED.values(), ids=COUNTED.keys())
def test_counting_needs_neither_torch_nor_transformers(tmp_path: Path, made: str) -> None:
    code = NOT_NEEDED.format(made=made.format(folder=str(save(tmp_path, byte_level()))))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# tokenizer.json


def split_in_digits(folder: Path, **config: Any) -> tokenizers.Tokenizer:
    """Save a tokenizer with rules of its own, and settings that say something else of it."""
    made = byte_level(LEARNT, size=600)
    made.pre_tokenizer = DIGITS
    save(folder, made)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | config
    file.write_text(json.dumps(settings), encoding="utf-8")
    return made


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_the_files_rules_hold_whatever_class_the_settings_name(tmp_path: Path, kind: str) -> None:
    made = split_in_digits(tmp_path, tokenizer_class=kind)
    found = ids_of(Tokenizer(tmp_path))
    assert found == {name: made.encode(text).ids for name, text in TEXTS.items()}


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
def test_where_transformers_counts_otherwise_it_is_told(tmp_path: Path, kind: str) -> None:
    split_in_digits(tmp_path, tokenizer_class=kind)
    found = compare(Tokenizer(tmp_path))
    assert found is not None
    assert found.agrees is (kind != "GPT2Tokenizer")
    assert ("makes other ids of" in found.told) is (kind == "GPT2Tokenizer")


def test_tokens_that_only_the_settings_add_are_tokens(tmp_path: Path) -> None:
    added = {"302": {"content": "<tool>", "special": False}, "303": {"content": "<pad>", "special": True}}
    made = byte_level()
    size = made.get_vocab_size()
    split_in_digits(tmp_path, added_tokens_decoder=added)
    save(tmp_path, made)
    config = tmp_path / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"added_tokens_decoder": added, "mask_token": "<mask>"}
    config.write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode(completion("<tool><pad><mask>"))
    assert ids == (size, size + 1, size + 2)
    assert tokenizer.special_ids >= {size + 1, size + 2}
    assert size not in tokenizer.special_ids
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(str(tmp_path))("<tool><pad><mask>")["input_ids"] == list(ids)


# SentencePiece


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
    control = [processor.id_to_piece(it) for it in range(processor.get_piece_size()) if processor.is_control(it)]
    found = ids_of(tokenizer)
    plain = {name: text for name, text in TEXTS.items() if not any(it in text for it in control)}
    assert len(plain) > 150
    assert {name: found[name] for name in plain} == {name: processor.encode(text) for name, text in plain.items()}
    for name, text in plain.items():
        assert tokenizer.decode(found[name]) == processor.decode(found[name])
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


# Ranks


def tekken(folder: Path, version: str = "v13") -> Any:
    """Write a small tekken.json, and return the encoding that its rules make."""
    import tiktoken

    from tokmagic.tokens.vocabularies.by_tokenizers import _BYTE_OF

    learnt = json.loads(byte_level(LEARNT, size=500).to_str())["model"]["vocab"]
    words = [bytes([byte]) for byte in range(256)]
    words += [
        word
        for spelled in sorted(learnt, key=lambda it: int(learnt[it]))
        if all(it in _BYTE_OF for it in spelled) and len(word := bytes(_BYTE_OF[it] for it in spelled)) > 1
    ]
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(word).decode()} for rank, word in enumerate(words)]
    content = {
        "config": {
            "pattern": pattern,
            "num_vocab_tokens": len(words),
            "default_vocab_size": len(words) + 10 - 7,  # the last seven are there, and not used
            "default_num_special_tokens": 10,
            "version": version,
        },
        "vocab": vocab,
        "special_tokens": [{"rank": rank, "token_str": token} for rank, token in enumerate(special)],
    }
    (folder / "tekken.json").write_text(json.dumps(content), encoding="utf-8")
    ranks = {word: 10 + rank for rank, word in enumerate(words[:-7])}
    return tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def test_a_tekken_file_counts_as_its_pattern_and_ranks_say(tmp_path: Path) -> None:
    encoding = tekken(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.origin == "tekken.json, read by tiktoken"
    found = ids_of(tokenizer)
    for name, text in TEXTS.items():
        if "[INST]" not in text and "<s>" not in text and "</s>" not in text:
            assert found[name] == encoding.encode_ordinary(text)
            assert tokenizer.decode(found[name]) == text
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


# What cannot be read


@pytest.mark.parametrize(
    ("file", "content", "package", "extra"),
    [
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\x00", "sentencepiece", "tokenizer"),
        ("tokenizer.model.v3", b"\n\x0e\n\x05<unk>\x15\x00", "sentencepiece", "tokenizer"),
        ("tekken.json", None, "tiktoken", "tokenizer"),
        ("tokenizer.json", b"{}", "tokenizers", "tokenizer"),
        ("vocab.txt", b"a\n", "transformers", "local"),
    ],
)
def test_a_missing_reader_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    content: bytes | None,
    package: str,
    extra: str,
) -> None:
    if content is None:
        tekken(tmp_path)
    else:
        (tmp_path / file).write_bytes(content)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError) as told:
        Tokenizer(tmp_path)
    what = file if extra == "tokenizer" else "it"
    assert str(told.value) == (
        f"{tmp_path} has no readable tokenizer: {what} needs the package {package}; "
        f"run: pip install 'tokmagic[{extra}]'"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tekken.json", "{"),
        ("tekken.json", "{}"),
        ("tokenizer.json", '{"model": 1}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer.model", "no model"),
        ("tokenizer.model", ""),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, file: str, content: str) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / file).write_text(content, encoding="utf-8")
    if file == "tokenizer_config.json":
        save(tmp_path, byte_level())
        (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError) as told:
        Tokenizer(tmp_path)
    assert str(told.value).startswith(f"{tmp_path} has no readable tokenizer: ")
    assert "\n" not in str(told.value)


def test_of_several_files_the_first_is_read(tmp_path: Path) -> None:
    tekken(tmp_path)
    save(tmp_path, byte_level())
    assert Tokenizer(tmp_path).origin == "tokenizer.json, read by tokenizers"
    assert vocabularies.FILES[0] == "tokenizer.json"
