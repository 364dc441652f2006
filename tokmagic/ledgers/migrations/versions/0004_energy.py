"""How sure a run's energy is, and an index of the runs that have one.

The columns are written out, not taken from schema.py: a migration must go on meaning the same.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the marks of a run's energy."""
    op.add_column("runs", sa.Column("energy_source", sa.String(9)))
    op.add_column("runs", sa.Column("energy_bound", sa.String(8)))
    # Most ledgers have none: then sums of energy look at nothing.
    metered = sa.text("energy_j IS NOT NULL")
    sums = ["energy_j", "output_tokens", "energy_source", "energy_bound"]
    op.create_index(
        "runs_metered", "runs", ["started_at", "model", "status", *sums], sqlite_where=metered, postgresql_where=metered
    )
