"""The shell that the magics work in: its option lines, its variables, its cells, and the session made for it."""

from __future__ import annotations

import argparse
import copy
import keyword
import os
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.text import DollarFormatter

from tokmagic.core.config import TokMagic
from tokmagic.errors import UsageError
from tokmagic.magics.import_lock import ImportLock
from tokmagic.prompts.parser import Parser, split
from tokmagic.runs import api
from tokmagic.runs.channel import Channel
from tokmagic.runs.whereabouts import executed_notebook

if TYPE_CHECKING:
    from tokmagic.core.prompt import Prompt
    from tokmagic.runs.pace import Line
    from tokmagic.runs.session import Session

Shows = Literal["printed", "updated", "once"]
"""Printed as it comes; in one output that is updated; or, where no update is rendered, in one output at the end:
consoles, servers that execute cells and an Output of ipywidgets keep what they were shown first."""


def check_into(name: str | None) -> None:
    """Raise UsageError if ``--into`` names no variable."""
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise UsageError(f"--into {name!r} is not a variable name; use letters, digits and underscores")


class Shell:
    """An IPython shell, and tokmagic's session in it: made at its first use, since making it imports nearly all."""

    def __init__(self, shell: InteractiveShell, session: Session | None = None) -> None:
        self.ipython: Any = shell
        self.terminal = not hasattr(shell, "kernel")
        self.import_lock = ImportLock()
        self._session = session
        self._own: Mapping[str, Any] | None = None
        self.line: Callable[[], Line | None] = lambda: None
        """Gives a line in the output of the cell that runs now."""

    @property
    def session(self) -> Session:
        return self._session or api.session()

    @property
    def variables(self) -> dict[str, Any]:
        names: dict[str, Any] = self.ipython.user_ns
        return names

    def parse(self, parser: Parser, line: str) -> argparse.Namespace:
        """Parse an option line, variables filled in. Raises UsageError, and HelpWanted for ``--help``."""
        return parser.parse_args(split(line, self._filled))

    def help(self, parser: Parser, line: str) -> None:
        """Raise HelpWanted if the words of a magic that lacks its cell ask for it, whatever else is in them."""
        if {"-h", "--help"} & set(line.split()):
            parser.parse_args(["--help"])

    def _filled(self, word: str) -> str:
        with suppress(Exception):  # what cannot be filled in stays as it is written, as in all of IPython's magics
            return DollarFormatter().vformat(word, (), self._seen())
        return word

    def within(self, own: Mapping[str, Any] | None) -> Shell:
        """This shell, for a magic that a function calls: that one's ``own`` variables come before the notebook's."""
        if own is None or own is self.variables:
            return self
        here = copy.copy(self)
        here._own = own
        return here

    def _seen(self) -> dict[str, Any]:
        """The variables that an option line may name."""
        return {**self.variables, **(self._own or {})}

    def cell_id(self) -> str | None:
        """The id of the cell that runs now; nbclient sends none, so there the request itself is the cell."""
        return self._named_cell() or self.execution()

    def _named_cell(self) -> str | None:
        """The id of the cell that runs now, where the request names it, as JupyterLab's do."""
        cell_id = self._request().get("metadata", {}).get("cellId")
        return str(cell_id) if cell_id else None

    def execution(self) -> str | None:
        """The id of the request that runs now; None in a terminal."""
        request = self._request().get("header", {}).get("msg_id")
        return str(request) if request else None

    def execution_count(self) -> int | None:
        """The number that the notebook shows for the cell that runs now; None in a terminal."""
        return int(self.ipython.displayhook.prompt_count) if self.execution() else None

    def source(self) -> str | None:
        """The whole text of the cell that runs now, as the front end sent it; None in a terminal."""
        code = self._request().get("content", {}).get("code")
        return code if isinstance(code, str) else None

    @property
    def shows(self) -> Shows:
        """How an answer can be shown by what asked for the cell that runs now."""
        if self.terminal:
            return "printed"
        if _in_an_output(self.execution()):
            return "once"
        request = self._request()
        # Notebooks' front ends say which cell it is; what executes whole notebooks cannot be asked anything.
        if request.get("metadata") or not request.get("content", {}).get("allow_stdin"):
            return "updated"
        return "printed" if self.session.notebook is None else "once"

    def _request(self) -> dict[str, Any]:
        get_parent = getattr(self.ipython, "get_parent", None)
        return get_parent() or {} if get_parent is not None else {}

    def evaluated(self, expression: str, option: str) -> Any:
        """The value of an expression over the notebook's variables. Raises UsageError."""
        try:
            return self.ipython.ev(expression) if self._own is None else eval(expression, self._seen())
        except Exception as error:
            says = f"{expression!r}: {type(error).__name__}: {' '.join(str(error).split())}"
            raise UsageError(
                f"{option} cannot evaluate {says}; give a variable, an expression, or a string in quotes"
            ) from None

    def open(self) -> None:
        """Open the live channel, of the session that there is or of the one to be made, and let cells lock imports."""
        made = api.made_session()
        self.settings = made.settings if made else TokMagic()
        self.channel = made.channel if made else Channel(uuid.uuid4().hex, api.session)
        api.furnish = lambda new: self._join(new(self.settings, self.channel))
        if made:
            self._join(made)
        self.ipython.events.register("pre_execute", self._begin)
        self.ipython.events.register("post_execute", self.import_lock.end)
        self.ipython.configurables.append(self.settings)
        self.channel.open(heard=False)
        self._begin()  # the cell that loads the extension has begun already

    def _begin(self) -> None:
        self.import_lock.begin()
        # VS Code names a cell by an address. It has no sidebar, and logs an error for a comm that it does not know.
        if (cell_id := self._named_cell()) and ":" not in cell_id:
            self.channel.announce()

    def close(self) -> None:
        """Undo this, free the models, and leave the session to itself."""
        self.import_lock.end()
        self.ipython.events.unregister("pre_execute", self._begin)
        self.ipython.events.unregister("post_execute", self.import_lock.end)
        self.ipython.configurables.remove(self.settings)
        api.furnish = None
        session = api.made_session()
        if session is not None:
            session.panels.close()
        self.channel.close()
        if session is not None:
            session.cell_id = session.execution = session.source = lambda: None
            session.execution_count = lambda: None
            session.variables, session.import_lock = dict, threading.Lock()
            session.parts = lambda _model, _prompt: None
            session.line = lambda: None
            session.models.close()

    def _join(self, session: Session) -> Session:
        if session.notebook is None:
            session.notebook = self._notebook()
        session.cell_id, session.execution, session.source = self.cell_id, self.execution, self.source
        session.execution_count = self.execution_count
        session.variables, session.import_lock = (lambda: self.variables), self.import_lock.lock
        session.parts = lambda model, prompt: _parts(session, model, prompt)
        session.line = self.line
        return session

    def _notebook(self) -> str | None:
        # VS Code tells the notebook's path in a variable, Jupyter in the environment, papermill where it is asked to.
        path = self.variables.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
        if not path and (given := self.variables.get("PAPERMILL_INPUT_PATH")):
            path = given if "://" in str(given) else Path(str(given)).absolute()
        return str(path) if path else executed_notebook()


def _in_an_output(request: str | None) -> bool:
    """Whether what a request shows goes into a widget, as below ``with output:`` and in what ``interact`` calls."""
    known: dict[str, Any] = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", {})
    named = {getattr(it, "msg_id", None) for it in list(known.values()) if type(it).__name__ == "Output"}
    return request is not None and request in named


def _parts(session: Session, model: str, prompt: Prompt) -> list[tuple[str, int]] | None:
    from tokmagic.explain import parts_of  # start-up: with the first row that is opened

    return parts_of(session, model, prompt)
