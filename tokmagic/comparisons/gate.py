"""A gate on saved comparisons, for CI: it fails where a variant is worse than the baseline at a stated level.

With a margin it asks more: that a variant is shown not to be worse by more than that, which passes no comparison for
having too few items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from tokmagic.comparisons.saved import Apart, Saved
from tokmagic.errors import UsageError, nearest
from tokmagic.formatting import numbers

METRICS = {"score": "score", "cost": "usd", "tokens": "tokens", "latency": "latency_s"}
"""What can be asked for, and what saved figures call it."""
_TAIL = 0.025
"""How often the truth lies beyond one end of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Gate:
    """In which metrics a variant may not be worse, at which level of p.

    ``margins``: by so much at most, in the metric's unit, where one was given; there p is not asked.
    """

    metrics: tuple[str, ...] = ("score",)
    level: float = 0.05
    margins: Mapping[str, float] = field(default_factory=dict)


def gate(metrics: Sequence[str] | None, level: str | None, margins: Sequence[str] | None = None) -> Gate:
    """A gate as the command takes it: names of metrics, a level such as ``0.05``, margins such as ``cost=0.0001``.

    Raises UsageError.
    """
    given = dict(map(_margin, margins or ()))
    names = tuple(dict.fromkeys([*(metrics or (() if given else ("score",))), *given]))
    for name in names:
        _known(name, "--metric")
    try:
        value = 0.05 if level is None else float(level)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise UsageError(f"--level is {level!r}; give a number between 0 and 1, such as 0.05")
    if level is not None and set(names) <= given.keys():
        raise UsageError("--level is of p, which a --margin does not ask; leave one of them out")
    return Gate(names, value, given)


def _known(name: str, option: str) -> None:
    if name not in METRICS:
        raise UsageError(f"{option} is {name!r}{nearest(name, METRICS)}; known: {', '.join(METRICS)}")


def _margin(given: str) -> tuple[str, float]:
    name, _, size = given.rpartition("=")
    name = name.strip() or "score"
    _known(name, "--margin")
    try:
        value = float(size)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"--margin is {given!r}; give a number above 0, such as 0.02 or cost=0.0001")
    return name, value


def problems(found: Saved, wanted: Gate) -> Iterator[str]:
    """Why a comparison does not pass, a line each."""
    if not found.complete:
        yield "runs are missing, so the comparison is incomplete; run it again to go on"
    for name in wanted.metrics:
        asked = [it for it in found.differences if it.metric == METRICS[name]]
        if not asked:
            yield f"the comparison has no {name}; give another --metric"
        if name == "score":
            yield from (_unscored(*it) for it in found.unscored.items())
        margin = wanted.margins.get(name)
        if margin is not None and name == "score" and found.passes and margin >= 1:
            yield f"a margin of {margin:g} is more than all of a pass rate; 0.02 stands for 2 points"
            continue
        for it in asked:
            told = _seen_worse(it, name, found, wanted.level) if margin is None else _beyond(it, name, found, margin)
            if told is not None:
                yield told


def _unscored(variant: str, count: int) -> str:
    answers = numbers.counted(count, "answer")
    return f"{answers} of {variant} {'has' if count == 1 else 'have'} no score, so whether it is worse cannot be told"


def _seen_worse(it: Apart, name: str, found: Saved, level: float) -> str | None:
    """What is wrong where a variant is seen to be worse."""
    if it.p is None or it.difference is None:
        return f"{it.variant} has too few items to tell whether its {name} is worse; compare on more"
    if it.p >= level or not _worse(it, name):
        return None
    return (
        f"{it.variant} is worse than {found.baseline} in {name}: {_told(it.difference, name, found)} "
        f"(p {'<' if it.p < 0.0001 else '='} {max(it.p, 0.0001):.4f}, level {level:g})"
    )


def _beyond(it: Apart, name: str, found: Saved, margin: float) -> str | None:
    """What is wrong where a variant is not shown to be worse by less than the margin."""
    end = _worst(it, name, passes=name == "score" and found.passes)
    allowed = -margin if name == "score" else margin
    if end is None:
        return f"{it.variant} has too few items to tell whether its {name} keeps the margin; compare on more"
    if end > allowed if name == "score" else end < allowed:
        return None
    measured = "" if it.difference is None else f"{_told(it.difference, name, found)} was measured, and "
    return (
        f"{it.variant} may be worse than {found.baseline} in {name} by more than the margin: {measured}the 95 % "
        f"interval reaches {_told(end, name, found)} (margin {_told(allowed, name, found)})"
    )


def _worst(it: Apart, name: str, *, passes: bool) -> float | None:
    """The end of the 95 % interval on the side that is worse; None where nothing can be told."""
    end = it.low if name == "score" else it.high
    if end is not None or it.difference is None or not it.items:
        return end
    # Every item differs by the same, so there is no spread. By the sign test it is certain enough that the others are
    # on the same side of the margin. Pass or fail has an interval all the same.
    return it.difference if 0.5**it.items < _TAIL and not passes else None


def _worse(it: Apart, name: str) -> bool:
    apart = it.difference or 0.0
    return apart < 0 if name == "score" else apart > 0


def _told(apart: float, name: str, found: Saved) -> str:
    size = abs(apart)
    if name == "cost":
        text = numbers.usd(Decimal(repr(size)))
    elif name == "score":
        text = f"{numbers.fixed(100 * size, 1)} points" if found.passes else f"{size:.3g}"
    else:
        text = f"{size:,.1f} tokens" if name == "tokens" else f"{size:.3g} s"
    return f"{'−' if apart < 0 else '+'}{text}"
