"""Running a notebook again: a fresh kernel, a ledger of its own, no cache; the notebook's file is only read."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokmagic.core.config import REPRODUCING, REPRODUCING_USD
from tokmagic.errors import NotebookError, UsageError
from tokmagic.formatting.markdown import plain_text
from tokmagic.notebooks.align import RanCell
from tokmagic.notebooks.freeze.freezing import text_of
from tokmagic.notebooks.kept import RunSnapshot, cell_name
from tokmagic.notebooks.cells import SavedNotebook
from tokmagic.core.files import atomic_write

if TYPE_CHECKING:
    from nbclient import NotebookClient
    from nbformat import NotebookNode

_START_S = 120
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Executed:
    """A notebook that was run again. ``error`` is why it did not come to its end; ``document`` has its outputs."""

    cells: tuple[RanCell, ...]
    document: NotebookNode
    error: str | None = None
    strays: int = 0
    """Runs that belong to no cell, such as those of a thread that went on."""


@dataclass(slots=True)
class _Course:
    """How far it has come: the requests of the cells that ended, and the cell that runs."""

    requests: dict[str, int] = field(default_factory=dict)
    at: int = 0
    error: str | None = None


def execute(
    notebook: SavedNotebook,
    *,
    kernel: str | None = None,
    timeout_s: int | None = None,
    budget_usd: str | None = None,
    progress: Progress = lambda _doing: None,
) -> Executed:
    """Run a notebook's cells in order in a new kernel, with its folder as the working directory.

    ``timeout_s`` bounds each cell. A cell that fails ends it. Raises UsageError where nbclient or the kernel is
    missing, NotebookError where the kernel does not start, and KeyboardInterrupt; the kernel is gone then, too.
    """
    try:
        import nbclient  # noqa: F401
    except ImportError:
        raise UsageError("running a notebook needs the package nbclient; run: pip install 'tokmagic[lab]'") from None
    document = _document(notebook)
    course = _Course()
    with tempfile.TemporaryDirectory(prefix="tokmagic-reproduce-", ignore_cleanup_errors=True) as folder:
        url = f"sqlite:///{folder}/ledger.sqlite"
        environment = _environment(notebook, url, budget_usd)
        name = kernel or _own_kernel(document)
        asyncio.run(_run(document, notebook, course, name, timeout_s, environment, progress))
        runs, strays = _runs(url, course)
    ended = len(notebook.cells) if course.error is None else course.at
    cells = tuple(RanCell(it, tuple(runs.get(i, ())), i < ended) for i, it in enumerate(notebook.cells))
    return Executed(cells, document, course.error, strays)


def _document(notebook: SavedNotebook) -> NotebookNode:
    import nbformat

    reads: Any = nbformat.reads  # its functions have no types
    try:
        with warnings.catch_warnings():
            # What an older notebook lacks is no matter here: nothing is written back.
            warnings.simplefilter("ignore")
            document: NotebookNode = reads(notebook.data.decode("utf-8-sig"), as_version=4)
    except (AssertionError, ValueError, LookupError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookError(f"{notebook.path} cannot be run: {_line(str(error))}; save it once in Jupyter") from None
    for saved, cell in zip(notebook.cells, document.cells, strict=True):
        if (problem := _problem(cell)) is not None:
            name = cell_name(saved.number, saved.id)
            raise NotebookError(f"{notebook.path} cannot be run: {name} {problem}; fix or remove it")
    return document


def _problem(cell: Mapping[str, Any]) -> str | None:
    """What nbclient would stumble over; nbformat only warns of it."""
    source, metadata = cell.get("source"), cell.get("metadata")
    if not isinstance(cell.get("cell_type"), str):
        return "has no cell_type"
    if not isinstance(source, str):
        return "has no text as its source"
    if not isinstance(metadata, dict) or not isinstance(metadata.get("execution", {}), dict):
        return "has invalid metadata"
    if not isinstance(metadata.get("tags", []), list):
        return "has tags that are not a list"
    try:
        source.encode()
    except UnicodeEncodeError:
        return "contains an incomplete character (a lone surrogate)"
    return None


def _own_kernel(document: NotebookNode) -> str:
    """The name of the kernel that the notebook was written for."""
    spec = document.metadata.get("kernelspec")
    name = spec.get("name") if isinstance(spec, dict) else None
    return name if isinstance(name, str) and name else "python3"


def _environment(notebook: SavedNotebook, url: str, budget_usd: str | None) -> dict[str, str]:
    return {
        **os.environ,
        "TOKMAGIC_LEDGER": url,
        "TOKMAGIC_STORE_TEXT": "on",
        "TOKMAGIC_CACHE": "off",
        REPRODUCING: url,
        "JPY_SESSION_NAME": str(notebook.path.resolve()),
        # The second, which knows no midnight, is none that a cell's %config could raise.
        **({"TOKMAGIC_BUDGET_DAY": budget_usd, REPRODUCING_USD: budget_usd} if budget_usd is not None else {}),
    }


async def _run(
    document: NotebookNode,
    notebook: SavedNotebook,
    course: _Course,
    kernel: str,
    timeout_s: int | None,
    environment: Mapping[str, str],
    progress: Progress,
) -> None:
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    def ended(cell_index: int, execute_reply: dict[str, Any], **_: Any) -> None:
        course.requests[execute_reply["parent_header"]["msg_id"]] = cell_index

    manager = AsyncKernelManager(kernel_name=kernel)
    client = NotebookClient(document, km=manager, timeout=timeout_s, startup_timeout=_START_S, on_cell_executed=ended)
    client.log = _silent()
    try:
        progress(plain_text(f"starting the kernel {kernel}"))
        await _start(client, manager, kernel, notebook.path.resolve().parent, environment)
        client.reset_execution_trackers()
        await _cells(client, document, notebook, course, progress)
    finally:
        await _end(client, manager)


async def _start(
    client: NotebookClient, manager: Any, kernel: str, folder: Path, environment: Mapping[str, str]
) -> None:
    """Raises UsageError for a kernel that is not there, NotebookError for one that does not start."""
    from jupyter_client.kernelspec import NoSuchKernel
    from traitlets import TraitError

    try:
        # No kernel manager of nbclient's own: that one would take the interrupt for itself.
        own = ["--HistoryManager.hist_file=:memory:"] if manager.ipykernel else []
        quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
        await manager.start_kernel(extra_arguments=own, cwd=str(folder), env=dict(environment), **quiet)
        await client.async_start_new_kernel_client()
    except NoSuchKernel:
        raise UsageError(
            f"the notebook's kernel {kernel!r} is not installed here; install it, or name another with --kernel"
        ) from None
    except (RuntimeError, OSError, ValueError, TypeError, LookupError, TraitError) as error:
        # OSError: its Python is gone, such as a removed environment's; the others: its kernel.json is damaged.
        told = f"the kernel {kernel} did not start: {_line(str(error))}; reinstall it, or name another with --kernel"
        raise NotebookError(plain_text(told)) from error


async def _cells(
    client: NotebookClient, document: NotebookNode, notebook: SavedNotebook, course: _Course, progress: Progress
) -> None:
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    for index, cell in enumerate(document.cells):
        course.at, saved = index, notebook.cells[index]
        progress(f"cell {saved.number} of {len(document.cells)}")
        name = cell_name(saved.number, saved.id)
        try:
            await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
        except CellExecutionError as error:
            course.error = f"{name} failed: {error.ename}: {_line(error.evalue)}"
        except CellTimeoutError:
            course.error = f"{name} did not end within {client.timeout} s; fix it, or allow more time with --timeout"
        except DeadKernelError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from None
            course.error = f"the kernel died in {name}; run the notebook by hand to see why"
        if course.error is not None:
            return


async def _end(client: NotebookClient, manager: Any) -> None:
    """Kill the kernel: each run's row is settled when it ends, so that nothing is left to wait for."""
    if client.kc is not None:
        client.kc.stop_channels()
    if manager.has_kernel:
        await manager.shutdown_kernel(now=True)
    else:
        await manager.cleanup_resources()


