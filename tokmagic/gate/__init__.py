"""``tokmagic check``: a notebook's saved numbers against limits, and against an earlier version of it.

Only the notebook file is read: no kernel, no ledger, nothing is run. docs/gate.md says what is compared.
"""

from tokmagic.gate.earlier import earlier, read_file
from tokmagic.gate.saved import Figures, Notebook, PromptCell, cells, read
from tokmagic.gate.show import as_dict, table
from tokmagic.gate.verdict import Growth, Limits, Pair, Verdict, check, limits

__all__ = [
    "Figures",
    "Growth",
    "Limits",
    "Notebook",
    "Pair",
    "PromptCell",
    "Verdict",
    "as_dict",
    "cells",
    "check",
    "earlier",
    "limits",
    "read",
    "read_file",
    "table",
]
