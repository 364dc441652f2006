"""The one reader of a notebook file: its cells, and the runs whose rows its outputs keep in ``metadata.tokmagic``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, get_args

from tokmagic.core.money import Bound, Cost, Rates
from tokmagic.core.record import EngineInfo, Status
from tokmagic.core.stream import Source, Usage
from tokmagic.errors import NotebookError
from tokmagic.formatting.markdown import plain_text
from tokmagic.notebooks.fields import amount, one_of, take
from tokmagic.notebooks.snapshots import CellSnapshot, RunSnapshot

_GENERATE = re.compile(r"\s*%%generate(?!\S)(.*)")
_RUNS_NOTHING = {"--dry-run", "-h", "--help"}


@dataclass(frozen=True, slots=True)
class SavedCell(CellSnapshot):
    """A cell of the file. ``runs`` are those that its outputs tell of, each once, however often it is shown.

    ``generates``: it begins with %%generate, and not to show help or a count. ``ran_in``: by run, the id of the cell
    that ran it. ``output_types``: what its outputs are. ``problem``: the first number that cannot be read; in ``runs``
    it is unknown.
    """

    generates: bool = False
    ran_in: Mapping[str, str | None] = field(default_factory=dict)
    output_types: tuple[Any, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SavedNotebook:
    """A notebook file: what it is called, its bytes, and its cells in order."""

    name: str
    data: bytes
    cells: tuple[SavedCell, ...]


def read(data: bytes, name: str) -> SavedNotebook:
    """Read a notebook file's bytes. ``name`` is what errors call it. Raises NotebookError for what is no notebook."""
    return SavedNotebook(name, data, tuple(_cell(number, it) for number, it in enumerate(_cells(data, name), 1)))


def _cells(data: bytes, name: str) -> list[dict[str, Any]]:
    try:
        notebook = json.loads(data)
    except (ValueError, RecursionError) as error:
        message = plain_text(str(error)).split("\n")[0]
        raise NotebookError(f"{name} is damaged: it is not JSON: {message}; restore it") from None
    form = notebook.get("nbformat") if isinstance(notebook, dict) else None
    if not isinstance(form, int) or isinstance(form, bool):
        raise NotebookError(f"{name} is not a notebook: it has no nbformat; give an .ipynb file")
    if form != 4:
        fix = "save it once in a current Jupyter" if form < 4 else "upgrade tokmagic"
        raise NotebookError(f"{name} is in notebook format {form}, and 4 is needed; {fix}")
    cells = notebook.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise NotebookError(f"{name} is not a notebook: it has no list of cells; restore it")
    return cells


def _cell(number: int, cell: dict[str, Any]) -> SavedCell:
    given_id = cell.get("id")
    cell_id = given_id if isinstance(given_id, str) and given_id else None
    if cell.get("cell_type") != "code":
        return SavedCell(cell_id, number)
    given = cell.get("outputs")
    outputs = [it for it in given if isinstance(it, dict)] if isinstance(given, list) else []
    metadata = [it["metadata"] for it in outputs if isinstance(it.get("metadata"), dict)]
    rows = [_Row(it["tokmagic"]) for it in metadata if "tokmagic" in it]
    runs = {row.run.run_id: row.run for row in rows if row.run is not None}
    return SavedCell(
        cell_id,
        number,
        tuple(runs.values()),
        generates=_generates(cell.get("source")),
        ran_in={row.run.run_id: row.cell_id for row in rows if row.run is not None},
        output_types=tuple(it.get("output_type") for it in outputs),
        problem=next((row.problem for row in rows if row.problem), ""),
    )


def _generates(source: Any) -> bool:
    text = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
    match = _GENERATE.match(text) if isinstance(text, str) else None
    if match is None:
        return False
    try:
        words = shlex.split(match[1])
    except ValueError:
        words = match[1].split()
    return _RUNS_NOTHING.isdisjoint(words)


class _Row:
    """A run's row as an output keeps it. ``problem`` tells the first of its numbers that cannot be read."""

    def __init__(self, row: Any) -> None:
        self._row: dict[str, Any] = row if isinstance(row, dict) else {}
        self.problem = "" if isinstance(row, dict) else "they are not a JSON object"
        cell_id = self._row.get("cell_id")
        self.cell_id = cell_id if isinstance(cell_id, str) else None
        self.run = self._snapshot()

    def _snapshot(self) -> RunSnapshot | None:
        """The run, with what cannot be read as unknown; None where it has no id."""
        status: Any = self._read(one_of, "status", get_args(Status)) or "failed"
        usd, saved_usd = self._read(amount, "cost_usd"), self._read(amount, "saved_usd")
        run_id, model = self._read(_name, "run_id"), self._read(_name, "model") or ""
        counts = {name: self._read(take, name, int) for name in ("input_tokens", "output_tokens")}
        sources = {name: self._mark(name, Source, "unknown") for name in ("input_source", "output_source")}
        if run_id is None:
            return None
        reason = self._row.get("finish_reason")
        return RunSnapshot(
            run_id=run_id,
            status=status,
            info=EngineInfo(model, model, ""),
            usage=Usage(**counts, **sources),
            finish_reason=reason if isinstance(reason, str) else None,
            cost=Cost(
                usd,
                self._mark("cost_source", Source, "unknown"),
                self._mark("cost_bound", Bound, "exact"),
                saved_usd=saved_usd,
            ),
            # A list price is that of the device's time: the row does not keep the rate.
            rates=Rates(device_hour=Decimal(0), source="list price") if self._row.get("list_price") else None,
        )

    def _read(self, reader: Callable[..., Any], *words: Any) -> Any:
        try:
            return reader(self._row, *words)
        except ValueError as error:
            self.problem = self.problem or str(error)
            return None

    def _mark(self, field: str, known: Any, otherwise: str) -> Any:
        """What only says how sure a figure is: to check costs it is not needed."""
        value = self._row.get(field)
        return value if value in get_args(known) else otherwise


def _name(row: dict[str, Any], field: str) -> str:
    name = take(row, field, str, needed=True)
    if not name:
        raise ValueError(f'{field} is "", and a string is needed')
    return str(name)
