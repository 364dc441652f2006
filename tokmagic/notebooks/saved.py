"""The one reader of a notebook file: its cells, and the runs whose rows its outputs keep in ``metadata.tokmagic``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, get_args

from tokmagic.core.money import Bound, Cost, Rates
from tokmagic.core.record import COMPARISON_IN_OUTPUTS, EngineInfo, Status, source_sha256
from tokmagic.core.stream import Source, Usage
from tokmagic.errors import NotebookError
from tokmagic.formatting.markdown import plain_text
from tokmagic.notebooks.fields import TwiceError, amount, one_of, parse_json, take
from tokmagic.notebooks.snapshots import CellSnapshot, RunSnapshot

_CELL_MAGIC = re.compile(r"\s*%%(\S+)(.*)")
# Below these stands a prompt.
_PROMPTS = ("generate", "compare")
_RUNS_NOTHING = {"--dry-run", "-h", "--help"}
# IPython's own that take what stands below them for no code of the notebook's; all others may run it.
_TAKE_TEXT = {
    *("!", "HTML", "SVG", "bash", "cmd", "file", "html", "javascript", "js", "latex", "markdown", "perl", "pypy"),
    *("python", "python2", "python3", "ruby", "script", "sh", "sx", "svg", "system", "tokens", "writefile"),
}
_CONFLICTS = "nbdime-conflicts"
_CONFLICT_LINE = re.compile(r"^(?:<{7}|>{7})(?= )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SavedCell(CellSnapshot):
    """A cell of the file. ``runs`` are those that its outputs tell of, each once, however often it is shown.

    ``is_code``: it can be run. ``generates``: it begins with %%generate, below other magics or not, and not to show
    help or a count; ``captured``: below %%capture. ``ran_in``: by run, the id of the cell that ran it.
    ``output_types``: what its outputs are. ``problem``: the first number that cannot be read; in ``runs`` it is
    unknown. ``versions``: how many executions its outputs tell of, where these are versions of one another.
    ``compares``: it begins with %%compare; ``comparisons`` are what its outputs keep of comparisons, as JSON.
    """

    is_code: bool = False
    generates: bool = False
    captured: bool = False
    ran_in: Mapping[str, str | None] = field(default_factory=dict)
    output_types: tuple[Any, ...] = ()
    problem: str = ""
    versions: int = 1
    compares: bool = False
    comparisons: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedNotebook:
    """A notebook file: what it is called, its bytes, and its cells in order. ``conflict``: where a merge left one."""

    name: str
    data: bytes
    cells: tuple[SavedCell, ...]
    conflict: str = ""

    def refuse_conflict(self) -> None:
        """Raise NotebookError where the numbers are those of an unresolved merge, which belong to no single run."""
        if self.conflict:
            raise NotebookError(
                f"{self.name} is a merge with conflicts: {self.conflict} has numbers of several versions; "
                "resolve it, then run the notebook"
            )


def read(data: bytes, name: str) -> SavedNotebook:
    """Read a notebook file's bytes. ``name`` is what errors call it. Raises NotebookError for what is no notebook."""
    notebook = _notebook(data, name)
    cells = tuple(_cell(number, it) for number, it in enumerate(notebook["cells"], 1))
    conflicts = (cell.name for cell, it in zip(cells, notebook["cells"], strict=True) if _in_conflict(it))
    conflict = "the notebook's metadata" if _marked(notebook) else next(conflicts, "")
    return SavedNotebook(name, data, cells, conflict)


def _notebook(data: bytes, name: str) -> dict[str, Any]:
    try:
        notebook = parse_json(data)
    except (ValueError, RecursionError) as error:
        message = plain_text(str(error)).split("\n")[0]
        why = message if isinstance(error, TwiceError) else f"it is not JSON: {message}"
        raise NotebookError(f"{name} is damaged: {why}; restore it") from None
    form = notebook.get("nbformat") if isinstance(notebook, dict) else None
    if not isinstance(form, int) or isinstance(form, bool):
        raise NotebookError(f"{name} is not a notebook: it has no nbformat; give an .ipynb file")
    if form != 4:
        fix = "save it once in a current Jupyter" if form < 4 else "upgrade tokmagic"
        raise NotebookError(f"{name} is in notebook format {form}, and 4 is needed; {fix}")
    cells = notebook.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise NotebookError(f"{name} is not a notebook: it has no list of cells; restore it")
    return dict(notebook)


def _marked(it: dict[str, Any]) -> bool:
    """Whether nbdime left the versions in the metadata of a notebook, a cell or an output."""
    metadata = it.get("metadata")
    return isinstance(metadata, dict) and _CONFLICTS in metadata


def _in_conflict(cell: dict[str, Any]) -> bool:
    """Whether a merge left both versions of a cell's outputs: named in the metadata, or between lines of markers."""
    outputs = _outputs(cell)
    # Both in one output are something that the cell printed.
    streams = [_text(it.get("text")) for it in outputs if it.get("output_type") == "stream"]
    signs = [set(_CONFLICT_LINE.findall(text)) for text in streams]
    return _marked(cell) or any(map(_marked, outputs)) or ({"<" * 7} in signs and {">" * 7} in signs)


