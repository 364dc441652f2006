"""Which alerts of a budget were sent.

The columns are written out, not taken from schema.py: a migration must go on meaning the same.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of alerts."""
    op.create_table(
        "alerts",
        sa.Column("budget", sa.Text, primary_key=True),
        sa.Column("period", sa.String(10), primary_key=True),
        sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("taken_at", sa.String(27), nullable=False),
    )
