"""What a comparison says in plain words."""

from __future__ import annotations

from collections.abc import Callable

from tokmagic.comparisons.differences import ALPHA, Difference
from tokmagic.formatting import numbers

Show = Callable[[float], str]
"""Writes a figure with its unit; it gets what has no sign."""
NOTHING = "nothing to compare, no item has a run of both"


def sentence(found: Difference, what: str, show: Show, *, brief: bool = False) -> str:
    """One sentence on one difference, with its interval; where none is seen it says what may still be there.

    ``brief`` leaves out which differences such a comparison shows.
    """
    if found.mean is None:
        return f"{_first(what)}: {NOTHING}."
    items = numbers.counted(found.items, "item")
    if found.seen:
        by = f"{show(abs(found.mean))} {'higher' if found.mean > 0 else 'lower'}"
        told = f"{_first(what)} is {by} ({_range(found, show)}; p {p_value(found.p_holm)}, {items})"
        # The test and the interval are two methods, which may part close to the limit.
        return f"{told}, but only just: the interval reaches 0." if found.interval.has(0.0) else f"{told}."
    if found.p_value is None:
        return f"{_first(what)}: {items} cannot show a difference; compare on more."
    if not found.interval.known:
        if found.mean == 0:
            return f"No difference in {what} was seen: it is the same for each of {items}."
        by = signed(found.mean, show)
        return f"{_first(what)} differs by {by} for each of {items}, which are too few to be sure of it for others."
    if found.leaning:
        which = "higher" if found.leaning > 0 else "lower"
        told = f"{_first(what)} may be {which}, which is not certain: {_but(found, show)}"
    else:
        told = f"No difference in {what} was seen over {items}: it may be anything from {_range(found, show)}"
    if not brief:
        if found.smallest is not None:
            told += f", and one of {show(found.smallest)} would have shown in four comparisons of five"
        if found.needed is not None and found.needed > found.items:
            told += f"; to see the {signed(found.mean, show)} that was measured takes about {found.needed:,} items"
    return f"{told}."


def _but(found: Difference, show: Show) -> str:
    """Why a difference is not called seen though its interval leaves out 0."""
    alone = f"its own 95 % interval over {numbers.counted(found.items, 'item')} is {_range(found, show)}"
    if found.p_value is not None and found.p_value < ALPHA:
        return (
            f"{alone} (p {p_value(found.p_value)}), but among several variants one may look so by chance "
            f"(p {p_value(found.p_holm)} by Holm)"
        )
    return f"{alone}, but the test is stricter ({found.test}: p {p_value(found.p_holm)})"


def signed(value: float, show: Show) -> str:
    """A difference with its sign: ``+0.12``, ``−$0.0010``, ``0``."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{show(abs(value))}"


def p_value(value: float | None) -> str:
    """A p value as papers print it: ``= 0.034``, ``< 0.001``."""
    if value is None:
        return numbers.UNKNOWN
    return "< 0.001" if value < 0.001 else f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"


def _range(found: Difference, show: Show) -> str:
    low, high = found.interval.low, found.interval.high
    if low is None or high is None:
        return "the same for each item"
    return f"{signed(low, show)} to {signed(high, show)}"


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]
