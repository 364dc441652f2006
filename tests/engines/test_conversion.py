"""The default model's tokenizer splits text by the rules that its GGUF names, whichever version converted it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_tokenizers import split_as_gpt2
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.local.splitting import set_splitting
from tokmagic.engines.local.store import locate, pull
from tokmagic.errors import ModelError
from tokmagic.runs.session import Session
from tokmagic.tokens.tokenizer import Tokenizer

pytestmark = pytest.mark.model

STEPS = Prompt((Message("user", "Steps:\n\n1. one\n\n2. two\n\n3. three"),), completion=True)


@pytest.fixture
def earlier(tiny_home: Path, tmp_path: Path) -> Path:
    """A data folder with the default model as an earlier version converted it."""
    home = tmp_path / "home"
    shutil.copytree(tiny_home, home)
    (stamp,) = home.glob("models/*/tokmagic.json")
    told = json.loads(stamp.read_text(encoding="utf-8"))
    del told["conversion"]
    stamp.write_text(json.dumps(told), encoding="utf-8")
    split_as_gpt2(stamp.parent)
    assert Tokenizer(stamp.parent).count(STEPS) == 17, "as GPT-2 would split it"
    return home


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".safetensors"}


def test_a_model_that_an_earlier_version_converted_is_brought_up_to_date(
    earlier: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    settings = TokMagic(home=str(earlier))
    (folder,) = earlier.glob("models/*Instruct")
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    located = locate(ModelSpec("smollm2"), settings)
    assert located is not None
    assert located == pull(ModelSpec("smollm2"), settings, lambda _doing, _share: None)
    assert Tokenizer(located.folder).count(STEPS) == 14, "as llama.cpp does with the same file"
    (now,) = tiny_home.glob("models/*Instruct")
    assert files(folder) == files(now), "to the byte as it would be converted now, and nothing left beside it"
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights


def test_a_folder_that_was_converted_earlier_may_be_named_too(earlier: Path) -> None:
    (folder,) = earlier.glob("models/*Instruct")
    located = locate(ModelSpec(str(folder)), TokMagic(home="/nonexistent"))
    assert located is not None
    assert Tokenizer(located.folder).count(STEPS) == 14


def test_a_run_tells_by_the_tokenizers_digest_which_one_counted(
    earlier: Path, make_session: Callable[..., Session]
) -> None:
    (folder,) = earlier.glob("models/*Instruct")
    before = Tokenizer(folder).sha256
    session = make_session(home=str(earlier))
    session.generate(Prompt((Message("user", "1"),)), "smollm2")
    (record,) = session.ledger().runs()
    assert record.env["tokenizer_sha256"] == Tokenizer(folder).sha256 != before


def test_one_that_cannot_be_brought_up_to_date_is_not_used(earlier: Path) -> None:
    (file,) = earlier.glob("models/*/tokenizer.json")
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError) as told:
        locate(ModelSpec("smollm2"), TokMagic(home=str(earlier)))
    said = f"{file.parent} was converted by an earlier version, whose tokenizer counts too many tokens, and cannot be "
    assert str(told.value).startswith(f"{said}updated: ")
    assert str(told.value).endswith("; run: tokmagic pull --force")
    assert "\n" not in str(told.value)


def test_rules_that_are_not_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="splits text by the rules 'other', which are not known here"):
        set_splitting(tmp_path, "other")
