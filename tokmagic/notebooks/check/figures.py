"""What a notebook's runs cost and took, cell by cell, as the file, or an earlier version of it, tells."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tokmagic.core.files import read_file
from tokmagic.core.money import CERTAIN, Precision, Uncertainty
from tokmagic.core.record import is_place
from tokmagic.errors import NotebookError, UsageError
from tokmagic.formatting.markdown import plain_text
from tokmagic.notebooks import saved
from tokmagic.notebooks.saved import SavedCell
from tokmagic.notebooks.snapshots import CellSnapshot, RunSnapshot

_GIT = "git:"
_OF_A_REPOSITORY = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"}


@dataclass(frozen=True, slots=True)
class Figures:
    """What runs cost (USD) and took (tokens). None is unknown, never 0."""

    cost_usd: Decimal | None = Decimal(0)
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    uncertainty: Uncertainty = CERTAIN

    @classmethod
    def of(cls, run: RunSnapshot) -> Figures:
        """A run's figures. A hit costs nothing; what would come back without the cache is what it saved."""
        return cls(run.usd, run.usage.input_tokens, run.usage.output_tokens, run.uncertainty)

    @property
    def precision(self) -> Precision:
        """Whether the cost is only an estimate, and what it bounds."""
        return self.uncertainty.precision(0)

    @property
    def tokens(self) -> int | None:
        """Input and output together."""
        return _sum(self.input_tokens, self.output_tokens)

    def __add__(self, other: Figures) -> Figures:
        # At most 21 digits each, so the sum of any number of cells that fits a file is exact.
        cost = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        given, made = _sum(self.input_tokens, other.input_tokens), _sum(self.output_tokens, other.output_tokens)
        return Figures(cost, given, made, self.uncertainty + other.uncertainty)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


UNKNOWN = Figures(None, None, None)


@dataclass(frozen=True, slots=True)
class PromptCell(CellSnapshot):
    """A cell that runs prompts. ``missing``: why the file does not tell its figures, and how to fix it; else empty."""

    missing: str = ""

    @property
    def runs_prompts(self) -> bool:
        """It does, though its runs may be missing."""
        return True

    @property
    def figures(self) -> Figures:
        """The sum of its runs; unknown where the file does not tell it."""
        return UNKNOWN if self.missing else sum(map(Figures.of, self.runs), Figures())

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that answered."""
        return tuple(dict.fromkeys(plain_text(run.info.name) for run in self.runs))

    @property
    def cached(self) -> bool:
        """Whether an answer came from the cache: its figures are then what it would have cost."""
        return any(run.status == "cached" for run in self.runs)


@dataclass(frozen=True, slots=True)
class Notebook:
    """A notebook's cells that run prompts, in order. ``compared``: the names of those that compare variants of one."""

    name: str
    cells: tuple[PromptCell, ...]
    compared: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[PromptCell, ...]:
        """The cells that have figures."""
        return tuple(cell for cell in self.cells if not cell.missing)

    @property
    def total(self) -> Figures:
        """The sum over all cells that have figures; unknown where none of those that run prompts has any."""
        if self.cells and not self.measured:
            return UNKNOWN
        return sum((cell.figures for cell in self.measured), Figures())


def read(data: bytes, name: str) -> Notebook:
    """Read a notebook file's bytes. ``name`` is what errors call it.

    Raises NotebookError for what is no notebook, and for numbers that cannot be read.
    """
    notebook = saved.read(data, name)
    notebook.refuse_conflict()
    _refuse_duplicates(notebook.cells, name)
    cells = [cell for cell in notebook.cells if _has_numbers(cell)]
    for cell in cells:
        if cell.problem:
            raise NotebookError(
                f"{name}: {cell.name} has numbers that cannot be read: {cell.problem}; run the cell again"
            )
    owners, found = _owners(cells), []
    for cell in cells:
        runs = cell.runs if all(run.ended_well for run in cell.runs) else ()
        found.append(
            PromptCell(
                cell.id, cell.number, runs, _missing(cell, owners, notebook.cells), source_sha256=cell.source_sha256
            )
        )
    compared = tuple(cell.name for cell in notebook.cells if cell.compares or cell.comparisons)
    return Notebook(name, tuple(found), compared)


def _refuse_duplicates(cells: Sequence[SavedCell], name: str) -> None:
    """Raise NotebookError where a cell that runs prompts has an id that another cell has, of whatever kind."""
    by_id: dict[str | None, list[SavedCell]] = {}
    for cell in cells:
        by_id.setdefault(cell.id, []).append(cell)
    for cell_id, same in by_id.items():
        if cell_id is not None and len(same) > 1 and any(map(_has_numbers, same)):
            raise NotebookError(
                f"{name}: cells {same[0].number} and {same[1].number} have the same id "
                f"{plain_text(cell_id)[:40]}; save the notebook once in Jupyter, which fixes it"
            )


