"""Runs that were paid for and gave nothing new, found and added up in the database. Functions over a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tokmagic.events import Selection, Sum
from tokmagic.ledger.schema import money, money_parts, runs
from tokmagic.ledger.summaries import conditions

AGAIN = "run again unchanged"
_UNFINISHED = ("interrupted", "failed")
# The prompt first: it tells most runs apart, so that a sort seldom compares more.
_SAME = (
    *(runs.c.prompt_sha256, runs.c.params, runs.c.model_id, runs.c.revision),
    *(runs.c.engine, runs.c.device, runs.c.dtype, runs.c.quant),
)


def wasted(connection: sa.Connection, where: Selection) -> dict[str, Sum]:
    """Sums by ``interrupted``, ``failed`` and :data:`AGAIN`; a kind without runs is left out, and no run is in two.

    Run again unchanged is a whole run that another one of the selection had preceded with the same model, revision,
    engine, device, dtype, quantisation, prompt and parameters, where these make the answer the same each time:
    temperature 0, or a seed.
    """
    found = connection.execute(sa.union_all(_unfinished(where), _again(where))).all()
    sums = {kind: _sum(row) for kind, *row in found if row[0]}
    return {kind: sums[kind] for kind in (*_UNFINISHED, AGAIN) if kind in sums}


def _unfinished(where: Selection) -> sa.Select[Any]:
    these = (runs.c.status.in_(_UNFINISHED), *conditions(where))
    return sa.select(runs.c.status, sa.func.count(), *_sums(runs)).where(*these).group_by(runs.c.status)


def _again(where: Selection) -> sa.Select[Any]:
    """Of each set of same runs all but the first, by subtraction: numbering them instead takes twice as long."""
    these = (runs.c.status == "ok", _repeatable(), *conditions(where))
    columns = (sa.func.count(), *_sums(runs), sa.func.min(runs.c.id))
    labelled = [column.label(f"c{number}") for number, column in enumerate(columns)]
    several = sa.select(*labelled).where(*these).group_by(*_SAME).having(sa.func.count() > 1).subquery()
    count, *sums, first_id = several.c
    first = runs.alias()
    rest = [sa.func.sum(part - own) for part, own in zip(sums, _parts(first), strict=True)]
    joined = several.join(first, first.c.id == first_id)
    return sa.select(sa.literal(AGAIN), sa.func.sum(count - 1), *rest).select_from(joined)


def _sums(of: Any) -> list[Any]:
    return [sa.func.sum(part) for part in _parts(of)]


def _parts(of: Any) -> list[Any]:
    """What is added up of a run: 0 for what is unknown, and whether its price is."""
    known = (*money_parts(of.c.cost_pico), of.c.input_tokens, of.c.output_tokens)
    return [*(sa.func.coalesce(part, 0) for part in known), sa.case((of.c.cost_pico.is_(None), 1), else_=0)]


def _repeatable() -> Any:
    """Whether parameters make the answer the same each time, asked of their JSON text.

    A quote within a text is escaped there, so that these can only be keys. A seed that was not given is left out.
    """
    zero = [f'"temperature":{value}{end}' for value in ("0", "0.0", "-0.0") for end in ",}"]
    return sa.or_(*(runs.c.params.contains(text, autoescape=True) for text in ('"seed":', *zero)))


def _sum(row: Sequence[Any]) -> Sum:
    count, high, low, given, made, unpriced = (int(value) for value in row)
    return Sum(count, given, made, money(high, low) if count > unpriced else None, unpriced)
