"""Running a notebook again: a ledger of its own, no cache; the notebook's file is only read."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokmagic.core.config import REPRODUCING, REPRODUCING_USD
from tokmagic.core.files import atomic_write, sqlite_url
from tokmagic.errors import NotebookError
from tokmagic.formatting.markdown import plain_text
from tokmagic.notebooks.freeze import text_of
from tokmagic.notebooks.reproduce.compare import RanCell
from tokmagic.notebooks.saved import SavedNotebook
from tokmagic.notebooks.snapshots import RunSnapshot

if TYPE_CHECKING:
    from nbformat import NotebookNode

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """Cells to run: those of ``document``, called ``names``, with ``folder`` as the working directory."""

    document: NotebookNode
    names: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    progress: Progress


@dataclass(slots=True)
class Course:
    """How far it has come: the cells that ended, by the requests that ran them, the cell that runs, and what failed."""

    requests: dict[str, int] = field(default_factory=dict)
    at: int = 0
    error: str | None = None


Executor = Callable[[Task], Course]
"""Runs a notebook's cells in order under an environment of their own, up to the first that fails.

It writes each cell's outputs into the document, and tells how far it came. Raises UsageError, NotebookError and
KeyboardInterrupt; whatever it started is gone then, too.
"""


@dataclass(frozen=True, slots=True)
class Executed:
    """A notebook that was run again. ``error`` is why it did not come to its end; ``document`` has its outputs."""

    cells: tuple[RanCell, ...]
    document: NotebookNode
    error: str | None = None
    strays: int = 0
    """Runs that belong to no cell, such as those of a thread that went on."""


def execute(notebook: SavedNotebook, executor: Executor, *, budget_usd: str | None, progress: Progress) -> Executed:
    """Run a notebook's cells in order, with its folder as the working directory.

    Raises NotebookError where they cannot be run, and what the executor raises.
    """
    document = _document(notebook)
    path = Path(notebook.name).resolve()
    with tempfile.TemporaryDirectory(prefix="tokmagic-reproduce-", ignore_cleanup_errors=True) as folder:
        url = sqlite_url(Path(folder, "ledger.sqlite"))
        names = tuple(cell.name for cell in notebook.cells)
        course = executor(Task(document, names, path.parent, _environment(path, url, budget_usd), progress))
        runs, strays = _runs(url, course)
    ended = len(notebook.cells) if course.error is None else course.at
    cells = tuple(
        RanCell(
            *(cell.id, cell.number, tuple(runs.get(i, ())), frozenset(cell.ran_in), i < ended),
            source_sha256=cell.source_sha256,
        )
        for i, cell in enumerate(notebook.cells)
    )
    return Executed(cells, document, course.error, strays)


def _document(notebook: SavedNotebook) -> NotebookNode:
    # Imported here for a quick start, and since only the extra `lab` brings it.
    import nbformat

    reads: Any = nbformat.reads  # its functions have no types
    try:
        with warnings.catch_warnings():
            # What an older notebook lacks is no matter here: nothing is written back.
            warnings.simplefilter("ignore")
            document: NotebookNode = reads(notebook.data.decode("utf-8-sig"), as_version=4)
    except (AssertionError, ValueError, LookupError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookError(
            f"{notebook.name} cannot be run: {first_line(str(error))}; save it once in Jupyter"
        ) from None
    for saved, cell in zip(notebook.cells, document.cells, strict=True):
        if (problem := _problem(cell)) is not None:
            raise NotebookError(f"{notebook.name} cannot be run: {saved.name} {problem}; fix or remove it")
    return document


def _problem(cell: Mapping[str, Any]) -> str | None:
    """What nbclient would stumble over; nbformat only warns of it."""
    source, metadata = cell.get("source"), cell.get("metadata")
    if not isinstance(cell.get("cell_type"), str):
        return "has no cell_type"
    if not isinstance(source, str):
        return "has no text as its source"
    if not isinstance(metadata, dict) or not isinstance(metadata.get("execution", {}), dict):
        return "has metadata that is not an object"
    if not isinstance(metadata.get("tags", []), list):
        return "has tags that are not a list"
    try:
        source.encode()
    except UnicodeEncodeError:
        return "contains an incomplete character (a lone surrogate)"
    return None


def _environment(path: Path, url: str, budget_usd: str | None) -> dict[str, str]:
    return {
        **os.environ,
        "TOKMAGIC_LEDGER": url,
        "TOKMAGIC_STORE_TEXT": "on",
        "TOKMAGIC_CACHE": "off",
        REPRODUCING: url,
        "JPY_SESSION_NAME": str(path),
        # The second, which knows no midnight, is none that a cell's %config could raise.
        **({"TOKMAGIC_BUDGET_DAY": budget_usd, REPRODUCING_USD: budget_usd} if budget_usd is not None else {}),
    }


def _runs(url: str, course: Course) -> tuple[dict[int, list[RunSnapshot]], int]:
    """The new ledger's runs by the places of their cells, and how many have none."""
    # start-up: the ledger brings SQLAlchemy, which a notebook that cannot be run need not wait for.
    from tokmagic.ledgers import Ledger

    found: dict[int, list[RunSnapshot]] = {}
    strays = 0
    with closing(Ledger(url)) as ledger:
        for record in ledger.stream():
            # Only the cell that did not end has requests that are not known.
            place = course.requests.get(record.cell_id or "", course.at if course.error else None)
            if place is None:
                strays += 1
            else:
                found.setdefault(place, []).append(RunSnapshot.of(record, text_of(ledger, record.run_id)))
    return found, strays


def first_line(text: str) -> str:
    """An error's first line, without what could drive a terminal."""
    lines = (line.strip() for line in plain_text(text).splitlines())
    return next((line for line in lines if line), "no reason given")[:300]


def write_document(document: NotebookNode, path: Path) -> str | None:
    """Write the notebook with its new outputs, or say why not: what was found, and maybe paid for, is told anyway."""
    # Imported here, as above.
    import nbformat

    writes: Any = nbformat.writes
    try:
        atomic_write(path, writes(document) + "\n")
    except (OSError, ValueError) as error:  # ValueError: nbformat cannot write it
        return f"-o {path} cannot be written: {getattr(error, 'strerror', None) or error}"
    return None