def _runs(url: str, course: _Course) -> tuple[dict[int, list[RunSnapshot]], int]:
    """The new ledger's runs by the places of their cells, and how many have none."""
    from tokmagic.ledgers import Ledger

    found: dict[int, list[RunSnapshot]] = {}
    strays = 0
    ledger = Ledger(url)
    try:
        for record in ledger.stream():
            # Only the cell that did not end has requests that are not known.
            place = course.requests.get(record.cell_id or "", course.at if course.error else None)
            if place is None:
                strays += 1
            else:
                found.setdefault(place, []).append(RunSnapshot.of(record, text_of(ledger, record.run_id)))
    finally:
        ledger.close()
    return found, strays


def _line(text: str) -> str:
    """An error's first line, without what could drive a terminal."""
    lines: Iterator[str] = (line.strip() for line in plain_text(text).splitlines())
    return next((line for line in lines if line), "no reason given")[:300]


def _silent() -> logging.Logger:
    """What nbclient has to say is told here in words of our own."""
    logger = logging.getLogger("tokmagic.notebooks.reproduce")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def write_document(document: NotebookNode, path: Path) -> None:
    """Write the notebook with its new outputs. Raises OSError, and ValueError where nbformat cannot."""
    import nbformat

    writes: Any = nbformat.writes
    atomic_write(path, writes(document) + "\n")
