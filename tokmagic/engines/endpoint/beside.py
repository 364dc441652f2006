"""What servers tell beside an answer and its counts: at which service tier, for how much, how fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from tokmagic.core.metered import Metered
from tokmagic.core.stream import ServerTimes
from tokmagic.engines.endpoint.dialects import COST, COST_HEADERS, SECONDS, TICKS_PER_USD, TIERS, TIMES
from tokmagic.engines.endpoint.metered import read_metered

# No answer costs that much, and it still fits everywhere.
_HIGHEST_COST = Decimal(1_000_000)
_LONGEST_S = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What one object tells, or all of a run; None is not told. ``reported_usd``: the server's own cost, in USD."""

    service_tier: str | None = None
    reported_usd: Decimal | None = None
    times: ServerTimes | None = None
    metered: Metered | None = None

    def __or__(self, later: Beside) -> Beside:
        """With what is told later in the place of what was told before."""
        both = {it.name: (getattr(self, it.name), getattr(later, it.name)) for it in fields(self)}
        return Beside(**{name: new if new is not None else old for name, (old, new) in both.items()})


NOTHING = Beside()


def read_beside(given: Mapping[str, Any], usages: Iterable[object]) -> Beside:
    """Read what an object tells beside its answer; ``usages`` are those in it."""
    places = (given, *(usage for usage in usages if isinstance(usage, Mapping)))
    timed = (*(given[name] for name in TIMES if isinstance(given.get(name), Mapping)), *places[1:])
    times = next(filter(None, map(_times, timed)), None)
    tier, cost = next(_tiers(places), None), next(_costs(places[1:]), None)
    metered = next(filter(None, map(read_metered, places[1:])), None)
    return Beside(service_tier=tier, reported_usd=cost, times=times, metered=metered)


def read_headers(headers: Mapping[str, str]) -> Beside:
    """Read what the headers of a whole answer tell: a stream's are sent before its cost is known."""
    costs = (_amount(_number(headers.get(name))) for name in COST_HEADERS)
    return Beside(reported_usd=next((cost for cost in costs if cost is not None), None))


def _tiers(places: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Service tiers, such as ``priority``; the first one says most."""
    words = [str(place[name]) for name in TIERS for place in places if isinstance(place.get(name), str)]
    # Names that say "standard" stand beside those that say how it was answered.
    yield from (word for word in words if word and len(word) <= 40 and word.lower() != "standard")
    yield from (word for word in words if word.lower() == "standard")


def _costs(places: Iterable[Mapping[str, Any]]) -> Iterator[Decimal]:
    for place in places:
        for name in COST:
            value = place.get(name)
            if isinstance(value, Mapping):
                value = value.get("total_cost")
            cost = _amount(value)
            if cost is None:
                continue
            if name == "cost_in_usd_ticks":
                cost /= TICKS_PER_USD
            if place.get("is_byok") is True:
                # What the provider bills for one's own key is not in it.
                details = place.get("cost_details")
                cost += _amount(details.get("upstream_inference_cost")) or 0 if isinstance(details, Mapping) else 0
            yield cost


def _times(place: Mapping[str, Any]) -> ServerTimes | None:
    """A server's own times; the first token comes when the prompt has waited and was read."""
    queue_s, first_s, prefill_s, itl_s = (_seconds(place, what) for what in ("queue", "first token", "prefill", "ITL"))
    if prefill_s is None and first_s is not None and queue_s is not None and first_s >= queue_s:
        prefill_s = first_s - queue_s
    found = ServerTimes(queue_s=queue_s, prefill_s=prefill_s, itl_mean_s=itl_s)
    return None if found == ServerTimes() else found


def _seconds(place: Mapping[str, Any], what: str) -> float | None:
    for name, unit_s in SECONDS[what]:
        value = place.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if 0 <= value * unit_s <= _LONGEST_S:
            return value * unit_s
    return None


def _number(text: str | None) -> float | None:
    with suppress(ValueError):
        return float(text) if text is not None else None
    return None


def _amount(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _HIGHEST_COST:
        return None
    return Decimal(str(value))
