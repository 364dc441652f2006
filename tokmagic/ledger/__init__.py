"""The ledger: runs, budgets, remembered answers; one database of a person's, or of a team's."""

from tokmagic.ledger.outbox import Outbox
from tokmagic.ledger.store import Ledger

__all__ = ["Ledger", "Outbox"]
