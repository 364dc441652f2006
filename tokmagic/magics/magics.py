"""The magics' names and what IPython shows of them; each is a module of its own, imported when it is first called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)

from tokmagic.magics.shell import Shell
from tokmagic.prompts.parser import HelpWanted

if TYPE_CHECKING:
    from tokmagic.runs.generation import Generation
    from tokmagic.runs.pace import Line
    from tokmagic.runs.session import Session

# By name, since the class is imported with the first run.
_GENERATION = ("tokmagic.runs.generation", "Generation")

Scope = Mapping[str, Any] | None
"""The variables of the code that calls a magic: the notebook's, or a function's own."""


@magics_class
class TokMagics(Magics):
    """tokmagic's magics in one shell."""

    def __init__(self, shell: InteractiveShell, session: Session | None = None) -> None:
        super().__init__(shell)
        self.at = Shell(shell, session)
        self.at.line = self._line

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def generate(self, line: str, cell: str | None = None, local_ns: Scope = None) -> Any:
        """Run the cell as a prompt, stream the answer and meter it; ``%generate --help`` lists the options."""
        return self._call(local_ns, "generate", line, cell)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def tokens(self, line: str, cell: str | None = None, local_ns: Scope = None) -> Any:
        """Count a prompt for one or several models and take it apart; ``%tokens --help``."""
        return self._call(local_ns, "tokens", line, cell)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def compare(self, line: str, cell: str | None = None, local_ns: Scope = None) -> Any:
        """Run variants of a prompt on the same items and compare what they cost and score; ``%compare --help``."""
        return self._call(local_ns, "compare", line, cell)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def model(self, line: str, local_ns: Scope = None) -> Any:
        """List, add, use, load, unload or describe models; ``%model --help``."""
        return self._call(local_ns, "model", line)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def price(self, line: str, local_ns: Scope = None) -> Any:
        """List the rates, or set those of a model; ``%price --help``."""
        return self._call(local_ns, "price", line)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def budget(self, line: str, local_ns: Scope = None) -> Any:
        """List the budgets and how they stand, or set one; ``%budget --help``."""
        return self._call(local_ns, "budget", line)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def cache(self, line: str, local_ns: Scope = None) -> Any:
        """What the answer cache holds and saved; ``on``, ``off``, ``clear``."""
        return self._call(local_ns, "cache", line)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def cost(self, line: str, local_ns: Scope = None) -> Any:
        """What this notebook's runs cost, cell by cell; ``%cost --help`` tells what else there is."""
        return self._call(local_ns, "cost", line)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def tokmagic(self, line: str, local_ns: Scope = None) -> Any:
        """``doctor`` tells what works here, ``panel`` shows the sidebar in the output; ``%tokmagic --help``."""
        return self._call(local_ns, "tokmagic", line)

    def _call(self, local_ns: Scope, magic: str, *given: str | None) -> Any:
        try:
            run = import_module(f"tokmagic.magics.{magic}").run  # start-up: with its machinery
            return run(self.at.within(local_ns), *given)
        except HelpWanted as wanted:
            print(wanted.text)  # noqa: T201
            return None

    def _line(self) -> Line:
        from tokmagic.magics.display import view  # start-up: with the first that is shown

        return view(self.at)

    def show(self, generation: Generation) -> None:
        """Display a Generation that is a cell's value."""
        from tokmagic.magics.display import show  # start-up: with the first answer

        show(self.at, generation)


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
