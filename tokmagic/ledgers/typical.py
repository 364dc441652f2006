"""What a model's latest runs took, for what the next one sets aside. Functions over a connection."""

from __future__ import annotations

from typing import Any, TypeVar

import sqlalchemy as sa

from tokmagic.core.record import EngineInfo
from tokmagic.ledgers.schema import json_value, runs, storable

_LOOK_BACK = 2000
_Figure = TypeVar("_Figure", int, float)


def token_time_s(connection: sa.Connection, info: EngineInfo) -> float | None:
    """The 95th percentile of the seconds a token took in this model's latest runs; None where none was measured."""
    same = (runs.c.model_id == storable(info.model_id), runs.c.device == info.device, runs.c.quant == info.quant)
    query = _latest(runs.c.itl_p95_s).where(*same, runs.c.itl_p95_s.is_not(None))
    return _p95(list(connection.execute(query).scalars()))


def output_tokens(connection: sa.Connection, info: EngineInfo) -> int | None:
    """The 95th percentile of an answer's tokens in this model's latest complete runs; None where there is none.

    Of a run with several answers, or requests, their mean. A run that was cut off does not tell how long its answer
    would be.
    """
    whole = (runs.c.model_id == storable(info.model_id), runs.c.status == "ok", runs.c.output_tokens > 0)
    found = connection.execute(_latest(runs.c.output_tokens, runs.c.params).where(*whole)).all()
    return _p95([-(-tokens // _answers(json_value(params))) for tokens, params in found])


def _answers(params: dict[str, Any]) -> int:
    return (params.get("n") or 1) * (params.get("requests") or 1)


def _latest(*columns: Any) -> sa.Select[Any]:
    """Columns of a hundred of the latest runs: the newest decide, and an admission does not look through all."""
    newest = sa.select(sa.func.max(runs.c.id)).scalar_subquery()
    return sa.select(*columns).where(runs.c.id > newest - _LOOK_BACK).order_by(runs.c.id.desc()).limit(100)


def _p95(values: list[_Figure]) -> _Figure | None:
    """The 95th percentile by nearest rank, which is one of the values; None for none."""
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)] if values else None
