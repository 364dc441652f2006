"""``tokmagic reproduce``: a notebook run again, beside what it was frozen with or its outputs keep (docs/reproduce.md).

The door: ``reproduce`` runs it, in a kernel unless another ``Executor`` is given; ``table`` and ``as_dict`` show it.
It never writes to the notebook or the person's ledger, and makes no judgement on which difference is the cause.
"""

from tokmagic.notebooks.reproduce.compare import Kind
from tokmagic.notebooks.reproduce.execute import Course, Executor, Task
from tokmagic.notebooks.reproduce.report import Report, reproduce
from tokmagic.notebooks.reproduce.show import as_dict, table

__all__ = ["Course", "Executor", "Kind", "Report", "Task", "as_dict", "reproduce", "table"]
