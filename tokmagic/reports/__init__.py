"""Tables of what runs cost: by cell, model, day and so on; what was wasted; what it would cost today."""

from tokmagic.reports.cells import cell_runs
from tokmagic.reports.names import GROUPS
from tokmagic.reports.repriced import repriced
from tokmagic.reports.sums import table
from tokmagic.reports.waste import waste, waste_line

__all__ = ["GROUPS", "cell_runs", "repriced", "table", "waste", "waste_line"]
