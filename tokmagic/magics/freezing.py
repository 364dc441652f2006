"""``%tokmagic freeze``: what its words mean."""

from __future__ import annotations

import argparse
import os

from tokmagic import reproduction
from tokmagic.config import REPRODUCING
from tokmagic.run import Session
from tokmagic.tables import Table


def freeze(session: Session, options: argparse.Namespace) -> Table:
    """Write what this notebook ran with, and show it. Raises UsageError, LedgerError."""
    if os.environ.get(REPRODUCING):
        # The notebook is being compared with that very file.
        return Table(("freeze",), (("left as it is: tokmagic reproduce runs this notebook",),), figures=False)
    return reproduction.freeze(session, options.file, texts=options.texts)