def _outputs(cell: dict[str, Any]) -> list[dict[str, Any]]:
    given = cell.get("outputs")
    return [it for it in given if isinstance(it, dict)] if isinstance(given, list) else []


def _text(given: Any) -> str:
    """A text, which a notebook's file holds as one or as a list of lines."""
    if isinstance(given, list):
        return "".join(line for line in given if isinstance(line, str))
    return given if isinstance(given, str) else ""


def _cell(number: int, cell: dict[str, Any]) -> SavedCell:
    given_id = cell.get("id")
    cell_id = given_id if isinstance(given_id, str) and given_id else None
    text = _text(cell.get("source"))
    source = source_sha256(text)
    if cell.get("cell_type") != "code":
        return SavedCell(cell_id, number, source_sha256=source)
    outputs = _outputs(cell)
    metadata = [it["metadata"] for it in outputs if isinstance(it.get("metadata"), dict)]
    rows = [_Row(it["tokmagic"]) for it in metadata if "tokmagic" in it]
    shown = [row for row in rows if row.run is not None]
    magics = _magics(text)
    generates = "generate" in magics
    return SavedCell(
        cell_id,
        number,
        tuple({row.run.run_id: row.run for row in shown if row.run is not None}.values()),
        source_sha256=source,
        is_code=True,
        generates=generates,
        captured=generates and "capture" in magics,
        ran_in={row.run.run_id: row.cell_id for row in shown if row.run is not None},
        output_types=tuple(it.get("output_type") for it in outputs),
        problem=next((row.problem for row in rows if row.problem), ""),
        versions=_versions(shown, one_run=generates and "timeit" not in magics),
        compares="compare" in magics,
        comparisons=tuple(it[COMPARISON_IN_OUTPUTS] for it in metadata if COMPARISON_IN_OUTPUTS in it),
    )


def _magics(text: str) -> list[str]:
    """The magics that a cell begins with, each in the cell of the one above it; of those that run nothing none."""
    found: list[str] = []
    for line in text.splitlines():
        match = _CELL_MAGIC.match(line)
        if match is None and line.strip():
            break
        if match is not None:
            name, options = match.groups()
            if name in _TAKE_TEXT or (name in _PROMPTS and not _RUNS_NOTHING.isdisjoint(_words(options))):
                return []
            found.append(name)
            if name in _PROMPTS:
                break
    return found


def _words(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError:
        return options.split()


def _versions(rows: Sequence[_Row], *, one_run: bool) -> int:
    """How many executions a cell's outputs are of: an execution leaves none of those of the one before it.

    Rows of earlier versions tell no execution: there a cell that runs one prompt has versions where that began several
    times. Different numbers of one run are versions, too.
    """
    executions = {row.execution for row in rows}
    began = {row.started_at for row in rows} - {None} if one_run and executions == {None} else set()
    by_run: dict[str, list[RunSnapshot]] = {}
    for run in (row.run for row in rows if row.run is not None):
        of_it = by_run.setdefault(run.run_id, [])
        of_it += [] if run in of_it else [run]
    return max(1, len(executions), len(began), *map(len, by_run.values()))


class _Row:
    """A run's row as an output keeps it. ``problem`` tells the first of its numbers that cannot be read."""

    def __init__(self, row: Any) -> None:
        self._row: dict[str, Any] = row if isinstance(row, dict) else {}
        self.problem = "" if isinstance(row, dict) else "they are not a JSON object"
        self.cell_id, self.execution = self._word("cell_id"), self._word("execution")
        self.started_at = self._word("started_at")
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
        return RunSnapshot(
            run_id=run_id,
            status=status,
            info=EngineInfo(model, model, ""),
            usage=Usage(**counts, **sources),
            finish_reason=self._word("finish_reason"),
            cost=Cost(
                usd,
                self._mark("cost_source", Source, "unknown"),
                self._mark("cost_bound", Bound, "exact"),
                saved_usd=saved_usd,
            ),
            # A list price is that of the device's time: the row does not keep the rate.
            rates=Rates(device_hour=Decimal(0), source="list price") if self._row.get("list_price") else None,
            source_sha256=self._word("source_sha256"),
        )

    def _read(self, reader: Callable[..., Any], *words: Any) -> Any:
        try:
            return reader(self._row, *words)
        except ValueError as error:
            self.problem = self.problem or str(error)
            return None

    def _word(self, field: str) -> str | None:
        """What no figure depends on, where it is a text."""
        value = self._row.get(field)
        return value if isinstance(value, str) else None

    def _mark(self, field: str, known: Any, otherwise: str) -> Any:
        """What only says how sure a figure is: to check costs it is not needed."""
        value = self._row.get(field)
        return value if value in get_args(known) else otherwise


def _name(row: dict[str, Any], field: str) -> str:
    name = take(row, field, str, needed=True)
    if not name:
        raise ValueError(f'{field} is "", and a string is needed')
    return str(name)
