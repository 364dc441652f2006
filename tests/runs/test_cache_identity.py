"""What a local model is to the cache: the same before and after it is loaded, another when its files change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runs.test_cache import ask
from tokmagic.core.config import TokMagic
from tokmagic.core.record import EngineInfo
from tokmagic.engines.base import Engine, ModelSpec
from tokmagic.engines.local.store import locate
from tokmagic.engines.registry import open_engine
from tokmagic.errors import UsageError
from tokmagic.runs.cache import key
from tokmagic.runs.session import Session

Make = Callable[..., Session]


@pytest.fixture
def folder(model_home: Path, tmp_path: Path) -> Path:
    """The default model's files in a folder without a revision."""
    located = locate(ModelSpec("smollm2"), TokMagic(home=str(model_home)))
    assert located is not None
    made = tmp_path / "model"
    made.mkdir()
    for file in located.folder.iterdir():
        if file.name not in ("generation_config.json", "tokmagic.json"):
            (made / file.name).symlink_to(file)
    (made / "generation_config.json").write_text("{}")
    return made


def local(source: str | Path, home: Path, **more: Any) -> Engine:
    return open_engine("mine", ModelSpec(str(source), **more), TokMagic(home=str(home)))


@pytest.mark.model
def test_a_model_is_the_same_before_and_after_it_is_loaded(model_home: Path, smollm: Engine) -> None:
    before = local("smollm2", model_home)
    known = before.identity()
    assert known is not None
    assert before.state == "unloaded"
    loaded = smollm.identity()
    assert known == replace(loaded or known, name="mine")
    assert (known.model_id, known.dtype) == (smollm.info.model_id, smollm.info.dtype)
    assert (known.revision, known.tokenizer_sha256) == (smollm.info.revision, smollm.info.tokenizer_sha256)


@pytest.mark.slow
@pytest.mark.model
def test_how_a_model_is_loaded_is_part_of_what_it_is(model_home: Path) -> None:
    def known(**spec: Any) -> EngineInfo:
        found = local("smollm2", model_home, device="cpu", **spec).identity()
        assert found is not None
        return found

    named = known(dtype="bf16")
    assert named == replace(known(), arithmetic="as transformers"), "the checkpoint's own dtype, rounded otherwise"
    assert key(named, ask()) != key(known(), ask())
    assert known(dtype="fp32").dtype == "float32"
    assert (known(quant="int8").quant, known(quant="int8").dtype) == ("int8", "auto")
    with pytest.raises(UsageError):
        known(dtype="fp99")


@pytest.mark.model
@pytest.mark.parametrize(
    ("template", "dated"),
    [
        ("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}", "%d %b %Y"),
        ('{{ strftime_now( "%Y" ) }}{{ strftime_now("%H:%M") }}{{ strftime_now("%Y") }}', "%H:%M\n%Y"),
        ("{{ strftime_now(form) }}", "%c"),
        ("{{ date_string }}, never strftime_now", None),
    ],
)
def test_a_template_that_names_the_date_is_known_by_it(
    folder: Path, tmp_path: Path, template: str, dated: str | None
) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(template)
    known = local(folder, tmp_path).identity()
    assert known is not None
    assert known.dated == dated


@pytest.mark.model
def test_files_without_a_revision_are_known_by_themselves(folder: Path, tmp_path: Path) -> None:
    engine = local(folder, tmp_path)
    first = engine.identity()
    assert first == engine.identity() == local(folder, tmp_path).identity()
    (folder / "generation_config.json").write_text('{"do_sample": true}')
    changed = engine.identity()
    assert changed is not None
    assert changed != first
    engine.load(lambda _doing, _share: None)
    (folder / "generation_config.json").write_text("{}")
    assert engine.identity() == changed, "in memory is what was read"
    engine.close()
    assert engine.identity() not in (first, changed)


def test_a_model_that_is_not_here_is_not_fetched_for_a_look(tmp_path: Path) -> None:
    assert local("owner/name", tmp_path).identity() is None


@pytest.mark.model
def test_a_hit_loads_no_model(make_session: Make, model_home: Path, sqlite_url: str) -> None:
    prompt = ask(temperature=0, max_tokens=6)
    sessions = [make_session(home=str(model_home), ledger=sqlite_url) for _ in range(2)]
    first, again = (session.generate(prompt, "smollm2") for session in sessions)
    assert (first.status, again.status, again.choices) == ("ok", "cached", first.choices)
    assert sessions[1].models.loaded() == []
    assert again.record.info == replace(first.record.info, context_tokens=None)
    assert again.record == sessions[1].ledger().runs()[-1]
    assert again.cost.saved_usd == first.cost.usd


def test_an_answer_that_goes_on_past_its_end_is_another_one() -> None:
    identity, asked = EngineInfo("m", "org/m", "local"), ask()
    assert key(identity, replace(asked, ignore_eos=True)) != key(identity, asked)
    assert len({key(identity, replace(asked, min_tokens=least)) for least in (0, 1, 2)}) == 3
