"""``%tokmagic freeze`` and ``tokmagic reproduce``: real kernels run the notebooks, as people and CI run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import papermill
import psutil
import pytest
from nbclient import NotebookClient

from tests.kernels import running_kernel
from tests.servers import ANSWER, USAGE, chunk, serve, streams, usage_chunk
from tokmagic.cli import main
from tokmagic.ledgers import Ledger
from tokmagic.notebooks.freeze import frozen
from tokmagic.runs import api

SETUP = "%load_ext tokmagic\n%model add s scripted:answer.json\n%model use s\n%price s --input 0.15 --output 0.60"
GREEDY = "%%generate --temperature 0\nWhy visit {{ city }}?"
SEEDED = "%%generate --seed 3 --temperature 0.8 --quiet\nWhy visit {{ city }}?"
SAMPLED = "%%generate --temperature 0.8 --into chance\nWhy visit {{ city }}?"
LOOP = "import tokmagic\nfor word in ('one', 'two', 'three'):\n    tokmagic.generate(word, temperature=0)"
FREEZE = "%tokmagic freeze nb.ipynb"
CELLS = (SETUP, "city = 'Kyoto'", GREEDY, SEEDED, SAMPLED, LOOP, FREEZE)
ANSWER_FILE = {"pieces": ["In ", "spring ", "the ", "cherries ", "bloom."], "input_tokens": 9}


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Desk:
    """A folder with a notebook, a script that answers it and a person's ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebook = folder / "nb.ipynb"
        self.frozen = folder / "nb.tokmagic.json"
        self.url = f"sqlite:///{folder}/ledger.sqlite"

    @property
    def environment(self) -> dict[str, str]:
        return {"TOKMAGIC_HOME": str(self.folder / "home"), "TOKMAGIC_LEDGER": self.url}

    def answer(self, **script: Any) -> None:
        (self.folder / "answer.json").write_text(json.dumps({**ANSWER_FILE, **script}), encoding="utf-8")

    def write(self, *cells: str, **metadata: Any) -> None:
        """Write the notebook with ids that stay the same: ``c0``, ``c1`` and so on."""
        document = nbformat.v4.new_notebook(metadata=metadata)
        for number, source in enumerate(cells):
            document.cells.append(nbformat.v4.new_code_cell(source, id=f"c{number}"))
        nbformat.write(document, str(self.notebook))

    def execute(self, **more: str) -> nbformat.NotebookNode:
        """Run the notebook as nbconvert does, and return it with its outputs; the file stays as it is."""
        document = nbformat.read(str(self.notebook), as_version=4)
        client = NotebookClient(document, resources={"metadata": {"path": str(self.folder)}})
        client.execute(env={**os.environ, **self.environment, **more})
        return document

    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.frozen.read_text(encoding="utf-8")))


Reproduce = Callable[..., Done]


@pytest.fixture(scope="module")
def frozen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebook of CELLS, run and frozen once by nbclient, which tells the kernel no cell ids."""
    desk = Desk(tmp_path_factory.mktemp("frozen"))
    desk.answer()
    desk.write(*CELLS)
    desk.execute()
    return desk.folder


@pytest.fixture
def empty(tmp_path: Path) -> Desk:
    (tmp_path / "desk").mkdir()
    desk = Desk(tmp_path / "desk")
    desk.answer()
    return desk


@pytest.fixture
def desk(frozen_folder: Path, tmp_path: Path) -> Desk:
    """A frozen notebook that a test may change."""
    return Desk(Path(shutil.copytree(frozen_folder, tmp_path / "desk")))


@pytest.fixture
def reproduce(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Reproduce:
    """Run ``tokmagic reproduce nb.ipynb`` in the desk's folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def run(desk: Desk, *words: str) -> Done:
        monkeypatch.chdir(desk.folder)
        for name, value in desk.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(api, "_session", None)
        capsys.readouterr()
        status = main(["reproduce", "nb.ipynb", *words])
        api.session().close()
        shown = capsys.readouterr()
        assert not [it for it in temporary.iterdir() if it.name.startswith("tokmagic-reproduce-")]
        return Done(status, shown.out, shown.err)

    return run


def found(done: Done) -> dict[str, Any]:
    return dict(json.loads(done.out))


def states(done: Done) -> list[tuple[str, str]]:
    return [(run["cell"], run["state"]) for run in found(done)["runs"]]


def error(done: Done, status: int) -> str:
    """The one line on stderr."""
    assert (done.status, done.out) == (status, ""), done
    (line,) = done.err.splitlines()
    return line.removeprefix("tokmagic: ")


# The same


def test_a_notebook_that_gives_the_same_passes_and_nothing_of_the_persons_is_touched(
    desk: Desk, reproduce: Reproduce
) -> None:
    before = {it.name: it.read_bytes() for it in desk.folder.iterdir() if it.suffix in (".ipynb", ".json")}
    with_runs = runs_of(desk)
    done = reproduce(desk)
    assert (done.status, done.err) == (0, ""), done
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert rows[:5] == [
        "cell model drawn text in out cost",
        "3 (c2) s greedy same 9 5 $0.00000435",
        "4 (c3) s seeded same 9 5 $0.00000435",
        "5 (c4) s sampled not compared 9 5 $0.00000435",
        "6 (c5), run 1 of 3 s greedy same 9 5 $0.00000435",
    ]
    assert done.out.splitlines()[-2:] == [
        "cell 5 (c4): not compared: sampled without a seed",
        "5 runs compared with nb.tokmagic.json: the same",
    ]
    after = {it.name: it.read_bytes() for it in desk.folder.iterdir() if it.suffix in (".ipynb", ".json")}
    # The notebook has a cell that freezes it, and that left the file alone.
    assert after == before
    assert runs_of(desk) == with_runs


