"""What a notebook's cells did before: the latest complete runs of each, as far as a forecast needs them."""

from __future__ import annotations

import sqlalchemy as sa

from tokmagic.core.compared import QUESTION
from tokmagic.core.record import Histories, PastRun, Selection
from tokmagic.ledgers.schema import ONCE, json_value, runs
from tokmagic.ledgers.summaries import conditions
from tokmagic.prices import from_picodollars

# The first tag says so; tags are kept as a JSON list.
_OF_COMPARISON = runs.c.tags.like(f'["{QUESTION}%')


def read(connection: sa.Connection, where: Selection, each: int) -> Histories:
    """The newest ``each`` runs of every cell that ended well, and as many that a cache replayed.

    Runs of comparisons, which have a forecast of their own, are none of these.
    """
    order = sa.func.row_number().over(partition_by=(runs.c.cell_id, runs.c.status), order_by=runs.c.id.desc())
    parts = (runs.c.cached_input_tokens, runs.c.cache_write_input_tokens)
    tokens = (runs.c.input_tokens, runs.c.output_tokens, *parts)
    columns = (runs.c.id, runs.c.status, runs.c.model_id, *tokens, runs.c.device_s, runs.c.cost_pico, runs.c.env)
    numbered = (
        sa.select(runs.c.cell_id, *columns, order.label("place"))
        .where(
            runs.c.cell_id.is_not(None),
            runs.c.status.in_(("ok", "cached", "interrupted")),
            ~_OF_COMPARISON,
            *conditions(where),
        )
        .subquery()
    )
    query = sa.select(numbered).where(numbered.c.place <= each).order_by(numbered.c.cell_id, numbered.c.id.desc())
    rows = [(row, json_value(row.env)) for row in connection.execute(query)]
    cut_short = {(row.cell_id, of.get("execution")) for row, of in rows if row.status == "interrupted"}
    found: Histories = {}
    for row, of in rows:
        if row.status == "interrupted":
            continue
        past = PastRun(
            row.model_id,
            row.input_tokens,
            row.output_tokens,
            row.device_s,
            of.get("source_sha256"),
            of.get("execution"),
            from_picodollars(row.cost_pico),
            row.status == "cached",
            "execution" in of and (row.cell_id, of["execution"]) in cut_short,
            row.cached_input_tokens,
            row.cache_write_input_tokens,
        )
        found.setdefault(row.cell_id, []).append(past)
    return found


def latest(where: Selection) -> sa.Select[tuple[int]]:
    """Of each cell the key of its latest run."""
    return sa.select(sa.func.max(runs.c.id)).where(ONCE, *conditions(where)).group_by(runs.c.cell_id)


def previous(where: Selection) -> sa.Select[tuple[int]]:
    """Of each cell the key of the last complete run before its latest run."""
    newest = (
        sa.select(runs.c.cell_id, sa.func.max(runs.c.id).label("id"))
        .where(runs.c.cell_id.is_not(None), *conditions(where))
        .group_by(runs.c.cell_id)
        .subquery()
    )
    return (
        sa.select(sa.func.max(runs.c.id))
        .join(newest, (runs.c.cell_id == newest.c.cell_id) & (runs.c.id < newest.c.id))
        .where(runs.c.status == "ok", *conditions(where))
        .group_by(runs.c.cell_id)
    )
