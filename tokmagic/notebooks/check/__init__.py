"""``tokmagic check``: a notebook's saved numbers against limits, and against an earlier version of it.

Only the notebook file is read: no kernel, no ledger, nothing is run. docs/gate.md says what is compared.
"""

from tokmagic.notebooks.check.earlier import earlier
from tokmagic.notebooks.saved import Figures, Notebook, PromptCell, cells, read
from tokmagic.notebooks.check.show import as_dict, table
from tokmagic.notebooks.check.verdict import Growth, Limits, Pair, Verdict, check, limits

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
    "table",
]