def runs_of(desk: Desk) -> int:
    ledger = Ledger(desk.url)
    try:
        return len(ledger.runs())
    finally:
        ledger.close()


def test_a_frozen_file_says_what_ran_and_no_text(desk: Desk) -> None:
    body = desk.body()
    assert list(body) == ["format", "tokmagic", "notebook", "environment", "cells"]
    assert (body["format"], body["notebook"]) == (1, "nb.ipynb")
    assert {"python", "torch", "transformers", "tokmagic"} <= set(body["environment"])
    assert [len(cell["runs"]) for cell in body["cells"]] == [1, 1, 1, 3]
    assert [cell["runs"][0]["drawn"] for cell in body["cells"]] == ["greedy", "seeded", "sampled", "greedy"]
    run = body["cells"][1]["runs"][0]
    assert run["params"] == {"max_tokens": 256, "n": 1, "seed": 3, "temperature": 0.8}
    assert (run["usage"]["input_tokens"], run["usage"]["output_tokens"]) == (9, 5)
    assert run["cost"] == {"usd": "0.00000435", "source": "measured", "bound": "exact"}
    assert "environment" not in run
    text = desk.frozen.read_text(encoding="utf-8")
    assert "cherries" not in text
    assert "Kyoto" not in text
    assert frozen.dump(frozen.read(desk.frozen)) == text


def test_answers_from_the_cache_count_as_what_they_would_have_cost(empty: Desk, reproduce: Reproduce) -> None:
    empty.write(SETUP, "city = 'Kyoto'", GREEDY, GREEDY, FREEZE)
    empty.execute()
    assert [cell["runs"][0]["status"] for cell in empty.body()["cells"]] == ["ok", "cached"]
    done = reproduce(empty, "--json")
    assert (done.status, states(done)) == (0, [("cell 3 (c2)", "same"), ("cell 4 (c3)", "same")])
    assert [run["now"]["status"] for run in found(done)["runs"]] == ["ok", "ok"]


def test_several_answers_from_the_cache_are_those_that_were_generated(empty: Desk, reproduce: Reproduce) -> None:
    several = "import tokmagic\ntokmagic.generate('Hi', temperature=0, n=2)"
    empty.write(SETUP, several, several, FREEZE)
    empty.execute()
    assert [cell["runs"][0]["status"] for cell in empty.body()["cells"]] == ["ok", "cached"]
    assert states(reproduce(empty, "--json")) == [("cell 2 (c1)", "same"), ("cell 3 (c2)", "same")]


def test_without_texts_in_the_ledger_the_digests_still_tell(empty: Desk, reproduce: Reproduce) -> None:
    empty.write(SETUP, "city = 'Kyoto'", GREEDY, FREEZE)
    empty.execute(TOKMAGIC_STORE_TEXT="off")
    assert reproduce(empty).status == 0
    empty.answer(pieces=["In ", "autumn ", "the ", "maples ", "glow."])
    done = reproduce(empty)
    assert done.status == 1
    assert done.out.splitlines()[2] == "cell 3 (c2): the text changed"


# Changed, and why


def test_another_answer_is_told_with_its_first_difference(desk: Desk, reproduce: Reproduce) -> None:
    desk.answer(pieces=["In ", "spring ", "the ", "plums ", "bloom ", "too."])
    done = reproduce(desk)
    assert (done.status, done.err) == (1, "")
    assert "3 (c2)" in done.out
    told = done.out.splitlines()
    at = told.index(
        "cell 3 (c2): the text changed from character 15 on: “In spring the cherries bloom.” → “In spring the plums "
        "bloom too.”; output tokens 5 → 6; cost $0.00000435 → $0.00000495"
    )
    assert told[at + 1].startswith("  nothing that is recorded differs: ")
    assert told[-1] == "5 of 5 compared runs changed (against nb.tokmagic.json)"
    assert "5 → 6" in told[1]


def test_what_is_allowed_to_change_is_told_and_fails_nothing(desk: Desk, reproduce: Reproduce) -> None:
    desk.answer(input_tokens=10)
    assert reproduce(desk, "--allow", "cost").status == 1
    done = reproduce(desk, "--allow", "cost", "--allow", "tokens", "--json")
    assert (done.status, found(done)["changed"]) == (0, 0)
    assert [change["what"] for change in found(done)["runs"][0]["changes"]] == ["input tokens", "cost"]


def test_a_price_that_came_later_explains_a_cost(empty: Desk, reproduce: Reproduce) -> None:
    priced = "\n%price s --input 0.15 --output 0.60"
    empty.write(SETUP.replace(priced, ""), "city = 'Kyoto'", GREEDY, FREEZE)
    empty.execute()
    body = empty.body()
    for name in ("rates", "cost"):  # as where no list price is known
        body["cells"][0]["runs"][0].pop(name)
    empty.frozen.write_text(json.dumps(body), encoding="utf-8")
    empty.write(SETUP, "city = 'Kyoto'", GREEDY)
    (run,) = found(reproduce(empty, "--json"))["runs"]
    assert [it["what"] for it in run["changes"]] == ["cost"]
    assert [(it["what"], it["was"]) for it in run["differences"]] == [("the rates", "—")]


