"""Runs that were paid for and gave nothing new, found and added up in the database. Functions over a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from tokmagic.core.record import REMOTE, Selection, Sum
from tokmagic.ledgers.schema import ONCE, money, money_parts, runs
from tokmagic.ledgers.summaries import conditions, uncertainty_of, uncertainty_terms

AGAIN = "run again unchanged"
# By status, in the order in which they are told.
_KINDS = {"interrupted": "interrupted", "failed": "failed", "ok": AGAIN}


class _Position(sa.sql.functions.FunctionElement[int]):
    """Where a text begins within another one, from 1 on; 0 where it does not. Each database has its own name for it."""

    type = sa.Integer()
    inherit_cache = True


@compiles(_Position)
def _position(element: _Position, compiler: Any, **options: Any) -> str:
    name = "instr" if compiler.dialect.name == "sqlite" else "strpos"
    return f"{name}({compiler.process(element.clauses, **options)})"


def _server() -> Any:
    """An endpoint's address, asked of the JSON text of ``env``; NULL for what runs here.

    A quote within a text is escaped there, so that this can only be the key. A database's own JSON would not do:
    PostgreSQL's refuses what stands for an incomplete character.
    """
    key = '"server":"'
    begins = _Position(runs.c.env, key)
    # Up to its closing quote: what comes after it, such as the answer's digest, makes no other server.
    address = sa.func.substr(runs.c.env, begins + len(key))
    its = sa.func.substr(address, 1, _Position(address, '"'))
    return sa.case((sa.and_(runs.c.engine.in_(REMOTE), begins > 0), its))


# The prompt first: it tells most runs apart, so that a sort seldom compares more.
_SAME = (
    *(runs.c.prompt_sha256, runs.c.params, runs.c.model_id, runs.c.revision),
    *(runs.c.engine, runs.c.device, runs.c.dtype, runs.c.quant),
    _server(),
)


def wasted(connection: sa.Connection, where: Selection) -> dict[str, Sum]:
    """Sums by ``interrupted``, ``failed`` and :data:`AGAIN`; a kind without runs is left out, and no run is in two.

    Run again unchanged is a complete run that another one of the selection had preceded with the same model, revision,
    engine, server, device, dtype, quantisation, prompt and parameters, where these make the answer the same each time:
    temperature 0, or a seed.
    """
    found = {_KINDS[status]: _sum(row) for status, *row in connection.execute(_query(where))}
    return {kind: found[kind] for kind in _KINDS.values() if kind in found}


def _query(where: Selection) -> sa.Select[Any]:
    """Sets of same runs, and of those that answered all but the first: numbering them instead takes twice as long."""
    answered = runs.c.status == "ok"
    these = (runs.c.status.in_(list(_KINDS)), sa.or_(~answered, _repeatable()), ONCE, *conditions(where))
    columns = (runs.c.status, sa.func.min(runs.c.id), *(sa.func.sum(part) for part in _parts(runs)))
    labelled = [column.label(f"c{number}") for number, column in enumerate(columns)]
    several = sa.or_(~answered, sa.func.count() > 1)
    same = sa.select(*labelled).where(*these).group_by(*_SAME, runs.c.status).having(several).subquery()
    status, first_id, *sums = same.c
    first = runs.alias()
    rest = [
        sa.func.sum(part - sa.case((status == "ok", own), else_=0))
        for part, own in zip(sums, _parts(first), strict=True)
    ]
    return sa.select(status, *rest).select_from(same.join(first, first.c.id == first_id)).group_by(status)


def _parts(of: Any) -> list[Any]:
    """What is added up of a run: itself, what is known of it, whether each of that is not, how sure its price is."""
    counts = (of.c.input_tokens, of.c.output_tokens)
    known = (*money_parts(of.c.cost_pico), *counts)
    unknown = (sa.case((it.is_(None), 1), else_=0) for it in (*counts, of.c.cost_pico))
    return [sa.literal_column("1"), *(sa.func.coalesce(part, 0) for part in known), *unknown, *uncertainty_terms(of)]


def _repeatable() -> Any:
    """Whether parameters make the answer the same each time, asked of their JSON text.

    A quote within a text is escaped there, so that these can only be keys. A seed that was not given is left out.
    """
    zero = [f'"temperature":{value}{end}' for value in ("0", "0.0", "-0.0") for end in ",}"]
    return sa.or_(*(runs.c.params.contains(text, autoescape=True) for text in ('"seed":', *zero)))


def _sum(row: Sequence[Any]) -> Sum:
    count, high, low, given, made, *rest = (int(value) for value in row)
    not_given, not_made, unpriced, *unsure = rest
    usd = money(high, low) if count > unpriced else None
    tokens = given if count > not_given else None, made if count > not_made else None
    return Sum(count, *tokens, usd, unpriced, uncertainty=uncertainty_of(unsure))
