"""Tables of what runs cost: by cell, model, day and so on; what was wasted; what it would cost today."""

from tokmagic.report.cells import cell_runs
from tokmagic.report.names import GROUPS
from tokmagic.report.repriced import repriced
from tokmagic.report.sums import add_up, table
from tokmagic.report.waste import waste, waste_line

__all__ = ["GROUPS", "add_up", "cell_runs", "repriced", "table", "waste", "waste_line"]
