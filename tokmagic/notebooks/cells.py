"""A notebook file as reproducing needs it: its cells by place and id, and the runs whose numbers its outputs keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokmagic.core.files import read_file
from tokmagic.notebooks.saved import cells


@dataclass(frozen=True, slots=True)
class SavedCell:
    """A cell of the file. ``rows`` are the runs that its outputs tell of, as ``metadata.tokmagic`` has them."""

    number: int
    id: str | None
    rows: tuple[dict[str, Any], ...] = ()

    @property
    def run_ids(self) -> frozenset[str]:
        """The ids of those runs."""
        return frozenset(row["run_id"] for row in self.rows)


@dataclass(frozen=True, slots=True)
class SavedNotebook:
    """A notebook file: its bytes, and its cells in order."""

    path: Path
    data: bytes
    cells: tuple[SavedCell, ...]


def read(path: Path) -> SavedNotebook:
    """Read a notebook file. Raises UsageError where it cannot be opened, NotebookError where it is none."""
    data = read_file(str(path))
    found = (_cell(number, cell) for number, cell in enumerate(cells(data, str(path)), 1))
    return SavedNotebook(path, data, tuple(found))


def _cell(number: int, cell: dict[str, Any]) -> SavedCell:
    given = cell.get("id")
    rows = {row["run_id"]: row for row in _rows(cell)}
    return SavedCell(number, given if isinstance(given, str) and given else None, tuple(rows.values()))


def _rows(cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        metadata = output.get("metadata") if isinstance(output, dict) else None
        row = metadata.get("tokmagic") if isinstance(metadata, dict) else None
        if isinstance(row, dict) and isinstance(row.get("run_id"), str):
            yield row
