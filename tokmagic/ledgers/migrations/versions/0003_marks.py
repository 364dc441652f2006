"""What marks a sum of costs, in the index that answers for a period.

The columns are written out, not taken from schema.py: a migration must go on meaning the same.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add to the index of the times whether a cost is estimated or a bound."""
    op.drop_index("runs_by_time", "runs")
    sums = ["cost_pico", "saved_pico", "input_tokens", "output_tokens", "ttft_s", "itl_mean_s"]
    op.create_index("runs_by_time", "runs", ["started_at", "model", "status", *sums, "cost_source", "cost_bound"])
