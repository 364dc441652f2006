"""Notebooks run in this process, by a shell that looks to the magics like a kernel's: for what needs no kernel."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tokmagic.notebooks.reproduce import Course, Task
from tokmagic.runs import api

_requests = itertools.count(1)


@dataclass
class Ran:
    """What one cell did, as a notebook keeps it; ``request`` is the id that the magics were told."""

    request: str
    outputs: list[Any] = field(default_factory=list)

    @property
    def failure(self) -> Any:
        """The output of the error that ended it."""
        return next((it for it in self.outputs if it.output_type == "error"), None)

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def error(self) -> str:
        """The error as the cell shows it."""
        return "" if self.ok else "\n".join(self.failure.traceback)

    @property
    def results(self) -> list[Any]:
        return [it for it in self.outputs if it.output_type == "execute_result"]


class Shell(InteractiveShell):
    """A shell whose cells have requests and outputs, as a kernel's have."""

    kernel = True  # by which the magics know that there is a front end
    parent_message: dict[str, Any]

    def get_parent(self) -> dict[str, Any]:
        return self.parent_message

    def run(self, source: str, *, cell_id: str | None = None) -> Ran:
        """Run a cell to its end."""
        ran = Ran(f"request-{next(_requests)}")
        self.parent_message = {
            "header": {"msg_id": ran.request},
            "metadata": {"cellId": cell_id} if cell_id else {},
            "content": {"code": source},
        }
        self._ran, printed = ran, StringIO()
        self.display_pub = CapturingDisplayPublisher()
        self.display_trap.hook = hook = CapturingDisplayHook(self, [])
        with redirect_stdout(printed):
            self.run_cell(source, store_history=True)
        ran.outputs[:0] = [
            *([nbformat.v4.new_output("stream", text=printed.getvalue())] if printed.getvalue() else []),
            *_displays(self.display_pub.outputs),
            *(
                nbformat.v4.new_output("execute_result", data=it["data"], metadata=it["metadata"])
                for it in hook.outputs
                if it["data"]
            ),
        ]
        return ran

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        error = nbformat.v4.new_output("error", ename=etype.__name__, evalue=str(evalue), traceback=list(stb))
        self._ran.outputs.append(error)


def _displays(published: list[dict[str, Any]]) -> Iterator[Any]:
    """What a cell displays, as it last was."""
    last: dict[Any, dict[str, Any]] = {}
    for number, it in enumerate(published):
        last[it.get("transient", {}).get("display_id", number)] = it
    for it in last.values():
        yield nbformat.v4.new_output("display_data", data=it["data"], metadata=it["metadata"])


@contextmanager
def running_shell(folder: Path | None = None, **env: str) -> Iterator[Shell]:
    """Start a shell with these environment variables and a session of its own, and end both afterwards."""
    before, main, made = Path.cwd(), sys.modules["__main__"], (api._session, api.furnish)
    api._session = api.furnish = None
    with mock.patch.dict(os.environ, env):
        os.chdir(folder or before)
        shell = Shell.instance(config=Config(HistoryManager={"enabled": False}))
        try:
            yield shell
        finally:
            if api._session is not None:
                api._session.close()
            api._session, api.furnish = made
            shell.restore_sys_module_state()
            Shell.clear_instance()
            sys.modules["__main__"] = main
            os.chdir(before)


class InShell:
    """Runs a notebook in this process; it stands where a kernel would be started."""

    def __init__(self, _kernel: str | None = None, _timeout_s: int | None = None) -> None:
        pass

    def __call__(self, task: Task) -> Course:
        course = Course()
        with running_shell(task.folder, **task.environment) as shell:
            for index, cell in enumerate(task.document.cells):
                course.at = index
                ran = shell.run(cell.source)
                cell.outputs = ran.outputs
                if not ran.ok:
                    course.error = f"{task.names[index]} failed: {ran.failure.ename}: {ran.failure.evalue}"
                    break
                course.requests[ran.request] = index
        return course
