"""Scores by embeddings: pooled as the folder says, and one clear line where there is no encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.comparisons.desk import Desk, items
from tests.small_tokenizers import byte_level, save
from tokmagic.comparisons import scores
from tokmagic.comparisons.scores import Score
from tokmagic.errors import ModelError, UsageError

pytestmark = pytest.mark.slow  # torch and transformers take seconds to import
TEXTS = ("a short text", "a somewhat longer text, with more words in it")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with two layers."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = save(tmp_path_factory.mktemp("encoder"), byte_level())
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def pool(folder: Path, **modes: bool) -> None:
    """Make it a folder of sentence-transformers."""
    parts = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    modules = [
        {"idx": at, "name": at, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, path, kind in parts
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    known = {f"pooling_mode_{name}": on for name, on in modes.items()}
    config = {"word_embedding_dimension": 32, "include_prompt": True, **known}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def folder(encoder_folder: Path, tmp_path: Path) -> Path:
    for file in encoder_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def made(folder: Path) -> Score:
    found = scores.read(f"similarity(a, {str(folder)!r})")
    assert isinstance(found, Score)
    return found


def by_hand(folder: Path, text: str, mode: str, most: int = 128) -> Any:
    """One text without padding, by transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    fed = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=most)
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(**fed).last_hidden_state[0]
    pooled = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[mode]
    return torch.nn.functional.normalize(pooled, dim=0)


@pytest.mark.parametrize(
    ("modes", "mode"),
    [
        (None, "mean"),
        ({"mean_tokens": True, "cls_token": False}, "mean"),
        ({"mean_tokens": False, "cls_token": True}, "cls"),
        ({"mean_tokens": False, "lasttoken": True}, "last"),
    ],
)
def test_it_is_the_cosine_of_what_the_folder_pools(folder: Path, modes: dict[str, bool] | None, mode: str) -> None:
    if modes is not None:
        pool(folder, **modes)
    score = made(folder)
    one, other = TEXTS[0], TEXTS[1] * 5
    wanted = float(by_hand(folder, one, mode) @ by_hand(folder, other, mode))
    assert score.of(one, {"a": other}) == pytest.approx(wanted, abs=1e-5)
    assert score.of(one, {"a": one}) == pytest.approx(1, abs=1e-5)
    assert score.of("", {"a": ""}) == pytest.approx(1, abs=1e-5)
    assert score.of(one, {"a": [other, one]}) == pytest.approx(1, abs=1e-5), "the closest of alternatives"


def settings(folder: Path, **files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False}, "mean"),
    ],
)
def test_a_pooling_as_sentence_transformers_saves_it_today(folder: Path, pooling: dict[str, Any], mode: str) -> None:
    pool(folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, **pooling}))
    wanted = float(by_hand(folder, TEXTS[0], mode) @ by_hand(folder, TEXTS[1], mode))
    assert made(folder).of(TEXTS[0], {"a": TEXTS[1]}) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("files", "fed", "most"),
    [
        ({"sentence_bert_config": {"do_lower_case": True}}, str.lower, 128),
        ({"sentence_bert_config": {"max_seq_length": 8}}, str, 8),
        ({"sentence_roberta_config": {"max_seq_length": 8, "do_lower_case": False}}, str, 8),
        (
            {"config_sentence_transformers": {"prompts": {"to": "Query: "}, "default_prompt_name": "to"}},
            "Query: {}".format,
            128,
        ),
        ({"config_sentence_transformers": {"prompts": {"to": "Query: "}, "default_prompt_name": None}}, str, 128),
        (
            {
                "sentence_bert_config": {"do_lower_case": True},
                "config_sentence_transformers": {"prompts": {"to": "Query: "}, "default_prompt_name": "to"},
            },
            "query: {}".format,
            128,
        ),
    ],
)
def test_texts_are_fed_as_the_folder_says(
    folder: Path, files: dict[str, Any], fed: Callable[[str], str], most: int
) -> None:
    """These are what sentence-transformers 6.2.0 gives for such folders."""
    pool(folder, mean_tokens=True)
    settings(folder, **files)
    one, other = (text if fed is not str.lower else text.title() for text in TEXTS)
    wanted = float(by_hand(folder, fed(one), "mean", most) @ by_hand(folder, fed(other), "mean", most))
    plain = float(by_hand(folder, one, "mean") @ by_hand(folder, other, "mean"))
    assert made(folder).of(one, {"a": other}) == pytest.approx(wanted, abs=1e-5)
    assert (abs(wanted - plain) > 1e-3) == (fed is not str or most < 128), "the setting changes the cosine"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"sentence_bert_config": {"modality_config": {"text": {}, "message": {}}}}, "puts texts in a chat template"),
        (
            {
                "1_Pooling/config": {"pooling_mode": "mean", "include_prompt": False},
                "config_sentence_transformers": {"prompts": {"to": "Query: "}, "default_prompt_name": "to"},
            },
            "pools without its prompt",
        ),
        ({"1_Pooling/config": {"pooling_mode": ["cls", "mean"]}}, "pools by cls and mean"),
    ],
)
def test_what_would_be_another_cosine_is_refused(folder: Path, files: dict[str, Any], says: str) -> None:
    pool(folder, mean_tokens=True)
    settings(folder, **files)
    with pytest.raises(ModelError, match=f"{says}, which is not supported"):
        made(folder)


def test_many_are_embedded_together_and_come_out_as_alone(folder: Path) -> None:
    score = made(folder)
    answers = [(TEXTS[at % 2] * (at % 5 + 1), {"a": [TEXTS[at % 3 % 2], f"another {at % 4}"]}) for at in range(70)]
    assert score.many is not None
    together = score.many(answers)
    assert together == pytest.approx([score.of(*it) for it in answers], abs=1e-5)
    assert len(set(together)) > 5


def test_a_comparison_is_scored_by_it(make_desk: Callable[..., Desk], encoder_folder: Path) -> None:
    desk = make_desk(small=lambda text, _number: "a" + text.rpartition("q")[2] if "terse" in text else "no idea at all")
    found = desk.compare(score=f"similarity(a, {str(encoder_folder)!r})", over=items(6))
    values = found.values("score")
    assert not found.passes
    assert values[0] == pytest.approx(1, abs=1e-5)
    assert (values[1] < 0.999).all()
    assert found.notes() == []


def test_what_is_no_encoder_is_told_before_anything_runs(desk: Desk, folder: Path, tmp_path: Path) -> None:
    for given, kind, says in (
        (
            "similarity(a, 'nowhere')",
            UsageError,
            "similarity needs the folder of a text encoder, and nowhere is none; download one",
        ),
        ("similarity(a)", UsageError, "missing a required argument: 'model'"),
        (f"similarity(b, {str(folder)!r})", UsageError, "needs the column 'b'"),
    ):
        with pytest.raises(kind, match=says.replace("(", r"\(").replace(")", r"\)")):
            desk.compare(score=given)
    pool(folder, max_tokens=True)
    with pytest.raises(ModelError, match="pools by max, which is not supported"):
        made(folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"path": "3", "type": "x.Dense"}]), encoding="utf-8")
    with pytest.raises(ModelError, match="has a module Dense, which is not supported"):
        made(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        made(empty)
    assert desk.asked == 0


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmagic.comparisons.scores.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"similarity needs the package torch; run: pip install 'tokmagic\[local\]'"):
        scores.read("similarity(a, 'x')")
