"""``tokmagic check``: what a notebook's saved runs cost, against limits and an earlier version (docs/gate.md).

The door: ``read`` and ``earlier`` give a Notebook, ``check`` a Verdict, ``table`` and ``as_dict`` show it.
It reads notebook files alone: nothing is run, no kernel, ledger or model is asked, nothing is written.
"""

from tokmagic.notebooks.check.figures import earlier, read
from tokmagic.notebooks.check.show import as_dict, table
from tokmagic.notebooks.check.verdict import Limits, check, limits

__all__ = ["Limits", "as_dict", "check", "earlier", "limits", "read", "table"]
