"""``%tokmagic freeze``: what a notebook ran with, taken from the ledger, in a file of its own (docs/reproduce.md).

The door: ``freeze`` writes ``NOTEBOOK.tokmagic.json`` and returns a table of it.
It runs nothing, never changes the notebook or the ledger, and writes over nothing but a frozen file.
"""

from tokmagic.notebooks.freeze.freezing import freeze

__all__ = ["freeze"]
