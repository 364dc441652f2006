"""Keys, which runs were made with them, and which rows are a server's of a run that its client recorded too.

The columns are written out, not taken from schema.py: a migration must go on meaning the same.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add keys, and the mark of duplicates to what sums are answered from."""
    op.add_column("runs", sa.Column("key", sa.String(12)))
    op.add_column("runs", sa.Column("team", sa.Text))
    op.add_column("runs", sa.Column("client_run_id", sa.Text))
    op.add_column("runs", sa.Column("duplicate", sa.Boolean))
    op.create_table(
        "keys",
        sa.Column("id", sa.String(12), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("user", sa.Text),
        sa.Column("team", sa.Text),
        sa.Column("cap_pico", sa.BigInteger),
        sa.Column("cap_tokens", sa.BigInteger),
        sa.Column("period", sa.String(5), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("revoked_at", sa.String(27)),
    )
    of_budgets = ["started_at", "status", "cost_pico", "input_tokens", "output_tokens"]
    of_periods = ["cost_pico", "saved_pico", "input_tokens", "output_tokens", "ttft_s", "itl_mean_s"]
    of_energy = ["energy_j", "output_tokens", "energy_source", "energy_bound"]
    _again("runs_by_time", ["started_at", "model", "status", *of_periods, "cost_source", "cost_bound"])
    _again("runs_by_user", ["user", *of_budgets])
    _again("runs_cached", ["status", "saved_pico"], "status = 'cached'")
    _again("runs_metered", ["started_at", "model", "status", *of_energy], "energy_j IS NOT NULL")
    _create("runs_by_key", ["key", *of_budgets], "key IS NOT NULL")
    _create("runs_by_client", ["client_run_id"], "client_run_id IS NOT NULL")


def _again(name: str, columns: list[str], only: str | None = None) -> None:
    """Without the mark in it the index would no longer answer alone."""
    op.drop_index(name, "runs")
    _create(name, [*columns, "duplicate"], only)


def _create(name: str, columns: list[str], only: str | None) -> None:
    which = None if only is None else sa.text(only)
    op.create_index(name, "runs", columns, sqlite_where=which, postgresql_where=which)
