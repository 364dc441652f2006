"""What a model's latest runs took, for what the next one sets aside. Functions over a connection."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from tokmagic.core.record import EngineInfo
from tokmagic.ledgers.schema import json_value, runs, storable

_LOOK_BACK = 2000


def token_time_s(connection: sa.Connection, info: EngineInfo) -> float | None:
    """The 95th percentile of the seconds a token took in this model's latest runs; None where none was measured."""
    same = (runs.c.model_id == storable(info.model_id), runs.c.device == info.device, runs.c.quant == info.quant)
    query = _latest(runs.c.itl_p95_s).where(*same, runs.c.itl_p95_s.is_not(None))
    return _p95(list(connection.execute(query).scalars()))


def output_tokens(connection: sa.Connection, info: EngineInfo) -> int | None:
    """The 95th percentile of an answer's tokens in this model's latest complete runs; None where there is none.

    Of a run with several answers, or requests, their mean. A run that was cut off does not tell how long its answer
    would be; one that reached its limit tells that it would be longer, so that there is none where more than one in
    twenty did.
    """
    whole = (runs.c.model_id == storable(info.model_id), runs.c.status == "ok", runs.c.output_tokens > 0)
    query = _latest(runs.c.output_tokens, runs.c.params, runs.c.finish_reason).where(*whole)
    lengths = [_length(tokens, json_value(params), reason) for tokens, params, reason in connection.execute(query)]
    found = _p95(lengths)
    return None if found is None or found == math.inf else int(found)


def _length(tokens: int, params: dict[str, Any], finish_reason: str | None) -> float:
    """How long a run's answers are in the mean, in tokens; infinite where it was their limit that ended them."""
    each = -(-tokens // ((params.get("n") or 1) * (params.get("requests") or 1)))
    # A row of many requests does not say why they ended.
    cut = finish_reason == "length" or (finish_reason is None and each >= (params.get("max_tokens") or math.inf))
    return math.inf if cut else each


def _latest(*columns: Any) -> sa.Select[Any]:
    """Columns of a hundred of the latest runs: the newest decide, and an admission does not look through all."""
    newest = sa.select(sa.func.max(runs.c.id)).scalar_subquery()
    return sa.select(*columns).where(runs.c.id > newest - _LOOK_BACK).order_by(runs.c.id.desc()).limit(100)


def _p95(values: list[float]) -> float | None:
    """The 95th percentile by nearest rank, which is one of the values; None for none."""
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)] if values else None
