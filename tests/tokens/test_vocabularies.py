"""A tokenizer's folder counts as its own file says: ids equal those of the package that the file was made for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from tests.conftest import ROOT
from tests.small_tokenizers import byte_level, save, tekken
from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import ModelError
from tokmagic.tokens import vocabularies
from tokmagic.tokens.agreement import compare
from tokmagic.tokens.tokenizer import Decoder, Tokenizer

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


def streamed(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of ids that come one after another."""
    decoder = Decoder(tokenizer)
    return [*(decoder.push(it) for it in ids), decoder.flush()]


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


LISTED = ["<tool>", "<call>"]
EAGER = {"content": "<tool>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}


@pytest.mark.parametrize(
    ("config", "older"),
    [
        ({"extra_special_tokens": LISTED}, {}),
        ({"additional_special_tokens": LISTED}, {}),
        ({"extra_special_tokens": [], "additional_special_tokens": LISTED}, {}),
        ({"extra_special_tokens": {"tool_token": "<tool>"}, "additional_special_tokens": ["<call>"]}, {}),
        ({}, {"additional_special_tokens": LISTED}),
        ({}, {"extra_special_tokens": LISTED}),
        ({"additional_special_tokens": ["<tool>"]}, {"additional_special_tokens": ["<call>"]}),
        ({"added_tokens_decoder": {}, "additional_special_tokens": ["<tool>"]}, {"extra_special_tokens": ["<call>"]}),
        ({"extra_special_tokens": [{"__type": "AddedToken", "special": True, **EAGER}]}, {}),
        ({}, {"additional_special_tokens": [{"__type": "AddedToken", **EAGER}]}),
        ({"mask_token": {"__type": "AddedToken", **EAGER}}, {}),
    ],
)
def test_special_tokens_that_settings_only_list_are_tokens(
    tmp_path: Path, config: dict[str, Any], older: dict[str, Any]
) -> None:
    save(tmp_path, byte_level())
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings.pop("added_tokens_decoder", None)
    file.write_text(json.dumps(settings | config), encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(older), encoding="utf-8")
    tokenizer, plain = Tokenizer(tmp_path), byte_level()
    from transformers import AutoTokenizer

    text = "a <tool>b<call> c"
    ids = tokenizer.encode(completion(text))
    assert list(ids) == AutoTokenizer.from_pretrained(str(tmp_path))(text)["input_ids"]
    assert len(ids) < len(plain.encode(text).ids), "at least one of the two is a token"
    assert max(ids) >= plain.get_vocab_size()
    assert "<tool>" not in tokenizer.decode(ids)


def test_an_older_list_of_added_tokens_changes_none_of_the_file(tmp_path: Path) -> None:
    save(tmp_path, byte_level())
    config = tmp_path / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("added_tokens_decoder", None)
    config.write_text(json.dumps(settings), encoding="utf-8")
    before = Tokenizer(tmp_path)
    (role,) = before.encode(completion("<|role|>"))
    older = {"<|role|>": role, "<new>": before.backend.get_vocab_size()}
    (tmp_path / "added_tokens.json").write_text(json.dumps(older), encoding="utf-8")
    after = Tokenizer(tmp_path)
    assert after.special_ids == before.special_ids
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    for text in ("<|role|> a<new>b", " <new> <|end|>"):
        assert list(after.encode(completion(text))) == theirs(text)["input_ids"]


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
    ("name", "kind"), [("spiece.model", "T5Tokenizer"), ("sentencepiece.bpe.model", "XLMRobertaTokenizer")]
)
def test_what_transformers_lacks_for_sentencepieces_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """It would say that a line cannot be parsed."""
    (tmp_path / name).write_bytes(b"\n\x0e\n\x05<unk>\x15\x00")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}), encoding="utf-8")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda it, *of: None if it == "sentencepiece" else real(it, *of))
    with pytest.raises(ModelError) as told:
        Tokenizer(tmp_path)
    assert str(told.value) == (
        f"{tmp_path} has no readable tokenizer: {name} needs the package sentencepiece; "
        "run: pip install 'tokmagic[tokenizer]'"
    )


def test_a_folder_with_nothing_in_it_says_what_it_could_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as told:
        Tokenizer(tmp_path)
    assert not str(told.value).rstrip().endswith(":")
    assert "\n" not in str(told.value)


def test_a_models_own_code_is_not_run_unless_it_is_trusted(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match=r"it needs its own code; add the model with --trust-remote-code if you trust"):
        Tokenizer(tmp_path)


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
    if file == "tokenizer.model":
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
