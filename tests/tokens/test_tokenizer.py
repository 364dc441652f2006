"""Tokens are counted as the model's own tokenizer and chat template count them, id for id; text comes out whole."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from tests.examples import examples
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import Engine
from tokmagic.errors import ModelError, PromptError
from tokmagic.tokens.tokenizer import Decoder, Tokenizer

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "prompts.json").read_text(encoding="utf-8")
)
CHATML = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def prompt(chat: list[dict[str, Any]]) -> Prompt:
    return Prompt(tuple(Message(message["role"], message["content"]) for message in chat))


def text(content: str) -> Prompt:
    return Prompt((Message("user", content),), completion=True)


@pytest.fixture(scope="module")
def folder(model_home: Path) -> Path:
    (found,) = (model_home / "models").glob("*/tokenizer.json")
    return found.parent


@pytest.fixture(scope="module")
def smollm_tokens(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    """What transformers itself makes of the same folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def test_there_are_fifty_different_prompts() -> None:
    assert len({json.dumps(case["messages"]) for case in CASES}) == len({case["name"] for case in CASES}) == 50


@pytest.mark.model
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_chat_has_the_ids_that_transformers_gives_it(
    case: dict[str, Any], smollm_tokens: Tokenizer, smollm: Engine, reference: Any, folder: Path
) -> None:
    chat = case["messages"]
    expected = list(reference.apply_chat_template(chat, add_generation_prompt=True)["input_ids"])
    assert list(smollm_tokens.encode(prompt(chat))) == expected
    assert smollm.count(prompt(chat)) == len(expected)
    rendered = reference.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert raw.encode(rendered, add_special_tokens=False).ids == expected


@pytest.mark.model
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_completion_has_the_ids_of_its_text(case: dict[str, Any], smollm_tokens: Tokenizer, reference: Any) -> None:
    content = case["messages"][-1]["content"]
    assert list(smollm_tokens.encode(text(content))) == reference(content)["input_ids"]


@pytest.mark.model
@pytest.mark.parametrize("completion", [False, True], ids=["chat", "completion"])
def test_a_trace_and_a_count_are_of_the_ids_that_the_model_is_fed(smollm_tokens: Tokenizer, completion: bool) -> None:
    for case in CASES:
        asked = text(case["messages"][-1]["content"]) if completion else prompt(case["messages"])
        whole, ids, spans = smollm_tokens.trace(asked)
        assert ids == smollm_tokens.encode(asked)
        assert smollm_tokens.count(asked) == len(ids)
        assert spans is not None
        # This tokenizer leaves no character out, and shares one only where it takes several tokens.
        assert (spans[0][0], spans[-1][1]) == (0, len(whole))
        for (start, end), (following, _) in pairwise(spans):
            assert following in (end, end - 1)
            assert start < end
        own = [smollm_tokens.token_bytes(it) for it in ids if it not in smollm_tokens.special_ids]
        special = sum(it in smollm_tokens.special_ids for it in ids)
        assert all(it is not None for it in own)
        if not special:
            assert b"".join(it or b"" for it in own) == whole.encode()


@pytest.mark.model
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_text_comes_out_of_the_decoder_whole(case: dict[str, Any], smollm_tokens: Tokenizer) -> None:
    for message in case["messages"]:
        ids = smollm_tokens.encode(text(message["content"]))
        whole = smollm_tokens.decode(ids)
        pieces, tail = decoded(smollm_tokens, ids)
        assert "".join(pieces) + tail == whole
        if "\ufffd" not in message["content"]:
            assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.model
def test_a_character_of_several_tokens_comes_with_its_last_one(smollm_tokens: Tokenizer) -> None:
    ids = smollm_tokens.encode(text("👩\u200d🚀"))
    assert len(ids) > 3
    pieces, tail = decoded(smollm_tokens, ids)
    assert [piece for piece in pieces if piece] == ["👩", "\u200d", "🚀"]
    assert tail == ""
    cut, held = decoded(smollm_tokens, ids[:1])
    assert (cut, held) == ([""], "\ufffd"), "an incomplete character shows at the end, and only there"


