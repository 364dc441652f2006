"""The frozen file: what is written is read again, whatever is in it, and what makes no sense is told in one line."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.notebooks.runs import ENV, run
from tokmagic.core.money import Bound, Cost, Rates, Tier
from tokmagic.core.record import EngineInfo, Status
from tokmagic.core.stream import Source, Usage
from tokmagic.errors import NotebookError
from tokmagic.notebooks import frozen_file
from tokmagic.notebooks.snapshots import CellSnapshot, Decoding, NotebookSnapshot, RunSnapshot

some_text = st.text(max_size=20)
optional_text = st.none() | some_text
counts = st.none() | st.integers(0, 10**12)
amounts = st.decimals(0, 10**6, places=6, allow_nan=False)
json_values = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | some_text
names = st.text(string.ascii_lowercase, min_size=1, max_size=6)
tiers = st.builds(Tier, st.integers(1, 10**6), amounts, amounts, st.none() | amounts)
rates = st.builds(
    Rates,
    *[st.none() | amounts] * 5,
    source=some_text,
    version=st.none() | st.text(min_size=1, max_size=8),
    tiers=st.lists(tiers, max_size=2).map(tuple),
)
sources = st.sampled_from(get_args(Source))
infos = st.builds(
    EngineInfo,
    *[some_text] * 3,
    *[optional_text] * 4,
    context_tokens=st.none(),
    tokenizer_sha256=optional_text,
    greedy=st.none() | st.booleans(),
)
runs = st.builds(
    RunSnapshot,
    run_id=some_text,
    status=st.sampled_from(get_args(Status)),
    info=infos,
    decoding=st.sampled_from([*get_args(Decoding), None]),
    params=st.dictionaries(names, json_values.filter(lambda it: it is not None), max_size=4),
    prompt_sha256=optional_text,
    usage=st.builds(Usage, input_tokens=counts, output_tokens=counts, reasoning_tokens=counts, input_source=sources),
    finish_reason=optional_text,
    cost=st.builds(Cost, st.none() | amounts, sources, st.sampled_from(get_args(Bound)), saved_usd=st.none() | amounts),
    rates=st.none() | rates,
    env=st.dictionaries(names, json_values, max_size=4),
    answer_sha256=optional_text,
    answer=optional_text | st.just("an incomplete character: \ud83d"),
)
cells = st.builds(CellSnapshot, optional_text, st.none() | st.integers(1, 999), st.lists(runs, max_size=3).map(tuple))


@given(st.builds(NotebookSnapshot, some_text, some_text, st.lists(cells, max_size=3).map(tuple)))
def test_what_is_written_is_read_again(it: NotebookSnapshot) -> None:
    data = frozen_file.dump(it).encode("utf-8", "backslashreplace")
    assert frozen_file.parse(data, "x") == it
    assert frozen_file.dump(frozen_file.parse(data, "x")) == frozen_file.dump(it)


def test_an_upgrade_is_one_line_of_a_diff() -> None:
    def lines(torch: str) -> set[str]:
        runs = tuple(run(run_id=str(i), env={**ENV, "torch": torch}) for i in range(3))
        return set(frozen_file.dump(NotebookSnapshot("nb.ipynb", "0.1.0", (CellSnapshot("a", 1, runs),))).splitlines())

    assert lines("2.8.0") - lines("2.9.1") == {'  "torch": "2.8.0",'}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not a frozen notebook: Expecting property name"),
        ("[]", "is not a frozen notebook: a JSON object is needed"),
        ("{}", "is not a frozen notebook: format is null"),
        ('{"format": 2}', "was written by a newer tokmagic (format 2); upgrade tokmagic"),
        ('{"format": 0}', "is not a frozen notebook: format is 0"),
        ('{"format": 1, "tokmagic": "1", "notebook": "n", "cells": 3}', "is not a frozen notebook: cells is 3"),
        ("\xff", "is not a frozen notebook: "),
    ],
)
def test_a_damaged_file_is_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(NotebookError) as error:
        frozen_file.parse(text.encode("latin-1"), "x.json")
    assert str(error.value).startswith(f"x.json {says}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"status": "well"}, 'status is "well"'),
        ({"model": {"name": "s"}}, "model_id is null, and a string is needed"),
        ({"cost": {"usd": "NaN"}}, 'usd is "NaN", which is not an amount in USD'),
        ({"cost": {"usd": 1}}, "usd is 1, which is not an amount in USD"),
        ({"cost": {"usd": "1E+9999999"}}, 'usd is "1E+9999999", which is not an amount in USD'),
        ({"usage": {"input_tokens": True}}, "input_tokens is true, and a whole number from 0 on is needed"),
        ({"usage": {"input_tokens": -1}}, "input_tokens is -1, and a whole number from 0 on is needed"),
        ({"usage": {"input_tokens": 10**400}}, f"input_tokens is {10**39}…, and a whole number from 0 on is needed"),
        ({"rates": {"input": "x"}}, "rates cannot be read"),
        ({"rates": {"input": "sNaN", "source": "set"}}, "rates cannot be read"),
        ({"drawn": "lots"}, 'drawn is "lots"'),
    ],
)
def test_a_run_that_makes_no_sense_is_told(change: dict[str, Any], says: str) -> None:
    body = json.loads(frozen_file.dump(NotebookSnapshot("nb.ipynb", "1", (CellSnapshot("a", 1, (run(),)),))))
    body["cells"][0]["runs"][0] |= change
    with pytest.raises(NotebookError) as error:
        frozen_file.parse(json.dumps(body).encode(), "x.json")
    assert str(error.value) == (
        f"x.json is not a frozen notebook: {says}; restore it, or write it again with %tokmagic freeze"
    )


def test_it_keeps_its_link_and_who_may_read_it(tmp_path: Path) -> None:
    link, file = tmp_path / "nb.tokmagic.json", tmp_path / "kept" / "there.json"
    file.parent.mkdir()
    written = NotebookSnapshot("nb.ipynb", "1", (CellSnapshot("a", 1, (run(),)),))
    frozen_file.write(written, file)
    link.symlink_to(file)
    file.chmod(0o640)
    body = file.read_bytes()
    frozen_file.write(frozen_file.read(link), link)
    assert link.is_symlink()
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (body, 0o640)
    assert [it.name for it in file.parent.iterdir()] == ["there.json"]
