"""What a cell's prompt would take, counted while it is typed: nothing is run, evaluated or fetched for it.

The sidebar tells each change of the cell's text (``texts``, ``wire``). The text is read as its magic would read it
(``cells``), filled in as far as that is safe (``filling``), put into the model's template and counted (``ways``).
"""

from tokmagic.runs.drafts.service import DraftContext, DraftService
from tokmagic.runs.drafts.wire import Draft

__all__ = ["Draft", "DraftContext", "DraftService"]