def test_a_cost_by_the_devices_time_is_left_out_only_where_it_is(empty: Desk, reproduce: Reproduce) -> None:
    left_out = "they are shown, not compared"
    by_the_hour = SETUP.replace("--input 0.15 --output 0.60", "--gpu-hour 2.5")
    empty.write(SETUP, "city = 'Kyoto'", GREEDY, FREEZE)
    empty.execute()
    empty.write(by_the_hour, "city = 'Kyoto'", GREEDY, FREEZE)
    done = reproduce(empty)
    assert "cost $0.00000435 → $" in done.out
    assert left_out not in done.out
    empty.execute(TOKMAGIC_LEDGER=f"sqlite:///{empty.folder}/other.sqlite")
    done = reproduce(empty)
    assert (done.status, left_out in done.out) == (0, True)


def test_an_edited_prompt_comes_first_since_all_follows_from_it(desk: Desk, reproduce: Reproduce) -> None:
    desk.answer(pieces=["No."])
    desk.write(
        SETUP,
        "city = 'Kyoto'",
        GREEDY.replace("Why", "Who would"),
        SEEDED.replace("--seed 3", "--seed 4"),
        SAMPLED,
        LOOP,
    )
    done = reproduce(desk)
    lines = done.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("cell 3 (c2): the text changed"))
    assert lines[at + 1] == "  the prompt itself changed: everything else follows from it"
    assert lines[at + 2].startswith("  what differs: the prompt: ")
    at = next(i for i, line in enumerate(lines) if line.startswith("cell 4 (c3): the text changed"))
    assert lines[at + 1] == "  what differs: seed: 3 → 4"
    assert done.status == 1


def test_cells_that_came_and_went_are_told(desk: Desk, reproduce: Reproduce) -> None:
    # Headless: the cells are known by their prompts and their order.
    desk.write(SETUP, "city = 'Kyoto'", "%%generate --seed 1\nNew.", GREEDY, SAMPLED, LOOP)
    done = reproduce(desk, "--json")
    by_state: dict[str, list[str]] = {}
    for run in found(done)["runs"]:
        by_state.setdefault(run["state"], []).append(run["cell"])
    assert by_state["same"] == ["cell 4 (c3)", *["cell 6 (c5)"] * 3]
    assert by_state["new"] == ["cell 3 (c2)"]
    assert len(by_state["changed"]) == 1
    assert done.status == 1
    assert reproduce(desk, "--allow", "runs").status == 0


def test_a_run_that_is_missing_from_a_loop_is_told(desk: Desk, reproduce: Reproduce) -> None:
    desk.write(SETUP, "city = 'Kyoto'", GREEDY, SEEDED, SAMPLED, LOOP.replace(", 'three'", ""))
    done = reproduce(desk)
    assert done.status == 1
    assert "cell 6 (c5), run 3 of 3: run ok → —" in done.out
    assert "  the cell did not run this prompt now" in done.out


def test_runs_of_a_cell_are_known_by_what_they_asked_whatever_their_order(desk: Desk, reproduce: Reproduce) -> None:
    frozen_ids = [run["run_id"] for run in desk.body()["cells"][3]["runs"]]
    desk.write(
        SETUP, "city = 'Kyoto'", GREEDY, SEEDED, SAMPLED, LOOP.replace("'one', 'two', 'three'", "'three', 'two'")
    )
    loop = found(reproduce(desk, "--json"))["runs"][-3:]
    assert [run["before"]["run_id"] for run in loop] == [frozen_ids[2], frozen_ids[1], frozen_ids[0]]
    assert [run["state"] for run in loop] == ["same", "same", "changed"]
    assert loop[2]["now"] is None


def test_cells_with_the_same_id_are_both_told(desk: Desk, reproduce: Reproduce) -> None:
    body = desk.body()
    cell = {**body["cells"][0], "id": "c2", "cell": 3}
    run = cell["runs"][0]
    body["cells"] = [{**cell, "runs": [{**run, "answer_sha256": "0" * 64}]}, cell]
    desk.frozen.write_text(json.dumps(body), encoding="utf-8")
    done = reproduce(desk, "--json")
    # The first is the notebook's, and the other has none.
    changes = [(run["state"], [it["kind"] for it in run["changes"]]) for run in found(done)["runs"]]
    assert changes.count(("changed", ["text"])) == 1
    assert changes.count(("changed", ["runs"])) == 1
    assert done.status == 1


# Kernels that are told cell ids


def test_cells_are_known_by_their_ids_and_each_by_its_last_execution(empty: Desk, reproduce: Reproduce) -> None:
    empty.write(SETUP, "city = 'Kyoto'", GREEDY, LOOP)
    environment = {**empty.environment, "JPY_SESSION_NAME": str(empty.notebook)}
    script = SETUP.replace("answer.json", str(empty.folder / "answer.json"))
    with running_kernel(**environment) as kernel:
        for cell_id, source in (("c0", script), ("c1", "city = 'Oslo'"), ("c2", GREEDY), ("gone", GREEDY)):
            assert kernel.run(source, cell_id=cell_id).ok
    with running_kernel(**environment) as kernel:
        for cell_id, source in (("c0", script), ("c1", "city = 'Kyoto'"), ("c3", LOOP), ("c3", LOOP), ("c2", GREEDY)):
            assert kernel.run(source, cell_id=cell_id).ok
        assert kernel.run("%%generate --seed 1\nUnsaved.", cell_id="unsaved").ok
        shown = kernel.run("%tokmagic freeze", cell_id="c9")
        other = kernel.run(f"%tokmagic freeze {empty.folder / 'other.json'}", cell_id="c9")
    elsewhere = other.results[-1]["data"]["text/plain"]
    assert shown.ok, shown.error
    told = shown.results[-1]["data"]["text/plain"]
    assert f"{empty.frozen} was written; compare with: tokmagic reproduce nb.ipynb" in told
    assert "left out: 1 cell that the notebook no longer has" in told
    cells = [(cell["cell"], cell["id"], len(cell["runs"])) for cell in empty.body()["cells"]]
    assert cells == [(3, "c2", 1), (4, "c3", 3), (None, "unsaved", 1)]
    assert f"compare with: tokmagic reproduce nb.ipynb --frozen {empty.folder / 'other.json'}\n" in elsewhere
    done = reproduce(empty, "--json")
    # The cell that was never saved is not in the file: it is gone.
    assert states(done) == [("cell 3 (c2)", "same"), *[("cell 4 (c3)", "same")] * 3, ("cell unsaved", "changed")]
    # A second run of a cell that moved is still the same cell.
    empty.write(SETUP, "city = 'Kyoto'", "1 + 1", LOOP)
    done = reproduce(empty, "--json", "--allow", "runs")
    assert ("cell 3 (c2)", "changed") in states(done)


