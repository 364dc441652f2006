"""The ledger: runs, budgets, remembered answers; one database of a person's, or of a team's."""

import sys
from importlib import import_module
from types import ModuleType

from tokmagic.ledger.outbox import Outbox
from tokmagic.ledger.store import Ledger

__all__ = ["Ledger", "Outbox"]


class _Callable(ModuleType):
    """This package: once it is imported it stands in the place of the function of its name, and answers for it."""

    def __call__(self) -> Ledger:
        opened = import_module("tokmagic.api").ledger()
        assert isinstance(opened, Ledger)
        return opened


sys.modules[__name__].__class__ = _Callable
