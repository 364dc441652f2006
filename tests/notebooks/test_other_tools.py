"""Notebooks that other tools merged, synchronised, renumbered or ran: numbers stand only under what they are of.

Those in fixtures/notebooks are what the tools really write.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import ROOT
from tests.notebooks.commands import GREEDY, SETUP, Command, Desk
from tests.notebooks.saved_notebooks import cell, one, row, write
from tests.notebooks.shells import running_shell
from tokmagic.core.record import source_sha256
from tokmagic.notebooks import frozen_file, saved

FIXTURES = ROOT / "tests" / "fixtures" / "notebooks"
EARLIER = "was edited after it was run: its numbers are of an earlier text; run it again"
UNRUN = "has no numbers: it was not run, or its output was cleared or quiet; run it without --quiet"
VERSIONS = "has numbers of {} executions, which are versions of one another; run it again"
CONFLICT = "nb.ipynb is a merge with conflicts: {} has numbers of several versions; resolve it, then run the notebook"
WHOLE = "the whole notebook grew by 13.2 % (at most 0 %): $0.00001935 → $0.0000219, 66 → 77 tokens"


@pytest.fixture
def fixture(tmp_path: Path) -> Any:
    """Copy a notebook of FIXTURES to ``nb.ipynb``."""

    def copy(name: str, to: str = "nb.ipynb") -> str:
        return str(shutil.copy(FIXTURES / f"{name}.ipynb", tmp_path / to))

    return copy


@pytest.mark.parametrize("strategy", ["inline", "use-base", "use-local", "use-remote"])
@pytest.mark.parametrize("words", [("--max-cost", "1"), ("--against", "old.ipynb")])
def test_an_unresolved_merge_is_refused(check: Command, fixture: Any, strategy: str, words: tuple[str, ...]) -> None:
    fixture("merge-local", "old.ipynb")
    fixture(f"merge-{strategy}")
    assert check("nb.ipynb", *words).error(1) == CONFLICT.format("cell 2 (kyoto)")
    assert check("old.ipynb", "--against", "nb.ipynb").error(1) == CONFLICT.format("cell 2 (kyoto)")


@pytest.mark.parametrize(
    ("name", "old", "problems", "changes"),
    [
        ("merge-source", "base", [f"cell 2 (kyoto) {EARLIER}"], {"kyoto": None}),
        ("sync-unchanged", "base", [], {}),
        ("sync-edited", "base", [f"cell 2 (kyoto) {EARLIER}"], {"kyoto": None}),
        ("sync-deleted", "base", [f"cell 2 (kyoto) {EARLIER}"], {"kyoto": None}),
        ("sync-inserted", "base", [f"cell 3 (oslo) {EARLIER}", f"cell 4 () {UNRUN}"], {"oslo": None}),
        ("numbered-inserted", "numbered-before", [WHOLE], {}),
        (
            "wrapped",
            "base",
            ["cell 3 (capture) is below %%capture, which keeps its numbers out of the file; run it without"],
            {"capture": None},
        ),
        ("nbconvert-executed", "papermill-executed", [], {}),
    ],
)
def test_numbers_stand_only_under_the_prompts_they_are_of(
    check: Command, fixture: Any, name: str, old: str, problems: list[str], changes: dict[str, Any]
) -> None:
    fixture(old, "old.ipynb")
    path = fixture(name)
    new_id = next((it["id"] for it in json.loads(Path(path).read_text())["cells"] if len(it["id"]) == 8), "")
    done = check("nb.ipynb", "--against", "old.ipynb", "--max-increase", "0%", "--json")
    (found,) = done.json
    assert found["problems"] == [it.replace("()", f"({new_id})") for it in problems]
    both = [it for it in found["cells"] if it["before"] and it["after"]]
    percent = {it["after"]["id"]: it["growth"] and it["growth"]["percent"] for it in both}
    assert {name: of for name, of in percent.items() if of != "0"} == changes
    # Without a limit it is told as well.
    notes = check("nb.ipynb", "--against", "old.ipynb", "--json").json[0]["notes"]
    assert [it for it in notes if "earlier text" in it] == [it for it in problems if "earlier text" in it]


def told(run_id: str, execution: str | None = None, **more: Any) -> dict[str, Any]:
    return row(run_id, started_at=f"2026-11-01T00:00:0{run_id}Z", **({"execution": execution} if execution else more))


MARKERS = [{"output_type": "stream", "name": "stderr", "text": it} for it in ("<<<<<<< local\n", [">>>>>>> r\n"])]
SHOWN = [{"output_type": "display_data", "data": {}, "metadata": {"tokmagic": told(it)}} for it in "12"]
LOOP = "for it in range(2):\n    display(tokmagic.generate(it))"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        # Kept by a hand or by a tool without a word of the conflict.
        (cell(told("1"), told("2"), id="a"), VERSIONS.format(2)),
        (cell(told("1"), told("2"), told("3"), id="a", source=f"%%time\n{GREEDY}"), VERSIONS.format(3)),
        (cell(told("1", "x"), told("2", "y"), id="a", source=LOOP), VERSIONS.format(2)),
        (cell(told("1", "x"), told("2"), id="a", source=LOOP), VERSIONS.format(2)),
        (cell(told("1"), {**told("1"), "output_tokens": 5}, id="a", source=LOOP), VERSIONS.format(2)),
        # One execution has several runs.
        (cell(told("1"), told("2"), id="a", source=LOOP), ""),
        (cell(told("1", "x"), told("2", "x"), id="a", source=LOOP), ""),
        (cell(told("1", "x"), told("2", "x"), id="a", source=f"%%timeit -n2 -r1\n{GREEDY}"), ""),
        (cell(told("1"), told("1"), id="a"), ""),
        # A prompt may be about a merge, and so may what a cell prints.
        (cell(told("1"), id="a", source="%%generate\n<<<<<<< local\n=======\n>>>>>>> remote"), ""),
        (cell(id="a", outputs=[MARKERS[0], SHOWN[0]]), ""),
        (cell(id="a", outputs=[{**MARKERS[0], "text": "<<<<<<< a\n=======\n>>>>>>> b\n"}, SHOWN[0], MARKERS[1]]), ""),
        # Marked anywhere.
        (cell(id="a", outputs=[MARKERS[0], SHOWN[0], SHOWN[1], MARKERS[1]]), "refused"),
        # Jupyter joins what stands side by side: here one side had no output.
        (cell(id="a", outputs=[{**MARKERS[0], "text": "<<<<<<< a\n=======\n"}, SHOWN[0], MARKERS[1]]), "refused"),
        (cell(told("1"), id="a", metadata={"nbdime-conflicts": {}}), "refused"),
        (cell(id="b", source="1 + 1", metadata={"nbdime-conflicts": {}}), "refused"),
    ],
    ids=range(16),
)
def test_versions_of_a_run_are_never_added_up(check: Command, made: dict[str, Any], says: str) -> None:
    done = check(write("nb.ipynb", made), "--max-cost", "1")
    if says == "refused":
        assert done.error(1) == CONFLICT.format(f"cell 1 ({made['id']})")
    else:
        assert [it for it in done.problems() if "nothing to check" not in it] == (
            [f"cell 1 (a) {says}"] if says else []
        )


def test_a_conflict_in_the_notebooks_own_metadata_is_one(check: Command) -> None:
    write("nb.ipynb", one("0.1"), metadata={"nbdime-conflicts": {"local_diff": []}})
    assert check("nb.ipynb", "--max-cost", "1").error(1) == CONFLICT.format("the notebook's metadata")


PROMPT = "%%generate\nHi"


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (PROMPT, True),
        (f"{PROMPT}\n", True),
        (PROMPT.replace("\n", "\r\n"), True),
        (["%%generate\n", "Hi"], True),
        (f"{PROMPT} ", False),
        (f"{PROMPT}\n\n", False),
        (f"%%time\n{PROMPT}", False),
        ("1 + 1", False),
        ("", False),
    ],
)
def test_a_run_is_of_a_text(check: Command, source: Any, same: bool) -> None:
    write("nb.ipynb", cell(row(source_sha256=source_sha256(PROMPT)), id="a", source=source))
    assert check("nb.ipynb", "--max-cost", "1").problems() == (
        [] if same else ["there is nothing to check: no cell holds the numbers of a run", f"cell 1 (a) {EARLIER}"]
    )


@pytest.mark.parametrize(
    ("above", "seen"),
    [
        *((it, True) for it in ("%%time", "%%capture out", "%%prun -q", "%%time\n\n%%capture", "\n%%memit", "%%mine")),
        *((it, False) for it in ("%%bash", "%%writefile f", "%%html", "%%time\n%%script sh", "%%tokens", "1", "# x")),
    ],
)
def test_a_prompt_below_other_magics_is_seen(check: Command, above: str, seen: bool) -> None:
    write("nb.ipynb", one("0.1"), cell(id="b", source=f"{above}\n{PROMPT}"))
    assert bool(check("nb.ipynb", "--max-cost", "1").problems()) == seen
    write("nb.ipynb", one("0.1"), cell(id="b", source=f"{above}\n%%generate --dry-run\nHi"))
    assert check("nb.ipynb", "--max-cost", "1").problems() == []


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ("2", "1"), ("a", "b"), ("b", "a"), ("", "")])
def test_of_a_cell_and_its_edited_copy_the_text_tells_which_ran(check: Command, first: str, second: str) -> None:
    """Whatever numbers a tool gave them since: the row names the cell as it was called then."""
    ran = row(cell_id="2", source_sha256=source_sha256(PROMPT))
    copy, own = cell(ran, id=first, source=f"{PROMPT}!"), cell(ran, id=second, source=PROMPT)
    (line,) = check(write("nb.ipynb", copy, own), "--max-cost", "1").problems()
    assert line.endswith("carries the run of cell 2, from which it was copied; run it")
    (line,) = check(write("nb.ipynb", own, copy), "--max-cost", "1").problems()
    assert line.endswith("carries the run of cell 1, from which it was copied; run it")


A, B, C, D, N = (f"%%generate\n{it}" for it in "ABCDN")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((A, B, C), (N, A, B, C), [(None, 1), (1, 2), (2, 3), (3, 4)]),
        ((A, B, C), (A, C), [(1, 1), (3, 2), (2, None)]),
        ((A, B, C), (C, A, B), [(3, 1), (1, 2), (2, 3)]),
        ((A, B, C, D), (N, A, B, C, f"{D}!"), [(None, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ((A, A, B), (A, B), [(2, 1), (3, 2), (1, None)]),
        ((A, B), (f"{A}!", f"{B}!"), [(1, 1), (2, 2)]),
    ],
)
@pytest.mark.parametrize("ids", ["numbered", "none", "others"])
def test_ids_that_are_only_places_tell_nothing(
    check: Command, before: tuple[str, ...], now: tuple[str, ...], expected: list[tuple[Any, Any]], ids: str
) -> None:
    for path, sources in (("old.ipynb", before), ("nb.ipynb", now)):
        names = {"numbered": "{}", "none": "", "others": path[0] + "{}"}[ids]
        cells = (
            cell(row(f"{path} {n}", source_sha256=source_sha256(it)), id=names.format(n), source=it)
            for n, it in enumerate(sources)
        )
        write(path, *cells)
    found = check("nb.ipynb", "--against", "old.ipynb", "--json").json[0]["cells"]
    pairs = [tuple(side and side["cell"] for side in (it["before"], it["after"])) for it in found]
    assert pairs == expected


@pytest.mark.parametrize("tool", ["nbconvert", "papermill"])
def test_where_no_cell_is_named_the_text_tells_which_one_was_frozen(tool: str) -> None:
    body = json.loads((FIXTURES / f"{tool}.tokmagic.json").read_text(encoding="utf-8"))
    cells = [(it["cell"], it["id"], len(it["runs"])) for it in body["cells"]]
    assert cells == [(2, "kyoto", 1), (3, "oslo", 1), (4, "rome", 1), (5, "loop", 2), (6, "again", 1)]
    file = saved.read((FIXTURES / f"{tool}.ipynb").read_bytes(), tool)
    kept = frozen_file.read(FIXTURES / f"{tool}.tokmagic.json").cells
    assert [it.source_sha256 for it in kept] == [it.source_sha256 for it in file.cells[1:6]]


def frozen(desk: Desk, ran: list[tuple[str | None, str]], *earlier: tuple[str, str]) -> tuple[list[Any], str]:
    """Run cells by their ids, freeze, and return which cells the file has and what was told."""
    environment = {**desk.environment, "JPY_SESSION_NAME": str(desk.notebook)}
    for cells, freeze in ((earlier, False), (ran, True)):
        with running_shell(desk.folder, **environment) as shell:
            assert shell.run(SETUP).ok
            for cell_id, source in cells:
                assert shell.run(source, cell_id=cell_id).ok
            note = shell.run("%tokmagic freeze").results[-1]["data"]["text/plain"] if freeze else ""
    return [(it["cell"], it["id"]) for it in desk.body()["cells"]], note


OSLO = GREEDY.replace("{{ city }}", "Oslo")
ROME = GREEDY.replace("{{ city }}", "Rome")


def test_freeze_tells_of_what_was_edited_after_it_ran(empty: Desk) -> None:
    empty.write(SETUP, OSLO, ROME)
    cells, note = frozen(empty, [("c1", OSLO), ("c2", OSLO)])
    assert cells == [(2, "c1"), (3, "c2")]
    assert "of an earlier text than the file's: cell 3 (c2); save the notebook, or run what was edited" in note
    assert "earlier text" not in frozen(empty, [("c1", OSLO), ("c2", ROME)])[1]


def test_a_cell_that_became_markdown_is_gone(empty: Desk) -> None:
    v4: Any = nbformat.v4
    cells = [v4.new_code_cell(OSLO, id="c1"), v4.new_markdown_cell(ROME, id="c2")]
    nbformat.write(v4.new_notebook(cells=cells), str(empty.notebook))
    found, note = frozen(empty, [("c1", OSLO), ("c2", ROME)])
    assert found == [(1, "c1")]
    assert "left out: 1 cell that the notebook no longer has" in note


@pytest.mark.parametrize(
    ("earlier", "ran", "expected"),
    [
        # Stripped and numbered anew since: the run of place 1 belongs to the cell at place 2.
        ([("1", ROME)], [("1", OSLO)], [(2, "1")]),
        ([("1", ROME), ("3", OSLO)], [], [(2, "1"), (3, "2")]),
        # Nobody named the cells; of equal texts the last runs count, in their order.
        ([], [(None, OSLO), (None, ROME)], [(2, "1"), (3, "2")]),
        ([], [(None, OSLO), (None, OSLO)], [(2, "1")]),
        # What is not in the file any more is left out, unless it may not be saved yet.
        ([("1", OSLO), ("7", GREEDY.replace("{{ city }}", "Bern"))], [], [(2, "1")]),
        ([], [("1", OSLO), ("7", GREEDY.replace("{{ city }}", "Bern"))], [(2, "1"), (None, "7")]),
    ],
)
def test_freeze_finds_cells_without_names_by_their_texts(
    empty: Desk, earlier: list[Any], ran: list[Any], expected: list[Any]
) -> None:
    v4: Any = nbformat.v4
    cells = [v4.new_code_cell(it, id=str(number)) for number, it in enumerate((SETUP, OSLO, ROME))]
    nbformat.write(v4.new_notebook(cells=cells), str(empty.notebook))
    assert frozen(empty, ran, *earlier)[0] == expected


def test_reproduce_says_that_numbers_are_of_an_earlier_text(empty: Desk, reproduce: Command) -> None:
    empty.write(SETUP, OSLO, ROME)
    document = empty.execute()
    document.cells[2].source = f"{ROME} Be brief."
    nbformat.write(document, str(empty.notebook))
    empty.answer("Short.")
    done = reproduce(empty)
    assert "cell 3 (c2): its numbers are of an earlier text" in done.out
    assert "cell 2 (c1): its numbers" not in done.out


@pytest.mark.parametrize("known", [True, False])
def test_a_reproduction_names_the_text_as_what_differs(desk: Desk, reproduce: Command, known: bool) -> None:
    if not known:  # neither a frozen file nor a row
        document = desk.execute()
        nbformat.write(document, str(desk.notebook))
        desk.frozen.unlink()
        Path(desk.url.removeprefix("sqlite:///")).unlink()
    notebook = json.loads(desk.notebook.read_text(encoding="utf-8"))
    notebook["cells"][2]["source"] = f"{GREEDY}!"
    desk.notebook.write_text(json.dumps(notebook), encoding="utf-8")
    desk.answer("Other.")
    done = reproduce(desk, "--json")
    (found, *_) = done.json["runs"]
    assert found["differences"][0]["what"] == ("the prompt" if known else "the cell's text")
    assert [it for it in done.json["notes"] if "earlier text" in it] == [
        "cell 3 (c2): its numbers are of an earlier text"
    ]
