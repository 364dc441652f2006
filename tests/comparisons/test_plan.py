"""Inputs, variants and the order of runs; what is wrong with them is said in one line before anything runs."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from tests.conftest import ROOT
from tokmagic.comparisons import inputs, plan
from tokmagic.comparisons.plan import Plan
from tokmagic.core.prompt import Sampling
from tokmagic.errors import PromptError, UsageError

ROWS = [{"q": "2 + 2?", "a": "4"}, {"q": "3 · 3?", "a": "9"}, {"q": "Größe?", "a": "x, y"}]
TWO = {"terse": "One word: {{ q }}", "reasoned": "--- system\nThink.\n--- user\n{{ q }}"}


def made(variants: object = TWO, over: object = ROWS, models: tuple[str, ...] = ("m",), **more: Any) -> Plan:
    given: dict[str, Any] = {"repeat": 1, "seed": 0, "sampling": Sampling(), "baseline": None, **more}
    return plan.make(variants, inputs.read(over), models, **given)


# Inputs


def test_the_same_items_come_from_everywhere(tmp_path: Path) -> None:
    csv, jsonl, parquet = (tmp_path / f"rows.{end}" for end in ("csv", "jsonl", "parquet"))
    csv.write_text('\ufeffq,a\n2 + 2?,4\n3 · 3?,9\nGröße?,"x, y"\n', encoding="utf-8")
    jsonl.write_text("\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), str(parquet))
    found = [inputs.read(it) for it in (ROWS, iter(ROWS), pandas.DataFrame(ROWS), csv, str(jsonl), parquet)]
    assert [list(it.rows) for it in found] == [ROWS] * 6
    assert len({it.sha256 for it in found}) == 1
    assert [Path(it.source).name for it in found] == ["", "", "", "rows.csv", "rows.jsonl", "rows.parquet"]
    assert inputs.read(None).rows == ({},)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.csv", None, "cannot be read: No such file"),
        ("rows.xlsx", b"", "is none of the files that can be read; give a list of dicts"),
        ("rows.csv", b"q,a\n", "has no items; give at least one"),
        ("rows.csv", b"", "has no items"),
        ("rows.csv", b"q,a\n1,2,3\n", "row 1 does not have the header's columns"),
        ("rows.csv", b"q,q\n1,2\n", "row 1 does not have the header's columns"),
        ("rows.csv", b'q,a\n"1"2,3\n', "line 2: .*; fix the file"),
        ("rows.csv", b"q\n\xff\n", "is not UTF-8 text"),
        ("rows.jsonl", b'{"q": 1}\n{"q": \n', "line 2 is not JSON: .*; write one object a line"),
        ("rows.jsonl", b"[1]\n", r"item 1 is \[1\]; each item is a dict"),
        ("rows.parquet", b"PAR1", "is not a Parquet file"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says):
        inputs.read(tmp_path / name)


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({0, 8}, {8, 0}),
        ({"either": [frozenset((0, 8))]}, {"either": [frozenset((8, 0))]}),
        ({1: "a", "b": 2}, {"b": 2, 1: "a"}),
        ({(1, 2): {0, 8}}, {(1, 2): {8, 0}}),
        (lambda answer: answer, lambda answer: answer),
        ([object()], [object()]),
    ],
)
def test_the_same_items_are_known_again_in_another_process(one: object, same: object) -> None:
    """Sets come in any order there, and what has no text of its own stands at another address."""
    digests = {inputs.read([{"q": "q", "a": it}]).sha256 for it in (one, same)}
    assert len(digests) == 1
    assert digests != {inputs.read([{"q": "q", "a": "other"}]).sha256}


DATASETS = ROOT / "tests" / "fixtures" / "datasets"
"""Written by datasets 5.2.0: ten rows in three shards, and two splits, one of them shuffled."""


def test_a_saved_data_set_is_read_without_its_package() -> None:
    whole = inputs.read(DATASETS / "sharded")
    assert list(whole.rows) == [{"q": f"q{it}", "a": f"a{it}", "n": it, "also": [f"a{it}", "x"]} for it in range(10)]
    assert whole.source == str(DATASETS / "sharded")
    assert [row["n"] for row in inputs.read(str(DATASETS / "splits" / "test")).rows] == [8, 4, 7]
    with pytest.raises(UsageError, match=r"holds several splits; give one of them: .*/splits/train, .*/splits/test"):
        inputs.read(DATASETS / "splits")


def test_a_data_set_that_cannot_be_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is a folder, and no saved Hugging Face data set; give a list of dicts"):
        inputs.read(tmp_path)
    folder = shutil.copytree(DATASETS / "sharded", tmp_path / "set")
    (folder / "data-00001-of-00003.arrow").write_bytes(b"ARROW")
    with pytest.raises(UsageError, match=r"00001-of-00003\.arrow cannot be read: .*; save the data set again"):
        inputs.read(folder)
    (folder / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(UsageError, match=r"00001-of-00003\.arrow cannot be read: No such file"):
        inputs.read(folder)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../../secret.arrow"}]}')
    with pytest.raises(UsageError, match=r"set/secret\.arrow cannot be read"):
        inputs.read(folder)
    for text in ("{", "{}", '{"_data_files": 3}', "[]"):
        (folder / "state.json").write_text(text)
        with pytest.raises(UsageError, match="is not what a data set's save_to_disk writes"):
            inputs.read(folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"a saved data set needs the package pyarrow; run: pip install 'tokmagic\["):
        inputs.read(DATASETS / "sharded")


@pytest.mark.parametrize("over", [7, {"q": "a"}, b"q"])
def test_what_are_no_items_is_refused(over: object) -> None:
    with pytest.raises(UsageError, match=r"over is .*; give a list of dicts"):
        inputs.read(over)
    with pytest.raises(UsageError, match="there is nothing to compare over: over has no items"):
        inputs.read([])


def test_a_missing_column_and_gaps_are_named() -> None:
    with pytest.raises(UsageError, match="variant terse needs the column 'hint', which the items do not have; they"):
        made({"terse": "{{ hint }}", "b": "c"})
    for gap in (None, math.nan, pandas.NA, pandas.NaT):
        with pytest.raises(
            UsageError, match=r"'q', which the variant terse needs, has gaps in 1 of 4 items \(numbers 4"
        ):
            made(over=[*ROWS, {"q": gap, "a": "1"}])
    assert made({"a": "{% for w in [1, 2] %}{{ w }}{% endfor %}", "b": "b"}, None).runs == 2


# Variants


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        ({}, "there are no variants"),
        ([], "there are no variants"),
        ("text", "variants are a dict"),
        ([("a", "x"), ("a", "y")], "two variants are called 'a'"),
        ([("a", "x"), ("a ", "y")], "two variants are called 'a'"),
        (["a", "b"], "'a' is no variant"),
        ({"a": 1}, "the variant 'a' is 1"),
        ({"": "x"}, "the variant '' is 'x'"),
        ({"a": "x"}, "nothing to compare; give another of either"),
    ],
)
def test_variants_that_are_none_are_refused(variants: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        made(variants, None)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"repeat": 0}, "repeat is 0; give a whole number of 1 or more"),
        ({"repeat": 1.5}, "repeat is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"baseline": "verbose"}, "the baseline 'verbose' is no variant; there are terse, reasoned"),
        ({"models": ("m", "m")}, "a model is named twice"),
        ({"sampling": Sampling(n=2)}, "n is 2; use repeat"),
    ],
)
def test_options_out_of_bounds_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        made(**more)


def test_a_broken_template_is_named() -> None:
    with pytest.raises(PromptError, match="variant b: line 1 of the prompt"):
        made({"a": "x", "b": "{{ q"})
    with pytest.raises(PromptError, match="variant a, item 2: the prompt is empty"):
        made({"a": "{{ q }}", "b": "x"}, [{"q": "x"}, {"q": " "}]).prompt(0, 1)


def test_the_baseline_comes_first_at_each_model() -> None:
    assert [arm.label for arm in made(baseline="reasoned").arms] == ["reasoned", "terse"]
    labels = [arm.label for arm in made(models=("small", "big")).arms]
    assert labels == ["terse · small", "reasoned · small", "terse · big", "reasoned · big"]


def test_role_lines_make_messages() -> None:
    assert [it.role for it in made().prompt(1, 0).messages] == ["system", "user"]
    assert made().prompt(0, 1).messages[0].content == "One word: 3 · 3?"


# Order and ids


def test_every_run_comes_once_in_an_order_that_the_seed_decides() -> None:
    it = made(models=("small", "big"), repeat=2, seed=5)
    runs = [(block.item, block.repeat, arm) for block in it.blocks() for arm in block.arms]
    assert len(runs) == it.runs == 24
    assert set(Counter(runs).values()) == {1}
    assert runs == [(block.item, block.repeat, arm) for block in it.blocks() for arm in block.arms]
    other = made(models=("small", "big"), repeat=2, seed=6)
    assert runs != [(block.item, block.repeat, arm) for block in other.blocks() for arm in block.arms]
    firsts = Counter(block.arms[0] for seed in range(60) for block in made(seed=seed).blocks())
    assert 65 < firsts[0] < 115, "either variant runs first about equally often"


def test_ids_change_with_what_they_stand_for() -> None:
    base = made()
    changed = [
        made({**TWO, "terse": "Two words: {{ q }}"}),
        made(models=("n",)),
        made(seed=1),
        made(sampling=Sampling(temperature=0.5)),
        made(repeat=2),
    ]
    assert len({it.question_tag for it in (base, *changed)}) == 6
    data = made(over=ROWS[:2])
    assert data.question_tag == base.question_tag
    assert data.data_tag != base.data_tag
    assert re.fullmatch(r"data:[0-9a-f]{12}/6", base.data_tag)
    assert re.fullmatch(r"variant:terse@[0-9a-f]{12}", base.arms[0].variant.tag)
    assert made().question_tag == base.question_tag
