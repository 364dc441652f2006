"""OpenAI's encodings: exact where their files are, refused in one line where they are not, and never fetched."""

from __future__ import annotations

import hashlib
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.small_tokenizers import CL100K
from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import ModelError, PromptError
from tokmagic.explain.readers import EncodingReader
from tokmagic.tokens import encodings

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "prompts.json").read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever asks for a connection fails the test."""
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_more: asked.append(address) or [])
    encodings._encoding.cache_clear()
    yield
    assert asked == []


@pytest.fixture
def present(tiktoken_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
    return tiktoken_cache


def refused(model: str) -> str:
    with pytest.raises(ModelError) as caught:
        encodings.openai_encoding(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def plain(text: str) -> Prompt:
    return Prompt((Message("user", text),), completion=True)


@pytest.mark.tiktoken
@pytest.mark.parametrize("model", ["gpt-4", "openai/gpt-4", "gpt-4-0613", "ft:gpt-4:org::id", "gpt-3.5-turbo"])
def test_a_model_has_its_own_encoding(model: str, present: Path) -> None:
    assert encodings.openai_encoding(model).name == "cl100k_base"


@pytest.mark.tiktoken
def test_a_plain_text_is_counted_exactly(present: Path) -> None:
    reference = tiktoken.get_encoding("cl100k_base")
    for case in CASES:
        text = case["messages"][-1]["content"]
        ids = reference.encode_ordinary(text)
        assert encodings.count(encodings.openai_encoding("gpt-4"), plain(text)) == (len(ids), "counted")
    # Known from tiktoken's documentation.
    assert encodings.encode(encodings.openai_encoding("gpt-4"), "tiktoken is great!") == [83, 1609, 5963, 374, 2294, 0]


@pytest.mark.tiktoken
def test_special_tokens_in_a_text_are_text(present: Path) -> None:
    encoding = encodings.openai_encoding("gpt-4")
    ids = encodings.encode(encoding, "<|endoftext|>")
    assert len(ids) > 1
    assert encoding.decode(ids) == "<|endoftext|>"


@pytest.mark.tiktoken
def test_a_chat_is_estimated_as_the_cookbook_does(present: Path) -> None:
    """Three tokens a message beside role and content, and three for the answer's beginning."""
    prompt = Prompt((Message("system", "You are a guide."), Message("user", "Why visit Kyoto?")))
    encoding = encodings.openai_encoding("gpt-4")
    contents = sum(len(encoding.encode(message.content)) for message in prompt.messages)
    assert encodings.count(encodings.openai_encoding("gpt-4"), prompt) == (contents + 2 * (3 + 1) + 3, "estimated")


@pytest.mark.tiktoken
def test_half_a_character_is_refused(present: Path) -> None:
    with pytest.raises(PromptError, match="an incomplete character"):
        encodings.count(encodings.openai_encoding("gpt-4"), plain("broken \ud83d here"))


@pytest.mark.tiktoken
@given(contents=st.lists(st.text(max_size=30), min_size=1, max_size=3), completion=st.booleans())
@examples(200, deadline=None, derandomize=True)
def test_a_trace_covers_the_text(tiktoken_cache: Path, contents: list[str], completion: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
        reader = EncodingReader("gpt-4")
    chosen = contents[:1] if completion else contents
    prompt = Prompt(tuple(Message("user", content) for content in chosen), completion=completion)
    trace = reader.trace(prompt)
    assert trace.text == "".join(chosen)
    assert trace.tokens == len(trace.pieces or ()) == reader.count(prompt)
    assert trace.source == ("counted" if completion else "estimated")
    own = [it for it in trace.pieces or () if not it.added]
    covered = b"".join(it.raw or trace.text[it.start : it.end].encode() for it in own)
    assert covered == trace.text.encode()
    assert all((it.id is None) == it.added for it in trace.pieces or ())


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    says = refused("gpt-4")
    assert says.startswith("the encoding cl100k_base of gpt-4 is not on this machine (")
    assert str(tmp_path / hashlib.sha1(CL100K.encode()).hexdigest()) in says
    assert "and nothing is fetched; on a machine with a network run: TIKTOKEN_CACHE_DIR=DIR python -c " in says
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_one_that_tiktoken_would_look_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert str(tmp_path / "data-gym-cache") in refused("gpt-4o")
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path / "gym"))
    assert str(tmp_path / "gym") in refused("gpt-4o")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert "TIKTOKEN_CACHE_DIR is empty" in refused("gpt-4o")


@pytest.mark.tiktoken
def test_a_damaged_file_is_refused_and_left_alone(
    present: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiktoken by itself would delete it and fetch another."""
    (whole,) = present.iterdir()
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:-9])
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert "is damaged" in refused("gpt-4")
    assert (tmp_path / whole.name).stat().st_size == whole.stat().st_size - 9


@pytest.mark.parametrize("model", ["claude-opus", "my-model", "someone/gpt-4", "llama-3", ""])
def test_no_other_encoding_stands_in(model: str) -> None:
    assert refused(model).startswith(f"the tokenizer of {model} is not known")


def test_without_tiktoken_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tiktoken.model", None)
    assert refused("gpt-4").endswith("run: pip install 'tokmagic[openai]'")


@pytest.mark.parametrize("name", sorted(tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS))
def test_the_files_looked_for_are_those_that_tiktoken_asks_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses and digests of every encoding of the installed tiktoken, as it would read them."""
    asked: list[tuple[str, str | None]] = []

    def read(path: str, expected_hash: str | None = None) -> bytes:
        asked.append((path, expected_hash))
        raise LookupError

    monkeypatch.setattr("tiktoken.load.read_file_cached", read)
    with pytest.raises(LookupError):
        tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[name]()
    known = [(encodings._AT + path, sha256) for path, sha256 in encodings._FILES[name]]
    assert asked == known[: len(asked)]
