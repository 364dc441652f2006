"""Commands run in this process, and a folder with a notebook to run them on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from tests.notebooks.shells import InShell
from tokmagic.notebooks.reproduce import Task


class Done(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    def error(self, status: int) -> str:
        """The one line on stderr; nothing is printed beside it."""
        assert (self.status, self.out) == (status, ""), self
        (line,) = self.err.splitlines()
        assert line.startswith("tokmagic: ")
        return line.removeprefix("tokmagic: ")

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def problems(self, path: str = "nb.ipynb") -> list[str]:
        """The reasons that a check printed for a notebook."""
        assert self.err == ""
        return [line.removeprefix(f"{path}: ") for line in self.out.splitlines() if line.startswith(f"{path}: ")]

    def states(self) -> list[tuple[str, str]]:
        """The cells and what reproducing found of each of their runs."""
        return [(run["cell"], run["state"]) for run in self.json["runs"]]


Command = Callable[..., Done]

SETUP = "%load_ext tokmagic\n%model add s scripted:answer.json\n%model use s\n%price s --input 0.15 --output 0.60"
CITY = "city = 'Kyoto'"
GREEDY = "%%generate --temperature 0\nWhy visit {{ city }}?"
SEEDED = "%%generate --seed 3 --temperature 0.8 --quiet\nWhy visit {{ city }}?"
SAMPLED = "%%generate --temperature 0.8 --into chance\nWhy visit {{ city }}?"
LOOP = "import tokmagic\nfor word in ('one', 'two', 'three'):\n    tokmagic.generate(word, temperature=0)"
FREEZE = "%tokmagic freeze nb.ipynb"
CELLS = (SETUP, CITY, GREEDY, SEEDED, SAMPLED, LOOP, FREEZE)


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

    def answer(self, *pieces: str, input_tokens: int = 9) -> None:
        """What the model answers from now on."""
        script = {
            "pieces": pieces or ("In ", "spring ", "the ", "cherries ", "bloom."),
            "input_tokens": input_tokens,
        }
        (self.folder / "answer.json").write_text(json.dumps(script), encoding="utf-8")

    def write(self, *cells: str) -> None:
        """Write the notebook with ids that stay the same: ``c0``, ``c1`` and so on."""
        v4: Any = nbformat.v4
        document = v4.new_notebook(cells=[v4.new_code_cell(it, id=f"c{number}") for number, it in enumerate(cells)])
        nbformat.write(document, str(self.notebook))

    def execute(self, **more: str) -> Any:
        """Run the notebook, and return it with its outputs; the file stays as it is."""
        document = nbformat.read(str(self.notebook), as_version=4)
        names = tuple(f"cell {cell.id}" for cell in document.cells)
        environment = {**os.environ, **self.environment, **more}
        course = InShell()(Task(document, names, self.folder, environment, lambda _doing: None))
        assert course.error is None, course.error
        return document

    def freeze(self, *cells: str, **more: str) -> None:
        """Write these cells after SETUP, and run and freeze the notebook."""
        self.write(SETUP, *cells, FREEZE)
        self.execute(**more)

    def body(self) -> dict[str, Any]:
        """What the frozen file holds."""
        return dict(json.loads(self.frozen.read_text(encoding="utf-8")))

    def refreeze(self, body: dict[str, Any]) -> None:
        """Put another body into the frozen file."""
        self.frozen.write_text(json.dumps(body), encoding="utf-8")
