"""The magics: parse, wire, display; no arithmetic."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from tokmagic.magics.import_lock import ImportLock
from tokmagic.magics.magics import TokMagics
from tokmagic.runs import api
from tokmagic.runs.generation import Generation

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load(shell: InteractiveShell) -> None:
    """Register the magics in ``shell`` and open the live channel."""
    session = api.session()
    session.notebook = session.notebook or _notebook_path(shell)
    magics = TokMagics(shell, session)
    session.cell_id, session.execution = magics.cell_id, magics.execution
    session.variables = lambda: shell.user_ns
    session.turns = turns = ImportLock()
    shell.events.register("pre_execute", turns.begin)
    shell.events.register("post_execute", turns.end)
    # The cell that loads the extension has begun already.
    turns.begin()
    shell.register_magics(magics)
    configurables: list[Any] = shell.configurables
    if session.settings not in configurables:
        configurables.append(session.settings)
    _formatter(shell).for_type(Generation, magics.show)
    shell.events.register("pre_execute", magics.announce)
    session.channel.open(heard=magics.in_front_end())


def unload(shell: InteractiveShell) -> None:
    """Take the magics out again, free the models and close the channel."""
    session = api.session()
    for kind, names in TokMagics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    if magics := shell.magics_manager.registry.pop("TokMagics", None):
        shell.events.unregister("pre_execute", magics.announce)
    configurables: list[Any] = shell.configurables
    configurables[:] = [configurable for configurable in configurables if configurable is not session.settings]
    _formatter(shell).pop(Generation, None)
    session.cell_id = session.execution = lambda: None
    session.variables = dict
    if isinstance(session.turns, ImportLock):
        session.turns.end()
        shell.events.unregister("pre_execute", session.turns.begin)
        shell.events.unregister("post_execute", session.turns.end)
    session.turns = nullcontext()
    session.channel.close()
    session.models.close()


def _formatter(shell: Any) -> Any:
    return shell.display_formatter.ipython_display_formatter


def _notebook_path(shell: InteractiveShell) -> str | None:
    """The notebook's path, where the front end tells: VS Code in a variable, Jupyter in the environment."""
    path = shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
    return str(path) if path else None