def test_a_long_loop_is_frozen_whole(empty: Desk) -> None:
    loop = "import tokmagic\nfor i in range(1002):\n    tokmagic.generate(str(i), temperature=0)"
    empty.write(SETUP, loop, FREEZE)
    empty.execute()
    (cell,) = empty.body()["cells"]
    assert len(cell["runs"]) == 1002


def test_freeze_says_in_one_line_what_it_cannot_do(empty: Desk) -> None:
    empty.notebook.touch()
    with running_kernel(**empty.environment) as kernel:
        kernel.run("%load_ext tokmagic\n%model add s scripted\n%model use s")
        says = {
            "%tokmagic freeze": "this notebook's file is not known from here; name it: %tokmagic freeze NOTEBOOK.ipynb",
            f"%tokmagic freeze {empty.notebook}": "no run of this notebook is recorded, so there is nothing to freeze",
            "%tokmagic freeze nosuch.ipynb": "there is no notebook nosuch.ipynb here; name one that is there",
            "%tokmagic freez": "did you mean freeze?",
            "%tokmagic version now": "%tokmagic 'version now' is unknown",
            "%tokmagic freeze --text": "unknown option '--text' (did you mean --texts?)",
        }
        for line, expected in says.items():
            ran = kernel.run(line)
            assert not ran.ok
            assert expected in ran.error
            assert len(ran.error.splitlines()) == 1
        assert kernel.run("%%generate --seed 1\nHi").ok
        missing = empty.folder / "none" / "x.tokmagic.json"
        ran = kernel.run(f"%tokmagic freeze {missing}")
        assert f"{missing} cannot be written: No such file or directory; name another file" in ran.error
        others = empty.folder / "answer.json"
        before = others.read_bytes()
        ran = kernel.run(f"%tokmagic freeze {others}")
        assert f"{others} already exists and is not a frozen notebook; name another file" in ran.error
        assert others.read_bytes() == before
        for _ in range(2):  # its own file may be written again
            ran = kernel.run(f"%tokmagic freeze --texts {empty.folder / 'mine.json'}")
            assert ran.ok, ran.error
    text = (empty.folder / "mine.json").read_text(encoding="utf-8")
    assert '"answer": "This answer is scripted:' in text
    assert sorted(it.name for it in empty.folder.glob("*.json")) == ["answer.json", "mine.json"]


def test_freeze_tells_a_command_that_can_be_pasted(empty: Desk) -> None:
    spaced = empty.folder / "my notes.ipynb"
    (empty.folder / "away").mkdir()
    empty.write(SETUP, GREEDY)
    empty.notebook.rename(spaced)
    others = empty.folder / "others.ipynb"
    shutil.copy(spaced, others)
    long = "a" * 300
    says = {
        "%tokmagic freeze": (None, "tokmagic reproduce 'my notes.ipynb'"),
        "%tokmagic freeze 'a b.json'": (None, "tokmagic reproduce 'my notes.ipynb' --frozen 'a b.json'"),
        "%tokmagic freeze ../others.ipynb": ("this notebook is my notes.ipynb, and ../others.ipynb is another one", ""),
        f"%tokmagic freeze {long}": (f"{long} cannot be written: File name too long", ""),
    }
    with running_kernel(**empty.environment, JPY_SESSION_NAME=str(spaced)) as kernel:
        assert kernel.run(f"%cd {empty.folder / 'away'}\n{SETUP.replace('scripted:answer.json', 'scripted')}").ok
        assert kernel.run("%%generate --temperature 0\nHi").ok
        for line, (refused, command) in says.items():
            ran = kernel.run(line)
            assert ran.ok == (refused is None), ran.error
            if refused is None:
                told = ran.results[-1]["data"]["text/plain"].splitlines()
                assert told[-1].endswith(f"was written; compare with: {command}")
            else:
                assert refused in ran.error
                assert len(ran.error.splitlines()) == 1
    assert not frozen.beside(others).exists()
    with running_kernel(**empty.environment) as kernel:  # which does not know its notebook
        assert kernel.run(f"%cd {empty.folder / 'away'}\n{SETUP.replace('scripted:answer.json', 'scripted')}").ok
        assert kernel.run("%%generate --temperature 0\nHi").ok
        ran = kernel.run("%tokmagic freeze mine.json")
        told = ran.results[-1]["data"]["text/plain"]
    assert told.endswith("compare with: tokmagic reproduce NOTEBOOK.ipynb --frozen mine.json")
    assert json.loads((empty.folder / "away" / "mine.json").read_text())["notebook"] == ""


