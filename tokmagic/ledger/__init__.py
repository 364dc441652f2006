"""The ledger: one row a run, whatever happens; SQLite through SQLAlchemy Core, many kernels at once."""

from tokmagic.ledger.store import Ledger

__all__ = ["Ledger"]