def _has_numbers(cell: SavedCell) -> bool:
    """Whether it has numbers, or should have them."""
    return bool(cell.generates or cell.runs or cell.problem)


def _owners(cells: Sequence[SavedCell]) -> dict[str, SavedCell]:
    """The cell that ran a run, by its text, then by its name in the row; where neither tells, the first one."""
    owners: dict[str, SavedCell] = {}
    for cell in cells:
        for run_id in cell.ran_in:
            owner = owners.setdefault(run_id, cell)
            if _claim(cell, run_id) > _claim(owner, run_id):
                owners[run_id] = cell
    return owners


def _claim(cell: SavedCell, run_id: str) -> tuple[bool, bool]:
    named = cell.id is not None and cell.id == cell.ran_in[run_id] and not is_place(cell.id)
    return not cell.outdated, named


def _ran_elsewhere(cell: SavedCell, cells: Sequence[SavedCell]) -> SavedCell | None:
    """The cell whose run another one shows, as ``cap.show()`` does what %%capture kept: by its id, or by its text."""
    others = [it for it in cells if it.is_code and it is not cell]
    for run in cell.runs:
        place = cell.ran_in[run.run_id]
        if place is None or place == cell.id:
            continue  # it ran here, or nobody knows where
        named = (it for it in others if it.id == place and not is_place(place))
        same = (it for it in others if it.source_sha256 == run.source_sha256)
        if (found := next(named, None) or next(same, None)) is not None:
            return found
    return None


def _missing(cell: SavedCell, owners: Mapping[str, SavedCell], cells: Sequence[SavedCell]) -> str:
    # A copied cell still carries the run of the cell it was copied from: that says nothing of its own prompt.
    others = [owners[run.run_id] for run in cell.runs if owners[run.run_id] is not cell]
    if others:
        return f"carries the run of cell {others[0].number}, from which it was copied; run it"
    if cell.outdated and (ran := _ran_elsewhere(cell, cells)) is not None:
        return f"shows the run of cell {ran.number}, which does not; run that one so that it shows its numbers"
    if cell.outdated:
        return "was edited after it was run: its numbers are of an earlier text; run it again"
    if cell.versions > 1:
        return f"has numbers of {cell.versions} executions, which are versions of one another; run it again"
    unfinished = [run.status for run in cell.runs if not run.ended_well]
    if unfinished:
        return f"has an incomplete run ({unfinished[0]}); run it again"
    if cell.runs:
        return ""
    if cell.captured:
        return "is below %%capture, which keeps its numbers out of the file; run it without"
    if "error" in cell.output_types:
        return "ended in an error and has no numbers; fix and run it"
    if cell.output_types:
        return "has outputs but no numbers; run it again without --quiet and with TOKMAGIC_NOTEBOOK_METADATA on"
    return "has no numbers: it was not run, or its output was cleared or quiet; run it without --quiet"


def earlier(against: str, path: str) -> Notebook | None:
    """The version of the notebook at ``path`` that ``against`` names: a file, or ``git:REV``.

    None where the revision does not have that path. Raises UsageError and NotebookError.
    """
    if not against.startswith(_GIT):
        return read(read_file(against), against)
    revision = against.removeprefix(_GIT)
    if not revision or revision.startswith("-"):
        raise UsageError(f"--against {against} names no revision; give one such as git:HEAD or git:main")
    file = Path(path).resolve()
    inside = _git(file.parent, "rev-parse", "--git-dir")
    if inside.returncode != 0:
        message = inside.stderr.decode("utf-8", "replace").strip().split("\n")[0]
        raise UsageError(f"--against {against}: git cannot read {path}: {message}; give an earlier file instead")
    if _git(file.parent, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").returncode != 0:
        raise UsageError(f"--against {against}: git knows no revision {revision!r} here; fetch it, or name another")
    entry = f"{revision}:./{file.name}"
    if _git(file.parent, "rev-parse", "--verify", "--quiet", entry).returncode != 0:
        return None
    return read(_git(file.parent, "cat-file", "blob", entry).stdout, f"{path} in {revision}")


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    # A hook's environment points at the repository of the hook, which need not be the notebook's.
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_REPOSITORY}
    command = ["git", "-C", str(folder), *words]
    try:
        return subprocess.run(command, env={**environment, "LC_ALL": "C"}, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("--against git:REV needs git, which is not installed; give an earlier file instead") from None
