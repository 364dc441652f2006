"""Running cells in a new Jupyter kernel, which is gone afterwards."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from tokmagic.errors import NotebookError, UsageError
from tokmagic.formatting.markdown import plain_text
from tokmagic.notebooks.reproduce.execute import Course, Executor, Task, first_line

if TYPE_CHECKING:
    from nbclient import NotebookClient
    from nbformat import NotebookNode

# nbclient and jupyter_client are imported where they are used: for a quick start, and since only the extra `lab` brings
# them.
_START_S = 120


def in_kernel(kernel: str | None, timeout_s: int | None) -> Executor:
    """An executor that starts a kernel, by default the notebook's own. ``timeout_s`` bounds each cell.

    It raises UsageError where the kernel is missing, NotebookError where it does not start, and KeyboardInterrupt.
    Raises UsageError where nbclient is missing.
    """
    try:
        import nbclient  # noqa: F401
    except ImportError:
        raise UsageError("running a notebook needs the package nbclient; run: pip install 'tokmagic[lab]'") from None
    return lambda task: asyncio.run(_run(task, kernel or _own_kernel(task.document), timeout_s))


def _own_kernel(document: NotebookNode) -> str:
    """The name of the kernel that the notebook was written for."""
    spec = document.metadata.get("kernelspec")
    name = spec.get("name") if isinstance(spec, dict) else None
    return name if isinstance(name, str) and name else "python3"


async def _run(task: Task, kernel: str, timeout_s: int | None) -> Course:
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    course = Course()

    def ended(cell_index: int, execute_reply: dict[str, Any], **_: Any) -> None:
        course.requests[execute_reply["parent_header"]["msg_id"]] = cell_index

    manager = AsyncKernelManager(kernel_name=kernel)
    client = NotebookClient(
        task.document, km=manager, timeout=timeout_s, startup_timeout=_START_S, on_cell_executed=ended
    )
    # What nbclient has to say is told here in words of our own.
    client.log = logging.Logger("nbclient", level=logging.CRITICAL + 1)
    try:
        task.progress(plain_text(f"starting the kernel {kernel}"))
        await _start(client, manager, kernel, task)
        client.reset_execution_trackers()
        await _cells(client, task, course)
        return course
    finally:
        await _end(client, manager)


async def _start(client: NotebookClient, manager: Any, kernel: str, task: Task) -> None:
    """Raises UsageError for a kernel that is not there, NotebookError for one that does not start."""
    from jupyter_client.kernelspec import NoSuchKernel
    from traitlets import TraitError

    try:
        # No kernel manager of nbclient's own: that one would take the interrupt for itself.
        own = ["--HistoryManager.hist_file=:memory:"] if manager.ipykernel else []
        quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
        await manager.start_kernel(extra_arguments=own, cwd=str(task.folder), env=dict(task.environment), **quiet)
        await client.async_start_new_kernel_client()
    except NoSuchKernel:
        raise UsageError(
            f"the notebook's kernel {kernel!r} is not installed here; install it, or name another with --kernel"
        ) from None
    except (RuntimeError, OSError, ValueError, TypeError, LookupError, TraitError) as error:
        # OSError: its Python is gone, such as a removed environment's; the others: its kernel.json is damaged.
        why = first_line(str(error))
        message = f"the kernel {kernel} did not start: {why}; reinstall it, or name another with --kernel"
        raise NotebookError(plain_text(message)) from error


async def _cells(client: NotebookClient, task: Task, course: Course) -> None:
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    for index, (cell, name) in enumerate(zip(task.document.cells, task.names, strict=True)):
        course.at = index
        task.progress(f"cell {index + 1} of {len(task.names)}")
        try:
            await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
        except CellExecutionError as error:
            course.error = f"{name} failed: {error.ename}: {first_line(error.evalue)}"
        except CellTimeoutError:
            course.error = f"{name} did not end within {client.timeout} s; fix it, or allow more time with --timeout"
        except DeadKernelError:
            if (running := asyncio.current_task()) is not None and running.cancelling():
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