# Without a frozen file


def test_without_a_frozen_file_the_outputs_and_the_ledger_are_compared_with(desk: Desk, reproduce: Reproduce) -> None:
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
    assert [run["state"] for run in found(done)["runs"]][:2] == ["same", "new"]
    assert not list(desk.folder.glob("ledger.sqlite")), "a ledger was made for a look"
    assert reproduce(desk).out.endswith(
        "1 run compared with its outputs: the same, but of 1 run the text is not known\n"
    )
    desk.answer(pieces=["Other."])
    done = reproduce(desk)
    assert done.status == 1
    assert "what differs" not in done.out, "what is not known is no difference"
    assert "  the notebook's outputs record nothing else; %tokmagic freeze records what could explain it" in done.out


def test_where_no_run_had_ended_well_it_says_so(desk: Desk, reproduce: Reproduce) -> None:
    body = desk.body()
    body["cells"] = body["cells"][:1]
    body["cells"][0]["runs"][0]["status"] = "failed"
    desk.frozen.write_text(json.dumps(body), encoding="utf-8")
    assert reproduce(desk).out.splitlines()[-1] == (
        "nb.ipynb: nothing was compared: no run had completed; run the notebook's cells, then %tokmagic freeze in it"
    )


def test_with_nothing_to_compare_with_it_says_how_to_mend_that(empty: Desk, reproduce: Reproduce) -> None:
    empty.write(*CELLS)
    assert error(reproduce(empty), 1) == (
        "nb.ipynb has no frozen file (nb.tokmagic.json) and keeps no numbers in its outputs; "
        "run %tokmagic freeze in the notebook first"
    )


def test_where_all_is_sampled_nothing_was_compared(empty: Desk, reproduce: Reproduce) -> None:
    empty.write(SETUP, "city = 'Kyoto'", SAMPLED, "chance.text", FREEZE)
    empty.execute()
    done = reproduce(empty)
    assert done.status == 1
    assert done.out.splitlines()[-1] == (
        "nb.ipynb: nothing was compared: no run of it is greedy or seeded; give --temperature 0 or --seed N"
    )


def test_figures_in_outputs_that_make_no_sense_are_unknown(desk: Desk, reproduce: Reproduce) -> None:
    document = desk.execute(TOKMAGIC_CACHE="off")
    row = {"run_id": "none", "status": "ok", "input_tokens": 10**400, "cost_usd": "1E+9999999", "finish_reason": "stop"}
    document.cells[2].outputs[0].metadata["tokmagic"] = row
    nbformat.write(document, str(desk.notebook))
    desk.frozen.unlink()
    (change, *_) = found(reproduce(desk, "--json"))["runs"][0]["changes"]
    assert (change["was"], change["now"]) == ("—", "9")


# Damaged files and wrong words


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not a frozen notebook: Expecting property name"),
        ("[]", "is not a frozen notebook: a JSON object is needed"),
        ("{}", "is not a frozen notebook: format is null"),
        ('{"format": 2}', "was written by a newer tokmagic (format 2); upgrade tokmagic"),
        ('{"format": 0}', "is not a frozen notebook: format is 0"),
        ('{"format": 1, "tokmagic": "1", "notebook": "n", "cells": 3}', "is not a frozen notebook: cells is 3"),
        ('{"format": 1, "tokmagic": "1", "notebook": "n", "cells": []}', "contains no run; run the notebook's cells"),
        ("\xff", "is not a frozen notebook: "),
    ],
)
def test_a_damaged_frozen_file_is_told_in_one_line(desk: Desk, reproduce: Reproduce, text: str, says: str) -> None:
    desk.frozen.write_bytes(text.encode("latin-1"))
    assert error(reproduce(desk), 1).startswith(f"nb.tokmagic.json {says}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"status": "well"}, "status is 'well'"),
        ({"model": {"name": "s"}}, "model_id is null"),
        ({"cost": {"usd": "NaN"}}, "usd is 'NaN', which is not an amount in USD"),
        ({"cost": {"usd": 1}}, "usd is 1"),
        ({"usage": {"input_tokens": True}}, "input_tokens is true"),
        ({"rates": {"input": "x"}}, "rates cannot be read"),
        ({"drawn": "lots"}, "drawn is 'lots'"),
        ({"cost": {"usd": "1E+9999999"}}, "usd is '1E+9999999', which is not an amount in USD"),
        ({"rates": {"input": "sNaN", "source": "set"}}, "rates cannot be read"),
        ({"usage": {"input_tokens": -1}}, "input_tokens is -1"),
        ({"usage": {"input_tokens": 10**400}}, f"input_tokens is {10**39}"),
    ],
)
def test_a_run_that_makes_no_sense_is_told(desk: Desk, reproduce: Reproduce, change: dict[str, Any], says: str) -> None:
    body = desk.body()
    body["cells"][0]["runs"][0] |= change
    desk.frozen.write_text(json.dumps(body), encoding="utf-8")
    assert error(reproduce(desk), 1).startswith(f"nb.tokmagic.json is not a frozen notebook: {says}; restore it")


