"""Which budgets hold for a session's runs: the ledger's, those of its settings, and a run's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tokmagic.core.budget import Budget, Standing
from tokmagic.core.config import REPRODUCING_USD, TokMagic
from tokmagic.errors import LedgerError
from tokmagic.prices import budgets
from tokmagic.runs.budget_guard import BudgetGuard, BudgetWarning, Confirm
from tokmagic.runs.recorder import Teller

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger
    from tokmagic.runs.many import Others


class BudgetsHere:
    """The budgets of one session. ``place`` tells what stands for its notebook in a budget."""

    def __init__(
        self, settings: TokMagic, ledger: Callable[[], Ledger], user: Callable[[], str | None], place: Callable[[], str]
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._user = user
        self._place = place
        self._warnings = Teller(BudgetWarning)
        self.known: list[Budget] = []
        """Those that held when somebody last looked."""

    def own(self) -> list[Budget]:
        """Budgets that stand in no ledger. Raises BudgetError."""
        own = [budgets.of_day(self._settings.budget_day, self._user())] if self._settings.budget_day else []
        if cap := os.environ.get(REPRODUCING_USD):
            own.append(budgets.of_reproduction(cap, self._place()))
        return own

    def read(self) -> list[Budget]:
        """Read the budgets that hold for a run here. Raises LedgerError, BudgetError."""
        self.known = [*self._ledger().budgets(self._user(), self._place()), *self.own()]
        return self.known

    def held(self, own: list[Budget]) -> list[Budget]:
        """The budgets that hold for a run here, ``own`` among them."""
        held = self.known = own
        # Where the ledger cannot be read the run is not recorded either, and a warning says so.
        with suppress(LedgerError):
            held = self.read()
        return held

    def guard(
        self,
        held: Sequence[Budget],
        own: Sequence[Budget],
        of_run: Sequence[Budget],
        confirm: Confirm | None = None,
        others: Others | None = None,
    ) -> BudgetGuard:
        """What bounds one run: what is ``held`` here, and the budgets ``of_run`` alone."""
        both = [*held, *of_run], [*own, *of_run]
        asks: dict[str, Any] = {"confirm": confirm, "others": others, "hold_by": self._settings.hold}
        return BudgetGuard(self._ledger, *both, teller=self._warnings, **asks)

    def standings(self, *, with_uncertainty: bool = False) -> list[Standing]:
        """How the budgets stand now; ``with_uncertainty``: how sure what was spent is, too. Raises LedgerError."""
        now = datetime.now()
        found = self._ledger().standings(self.read(), self._user(), now)
        return self._ledger().with_uncertainty(found, self._user(), now) if with_uncertainty else found
