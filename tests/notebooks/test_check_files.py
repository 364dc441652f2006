"""Notebook files that are damaged, odd or hostile: one line each, and nothing brings the reader down."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.notebooks.commands import Command
from tests.notebooks.saved_notebooks import TEXT, cell, one, row, write
from tokmagic.errors import NotebookError
from tokmagic.notebooks.check import read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is damaged: it is not JSON"),
        ('{"nbformat": 4, "cells": [', "is damaged: it is not JSON"),
        ("<<<<<<< HEAD\n{}", "is damaged: it is not JSON: Expecting value: line 1"),
        ("[" * 100_000, "is damaged: it is not JSON"),
        (b"\xff\xfe\x00", "is damaged: it is not JSON"),
        ('{"nbformat": 4, "cells": [], "x": ' + "9" * 5000 + "}", "is damaged: it is not JSON"),
        ("[]", "is not a notebook: it has no nbformat"),
        ('"text"', "is not a notebook"),
        ("{}", "is not a notebook: it has no nbformat"),
        ('{"nbformat": "4"}', "is not a notebook"),
        ('{"nbformat": true, "cells": []}', "is not a notebook"),
        ('{"nbformat": 3, "worksheets": []}', "is in notebook format 3, and 4 is needed; save it once"),
        ('{"nbformat": 5, "cells": []}', "is in notebook format 5, and 4 is needed; upgrade tokmagic"),
        ('{"nbformat": 4}', "is not a notebook: it has no list of cells"),
        ('{"nbformat": 4, "cells": {}}', "is not a notebook: it has no list of cells"),
        ('{"nbformat": 4, "cells": [1]}', "is not a notebook: it has no list of cells"),
    ],
    ids=range(16),
)
def test_what_is_no_notebook_gets_one_line(check: Command, text: str | bytes, says: str) -> None:
    Path("nb.ipynb").write_bytes(text if isinstance(text, bytes) else text.encode())
    line = check("nb.ipynb", "--max-cost", "1").error(1)
    assert line.startswith(f"nb.ipynb {says}")
    assert len(line) < 200
    write("good.ipynb", one("0.001"))
    assert check("good.ipynb", "--against", "nb.ipynb", "--max-increase", "1%").error(1) == line


BAD_ROWS: list[tuple[Any, str]] = [
    ("text", "they are not a JSON object"),
    ([row()], "they are not a JSON object"),
    (row(run_id=""), 'run_id is "", and a string is needed'),
    (row(run_id=5), "run_id is 5, and a string is needed"),
    ({}, "status is null"),
    (row(status="done"), 'status is "done"'),
    (row(model=None), "model is null, and a string is needed"),
    (row(tokens=(-1, 2)), "input_tokens is -1, and a whole number from 0 on is needed"),
    (row(tokens=(1, 2.5)), "output_tokens is 2.5"),
    (row(tokens=(1, "2")), 'output_tokens is "2"'),
    (row(tokens=(True, 2)), "input_tokens is true"),
    (row(tokens=(10**13, 2)), "input_tokens is 10000000000000"),
    (row(tokens=(float("nan"), 2)), "input_tokens is NaN"),
    (row(cost="-0.1"), 'cost_usd is "-0.1", which is not an amount in USD'),
    (row(cost="NaN"), 'cost_usd is "NaN"'),
    (row(cost="1e-3"), 'cost_usd is "1e-3"'),
    (row(cost="1e999999999"), 'cost_usd is "1e999999999"'),
    (row(cost="0.0000000000001"), "cost_usd is "),
    (row(cost="1" * 5000), "cost_usd is "),
    (row(cost="١"), "cost_usd is "),
    (row(cost=""), "cost_usd is "),
    (row(cost=0.1), "cost_usd is 0.1"),
    (row(status="cached", saved_usd="-1"), 'saved_usd is "-1"'),
]


@pytest.mark.parametrize(("bad", "says"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_numbers_that_cannot_be_read_get_one_line(check: Command, bad: Any, says: str) -> None:
    write("nb.ipynb", TEXT, one("0.001"), cell(bad or {"": 0}, id="b"))
    line = check("nb.ipynb", "--max-cost", "1").error(1)
    assert line.startswith(f"nb.ipynb: cell 3 (b) has numbers that cannot be read: {says}")
    assert line.endswith("; run the cell again")
    assert len(line) < 200


CODE = cell(source="1 + 1", id="a")


@pytest.mark.parametrize(
    ("cells", "both"),
    [
        ([TEXT, one("1"), TEXT, one("2")], "2 and 4"),
        ([one("1"), {**TEXT, "id": "a"}], "1 and 2"),
        ([{**TEXT, "id": "a"}, one("1")], "1 and 2"),
        ([one("1"), CODE], "1 and 2"),
        ([CODE, TEXT, cell(id="a")], "1 and 3"),
        ([{"cell_type": "raw", "source": "", "id": "a"}, one("1")], "1 and 2"),
        # What no prompt has anything to do with is no matter here.
        ([one("1", id="b"), CODE, CODE, TEXT, TEXT], None),
    ],
)
def test_a_prompt_cell_shares_its_id_with_no_other_cell(
    check: Command, cells: list[dict[str, Any]], both: str | None
) -> None:
    done = check(write("nb.ipynb", *cells), "--max-cost", "3")
    if both is None:
        assert done.status == 0
    else:
        assert done.error(1) == (
            f"nb.ipynb: cells {both} have the same id a; save the notebook once in Jupyter, which fixes it"
        )


GOOD = json.dumps({"nbformat": 4, "metadata": {}, "cells": [one("0.001")]})


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"metadata": {}, "cells"', '"metadata": {}, "metadata": {}, "cells"', "metadata"),
        ('"nbformat": 4', '"nbformat": 3, "nbformat": 4', "nbformat"),
        ('"cost_usd": "0.001"', '"cost_usd": "9", "cost_usd": "0.001"', "cost_usd"),
        ('"cost_usd": "0.001"', '"cost_\\u0075sd": "9", "cost_usd": "0.001"', "cost_usd"),
        ('"outputs": [', '"outputs": [], "outputs": [', "outputs"),
        ('"id": "a"', '"id": "a", "id": "a"', "id"),
        ('"data": {}', '"data": {"x": 1, "x": 1}', "x"),
    ],
    ids=range(7),
)
def test_what_the_file_says_twice_is_refused(check: Command, old: str, new: str, key: str) -> None:
    assert old in GOOD
    Path("nb.ipynb").write_text(GOOD.replace(old, new), encoding="utf-8")
    line = check("nb.ipynb", "--max-cost", "1").error(1)
    assert line == f'nb.ipynb is damaged: "{key}" stands twice in one object; restore it'


def test_odd_but_harmless_notebooks(check: Command) -> None:
    odd = {"cell_type": "code", "source": 5, "outputs": [1, {"metadata": 7}], "id": 7}
    hostile = cell(row("1", model="\x1b[31mm"), id="\x1b]0;x\x07" + "i" * 500)
    done = check(write("nb.ipynb", odd, {"cell_type": 3}, {}, hostile), "--max-cost", "0")
    assert done.status == 1
    assert "\x1b" not in done.out
    assert max(len(line) for line in done.out.splitlines()) < 200
    data = b"\xef\xbb\xbf" + Path("nb.ipynb").read_bytes()
    Path("nb.ipynb").write_bytes(data)
    assert check("nb.ipynb", "--max-cost", "1").status == 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(list(row())), inner),
    )
)
def test_no_metadata_brings_it_down(value: Any) -> None:
    made = {"nbformat": 4, "cells": [cell(outputs=[{"output_type": "display_data", "metadata": {"tokmagic": value}}])]}
    for data in (made, value, {"nbformat": 4, "cells": [value]}, {"nbformat": 4, "cells": [cell(outputs=value)]}):
        with suppress(NotebookError):
            assert read(json.dumps(data).encode(), "nb").measured == ()