def test_options_that_make_no_sense_differ_from_those_of_now(desk: Desk, reproduce: Reproduce) -> None:
    desk.answer(pieces=["In ", "spring."])
    body = desk.body()
    body["cells"][0]["runs"][0]["params"]["n"] = "many"
    desk.frozen.write_text(json.dumps(body), encoding="utf-8")
    reasons = {"what": "n", "was": "many", "now": "1"}
    assert reasons in found(reproduce(desk, "--json"))["runs"][0]["differences"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--frozen", "none.json"), "none.json cannot be read: No such file or directory"),
        (("--timeout", "soon"), "--timeout is 'soon'; give whole seconds, above 0, such as 600"),
        (("--timeout", "0"), "--timeout is '0'; give whole seconds"),
        (("--budget", "much"), "--budget is 'much'"),
        (("--allow", "txt"), "unknown KIND 'txt' (did you mean text?)"),
        (("-o", "nb.ipynb"), "-o nb.ipynb is the notebook itself, which is never overwritten; name another file"),
        (("--kernel", "julia-9"), "the notebook's kernel 'julia-9' is not installed here; install it, or name another"),
    ],
)
def test_wrong_words_are_told_in_one_line(desk: Desk, reproduce: Reproduce, words: tuple[str, ...], says: str) -> None:
    assert error(reproduce(desk, *words), 2).startswith(says)


def test_what_stands_in_a_frozen_files_place_is_told(desk: Desk, reproduce: Reproduce) -> None:
    desk.frozen.unlink()
    desk.frozen.mkdir()
    assert error(reproduce(desk), 2) == "nb.tokmagic.json cannot be read: Is a directory"


def test_what_is_no_notebook_is_told_in_one_line(desk: Desk, reproduce: Reproduce) -> None:
    desk.notebook.write_text("{}", encoding="utf-8")
    assert error(reproduce(desk), 1).startswith("nb.ipynb is not a notebook: it has no nbformat")
    desk.notebook.unlink()
    assert error(reproduce(desk), 2).startswith("nb.ipynb cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cell_type": None}, "has no cell_type"),
        ({"source": 5}, "has no text as its source"),
        ({"source": "x = '\ud800'"}, "contains an incomplete character (a lone surrogate)"),
        ({"metadata": {"tags": 5}}, "has tags that are not a list"),
        ({"metadata": {"execution": 5}}, "has invalid metadata"),
    ],
)
def test_a_cell_that_cannot_be_run_is_told(desk: Desk, reproduce: Reproduce, change: dict[str, Any], says: str) -> None:
    body = json.loads(desk.notebook.read_text(encoding="utf-8"))
    body["cells"][1] = {name: it for name, it in {**body["cells"][1], **change}.items() if it is not None}
    desk.notebook.write_text(json.dumps(body), encoding="utf-8")
    assert error(reproduce(desk), 1) == f"nb.ipynb cannot be run: cell 2 (c1) {says}; fix or remove it"


def test_a_notebook_that_nbformat_does_not_read_is_told(desk: Desk, reproduce: Reproduce) -> None:
    body = json.loads(desk.notebook.read_text(encoding="utf-8"))
    desk.notebook.write_text(json.dumps({**body, "nbformat_minor": "x"}), encoding="utf-8")
    assert error(reproduce(desk), 1).startswith("nb.ipynb cannot be run: ")


# Notebooks that do not come to their end


def test_a_notebook_that_fails_tells_where_and_compares_what_came_before(desk: Desk, reproduce: Reproduce) -> None:
    desk.write(SETUP, "city = 'Kyoto'", GREEDY, "city + 1\n", SAMPLED, LOOP)
    done = reproduce(desk, "-o", "out.ipynb")
    assert done.status == 1
    assert done.out.splitlines()[-1] == (
        'nb.ipynb: cell 4 (c3) failed: TypeError: can only concatenate str (not "int") to str'
    )
    written = nbformat.read(str(desk.folder / "out.ipynb"), as_version=4)
    assert written.cells[3].outputs[0].ename == "TypeError"
    assert "cell 3 (c2)" not in done.out, "what is the same needs no line"
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[1][:5] == ["3", "(c2)", "s", "greedy", "same"]
    # What was still to come is neither gone nor changed, by whichever way its cell is known.
    report = found(reproduce(desk, "--json"))
    assert [run["state"] for run in report["runs"]] == ["same", *["not compared"] * 5]
    assert report["runs"][1]["why"] == "the notebook failed before it"
    body = desk.body()
    for place, cell in zip((2, 4, 5, 3), body["cells"], strict=True):
        cell |= {"cell": place + 1, "id": f"c{place}"}
    desk.frozen.write_text(json.dumps(body), encoding="utf-8")
    assert [run["state"] for run in found(reproduce(desk, "--json"))["runs"]] == ["same", *["not compared"] * 5]


def test_a_notebook_that_fails_at_once_is_not_called_the_same(desk: Desk, reproduce: Reproduce) -> None:
    desk.write("1 / 0", SETUP, "city = 'Kyoto'", GREEDY)
    done = reproduce(desk)
    assert done.status == 1
    assert "the same" not in done.out
    assert done.out.splitlines()[-1] == "nb.ipynb: cell 1 (c0) failed: ZeroDivisionError: division by zero"


def test_a_budget_bounds_what_is_spent_and_stops_it(desk: Desk, reproduce: Reproduce) -> None:
    done = reproduce(desk, "--budget", "0.00001")
    assert done.status == 1
    assert "failed: BudgetError: " in done.out.splitlines()[-1]


def test_no_cell_raises_the_budget_that_was_given(desk: Desk, reproduce: Reproduce) -> None:
    desk.write(SETUP, "%config TokMagic.budget_day = '100'", "city = 'Kyoto'", GREEDY, LOOP)
    done = reproduce(desk, "--budget", "0.00001")
    assert done.status == 1
    assert "failed: BudgetError: " in done.out.splitlines()[-1]