def decoded(tokenizer: Tokenizer, ids: tuple[int, ...]) -> tuple[list[str], str]:
    decoder = Decoder(tokenizer)
    return [decoder.push(token_id) for token_id in ids], decoder.flush()


@pytest.mark.model
@given(content=st.text(max_size=40))
@example(content="a\u200d\U0001f680\u0301")
@examples(300, deadline=None, derandomize=True)
def test_any_text_is_streamed_as_it_is(content: str, smollm_tokens: Tokenizer) -> None:
    ids = smollm_tokens.encode(text(content))
    pieces, tail = decoded(smollm_tokens, ids)
    whole = smollm_tokens.decode(ids)
    assert "".join(pieces) + tail == whole
    # The vocabulary lacks a few bytes that begin no character in use: text with them cannot come back.
    assert "\ufffd" in whole or not any("\ufffd" in piece for piece in pieces)


@pytest.mark.model
@given(ids=st.lists(st.one_of(st.integers(0, 300), st.integers(0, 49151)), max_size=30))
@examples(500, deadline=None, derandomize=True)
def test_any_ids_are_streamed_as_they_decode(ids: list[int], smollm_tokens: Tokenizer) -> None:
    """Ids 17 to 272 are single bytes: models do break off characters, and begin others in their midst."""
    pieces, tail = decoded(smollm_tokens, tuple(ids))
    assert "".join(pieces) + tail == smollm_tokens.decode(ids)


