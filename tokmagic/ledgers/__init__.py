"""The ledger: runs, budgets, remembered answers; one database of a person's, or of a team's."""

from tokmagic.ledgers.backend import file_of, is_on_a_server
from tokmagic.ledgers.outbox import Outbox
from tokmagic.ledgers.store import Ledger

__all__ = ["Ledger", "Outbox", "file_of", "is_on_a_server"]
