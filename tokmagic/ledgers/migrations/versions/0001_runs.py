"""Runs and their texts.

The columns are written out, not taken from schema.py: a migration must go on meaning the same.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables."""
    integer_key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "runs",
        sa.Column("id", integer_key, primary_key=True),
        sa.Column("run_id", sa.String(32), nullable=False, unique=True),
        sa.Column("started_at", sa.String(27), nullable=False),
        sa.Column("finished_at", sa.String(27)),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("finish_reason", sa.String(16)),
        sa.Column("error", sa.Text),
        sa.Column("owner", sa.String(32)),
        *(sa.Column(name, sa.Text) for name in ("notebook", "cell_id", "session", "user")),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("revision", sa.Text),
        sa.Column("engine", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("device", "dtype", "quant")),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("prompt_sha256", sa.String(64), nullable=False),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("cached_input_tokens", sa.BigInteger),
        sa.Column("cache_write_input_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("input_source", sa.String(9), nullable=False),
        sa.Column("output_source", sa.String(9), nullable=False),
        sa.Column("local_input_tokens", sa.BigInteger),
        sa.Column("anomaly", sa.Text),
        *(
            sa.Column(name, sa.Float(53))
            for name in (
                "ttft_s",
                "queue_s",
                "latency_s",
                "itl_mean_s",
                "itl_p50_s",
                "itl_p95_s",
                "output_tokens_per_s",
            )
        ),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("device_s", sa.Float(53)),
        sa.Column("gpu_peak_bytes", sa.BigInteger),
        sa.Column("energy_j", sa.Float(53)),
        sa.Column("rates", sa.Text, nullable=False),
        sa.Column("cost_pico", sa.BigInteger),
        sa.Column("cost_source", sa.String(9), nullable=False),
        sa.Column("cost_bound", sa.String(8), nullable=False),
        sa.Column("token_cost_pico", sa.BigInteger),
        sa.Column("compute_cost_pico", sa.BigInteger),
        sa.Column("saved_pico", sa.BigInteger),
        sa.Column("replay_of", sa.String(32)),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("tags", "env", "spark_ms")),
    )
    op.create_index("runs_by_notebook", "runs", ["notebook", "started_at"])
    op.create_index("runs_by_time", "runs", ["started_at"])
    running = sa.text("status = 'running'")
    op.create_index("runs_open", "runs", ["owner"], sqlite_where=running, postgresql_where=running)
    op.create_table(
        "texts",
        sa.Column("run_id", sa.String(32), primary_key=True),
        sa.Column("prompt", sa.Text),
        sa.Column("answer", sa.Text),
    )
