"""What a notebook file says of its runs: the rows in its outputs' ``metadata.tokmagic``, cell by cell."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, get_args

from tokmagic.errors import NotebookError
from tokmagic.core.money import CERTAIN, Bound, Uncertainty, Precision
from tokmagic.core.record import Status
from tokmagic.formatting.markdown import plain_text

_GENERATE = re.compile(r"\s*%%generate(?!\S)(.*)")
_RUNS_NOTHING = {"--dry-run", "-h", "--help"}
# What tokmagic writes: no sign, no exponent, nothing finer than a picodollar.
_AMOUNT = re.compile(r"\d{1,9}(\.\d{1,12})?", re.ASCII)
_MOST_TOKENS = 10**12


@dataclass(frozen=True, slots=True)
class Figures:
    """What runs cost (USD) and took (tokens). None is unknown, never 0."""

    cost_usd: Decimal | None = Decimal(0)
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    uncertainty: Uncertainty = CERTAIN

    @property
    def precision(self) -> Precision:
        """Whether the cost is only an estimate, and what it bounds."""
        return self.uncertainty.precision(0)

    @property
    def tokens(self) -> int | None:
        """Input and output together."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Figures) -> Figures:
        # At most 21 digits each, so the sum of any number of cells that fits a file is exact.
        cost = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        given, made = _sum(self.input_tokens, other.input_tokens), _sum(self.output_tokens, other.output_tokens)
        return Figures(cost, given, made, self.uncertainty + other.uncertainty)


def add_up(figures: Iterable[Figures]) -> Figures:
    """The sum; a figure that one of them lacks is unknown."""
    return sum(figures, Figures())


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


@dataclass(frozen=True, slots=True)
class PromptCell:
    """A cell that runs prompts. ``number`` is its place in the file, from 1, cells without prompts included."""

    number: int
    id: str | None
    figures: Figures | None
    """The sum of its runs; None where the file does not tell it, and ``missing`` then says why and how to fix it."""
    missing: str = ""
    models: tuple[str, ...] = ()
    cached: bool = False
    """Whether an answer came from the cache: its figures are then what it would have cost."""
    lower_bound: bool = False

    @property
    def name(self) -> str:
        """``cell 3 (a1b2)``."""
        return f"cell {self.number}" + (f" ({plain_text(self.id)[:40]})" if self.id else "")


@dataclass(frozen=True, slots=True)
class Notebook:
    """A notebook's cells that run prompts, in order."""

    name: str
    cells: tuple[PromptCell, ...]

    @property
    def measured(self) -> tuple[PromptCell, ...]:
        """Those that have figures."""
        return tuple(cell for cell in self.cells if cell.figures is not None)

    @property
    def total(self) -> Figures:
        """The sum over all cells that have figures; unknown where none of those that run prompts has any."""
        if self.cells and not self.measured:
            return Figures(None, None, None)
        return add_up(cell.figures for cell in self.cells if cell.figures is not None)


@dataclass(frozen=True, slots=True)
class _Run:
    run_id: str
    cell_id: str | None
    status: str
    model: str
    figures: Figures
    lower_bound: bool


def read(data: bytes, name: str) -> Notebook:
    """Read a notebook file's bytes. ``name`` is what errors call it.

    Raises NotebookError for what is no notebook, and for numbers that cannot be read.
    """
    found: list[tuple[PromptCell, list[_Run]]] = []
    for number, cell in enumerate(cells(data, name), 1):
        if cell.get("cell_type") != "code":
            continue
        given_id = cell.get("id")
        prompt_cell = PromptCell(number, given_id if isinstance(given_id, str) and given_id else None, None)
        try:
            runs = _runs(cell)
        except ValueError as error:
            raise NotebookError(
                f"{name}: {prompt_cell.name} has numbers that cannot be read: {error}; run the cell again"
            ) from None
        if runs or _is_prompt(cell):
            found.append((_measured(prompt_cell, cell, runs), runs))
    _refuse_duplicates([cell for cell, _ in found], name)
    return Notebook(name, tuple(_without_copies(found)))


def cells(data: bytes, name: str) -> list[dict[str, Any]]:
    """The cells of a notebook file's bytes, as they stand. Raises NotebookError for what is no notebook."""
    try:
        notebook = json.loads(data)
    except (ValueError, RecursionError) as error:
        says = plain_text(str(error)).split("\n")[0]
        raise NotebookError(f"{name} is damaged: it is not JSON: {says}; restore it") from None
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