@cache
def sentencepiece_like() -> tokenizers.Tokenizer:
    """A tokenizer of the Llama 2 kind: ▁ for spaces, characters it does not know as bytes, <s> in front."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for piece in [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *map(chr, range(33, 127)), "▁a", "ab", "é"]:
        vocabulary.setdefault(piece, len(vocabulary))
    made = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("▁", "a"), ("a", "b")], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken(word, special=True) for word in ("<unk>", "<s>", "</s>")])
    return made


def saved(folder: Path, template: str | None, made: tokenizers.Tokenizer | None = None) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=made or sentencepiece_like(),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    ).save_pretrained(str(folder))
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return saved(tmp_path_factory.mktemp("llama-like"), "{{ bos_token }}" + CHATML)


@given(content=st.text(max_size=30))
@examples(200, deadline=None, derandomize=True)
def test_bytes_for_unknown_characters_come_out_whole(content: str, llama_like: Tokenizer) -> None:
    ids = llama_like.encode(text(content))
    pieces, tail = decoded(llama_like, ids)
    assert "".join(pieces) + tail == llama_like.decode(ids)
    assert "\ufffd" in content or not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("pieces", "shown", "tail"),
    [
        (["a", "<0x0A>", "<0xF0>", "<0x9F>", "▁", "a", "b"], "a\n\ufffd\ufffd ab", ""),
        (["<0xC3>", "<0xA9>", "<0xF0>", "a", "<0x0A>", "<0x9F>", "b", "<0xC3>", "<0xA9>"], "é\ufffda\n\ufffdbé", ""),
        (["a", "<0x0A>", "<0xF0>", "<0x9F>"], "a\n", "\ufffd\ufffd"),
        (["<0x0A>", "<0xF0>"], "\n", "\ufffd"),
    ],
)
def test_bytes_of_a_broken_off_character_cost_no_text_beside_them(
    pieces: list[str], shown: str, tail: str, llama_like: Tokenizer
) -> None:
    assert llama_like.backend is not None
    ids = [llama_like.backend.token_to_id(piece) for piece in pieces]
    found, held = decoded(llama_like, tuple(ids))
    assert ("".join(found), held) == (shown, tail)


def test_a_template_with_a_beginning_of_sequence_gets_no_second_one(llama_like: Tokenizer) -> None:
    chat = prompt([{"role": "system", "content": "S"}, {"role": "user", "content": "ab"}])
    ids = llama_like.encode(chat)
    assert ids[0] == 1
    assert ids.count(1) == 1
    completion = llama_like.encode(text("ab"))
    assert completion[0] == 1
    assert completion.count(1) == 1


def test_what_the_tokenizer_adds_stands_for_no_character(llama_like: Tokenizer) -> None:
    _, ids, spans = llama_like.trace(text("ab"))
    assert spans is not None
    assert (ids[0], spans[0]) == (1, (0, 0))
    assert llama_like.special_ids == {0, 1, 2}
    assert llama_like.count(text("ab")) == len(ids) == len(llama_like.encode(text("ab")))
    # "漢" is none of its pieces: three bytes.
    _, ids, _ = llama_like.trace(text("漢"))
    assert [llama_like.token_bytes(it) for it in ids[-3:]] == [b"\xe6", b"\xbc", b"\xa2"]
    assert [llama_like.token_bytes(it) for it in llama_like.encode(text("ab"))] == [b"<s>", b" a", b"b"]


def test_a_limit_in_the_tokenizers_file_does_not_cut_the_count(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer.from_str(sentencepiece_like().to_str())
    made.enable_truncation(4)
    made.enable_padding(length=9)
    tokenizer = saved(tmp_path, CHATML, made)
    asked = text("ab ab ab ab ab")
    assert tokenizer.count(asked) == len(tokenizer.encode(asked)) > 9


def test_a_template_without_one_gets_none(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, CHATML)
    ids = tokenizer.encode(prompt([{"role": "user", "content": "ab"}]))
    assert ids.count(1) == 0
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(str(tmp_path))
    chat = [{"role": "user", "content": "ab"}]
    assert list(ids) == reference.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]


def test_without_a_template_a_chat_is_refused_and_a_completion_is_not(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, None)
    with pytest.raises(PromptError, match="no chat template; use --completion"):
        tokenizer.encode(prompt([{"role": "user", "content": "ab"}]))
    assert len(tokenizer.encode(text("ab"))) == 3


def test_a_template_may_refuse_the_roles(tmp_path: Path) -> None:
    tokenizer = saved(
        tmp_path, "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
    )
    with pytest.raises(PromptError, match="no system here"):
        tokenizer.encode(prompt([{"role": "system", "content": "S"}, {"role": "user", "content": "ab"}]))
    assert tokenizer.encode(prompt([{"role": "user", "content": "ab"}]))


@pytest.mark.parametrize("completion", [False, True], ids=["chat", "completion"])
def test_half_a_character_is_refused_in_one_line(llama_like: Tokenizer, completion: bool) -> None:
    with pytest.raises(PromptError) as caught:
        llama_like.encode(Prompt((Message("user", "broken \ud83d here"),), completion=completion))
    assert "\n" not in str(caught.value)


def test_the_digest_tells_tokenizers_and_templates_apart(tmp_path: Path) -> None:
    first, again = saved(tmp_path / "a", CHATML), saved(tmp_path / "b", CHATML)
    assert first.sha256 == again.sha256
    assert saved(tmp_path / "c", CHATML + " ").sha256 != first.sha256
    words = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert saved(tmp_path / "d", CHATML, words).sha256 != first.sha256


def test_a_tokenizer_written_in_python_is_streamed_too(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer(extra_ids=0).save_pretrained(str(tmp_path))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.backend is None
    assert tokenizer.trace(text("né"))[2] is None
    assert tokenizer.count(text("né")) == len(tokenizer.encode(text("né")))
    ids = tokenizer.encode(text("né 👩\u200d🚀!"))
    pieces, tail = decoded(tokenizer, ids)
    assert [piece for piece in [*pieces, tail] if piece] == ["n", "é", " ", "👩", "\u200d", "🚀", "!"]
    assert len(tokenizer.sha256) == 64


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"version": "1.0"}'], ids=repr)
def test_a_folder_without_a_tokenizer_is_named_in_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelError) as caught:
        Tokenizer(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path} has no readable tokenizer: ")
    assert "\n" not in str(caught.value)
