"""Sums over many runs, computed where they are: only the sums leave the database. Functions over a connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from tokmagic.core.fields import utc_text, utc_time
from tokmagic.core.keys import OF_KEYS
from tokmagic.core.money import Uncertainty
from tokmagic.core.record import REMOTE, EnergySum, Group, Selection, Sum
from tokmagic.ledgers.schema import ENDED, ONCE, json_text, json_value, money, money_sum, runs, storable
from tokmagic.tokens.reconciliation import COMPARED, Compared

Grouped = list[tuple[tuple[Any, ...], Sum]]
"""Keys and their sums, in the order in which the groups first ran."""
Metered = list[tuple[tuple[Any, ...], EnergySum]]
"""The same of their energy; a group without any is left out."""

_LOOK_BACK = 20_000

_KEYS: dict[str, tuple[Any, ...]] = {
    "cell": (runs.c.notebook, runs.c.session, runs.c.cell_id),
    "run": (runs.c.run_id,),
    "model": (runs.c.model,),
    "notebook": (runs.c.notebook,),
    "tag": (runs.c.tags,),
    "user": (runs.c.user,),
    "status": (runs.c.status,),
    "key": (runs.c.key,),
    "team": (runs.c.team,),
}
_TTFT = sa.case((runs.c.status != "cached", runs.c.ttft_s))
# A server may tell the time between tokens of an answer that has none.
_TIMED = (runs.c.status != "cached", runs.c.itl_mean_s.is_not(None), runs.c.output_tokens > 0)
_STEPS = sa.case((sa.and_(*_TIMED), runs.c.output_tokens - 1))
UNPRICED = sa.case((sa.and_(runs.c.cost_pico.is_(None), runs.c.status != "refused"), 1), else_=0)
"""1 for a run that may have cost something and has no price."""
_UNPRICED_HIT = sa.case((sa.and_(runs.c.status == "cached", runs.c.saved_pico.is_(None)), 1), else_=0)


def uncertainty_terms(of: Any, *, saved: bool = False) -> list[Any]:
    """Whether a run's cost is estimated, and which bound it is, as columns to add up for an Uncertainty.

    With ``saved`` the same of what a replay saved, which is what its source and its bound tell of.
    """
    # What has no price is in no sum, and that a replay costs 0 is certain.
    costs = sa.and_(of.c.cost_pico.is_not(None), of.c.saved_pico.is_(None))
    which = of.c.saved_pico.is_not(None) if saved else costs
    # Which runs are meant is asked last: few figures are uncertain.
    found = (of.c.cost_source == "estimated", of.c.cost_bound == "at_least", of.c.cost_bound == "at_most")
    return [sa.case((sa.and_(it, which), 1), else_=0) for it in found]


def uncertainty_of(sums: Sequence[Any]) -> Uncertainty:
    """What the sums of :func:`uncertainty_terms` say."""
    return Uncertainty(*(int(count or 0) for count in sums))


_REFUSED = sa.case((runs.c.status == "refused", 1), else_=0)
_ADDED = (runs.c.input_tokens, runs.c.output_tokens, _TTFT, runs.c.itl_mean_s * _STEPS, _STEPS)
_MARKS = (UNPRICED, *uncertainty_terms(runs), _UNPRICED_HIT, *uncertainty_terms(runs, saved=True), _REFUSED)
_SUMS = (
    sa.func.count(),
    sa.func.count(_TTFT),
    *money_sum(runs.c.cost_pico),
    *money_sum(runs.c.saved_pico),
    *map(sa.func.sum, (*_ADDED, *_MARKS)),
)
_ENERGY_MARKS = (
    runs.c.energy_source == "estimated",
    *(runs.c.energy_bound == bound for bound in ("at_least", "at_most")),
)
_ENERGIES = (
    sa.func.count(),
    sa.func.sum(runs.c.energy_j),
    sa.func.sum(sa.case((runs.c.output_tokens > 0, runs.c.energy_j))),
    sa.func.sum(runs.c.output_tokens),
    *(sa.func.sum(sa.case((mark, 1), else_=0)) for mark in _ENERGY_MARKS),
)
_Added = TypeVar("_Added", Sum, EnergySum)


def add_up(connection: sa.Connection, *which: Any) -> Sum:
    """The sums over the runs that meet the conditions, without duplicates."""
    return _sum(connection.execute(sa.select(*_SUMS).where(ONCE, *which)).one())


def summarise(connection: sa.Connection, where: Selection, by: str) -> Grouped:
    """Add ended runs up by one of ``cell run model notebook tag user status day key team``.

    The keys are the columns as they are kept (``tag``: all tags of a run, as JSON); for ``day`` it is the local date.
    """
    found = [(key, _sum(row)) for key, row in _rows(connection, where, by, _SUMS, ENDED)]
    return _by_day(found, Sum()) if by == "day" else found


def parts(connection: sa.Connection, where: Selection) -> list[Group]:
    """Add ended runs up by tags, model and status, in the order in which they first ran."""
    keys = (runs.c.tags, runs.c.model, runs.c.status)
    more = (sa.func.avg(runs.c.latency_s), sa.func.min(runs.c.started_at))
    these = sa.select(*keys, *more, *_SUMS).where(ONCE, ENDED, *conditions(where))
    rows = connection.execute(these.group_by(*keys).order_by(sa.func.min(runs.c.id))).all()
    return [
        Group(tuple(json_value(tags)), model, status, _sum(sums), latency_s, utc_time(started))
        for tags, model, status, latency_s, started, *sums in rows
    ]


def energies(connection: sa.Connection, where: Selection, by: str) -> Metered:
    """Add the energy of runs up, by the same keys. Apart, since every run asks for sums, and few ledgers have any."""
    # Written out, not as a parameter: only so SQLite sees that the index of these runs alone answers.
    metered = sa.text("runs.energy_j IS NOT NULL")
    found = [(key, _energy_sum(row)) for key, row in _rows(connection, where, by, _ENERGIES, metered, ENDED)]
    return _by_day(found, EnergySum()) if by == "day" else found


def _rows(
    connection: sa.Connection, where: Selection, by: str, sums: Sequence[Any], *which: Any
) -> Iterator[tuple[tuple[Any, ...], Sequence[Any]]]:
    """The keys of groups, each with its sums."""
    keys = _time_keys(connection, where) if by == "day" else _KEYS[by]
    counted = runs.c.key.is_not(None) if by in OF_KEYS else ONCE
    these = sa.select(*keys, *sums).where(counted, *which, *conditions(where))
    width = len(keys)
    for row in connection.execute(these.group_by(*keys).order_by(sa.func.min(runs.c.id))).all():
        yield tuple(row[:width]), row[width:]


def endpoint_models(connection: sa.Connection) -> list[str]:
    """The ids of the models at endpoints that ran, in the order of their names."""
    query = sa.select(runs.c.model_id).where(runs.c.engine.in_(REMOTE)).distinct().order_by(runs.c.model_id)
    return list(connection.execute(query).scalars())


def compared(connection: sa.Connection, model_id: str) -> list[Compared]:
    """The newest runs of a model whose input a server reported and this machine counted.

    Not more than so many runs are looked through, since the newest decide, and every run at an endpoint asks.
    """
    newest = connection.execute(sa.select(sa.func.max(runs.c.id))).scalar() or 0
    query = (
        sa.select(runs.c.started_at, runs.c.local_input_tokens, runs.c.input_tokens)
        .where(
            runs.c.id > newest - _LOOK_BACK,
            runs.c.engine.in_(REMOTE),
            runs.c.model_id == storable(model_id),
            runs.c.input_source == "reported",
            runs.c.local_input_tokens.is_not(None),
        )
        .order_by(runs.c.id.desc())
        .limit(COMPARED)
    )
    return [Compared(utc_time(at), local, reported) for at, local, reported in connection.execute(query).all()]


def conditions(where: Selection, but: Sequence[str] = ()) -> list[Any]:
    """What selects runs, ``but`` those with these ids, as conditions of a query."""
    same = {
        runs.c.notebook: where.notebook,
        runs.c.session: where.session,
        runs.c.user: where.user,
        runs.c.model: where.model,
        runs.c.cell_id: where.cell_id,
        runs.c.status: where.status,
    }
    found: list[Any] = [column == storable(value) for column, value in same.items() if value is not None]
    if where.since is not None:
        found.append(runs.c.started_at >= utc_text(where.since))
    if where.until is not None:
        found.append(runs.c.started_at < utc_text(where.until))
    if where.once:
        found.append(ONCE)
    if but:
        found.append(runs.c.run_id.not_in(but))
    return found + [_has_tag(tag) for tag in where.tags]


def _has_tag(tag: str) -> Any:
    """Whether a run has the tag, asked of the JSON text so that it means the same in each database.

    LIKE would not do: in SQLite it takes upper for lower case. Nor would a database's own JSON: PostgreSQL's refuses
    what stands for an incomplete character.
    """
    # Backslashes and quotes within tags become what JSON never holds, so that each quote left begins or ends a tag.
    kept: Any = runs.c.tags
    wanted = json_text(tag)[1:-1]
    for escaped, instead in (("\\\\", "\1"), ('\\"', "\2")):
        kept, wanted = sa.func.replace(kept, escaped, instead), wanted.replace(escaped, instead)
    # ["a","b"] as ","a","b"]: so every tag follows the end of another one.
    listed = sa.literal('",') + sa.func.substr(kept, 2)
    return sa.func.replace(listed, f'","{wanted}"', "") != listed


def _sum(row: Sequence[Any]) -> Sum:
    count, ttft_runs, cost_high, cost_low, saved_high, saved_low, *rest = row
    ttft, itl, steps, unpriced, *marks = (it or 0 for it in rest[2:])
    nothing = 0 if count == marks[7] else None  # where all were refused none was used
    given, made = (nothing if it is None else int(it) for it in rest[:2])
    return Sum(
        runs=int(count),
        input_tokens=given,
        output_tokens=made,
        cost_usd=money(cost_high, cost_low),
        unpriced_runs=int(unpriced),
        saved_usd=money(saved_high, saved_low),
        ttft_total_s=float(ttft),
        ttft_runs=int(ttft_runs),
        itl_total_s=float(itl),
        itl_steps=int(steps),
        uncertainty=uncertainty_of(marks[:3]),
        unpriced_hits=int(marks[3]),
        saved_uncertainty=uncertainty_of(marks[4:7]),
        refused_runs=int(marks[7]),
    )


def _energy_sum(row: Sequence[Any]) -> EnergySum:
    count, joules, counted, output_tokens, *marks = row
    unsure = uncertainty_of(marks)
    return EnergySum(int(count), float(joules), float(counted or 0), int(output_tokens or 0), unsure)


def _time_keys(connection: sa.Connection, where: Selection) -> tuple[Any, ...]:
    """The hour of a run in UTC; its minute where local midnights do not fall on full hours."""
    ends = sa.select(sa.func.min(runs.c.started_at), sa.func.max(runs.c.started_at)).where(*conditions(where))
    first, last = (None if text is None else utc_time(text) for text in connection.execute(ends).one())
    # Asked day by day: an offset in between may be another one than at both ends.
    days = 0 if first is None or last is None else (last - first).days + 2
    instants = (first + timedelta(days=day) for day in range(days)) if first is not None else ()
    offsets = (instant.astimezone().utcoffset() or timedelta() for instant in instants)
    whole_hours = all(offset.total_seconds() % 3600 == 0 for offset in offsets)
    return (sa.func.substr(runs.c.started_at, 1, 13 if whole_hours else 16),)


def _by_day(found: list[tuple[tuple[Any, ...], _Added]], nothing: _Added) -> list[tuple[tuple[Any, ...], _Added]]:
    days: dict[str, _Added] = {}
    for (hour,), part in found:
        text = f"{hour}:00:00.000000Z" if len(hour) == 13 else f"{hour}:00.000000Z"
        day = f"{utc_time(text).astimezone():%Y-%m-%d}"
        days[day] = days.get(day, nothing) + part
    return [((day,), total) for day, total in sorted(days.items())]
