"""``%tokmagic freeze`` and ``tokmagic reproduce``: what a notebook ran with, and whether it still gives the same.

docs/reproduce.md says what is kept and compared.
"""

from __future__ import annotations

from tokmagic.notebooks.reproduce.compare import Kind
from tokmagic.notebooks.reproduce.report import Report, reproduce
from tokmagic.notebooks.reproduce.show import as_dict, table

__all__ = ["Kind", "Report", "as_dict", "reproduce", "table"]
