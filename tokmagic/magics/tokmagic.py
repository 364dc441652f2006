"""``%tokmagic``: what works here, the sidebar's view in an output, what this notebook ran with, the version."""

from __future__ import annotations

import os

from tokmagic.core.config import REPRODUCING
from tokmagic.core.version import __version__
from tokmagic.errors import UsageError
from tokmagic.formatting.tables import Table
from tokmagic.health import doctor
from tokmagic.magics.display import publish
from tokmagic.magics.shell import Shell
from tokmagic.notebooks.freeze import freeze
from tokmagic.prompts.parser import Parser


def parser() -> Parser:
    """The words and options of ``%tokmagic``."""
    made = Parser("%tokmagic")
    told = "what works here (or none); the sidebar's view in the output; keep what this notebook ran with; the version"
    actions = ("doctor", "panel", "freeze", "version")
    made.add_argument("action", nargs="?", choices=actions, default="doctor", help=told)
    told = "freeze: file to write, or the notebook if its name is not known here (NOTEBOOK.tokmagic.json next to it)"
    made.add_argument("file", nargs="?", help=told)
    told = "freeze: write the answers' texts too, not only their digests"
    made.add_argument("--texts", action="store_true", help=told)
    return made


def run(at: Shell, line: str) -> Table | str | None:
    """Look at what works here, show the sidebar's view, keep what this notebook ran with, or tell the version."""
    options = at.parse(parser(), line)
    if options.action != "freeze":
        if options.file or options.texts:
            raise UsageError(f"%tokmagic {options.action} takes no more words")
        if options.action == "panel":
            _show_panel(at)
            return None
        return __version__ if options.action == "version" else doctor(at.session.settings).table()
    if os.environ.get(REPRODUCING):
        # The notebook is being compared with that very file.
        return Table(("freeze",), (("not changed: tokmagic reproduce is running this notebook",),), figures=False)
    return freeze(at.session, options.file, texts=options.texts)


def _show_panel(at: Shell) -> None:
    if at.terminal:
        raise UsageError("%tokmagic panel needs a notebook to show it in; in a terminal, %cost prints the same sums")
    # Not as the cell's value: IPython would keep each of them for as long as the kernel lives.
    publish(at.session.panels.open(at.cell_id()))