SLOW = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"


def test_a_cell_that_hangs_ends_at_the_timeout_and_its_kernel_with_it(desk: Desk, reproduce: Reproduce) -> None:
    # First, so that on a busy machine no other cell takes as long.
    desk.write(SLOW, SETUP, "city = 'Kyoto'", GREEDY)
    done = reproduce(desk, "--timeout", "10")
    assert (done.status, done.err) == (1, "")
    assert done.out.splitlines()[-1] == (
        "nb.ipynb: cell 1 (c0) did not end within 10 s; fix it, or allow more time with --timeout"
    )
    assert is_gone(int((desk.folder / "pid").read_text()))


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ('{"argv": ["false", "{connection_file}"], "display_name": "dead", "language": "python"}', "Kernel died"),
        ('{"argv": ["/none/python"], "display_name": "dead", "language": "python"}', "[Errno 2] No such file"),
        ('{"argv": [], "display_name": "dead", "language": "python"}', "list index out of range"),
        ("{", "Expecting property name"),
        ("[]", "jupyter_client"),
        ('{"env": 5}', "The 'env' trait"),
    ],
)
def test_a_kernel_that_does_not_start_is_told(
    desk: Desk, reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, says: str
) -> None:
    folder = tmp_path / "jupyter" / "kernels" / "dead"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(spec, encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    told = error(reproduce(desk, "--kernel", "dead"), 1)
    assert told.startswith(f"the kernel dead did not start: {says}")
    assert told.endswith("; reinstall it, or name another with --kernel")


def test_a_kernel_that_dies_is_told(desk: Desk, reproduce: Reproduce) -> None:
    desk.write(SETUP, "import os\nos._exit(3)")
    done = reproduce(desk)
    assert (done.status, done.err) == (1, "")
    assert "nb.ipynb: the kernel died in cell 2 (c1); run the notebook by hand to see why" in done.out


@pytest.mark.parametrize(("kind", "ignored"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_an_interrupt_ends_the_kernel_and_leaves_nothing_behind(
    desk: Desk, tmp_path: Path, kind: signal.Signals, ignored: bool
) -> None:
    desk.write(SETUP, "city = 'Kyoto'", GREEDY, SLOW)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = subprocess.Popen(
        [sys.executable, "-m", "tokmagic.cli", "reproduce", "nb.ipynb"],
        cwd=desk.folder,
        env={**os.environ, **desk.environment, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell runs in the background ignores SIGINT.
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )
    written = desk.folder / "pid"
    deadline = time.monotonic() + 120
    while not (written.is_file() and written.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send_signal(kind)
    out, err = command.communicate(timeout=60)
    assert (command.returncode, out, err) == (130, "", "tokmagic: interrupted\n")
    assert is_gone(int(written.read_text()))
    assert list(temporary.iterdir()) == []


def test_a_ledger_that_a_cell_chooses_is_not_written_to(desk: Desk, reproduce: Reproduce) -> None:
    chosen = desk.folder / "chosen.sqlite"
    load, *rest = SETUP.split("\n")
    setup = "\n".join([load, f"%config TokMagic.ledger = 'sqlite:///{chosen}'", *rest])
    desk.write(setup, "city = 'Kyoto'", GREEDY)
    done = reproduce(desk, "--json")
    assert states(done)[0] == ("cell 3 (c2)", "same")
    assert not chosen.exists()


@pytest.mark.parametrize("out", ["nowhere/out.ipynb", "."])
def test_an_output_that_cannot_be_written_is_told_before_anything_runs(
    desk: Desk, reproduce: Reproduce, out: str
) -> None:
    desk.write(SETUP, "open('ran', 'w').close()")
    done = reproduce(desk, "-o", out)
    assert done.status == 2
    assert done.err.startswith(f"tokmagic: -o {out} cannot be written; ")
    assert not (desk.folder / "ran").exists()


def test_a_byte_order_mark_does_not_matter(desk: Desk, reproduce: Reproduce) -> None:
    desk.notebook.write_bytes(b"\xef\xbb\xbf" + desk.notebook.read_bytes())
    assert reproduce(desk).status == 0


# Endpoints and real models


def test_an_endpoints_answers_are_compared_and_marked(
    empty: Desk, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with serve(streams(ANSWER)) as endpoint:
        add = f"%load_ext tokmagic\n%model add far m --api-base {endpoint.url} --api-key-name MY_KEY\n%model use far"
        rates = "\n%price far --input 0.15 --output 0.60 --cached 0.05"
        empty.write(add + rates, "%%generate --temperature 0 --max-tokens 9\nHi", FREEZE)
        empty.execute()
        text = empty.frozen.read_text(encoding="utf-8")
        assert "sk-very-secret" not in text
        assert f'"server": "{endpoint.url}"' in text
        done = reproduce(empty)
        assert done.status == 0
        assert "real runs at endpoints: 1, cost: ≤$0.0000036\n" in done.out
        endpoint.script = streams([*ANSWER[:2], chunk("p!"), chunk(reason="stop"), usage_chunk()])
        done = reproduce(empty)
        assert done.status == 1
        assert "(at an endpoint, which guarantees nothing)" in done.out
        assert "  a server makes no promise: behind the same name" in done.out
        # Without its key it is not asked at all: nothing is billed, and it broke no promise.
        monkeypatch.delenv("MY_KEY")
        done = reproduce(empty)
        assert "cell 2 (c1): status ok → refused\n" in done.out
        assert "real runs at endpoints" not in done.out
        monkeypatch.setenv("MY_KEY", "sk-very-secret")
        # Of the same tokens more were cached there, so that the same answer costs less.
        cached = {**USAGE, "prompt_tokens_details": {"cached_tokens": 8}}
        endpoint.script = streams([*ANSWER[:-1], usage_chunk(cached)])
        done = reproduce(empty, "--json")
        (run,) = found(done)["runs"]
        assert [change["kind"] for change in run["changes"]] == ["cost"]
        assert [it["what"] for it in run["differences"]] == ["input tokens that the server had cached"]


@pytest.mark.model
def test_the_default_model_gives_the_same_and_tells_what_makes_another_answer(
    empty: Desk, reproduce: Reproduce, model_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Desk, "environment", {"TOKMAGIC_HOME": str(model_home), "TOKMAGIC_LEDGER": empty.url})
    setup = "%load_ext tokmagic\n%price smollm2 --input 0.15 --output 0.60"
    by_itself = "%%generate --max-tokens 12\nName three rivers."
    seeded = "%%generate --max-tokens 12 --temperature 1.5 --seed 7\nName three rivers."
    empty.write(setup, by_itself, seeded, FREEZE)
    for name, value in empty.environment.items():
        monkeypatch.setenv(name, value)
    out = empty.folder / "out.ipynb"
    papermill.execute_notebook(empty.notebook, out, progress_bar=False, kernel_name="python3", cwd=str(empty.folder))
    # Without a temperature this model takes the likeliest token by itself.
    assert [cell["runs"][0]["drawn"] for cell in empty.body()["cells"]] == ["greedy", "seeded"]
    done = reproduce(empty, "--json")
    assert (done.status, states(done)) == (0, [("cell 2 (c1)", "same"), ("cell 3 (c2)", "same")])

    other = (
        "%load_ext tokmagic\n%model add other smollm2 --dtype fp32\n%model use other\n%price other --input 1 --output 1"
    )
    empty.write(other, by_itself, seeded.replace("--seed 7", "--seed 8"))
    done = reproduce(empty, "--json")
    greedy, drawn = found(done)["runs"]
    assert done.status == 1
    assert "text" in [change["kind"] for change in drawn["changes"]]
    differences = {it["what"]: (it["was"], it["now"]) for it in drawn["differences"]}
    assert differences["seed"] == ("7", "8")
    assert differences["its dtype"] == ("bfloat16", "float32")
    assert "cost" in [change["kind"] for change in greedy["changes"]]
    assert "the rates" in [it["what"] for it in greedy["differences"]]


# What is written


def test_an_output_over_something_that_is_no_notebook_is_refused(desk: Desk, reproduce: Reproduce) -> None:
    before = desk.frozen.read_bytes()
    says = "-o nb.tokmagic.json already exists and is not a notebook; name another file"
    assert error(reproduce(desk, "-o", "nb.tokmagic.json"), 2) == says
    assert desk.frozen.read_bytes() == before
    os.link(desk.notebook, desk.folder / "same.ipynb")
    assert "is the notebook itself" in error(reproduce(desk, "-o", "same.ipynb"), 2)


def test_an_output_that_could_not_be_written_in_the_end_costs_no_report(desk: Desk, reproduce: Reproduce) -> None:
    (desk.folder / "out").mkdir()
    desk.write(SETUP, "city = 'Kyoto'", GREEDY, "import shutil\nshutil.rmtree('out')")
    done = reproduce(desk, "-o", "out/new.ipynb", "--allow", "runs")
    assert (done.status, done.err) == (1, "")
    assert done.out.splitlines()[1].split()[:5] == ["3", "(c2)", "s", "greedy", "same"]
    assert done.out.splitlines()[-1] == "nb.ipynb: -o out/new.ipynb cannot be written: No such file or directory"


def test_a_frozen_file_keeps_its_link_and_who_may_read_it(desk: Desk) -> None:
    elsewhere = desk.folder / "kept" / "there.json"
    elsewhere.parent.mkdir()
    desk.frozen.rename(elsewhere)
    desk.frozen.symlink_to(elsewhere)
    elsewhere.chmod(0o640)
    body = elsewhere.read_bytes()
    frozen.write(frozen.read(desk.frozen), desk.frozen)
    assert desk.frozen.is_symlink()
    assert elsewhere.read_bytes() == body
    assert elsewhere.stat().st_mode & 0o777 == 0o640
    assert [it.name for it in elsewhere.parent.iterdir()] == ["there.json"]


def test_half_characters_can_be_printed(desk: Desk, reproduce: Reproduce) -> None:
    body = desk.body()
    body["cells"][0]["runs"][0]["finish_reason"] = "\ud800"
    desk.frozen.write_text(json.dumps(body), encoding="utf-8")
    assert "finish reason \N{REPLACEMENT CHARACTER} → stop" in reproduce(desk).out
    assert found(reproduce(desk, "--json"))["runs"][0]["before"]["finish_reason"] == "\ud800"


def test_a_reader_that_goes_away_makes_no_change_a_success(desk: Desk) -> None:
    desk.answer(pieces=["Other."])
    command = subprocess.Popen(
        [sys.executable, "-m", "tokmagic.cli", "reproduce", "nb.ipynb"],
        cwd=desk.folder,
        env={**os.environ, **desk.environment},
        stdout=subprocess.PIPE,
    )
    assert command.stdout is not None
    command.stdout.close()
    assert command.wait(timeout=120) == 1
