"""``%tokmagic freeze``: what its words mean."""

from __future__ import annotations

import argparse
import os

from tokmagic.core.config import REPRODUCING
from tokmagic.formatting.tables import Table
from tokmagic.notebooks.freeze import freeze as freeze_notebook
from tokmagic.runs.session import Session


def freeze(session: Session, options: argparse.Namespace) -> Table:
    """Write what this notebook ran with, and show it. Raises UsageError, LedgerError."""
    if os.environ.get(REPRODUCING):
        # The notebook is being compared with that very file.
        return Table(("freeze",), (("not changed: tokmagic reproduce is running this notebook",),), figures=False)
    return freeze_notebook(session, options.file, texts=options.texts)
