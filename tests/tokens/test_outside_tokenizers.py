"""The packages that tokenizers' files were made for, asked now: llama.cpp's server, vendors with their own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.peers.tokenizing import tokenized
from tests.tokens.test_vocabularies import LLAMA_CPP, TEXTS, ids_of
from tokmagic.tokens.tokenizer import Tokenizer

pytestmark = pytest.mark.outside


def test_llama_cpp_answers_as_it_was_recorded(tokenizing_python: Path) -> None:
    """So the recording, with which the default model's tokenizer is compared, is of that file and that version."""
    assert tokenized(tokenizing_python, "llama_cpp") == LLAMA_CPP


NAMES = {"tekken": "tekken.json", "tokenizer.model": "tokenizer.model", "mistral": "tokenizer.model.v3"}
"""What a file is called in a model's folder, by how its name begins in the package."""


def test_vendors_files_count_as_their_packages_do(tokenizing_python: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    vendors = tokenized(tokenizing_python, "vendors")
    assert len(vendors) == 10
    for at, (path, theirs) in enumerate(vendors.items()):
        file = Path(path)
        folder = tmp_path / str(at)
        folder.mkdir()
        name = next((name for begin, name in NAMES.items() if file.name.startswith(begin)), file.name)
        shutil.copy(file, folder / name)
        tokenizer = Tokenizer(folder)
        ours = ids_of(tokenizer)
        # Mistral's readers find no special token in a text: their chats put the ids between texts.
        special = (
            [] if file.suffix == ".tiktoken" else [tokenizer.token_bytes(it) or b"" for it in tokenizer.special_ids]
        )
        plain = [it for it, text in TEXTS.items() if not any(token in text.encode() for token in special)]
        assert len(plain) > 180
        assert {it: ours[it] for it in plain} == {it: theirs[it] for it in plain}, file
        assert tokenizer.decode(ours["code 1"]) == TEXTS["code 1"]
