"""The magics: parse, call, show; nothing is computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokmagic.magics.magics import TokMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# By name, since the class is imported with the first run.
_GENERATION = ("tokmagic.runs.generation", "Generation")


def load(shell: InteractiveShell) -> None:
    """Register the magics in ``shell`` and open the live channel."""
    magics = TokMagics(shell)
    shell.register_magics(magics)
    _formatter(shell).for_type_by_name(*_GENERATION, magics.show)
    magics.at.open()


def unload(shell: InteractiveShell) -> None:
    """Take the magics out again, free the models and close the channel."""
    for kind, names in TokMagics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    _formatter(shell).pop(".".join(_GENERATION), None)
    if magics := shell.magics_manager.registry.pop("TokMagics", None):
        magics.at.close()


def _formatter(shell: Any) -> Any:
    return shell.display_formatter.ipython_display_formatter
