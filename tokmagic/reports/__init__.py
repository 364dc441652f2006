"""Tables of what runs cost: by cell, model, day and so on; what was wasted; what it would cost today."""

from tokmagic.reports.tables import GROUPS, cell_runs, repriced, table, waste, waste_line

__all__ = ["GROUPS", "cell_runs", "repriced", "table", "waste", "waste_line"]
