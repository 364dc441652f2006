"""The verdict's words agree with its intervals, whichever way tests and intervals part."""

from __future__ import annotations

import numpy as np
import pytest

from tokmagic.comparisons.differences import Difference, difference, holm
from tokmagic.comparisons.figures import ArmFigures, Level
from tokmagic.comparisons.intervals import Interval
from tokmagic.comparisons.savings import Ablation, Part
from tokmagic.comparisons.verdicts import verdict
from tokmagic.comparisons.words import sentence

NONE = Interval(None, None, "none")


def made(
    low: float | None, high: float | None, p: float | None, p_holm: float | None = None, **more: object
) -> Difference:
    """A difference of 40 items whose mean lies in the middle of its interval."""
    ends = NONE if low is None or high is None else Interval(low, high, "BCa")
    mean = more.pop("mean", 0.0 if low is None or high is None else (low + high) / 2)
    found = Difference(40, 40, mean, ends, "McNemar, exact", p, p if p_holm is None else p_holm)  # type: ignore[arg-type]
    assert not more
    return found


ABOVE, BELOW, AROUND = (0.02, 0.18), (-0.18, -0.02), (-0.05, 0.09)
CASES = [
    # The interval and the p value agree.
    (made(*ABOVE, 0.01), 0, "The rate is 0.10 higher (+0.02 to +0.18; p = 0.010, 40 items)."),
    (made(*BELOW, 0.01), 0, "The rate is 0.10 lower (−0.18 to −0.02; p = 0.010, 40 items)."),
    (
        made(*AROUND, 0.4),
        0,
        "No difference in the rate was seen over 40 items: it may be anything from −0.05 to +0.09.",
    ),
    # A test that is stricter than the interval.
    (
        made(*ABOVE, 0.0625),
        1,
        (
            "The rate may be higher, which is not certain: its own 95 % interval over 40 items is +0.02 to +0.18, but "
            "the test is stricter (McNemar, exact: p = 0.062)."
        ),
    ),
    # A correction over several variants.
    (
        made(*BELOW, 0.02, 0.06),
        -1,
        (
            "The rate may be lower, which is not certain: its own 95 % interval over 40 items is −0.18 to −0.02 "
            "(p = 0.020), but among several variants one may look so by chance (p = 0.060 by Holm)."
        ),
    ),
    # A test that still sees what the interval does not.
    (
        made(-0.001, 0.201, 0.049),
        0,
        "The rate is 0.10 higher (−0.00 to +0.20; p = 0.049, 40 items), but only just: the interval reaches 0.",
    ),
    # No interval, as every item differs by the same.
    (made(None, None, 0.001, mean=0.3), 0, "The rate is 0.30 higher (the same for each item; p = 0.001, 40 items)."),
    (made(None, None, 1.0, mean=0.0), 0, "No difference in the rate was seen: it is the same for each of 40 items."),
    (made(None, None, None, mean=0.3), 0, "The rate: 40 items cannot show a difference; compare on more."),
    (made(None, None, None, mean=None), 0, "The rate: nothing to compare, no item has a run of both."),
]


@pytest.mark.parametrize(("found", "leaning", "says"), CASES)
def test_words_and_interval_agree(found: Difference, leaning: int, says: str) -> None:
    assert found.leaning == leaning
    assert sentence(found, "the rate", lambda value: f"{value:.2f}", brief=True) == says


def test_real_cases_part_as_in_the_table() -> None:
    """Five of 40 better and none worse: McNemar's p is 2⁻⁴, and the bootstrap's interval leaves out 0."""
    base, better = np.zeros((40, 1)), np.zeros((40, 1))
    better[:5] = 1
    found = difference(base, better, passes=True)
    assert found.p_value == pytest.approx(0.0625)
    assert found.leaning == 1
    # Alone it is seen; among three it no longer is.
    rng = np.random.default_rng(0)
    one = rng.normal(0.4, 1.0, (40, 1))
    alone = difference(np.zeros((40, 1)), one)
    assert alone.seen
    assert alone.leaning == 0
    among = holm([alone, *[difference(np.zeros((40, 1)), rng.normal(0, 1, (40, 1))) for _ in range(9)]])[0]
    assert not among.seen
    assert among.leaning == 1


def arm(score: Difference, cost: Difference) -> ArmFigures:
    level = Level(40, 40, 0.5, NONE)
    return ArmFigures("new", {"score": level, "usd": level}, {"score": score, "usd": cost})


@pytest.mark.parametrize(
    ("score", "cost", "says"),
    [
        (
            made(*BELOW, 0.0625),
            made(*BELOW, 0.01),
            "new costs less, but its pass rate may be lower: compare on more items",
        ),
        (
            made(*ABOVE, 0.0625),
            made(*ABOVE, 0.01),
            "new costs more, and its pass rate may be higher: compare on more items",
        ),
        (made(*ABOVE, 0.0625), made(*BELOW, 0.01), "new costs less and no loss was seen"),
        (made(*BELOW, 0.0625), made(*ABOVE, 0.01), "new costs more and no gain was seen: keep old"),
        (made(*BELOW, 0.0625), made(*AROUND, 0.5), "These items do not settle which to prefer: compare on more."),
        (made(*AROUND, 0.5), made(*BELOW, 0.06), "These items do not settle which to prefer: compare on more."),
        (made(*AROUND, 0.5), made(*AROUND, 0.5), "These items give no reason to prefer either."),
        (made(*ABOVE, 0.01), made(*ABOVE, 0.06), "new is better, and may cost more, which is not certain."),
        (made(*BELOW, 0.01), made(*BELOW, 0.06), "new is worse, and may cost less, which is not certain: keep old."),
    ],
)
def test_what_follows_agrees_too(score: Difference, cost: Difference, says: str) -> None:
    told = verdict([ArmFigures("old", {"score": Level(40, 40, 0.5, NONE)}, {}), arm(score, cost)], passes=True)
    assert says in told


def test_a_part_that_may_matter_is_not_called_without_loss() -> None:
    part = Part("“Be kind.”", 0, 1)
    says = [Ablation(part, arm(it, made(*AROUND, 0.5))).says for it in (made(*BELOW, 0.06), made(*AROUND, 0.5))]
    assert says == ["worse without, not certain", "no loss seen"]