def _is_prompt(cell: dict[str, Any]) -> bool:
    """Whether running the cell runs a prompt: it begins with %%generate, and not to show its help or count."""
    source = cell.get("source")
    text = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
    match = _GENERATE.match(text) if isinstance(text, str) else None
    return match is not None and not _RUNS_NOTHING & set(_words(match[1]))


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _outputs(cell: dict[str, Any]) -> list[dict[str, Any]]:
    outputs = cell.get("outputs")
    return [output for output in outputs if isinstance(output, dict)] if isinstance(outputs, list) else []


def _runs(cell: dict[str, Any]) -> list[_Run]:
    """The cell's runs, each once, however often its outputs show it. Raises ValueError."""
    runs: dict[str, _Run] = {}
    for output in _outputs(cell):
        metadata = output.get("metadata")
        if isinstance(metadata, dict) and "tokmagic" in metadata:
            run = _run(metadata["tokmagic"])
            runs[run.run_id] = run
    return list(runs.values())


def _run(row: Any) -> _Run:
    if not isinstance(row, dict):
        raise ValueError("they are not a JSON object")
    status, cell_id = _text(row, "status"), row.get("cell_id")
    if status not in get_args(Status):
        raise ValueError(f"status is {status[:40]!r}")
    # A hit costs nothing; what would come back without the cache is what it saved.
    cost = _amount(row, "saved_usd" if status == "cached" else "cost_usd")
    return _Run(
        run_id=_text(row, "run_id"),
        cell_id=cell_id if isinstance(cell_id, str) else None,
        status=status,
        model=_text(row, "model"),
        figures=Figures(cost, _count(row, "input_tokens"), _count(row, "output_tokens"), _doubt(row)),
        lower_bound=row.get("cost_bound") == "at_least",
    )


def _doubt(row: dict[str, Any]) -> Uncertainty:
    """How sure a run's cost is, where the row tells it."""
    bound = row.get("cost_bound")
    return Uncertainty(int(row.get("cost_source") == "estimated"), int(bound == "at_least"), int(bound == "at_most"))


def _text(row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{field} is {_told(value)}, and a string is needed")
    return value


def _count(row: dict[str, Any], field: str) -> int | None:
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS:
        raise ValueError(f"{field} is {_told(value)}, which is not a token count")
    return value


def _amount(row: dict[str, Any], field: str) -> Decimal | None:
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise ValueError(f"{field} is {_told(value)}, which is not an amount in USD")
    return Decimal(value)


def _told(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _measured(cell: PromptCell, raw: dict[str, Any], runs: Sequence[_Run]) -> PromptCell:
    if not runs:
        return replace(cell, missing=_why_none(raw))
    unfinished = [run.status for run in runs if run.status not in ("ok", "cached")]
    if unfinished:
        return replace(cell, missing=f"has an incomplete run ({unfinished[0]}); run it again")
    return replace(
        cell,
        figures=add_up(run.figures for run in runs),
        models=tuple(dict.fromkeys(plain_text(run.model) for run in runs)),
        cached=any(run.status == "cached" for run in runs),
        lower_bound=any(run.lower_bound for run in runs),
    )


def _why_none(raw: dict[str, Any]) -> str:
    outputs = _outputs(raw)
    if any(output.get("output_type") == "error" for output in outputs):
        return "ended in an error and has no numbers; fix and run it"
    if outputs:
        return "has outputs but no numbers; run it again without --quiet and with TOKMAGIC_NOTEBOOK_METADATA on"
    return "has no numbers: it was not run, or its output was cleared or quiet; run it without --quiet"


def _refuse_duplicates(cells: Sequence[PromptCell], name: str) -> None:
    seen: dict[str, PromptCell] = {}
    for cell in cells:
        if cell.id is None:
            continue
        other = seen.setdefault(cell.id, cell)
        if other is not cell:
            raise NotebookError(
                f"{name}: cells {other.number} and {cell.number} have the same id "
                f"{plain_text(cell.id)[:40]}; save the notebook once in Jupyter, which fixes it"
            )


def _without_copies(found: Sequence[tuple[PromptCell, list[_Run]]]) -> list[PromptCell]:
    """A copied cell still carries the run of the cell it was copied from: that says nothing of its own prompt."""
    owners: dict[str, PromptCell] = {}
    for cell, runs in found:
        for run in runs:
            # The cell that ran it names itself in the row; where none does, the copy stands further down.
            if run.run_id not in owners or (cell.id is not None and cell.id == run.cell_id):
                owners[run.run_id] = cell
    cells = []
    for cell, runs in found:
        others = [owners[run.run_id] for run in runs if owners[run.run_id] is not cell]
        if others:
            missing = f"carries the run of cell {others[0].number}, from which it was copied; run it"
            cell = replace(cell, figures=None, missing=missing)
        cells.append(cell)
    return cells
