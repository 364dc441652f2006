"""``%tokmagic freeze``: which runs it writes where, and what it cannot do."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.notebooks.commands import CITY, GREEDY, LOOP, SETUP, Command, Desk
from tests.notebooks.shells import running_shell
from tokmagic.notebooks import frozen_file


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
    assert frozen_file.dump(frozen_file.read(desk.frozen)) == text


def test_cells_are_known_by_their_ids_and_each_by_its_last_execution(empty: Desk, reproduce: Command) -> None:
    empty.write(SETUP, CITY, GREEDY, LOOP)
    environment = {**empty.environment, "JPY_SESSION_NAME": str(empty.notebook)}
    with running_shell(empty.folder, **environment) as shell:
        for cell_id, source in (("c0", SETUP), ("c1", "city = 'Oslo'"), ("c2", GREEDY), ("gone", GREEDY)):
            assert shell.run(source, cell_id=cell_id).ok
    with running_shell(empty.folder, **environment) as shell:
        for cell_id, source in (("c0", SETUP), ("c1", CITY), ("c3", LOOP), ("c3", LOOP), ("c2", GREEDY)):
            assert shell.run(source, cell_id=cell_id).ok
        assert shell.run("%%generate --seed 1\nUnsaved.", cell_id="unsaved").ok
        told, elsewhere = (
            shell.run(f"%tokmagic freeze {file}", cell_id="c9").results[-1]["data"]["text/plain"]
            for file in ("", empty.folder / "other.json")
        )
    assert f"{empty.frozen} was written; compare with: tokmagic reproduce nb.ipynb" in told
    assert "left out: 1 cell that the notebook no longer has" in told
    cells = [(cell["cell"], cell["id"], len(cell["runs"])) for cell in empty.body()["cells"]]
    assert cells == [(3, "c2", 1), (4, "c3", 3), (None, "unsaved", 1)]
    assert f"compare with: tokmagic reproduce nb.ipynb --frozen {empty.folder / 'other.json'}\n" in elsewhere
    # The cell that was never saved is not in the file: it is gone.
    same = [("cell 3 (c2)", "same"), *[("cell 4 (c3)", "same")] * 3]
    assert reproduce(empty, "--json").states() == [*same, ("cell unsaved", "changed")]
    # A cell that moved is still the same cell.
    empty.write(SETUP, CITY, "1 + 1", LOOP)
    assert ("cell 3 (c2)", "changed") in reproduce(empty, "--json", "--allow", "runs").states()


@pytest.mark.slow
def test_a_long_loop_is_frozen_whole(empty: Desk) -> None:
    empty.freeze("import tokmagic\nfor i in range(1002):\n    tokmagic.generate(str(i), temperature=0)")
    (cell,) = empty.body()["cells"]
    assert len(cell["runs"]) == 1002


def test_freeze_says_in_one_line_what_it_cannot_do(empty: Desk) -> None:
    empty.notebook.touch()
    missing, others, mine = (empty.folder / it for it in ("none/x.tokmagic.json", "answer.json", "mine.json"))
    before = others.read_bytes()
    says = {
        "%tokmagic freeze": "this notebook's file is not known from here; name it: %tokmagic freeze NOTEBOOK.ipynb",
        f"%tokmagic freeze {empty.notebook}": "no run of this notebook is recorded, so there is nothing to freeze",
        "%tokmagic freeze nosuch.ipynb": "there is no notebook nosuch.ipynb here; name one that is there",
        "%tokmagic freez": "did you mean freeze?",
        "%tokmagic version now": "%tokmagic version takes no more words",
        "%tokmagic freeze --text": "unknown option '--text' (did you mean --texts?)",
        "%%generate --seed 1\nHi": "",
        f"%tokmagic freeze {missing}": f"{missing} cannot be written: No such file or directory; name another file",
        f"%tokmagic freeze {others}": f"{others} already exists and is not a frozen notebook; name another file",
        f"%tokmagic freeze {empty.folder}": f"{empty.folder} is a folder; name the file to write",
        f"%tokmagic freeze --texts {mine}": "",
        f"%tokmagic freeze --texts  {mine}": "",  # its own file may be written again
    }
    with running_shell(**empty.environment) as shell:
        shell.run("%load_ext tokmagic\n%model add s scripted\n%model use s")
        for line, expected in says.items():
            ran = shell.run(line)
            assert expected in ran.error
            assert len(ran.error.splitlines()) == int(bool(expected)), ran.error
    assert others.read_bytes() == before
    assert '"answer": "This answer is scripted:' in mine.read_text(encoding="utf-8")
    assert sorted(it.name for it in empty.folder.glob("*.json")) == ["answer.json", "mine.json"]


def test_freeze_tells_a_command_that_can_be_pasted(empty: Desk) -> None:
    spaced, others, away = (empty.folder / it for it in ("my notes.ipynb", "others.ipynb", "away"))
    away.mkdir()
    empty.write(SETUP, GREEDY)
    empty.notebook.rename(spaced)
    shutil.copy(spaced, others)
    setup = f"%cd {away}\n{SETUP.replace('scripted:answer.json', 'scripted')}"
    long = "a" * 300
    with running_shell(**empty.environment, JPY_SESSION_NAME=str(spaced)) as shell:
        assert shell.run(setup).ok
        assert shell.run("%%generate --temperature 0\nHi").ok
        for line, command in (("", ""), (" 'a b.json'", " --frozen 'a b.json'")):
            told = shell.run(f"%tokmagic freeze{line}").results[-1]["data"]["text/plain"]
            assert told.endswith(f"was written; compare with: tokmagic reproduce 'my notes.ipynb'{command}")
        for name, refused in (
            ("../others.ipynb", "this notebook is my notes.ipynb, and ../others.ipynb is another one"),
            (long, f"{long} cannot be written: File name too long"),
        ):
            ran = shell.run(f"%tokmagic freeze {name}")
            assert refused in ran.error
            assert len(ran.error.splitlines()) == 1
    assert not frozen_file.beside(others).exists()
    with running_shell(**empty.environment) as shell:  # which does not know its notebook
        assert shell.run(setup).ok
        assert shell.run("%%generate --temperature 0\nHi").ok
        told = shell.run("%tokmagic freeze mine.json").results[-1]["data"]["text/plain"]
    assert told.endswith("compare with: tokmagic reproduce NOTEBOOK.ipynb --frozen mine.json")
    assert json.loads((away / "mine.json").read_text())["notebook"] == ""
