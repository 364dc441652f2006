"""Holds, budgets and remembered answers.

The columns are written out, not taken from schema.py: a migration must go on meaning the same.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what budgets and the answer cache need."""
    op.add_column("runs", sa.Column("hold_pico", sa.BigInteger))
    op.add_column("runs", sa.Column("hold_tokens", sa.BigInteger))
    integer_key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "budgets",
        sa.Column("id", integer_key, primary_key=True),
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("notebook", sa.Text),
        sa.Column("user", sa.Text),
        sa.Column("cap_pico", sa.BigInteger),
        sa.Column("cap_tokens", sa.BigInteger),
        sa.Column("warn_at", sa.Float(53), nullable=False),
        sa.Column("strict", sa.Boolean, nullable=False),
    )
    op.create_table(
        "answers",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.String(27), nullable=False),
    )
    op.create_index("answers_by_use", "answers", ["used_at", "size_bytes"])
    # In place of the one of the times alone: it holds what a period's sums by model are made of.
    op.drop_index("runs_by_time", "runs")
    sums = ["cost_pico", "saved_pico", "input_tokens", "output_tokens", "ttft_s", "itl_mean_s"]
    op.create_index("runs_by_time", "runs", ["started_at", "model", "status", *sums])
    # It holds what the sums of its question are made of, so that they need not look into the rows.
    op.create_index(
        "runs_by_user", "runs", ["user", "started_at", "status", "cost_pico", "input_tokens", "output_tokens"]
    )
    cached = sa.text("status = 'cached'")
    op.create_index("runs_cached", "runs", ["status", "saved_pico"], sqlite_where=cached, postgresql_where=cached)
