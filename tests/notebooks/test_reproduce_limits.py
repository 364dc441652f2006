"""``tokmagic reproduce`` where it has no frozen file, a notebook fails, or what it is given makes no sense."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import nbformat
import pytest

from tests.notebooks.commands import CELLS, CITY, GREEDY, LOOP, SAMPLED, SETUP, Command, Desk
from tests.notebooks.saved_notebooks import row

# Without a frozen file


def test_without_a_frozen_file_the_outputs_and_the_ledger_are_compared_with(desk: Desk, reproduce: Command) -> None:
    nbformat.write(desk.execute(), str(desk.notebook))
    desk.frozen.unlink()
    done = reproduce(desk)
    assert done.status == 0, done
    # Quiet cells and those of a loop that shows nothing left no output.
    assert "compared with the notebook's outputs, 2 of 2 runs with a row in the ledger" in done.out
    shutil.rmtree(desk.folder / "home", ignore_errors=True)
    for file in desk.folder.glob("ledger.sqlite*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    done = reproduce(desk, "--json")
    assert done.status == 0, done
    assert [state for _, state in done.states()][:2] == ["same", "new"]
    assert not list(desk.folder.glob("ledger.sqlite")), "a ledger was made for a look"
    but = "1 run compared with its outputs: the same, but of 1 run the text is not known\n"
    assert reproduce(desk).out.endswith(but)
    desk.answer("Other.")
    done = reproduce(desk)
    assert done.status == 1
    assert "what differs" not in done.out, "what is not known is no difference"
    assert "  the notebook's outputs record nothing else; %tokmagic freeze records what could explain it" in done.out


def test_figures_in_outputs_that_make_no_sense_are_unknown(desk: Desk, reproduce: Command) -> None:
    document = desk.execute(TOKMAGIC_CACHE="off")
    saved = row("none", cost="1E+9999999", tokens=(10**400, None), finish_reason="stop")
    document.cells[2].outputs[0].metadata["tokmagic"] = saved
    nbformat.write(document, str(desk.notebook))
    desk.frozen.unlink()
    (change, *_) = reproduce(desk, "--json").json["runs"][0]["changes"]
    assert (change["was"], change["now"]) == ("—", "9")


def test_with_nothing_to_compare_with_it_says_how_to_fix_that(empty: Desk, reproduce: Command) -> None:
    empty.write(*CELLS)
    assert reproduce(empty).error(1) == (
        "nb.ipynb has no frozen file (nb.tokmagic.json) and keeps no numbers in its outputs; "
        "run %tokmagic freeze in the notebook first"
    )


def test_where_nothing_was_compared_it_says_why(empty: Desk, reproduce: Command) -> None:
    empty.freeze(CITY, SAMPLED, "chance.text")
    done = reproduce(empty)
    assert done.status == 1
    assert done.out.splitlines()[-1] == (
        "nb.ipynb: nothing was compared: no run of it is greedy or seeded; give --temperature 0 or --seed N"
    )
    body = empty.body()
    body["cells"][0]["runs"][0] |= {"status": "failed", "drawn": "greedy"}
    empty.refreeze(body)
    assert reproduce(empty).out.splitlines()[-1] == (
        "nb.ipynb: nothing was compared: no run had completed; run the notebook's cells, then %tokmagic freeze in it"
    )


# Notebooks that do not come to their end


def test_a_notebook_that_fails_tells_where_and_compares_what_came_before(desk: Desk, reproduce: Command) -> None:
    desk.write(SETUP, CITY, GREEDY, "city + 1\n", SAMPLED, LOOP)
    done = reproduce(desk, "-o", "out.ipynb")
    assert done.status == 1
    assert done.out.splitlines()[-1] == (
        'nb.ipynb: cell 4 (c3) failed: TypeError: can only concatenate str (not "int") to str'
    )
    written = nbformat.read(str(desk.folder / "out.ipynb"), as_version=4)
    assert written.cells[3].outputs[0].ename == "TypeError"
    assert "cell 3 (c2)" not in done.out, "what is the same needs no line"
    assert done.out.splitlines()[1].split()[:5] == ["3", "(c2)", "s", "greedy", "same"]
    # What was still to come is neither gone nor changed, by whichever way its cell is known.
    done = reproduce(desk, "--json")
    assert [state for _, state in done.states()] == ["same", *["not compared"] * 5]
    assert done.json["runs"][1]["why"] == "the notebook failed before it"
    body = desk.body()
    for place, cell in zip((2, 4, 5, 3), body["cells"], strict=True):
        cell |= {"cell": place + 1, "id": f"c{place}"}
    desk.refreeze(body)
    assert [state for _, state in reproduce(desk, "--json").states()] == ["same", *["not compared"] * 5]


def test_a_notebook_that_fails_at_once_is_not_called_the_same(desk: Desk, reproduce: Command) -> None:
    desk.write("1 / 0", SETUP, CITY, GREEDY)
    done = reproduce(desk)
    assert done.status == 1
    assert "the same" not in done.out
    assert done.out.splitlines()[-1] == "nb.ipynb: cell 1 (c0) failed: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("raised", [(), ("%config TokMagic.budget_day = '100'",)], ids=["", "no cell raises it"])
def test_a_budget_bounds_what_is_spent_and_stops_it(desk: Desk, reproduce: Command, raised: tuple[str, ...]) -> None:
    desk.write(SETUP, *raised, CITY, GREEDY, LOOP)
    done = reproduce(desk, "--budget", "0.00001")
    assert done.status == 1
    assert "failed: BudgetError: " in done.out.splitlines()[-1]


def test_a_ledger_that_a_cell_chooses_is_not_written_to(desk: Desk, reproduce: Command) -> None:
    chosen = desk.folder / "chosen.sqlite"
    load, *rest = SETUP.split("\n")
    desk.write("\n".join([load, f"%config TokMagic.ledger = 'sqlite:///{chosen}'", *rest]), CITY, GREEDY)
    assert reproduce(desk, "--json").states()[0] == ("cell 3 (c2)", "same")
    assert not chosen.exists()


# Files and words that make no sense


def test_a_damaged_frozen_file_is_told_in_one_line(desk: Desk, reproduce: Command) -> None:
    desk.frozen.write_text("{}", encoding="utf-8")
    assert reproduce(desk).error(1).startswith("nb.tokmagic.json is not a frozen notebook: format is null")
    desk.refreeze({"format": 1, "tokmagic": "1", "notebook": "n", "cells": []})
    assert reproduce(desk).error(1).startswith("nb.tokmagic.json contains no run; run the notebook's cells")
    desk.frozen.unlink()
    desk.frozen.mkdir()
    assert reproduce(desk).error(2) == "nb.tokmagic.json cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--frozen", "none.json"), "none.json cannot be read: No such file or directory"),
        (("--timeout", "soon"), "--timeout: invalid integer value: 'soon'"),
        (("--timeout", "0"), "--timeout is 0; give whole seconds, above 0, such as 600"),
        (("--budget", "much"), "--budget is 'much'"),
        (("--allow", "txt"), "--allow 'txt' is unknown (did you mean text?)"),
        (("-o", "nb.ipynb"), "-o nb.ipynb is the notebook itself, which is never overwritten; name another file"),
        (("-o", "same.ipynb"), "-o same.ipynb is the notebook itself"),
        (("-o", "nowhere/out.ipynb"), "-o nowhere/out.ipynb cannot be written; "),
        (("-o", "."), "-o . cannot be written; "),
        (("-o", "nb.tokmagic.json"), "-o nb.tokmagic.json already exists and is not a notebook; name another file"),
    ],
)
def test_wrong_words_are_told_in_one_line_before_anything_runs(
    desk: Desk, reproduce: Command, words: tuple[str, ...], says: str
) -> None:
    before = desk.frozen.read_bytes()
    desk.write(SETUP, "open('ran', 'w').close()")
    os.link(desk.notebook, desk.folder / "same.ipynb")
    assert reproduce(desk, *words).error(2).startswith(says)
    assert desk.frozen.read_bytes() == before
    assert not (desk.folder / "ran").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cell_type": None}, "has no cell_type"),
        ({"source": 5}, "has no text as its source"),
        ({"source": "x = '\ud800'"}, "contains an incomplete character (a lone surrogate)"),
        ({"metadata": {"tags": 5}}, "has tags that are not a list"),
        ({"metadata": {"execution": 5}}, "has metadata that is not an object"),
    ],
)
def test_a_cell_that_cannot_be_run_is_told(desk: Desk, reproduce: Command, change: dict[str, Any], says: str) -> None:
    body = json.loads(desk.notebook.read_text(encoding="utf-8"))
    body["cells"][1] = {name: it for name, it in {**body["cells"][1], **change}.items() if it is not None}
    desk.notebook.write_text(json.dumps(body), encoding="utf-8")
    assert reproduce(desk).error(1) == f"nb.ipynb cannot be run: cell 2 (c1) {says}; fix or remove it"


def test_what_is_no_notebook_is_told_in_one_line(desk: Desk, reproduce: Command) -> None:
    body = json.loads(desk.notebook.read_text(encoding="utf-8"))
    desk.notebook.write_text(json.dumps({**body, "nbformat_minor": "x"}), encoding="utf-8")
    assert reproduce(desk).error(1).startswith("nb.ipynb cannot be run: ")
    desk.notebook.write_text("{}", encoding="utf-8")
    assert reproduce(desk).error(1).startswith("nb.ipynb is not a notebook: it has no nbformat")
    desk.notebook.unlink()
    assert reproduce(desk).error(2).startswith("nb.ipynb cannot be read: No such file or directory")


def test_a_byte_order_mark_does_not_matter(desk: Desk, reproduce: Command) -> None:
    desk.notebook.write_bytes(b"\xef\xbb\xbf" + desk.notebook.read_bytes())
    assert reproduce(desk).status == 0


def test_incomplete_characters_can_be_printed(desk: Desk, reproduce: Command) -> None:
    body = desk.body()
    body["cells"][0]["runs"][0]["finish_reason"] = "\ud800"
    desk.refreeze(body)
    assert "finish reason \N{REPLACEMENT CHARACTER} → stop" in reproduce(desk).out
    assert reproduce(desk, "--json").json["runs"][0]["before"]["finish_reason"] == "\ud800"


def test_an_output_that_could_not_be_written_in_the_end_costs_no_report(desk: Desk, reproduce: Command) -> None:
    (desk.folder / "out").mkdir()
    desk.write(SETUP, CITY, GREEDY, "import shutil\nshutil.rmtree('out')")
    done = reproduce(desk, "-o", "out/new.ipynb", "--allow", "runs")
    assert (done.status, done.err) == (1, "")
    assert done.out.splitlines()[1].split()[:5] == ["3", "(c2)", "s", "greedy", "same"]
    assert done.out.splitlines()[-1] == "nb.ipynb: -o out/new.ipynb cannot be written: No such file or directory"
