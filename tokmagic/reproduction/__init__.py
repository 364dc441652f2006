"""``%tokmagic freeze`` and ``tokmagic reproduce``: what a notebook ran with, and whether it still gives the same.

docs/reproduce.md says what is kept and compared.
"""

from __future__ import annotations

from tokmagic.reproduction.compare import Kind
from tokmagic.reproduction.freezing import freeze
from tokmagic.reproduction.report import Report, reproduce
from tokmagic.reproduction.show import as_dict, table

__all__ = ["Kind", "Report", "as_dict", "freeze", "reproduce", "table"]
