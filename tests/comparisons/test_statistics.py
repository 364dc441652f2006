"""Intervals and tests: worked and published examples, and what they say of planted truth."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as table_test
from statsmodels.stats.multitest import multipletests

from tests.comparisons.planted import Floats, Planted, plant
from tokmagic.comparisons import differences, intervals
from tokmagic.comparisons.differences import Difference, difference, holm, items_needed, mcnemar, price_of_a_pass
from tokmagic.comparisons.intervals import item_means, of_mean, of_rate, of_rates_apart, of_ratio
from tokmagic.comparisons.words import sentence

SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
"""Hours more that ten patients slept with one drug than with the other: Student, Biometrika 6 (1908), page 20."""
METRICS = ("usd", "tokens", "latency_s", "score", "passes")


def column(*values: float) -> Floats:
    """Items with one run each."""
    return np.array(values)[:, None]


def discordant(better: int, worse: int, ties: int) -> Floats:
    """Items' differences in passes."""
    return np.array([1.0] * better + [-1.0] * worse + [0.0] * ties)


# Worked examples


@pytest.mark.parametrize(
    ("passed", "items", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_pass_rates_have_the_published_intervals(passed: int, items: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, Table I, method 3: the four examples."""
    found = of_rate(column(*([1.0] * passed + [0.0] * (items - passed))))
    assert found.method == "Wilson"
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (low, high)


def test_a_paired_comparison_has_students_p_value() -> None:
    """t = 4.0621 with 9 degrees of freedom, p = 0.002833: what R prints of the same data."""
    found = difference(np.zeros((10, 1)), SLEEP[:, None])
    assert (found.items, found.pairs, found.test) == (10, 10, "paired t")
    assert found.mean == pytest.approx(1.58)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert found.p_value == stats.ttest_rel(SLEEP, np.zeros(10)).pvalue


def test_the_bootstrap_is_scipys_at_the_expanded_level() -> None:
    found = of_mean(SLEEP, seed=3)
    level = intervals.expanded_level(10)
    theirs = stats.bootstrap(
        (SLEEP,), np.mean, confidence_level=level, n_resamples=intervals.RESAMPLES, rng=np.random.default_rng(3)
    ).confidence_interval
    assert (found.low, found.high, found.method) == (pytest.approx(theirs.low), pytest.approx(theirs.high), "BCa")
    # A tail of Φ(-√(10/9) t) on either side, t = 2.2622 from any table.
    assert level == pytest.approx(1 - 2 * stats.norm.cdf(-2.2622 * math.sqrt(10 / 9)), abs=1e-5)


@pytest.mark.parametrize(
    ("better", "worse", "ties", "low", "high"),
    [
        # M. W. Fagerland, S. Lydersen and P. Laake, Statistics in Medicine 33 (2014), 2850-2875: children with asthma.
        (1, 7, 13, -0.517, -0.026),
        # Where no item differs the test is (n·d)² = z²·n·d·(1 − d), so d = z² / (n + z²).
        (0, 0, 20, -0.1611, 0.1611),
        (0, 0, 150, -0.02497, 0.02497),
        (0, 3, 0, -1.0, 0.1230),
    ],
)
def test_pass_rates_differ_by_tangos_interval(better: int, worse: int, ties: int, low: float, high: float) -> None:
    runs = discordant(better, worse, ties)[:, None]
    for repeats in (1, 4):
        found = of_rates_apart(np.repeat(runs, repeats, axis=1))
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))
        assert found.method == "Tango"
    assert not of_rates_apart(np.full((2, 1), math.nan)).known


def test_mcnemar_is_statsmodels_and_the_binomial_test() -> None:
    """A. Agresti, Categorical Data Analysis, Table 10.1: 150 and 86 of 1,600 changed their minds."""
    found, name = mcnemar(discordant(86, 150, 1364))
    assert name == "McNemar, exact"
    assert found == table_test([[794, 150], [86, 570]], exact=True).pvalue
    assert found == pytest.approx(stats.binomtest(86, 236).pvalue)


def test_holm_is_statsmodels() -> None:
    values = [0.01, 0.04, 0.03, 0.005]
    none = intervals.Interval(None, None, "none")
    found = holm([Difference(9, 9, 0.1, none, "t", value) for value in values])
    assert [it.p_holm for it in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [it.p_holm for it in found] == multipletests(values, method="holm")[1].tolist()
    assert [it.seen for it in found] == [True, False, False, True]
    assert holm([Difference(0, 0, None, none)])[0].p_holm is None


def test_how_many_items_it_takes_is_as_published() -> None:
    """J. Cohen, Statistical Power Analysis (1988): half a standard deviation, power 0.8, takes 34 pairs."""
    spread = float(SLEEP.std(ddof=1))
    assert items_needed(SLEEP, 0.5 * spread) == 34
    assert items_needed(SLEEP, -0.5 * spread) == 34
    assert items_needed(np.ones(5), 0.1) is None
    assert items_needed(SLEEP, 0.0) is None
    assert (items_needed(SLEEP, 1e-9) or 0) > 1e8
    assert (items_needed(SLEEP, 1e9) or 0) <= 5
    smallest = differences.smallest_difference(SLEEP)
    assert smallest is not None
    assert items_needed(SLEEP, smallest) == 10


def seen(items: int, better: float, worse: float) -> float:
    """How often McNemar's test is below 5 % where such shares of so many items are better and worse."""
    found = 0.0
    for apart in range(items + 1):
        likely = stats.binom.pmf(apart, items, better + worse)
        if likely > 1e-9:
            each = stats.binom.pmf(range(apart + 1), apart, better / (better + worse))
            found += likely * sum(it for up, it in enumerate(each) if exact_counts(up, apart - up) < 0.05)
    return found


def exact_counts(better: int, worse: int) -> float:
    return min(1.0, 2 * float(stats.binom.cdf(min(better, worse), better + worse, 0.5)))


@pytest.mark.parametrize(
    ("items", "better", "worse"), [(6, 1, 0), (10, 1, 1), (20, 1, 0), (20, 6, 4), (50, 5, 3), (60, 30, 20)]
)
def test_a_difference_in_passes_that_would_have_shown_is_that_of_the_test_that_is_asked(
    items: int, better: int, worse: int
) -> None:
    """A t test sees much less of 20 items of which one differs; McNemar's is never sure of fewer than six."""
    assert exact_counts(better, worse) == pytest.approx(mcnemar(discordant(better, worse, 0))[0])
    for repeats in (1, 3):
        runs = np.repeat(discordant(better, worse, items - better - worse)[:, None], repeats, axis=1)
        found = difference(np.zeros_like(runs), runs, passes=True)
        share, size = (better + worse) / items, found.smallest or 0
        differ = max(share, size)
        assert seen(items, (differ + size) / 2, (differ - size) / 2) == pytest.approx(0.8, abs=1e-3)
        apart, needed = (better - worse) / items, found.needed or 0
        if needed < 100 and apart:
            more, fewer = (share + apart) / 2, (share - apart) / 2
            assert seen(needed - 1, more, fewer) < 0.8 <= seen(needed, more, fewer)
    for few in (0, 3, 5):
        assert difference(np.zeros((few, 1)), np.ones((few, 1)), passes=True).smallest is None


def fieller(over: Floats, under: Floats) -> tuple[float, float]:
    """E. C. Fieller, JRSS B 16 (1954): where the mean of over - x · under is not apart from 0 by a t test."""
    t = stats.t.ppf(0.975, over.size - 1)
    (vo, cov), (_, vu) = np.cov(over, under) / over.size
    a, b, c = under.mean() ** 2 - t**2 * vu, over.mean() * under.mean() - t**2 * cov, over.mean() ** 2 - t**2 * vo
    root = math.sqrt(b * b - a * c)
    return (b - root) / a, (b + root) / a


def test_dollars_for_each_pass_agree_with_fieller() -> None:
    it = plant(5, 1, 400)
    costs, passes = it.usd[0], it.passes[0]
    found = price_of_a_pass(costs, passes, seed=1)
    low, high = fieller(costs[:, 0], passes[:, 0])
    assert found.usd == pytest.approx(costs.mean() / passes.mean())
    assert found.interval.low == pytest.approx(low, rel=0.1)
    assert found.interval.high == pytest.approx(high, rel=0.1)


# Where there is little to tell


def test_a_pass_that_may_not_be_there_has_no_price() -> None:
    costs = np.linspace(0.01, 0.02, 40)
    for passes in (discordant(6, 5, 29), np.zeros(40), np.zeros(1)):
        found = price_of_a_pass(costs[: passes.size, None], passes[:, None])
        assert found.usd is None
        assert not found.interval.known
        assert "may be equal" in found.note


def test_what_is_the_same_for_every_item_has_no_interval() -> None:
    for value, p_value in ((0.0, 1.0), (0.002, 2 * 0.5**20)):
        found = difference(np.zeros((20, 1)), np.full((20, 1), value))
        assert (found.mean, found.test, found.smallest) == (pytest.approx(value), "sign", None)
        assert found.p_value == pytest.approx(p_value)
        assert not found.interval.known
        assert "the same for every item" in found.interval.note


def test_one_item_and_none_tell_nothing() -> None:
    one = difference(column(1.0), column(3.0))
    assert (one.items, one.mean, one.p_value, one.interval.known) == (1, 2.0, None, False)
    none = difference(column(1.0, math.nan), column(math.nan, 2.0))
    assert (none.items, none.pairs, none.mean, none.seen) == (0, 0, None, False)
    assert not of_rate(column(math.nan)).known
    assert not of_ratio(np.ones(1), np.ones(1)).known


def test_a_degenerate_bca_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = intervals.bootstrap

    def without_bca(*given: Any, method: str = "BCa", **more: Any) -> Any:
        return (np.nan, np.nan) if method in refused else real(*given, method=method, **more)

    refused = ["BCa"]
    monkeypatch.setattr(intervals, "bootstrap", without_bca)
    found = of_mean(SLEEP)
    assert (found.method, found.known) == ("percentile", True)
    assert "BCa is degenerate" in found.note
    refused.append("percentile")
    assert not of_mean(SLEEP).known


def test_many_items_have_students_interval() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.5, intervals.BCA_ITEMS + 1)
    found = of_mean(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high, found.method) == (pytest.approx(theirs.low), pytest.approx(theirs.high), "t")
    assert of_ratio(values, values[::-1] + 1).method == "percentile"


# Repeats


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_items_have_students_interval_which_covers_95_percent(count: int) -> None:
    """A bootstrap, which cannot leave the range of its items, covers three of four times with three of them."""
    drawn = np.random.default_rng(count).normal(1.0, 1.0, (2_000, count))
    found = [of_mean(items) for items in drawn]
    assert {(it.method, it.note) for it in found} == {("t", "Student's t, as there are fewer than 8 items")}
    assert 0.93 <= np.mean([it.has(1.0) for it in found]) <= 0.97
    expected = stats.t.interval(0.95, count - 1, drawn[0].mean(), stats.sem(drawn[0]))
    assert (found[0].low, found[0].high) == pytest.approx(expected)
    assert not of_ratio(drawn[0], drawn[1]).known
    assert of_mean(np.random.default_rng(1).normal(1.0, 1.0, 8)).method == "BCa"


def test_an_interval_holds_only_what_is_possible() -> None:
    few = difference(column(1, 1, 1), column(1, 0, 0), passes=True).interval
    assert (round(few.low or 0, 3), few.method) == (-0.939, "Tango")
    assert difference(column(1, 1), column(0, 0), passes=True).interval.low == -1.0
    cost = of_mean(np.array([0.0, 0.0, 0.3]), least=0.0)
    assert (cost.low, cost.method) == (0.0, "t")
    assert (of_mean(np.array([0.0, 0.0, 0.3])).low or 0) < 0


@pytest.mark.parametrize(("items", "low"), [(20, 0.0), (50, 0.0), (20, 7.0)])
@pytest.mark.parametrize("size", [1.0, 0.5, -3e-6])
def test_a_few_items_on_one_side_do_not_bound_the_mean_there(items: int, low: float, size: float) -> None:
    """A bootstrap of three that differ has them in nearly every sample, and so ends where no other item is below."""
    values = low + size * np.array([1.0, 1.0, 1.0] + [0.0] * (items - 3))
    found, students = of_mean(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.method == "BCa, t"
    slack = 1e-12 * abs(low + size)
    assert (found.low or 0) <= students.low + slack
    assert (found.high or 0) >= students.high - slack
    assert f"all but 3 of {items} items are the same" in found.note
    many = low + size * np.array([1.0] * 8 + [0.0] * items)
    assert of_mean(many).method == "BCa"


def test_independent_repeats_narrow_a_difference_of_pass_rates_as_runs_do() -> None:
    rng = np.random.default_rng(4)
    runs = (rng.random((2_000, 5)) < 0.7).astype(float) - (rng.random((2_000, 5)) < 0.6)
    widths = [(of_rates_apart(it).high or 0) - (of_rates_apart(it).low or 0) for it in (runs, runs.reshape(-1, 1))]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)
    balanced = np.tile([1.0, -1.0], (50, 1))
    assert of_rates_apart(balanced).low == pytest.approx(of_rates_apart(balanced.reshape(-1, 1)).low, abs=0.01)


def test_identical_repeats_change_nothing() -> None:
    it = plant(11, 1, 60)
    for name in METRICS:
        once = it.of(name)[0]
        apart = [
            difference(np.zeros_like(runs), runs, passes=name == "passes", seed=2)
            for runs in (once, np.repeat(once, 5, axis=1))
        ]
        assert (apart[0].pairs, apart[1].pairs) == (60, 300)
        assert apart[0].mean == pytest.approx(apart[1].mean)
        assert apart[0].p_value == pytest.approx(apart[1].p_value)
        assert apart[0].interval.low == pytest.approx(apart[1].interval.low)
        assert apart[0].interval.high == pytest.approx(apart[1].interval.high)
    once = it.variant_passed[0]
    assert of_rate(np.repeat(once, 5, axis=1)).low == pytest.approx(of_rate(once).low)


def test_independent_repeats_narrow_a_pass_rate_as_runs_do() -> None:
    runs = (np.random.default_rng(4).random((4_000, 5)) < 0.7).astype(float)
    widths = [(of_rate(it).high or 0) - (of_rate(it).low or 0) for it in (runs, runs.reshape(-1, 1))]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)
    # Each item passed in half of its runs: no spread between items, and as many runs as there are.
    alike = of_rate(np.tile([1.0, 0.0], (50, 1))).low
    assert alike == pytest.approx(of_rate(column(*[1.0, 0.0] * 50)).low, abs=0.005)
    # One item, however often it is asked, is one.
    assert (of_rate(np.array([[1.0, 0.0] * 50])).low or 0) < 0.1


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize("alike", [2, 8, 1000])
def test_repeats_of_few_items_do_not_make_a_pass_rate_sure(count: int, alike: float) -> None:
    """Items that differ in how often they pass, or do not: a few of them may look alike by chance."""
    rng, covers = np.random.default_rng(2), []
    for _ in range(200):
        one, other = (
            (rng.random((count, 10)) < rng.beta(alike * rate, alike * (1 - rate), (count, 1))) * 1.0
            for rate in (0.7, 0.6)
        )
        covers.append((of_rate(one).has(0.7), of_rates_apart(one - other).has(0.1)))
    assert all(share >= 0.9 for share in np.mean(covers, axis=0)), np.mean(covers, axis=0)


def test_a_missing_run_leaves_its_pair_out_and_no_other() -> None:
    baseline = np.array([[1.0, 2.0], [3.0, math.nan], [5.0, 6.0]])
    variant = np.array([[2.0, math.nan], [math.nan, 4.0], [6.0, 9.0]])
    items, pairs = differences.pair(baseline, variant)
    assert (items.tolist(), pairs) == ([1.0, 2.0], 3)


# Planted truth


def bootstrapped(*data: Floats, statistic: Any = intervals.mean) -> tuple[Floats, Floats]:
    """Intervals of many comparisons; a hundred at a time share what they draw."""
    found = [
        intervals.bootstrap(tuple(it[at : at + 100] for it in data), statistic, at, resamples=1_999)
        for at in range(0, len(data[0]), 100)
    ]
    low, high = zip(*found, strict=True)
    return np.concatenate(low), np.concatenate(high)


def covered(it: Planted) -> dict[str, float]:
    """How often the intervals of each kind hold the truth."""
    found = {name: bootstrapped(item_means(it.of(name))) for name in METRICS[:-1]}
    apart = [of_rates_apart(runs) for runs in it.passes]
    found["passes"] = np.array([one.low for one in apart]), np.array([one.high for one in apart])
    costs, passes = item_means(it.usd), item_means(it.passes)
    found["usd_a_pass"] = bootstrapped(costs, passes, statistic=intervals.ratio)
    rates = [of_rate(runs) for runs in it.variant_passed]
    found["variant_passed"] = np.array([one.low for one in rates]), np.array([one.high for one in rates])
    return {
        name: float(np.mean((low <= it.true[name]) & (it.true[name] <= high))) for name, (low, high) in found.items()
    }


def called_different(it: Planted) -> dict[str, float]:
    """How often a difference is seen: tests of many comparisons at once, which are those of :mod:`differences`."""
    values = {name: stats.ttest_1samp(item_means(it.of(name)), 0.0, axis=-1).pvalue for name in METRICS[:-1]}
    for name, found in values.items():
        assert found[:20] == pytest.approx([differences.mean_test(items)[0] for items in item_means(it.of(name))[:20]])
    values["passes"] = np.array([exact(items) for items in item_means(it.passes)])
    return {name: float(np.mean(found < 0.05)) for name, found in values.items()}


def exact(items: Floats) -> float:
    """McNemar's p value, asked once for each pair of counts."""
    counts = int((items > 0).sum()), int((items < 0).sum())
    if counts not in ASKED:
        ASKED[counts] = mcnemar(items)[0]
    return ASKED[counts]


ASKED: dict[tuple[int, int], float] = {}


def repeated(it: Planted, times: int) -> Planted:
    """The same with each run repeated to the byte."""
    return Planted(*(np.repeat(it.of(name), times, axis=-1) for name in (*METRICS, "variant_passed")), it.true)


def test_intervals_cover_what_was_planted() -> None:
    """A small sample of :func:`test_intervals_cover_what_was_planted_in_93_to_97_percent`."""
    for name, share in covered(plant(21, 100)).items():
        assert 0.88 <= share <= 1, name


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 3])
def test_intervals_cover_what_was_planted_in_93_to_97_percent(repeats: int) -> None:
    shares = covered(plant(7, 2_000, repeats=repeats))
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.slow
def test_identical_repeats_cover_as_one_run_does() -> None:
    """Of means the items are all that is resampled; pass rates are asked."""
    once = plant(7, 2_000)
    it = repeated(once, 3)
    for name in METRICS:
        assert item_means(it.of(name)) == pytest.approx(item_means(once.of(name)))
    truth = it.true["variant_passed"]
    assert 0.93 <= np.mean([of_rate(runs).has(truth) for runs in it.variant_passed]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, "identical", 3])
def test_equal_variants_are_rarely_called_different(repeats: int | str) -> None:
    made = plant(9, 2_000, equal=True, repeats=1 if repeats == "identical" else int(repeats))
    shares = called_different(repeated(made, 3) if repeats == "identical" else made)
    assert all(share <= 0.06 for share in shares.values()), shares


def test_among_many_equal_variants_rarely_any_is_called_different() -> None:
    it, wrong = plant(31, 500, 60, equal=True), 0
    none = intervals.Interval(None, None, "none")
    for at in range(0, 500, 5):
        found = [Difference(60, 60, 0.0, none, "", exact(runs)) for runs in item_means(it.passes[at : at + 5])]
        wrong += any(one.seen for one in holm(found))
    assert wrong / 100 <= 0.1


# In words


def plain(value: float) -> str:
    return f"{value:.2f}"


def test_no_difference_is_said_with_what_may_still_be_there() -> None:
    found = holm([difference(np.zeros((29, 1)), discordant(5, 4, 20)[:, None], passes=True)])[0]
    assert re.fullmatch(
        r"No difference in the pass rate was seen over 29 items: it may be anything from −0\.\d\d to \+0\.\d\d, "
        r"and one of 0\.\d\d would have shown in four comparisons of five; "
        r"to see the \+0\.03 that was measured takes about 2,\d\d\d items\.",
        sentence(found, "the pass rate", plain),
    )
    few = difference(np.ones((3, 1)), np.array([[1.0], [0.0], [0.0]]), passes=True)
    assert few.smallest is None  # it would be above 1, and pass rates are never that far apart
    assert re.fullmatch(
        r"No difference in the pass rate was seen over 3 items: it may be anything from −0\.94 to \+0\.27; "
        r"to see the −0\.67 that was measured takes about \d+ items\.",
        sentence(holm([few])[0], "the pass rate", plain),
    )
    brief = sentence(found, "cost", plain, brief=True)
    assert re.fullmatch(
        r"No difference in cost was seen over 29 items: it may be anything from \S+ to \+0\.\d\d\.", brief
    )


def test_a_difference_is_said_with_its_interval() -> None:
    (found,) = holm([difference(np.zeros((10, 1)), SLEEP[:, None])])
    told = sentence(found, "sleep", plain)
    assert re.fullmatch(r"Sleep is 1\.58 higher \(\+0\.\d\d to \+\d\.\d\d; p = 0\.003, 10 items\)\.", told)
    (less,) = holm([difference(np.zeros((10, 1)), -SLEEP[:, None])])
    assert "1.58 lower (−" in sentence(less, "sleep", plain)


def test_what_cannot_be_told_is_said() -> None:
    same = difference(np.zeros((9, 1)), np.zeros((9, 1)))
    assert sentence(holm([same])[0], "cost", plain) == (
        "No difference in cost was seen: it is the same for each of 9 items."
    )
    three = difference(np.zeros((3, 1)), np.ones((3, 1)))
    assert "ost differs by +1.00 for each of 3 items, which are too few" in sentence(holm([three])[0], "cost", plain)
    many = difference(np.zeros((30, 1)), np.ones((30, 1)))
    assert "Cost is 1.00 higher (the same for each item; p < 0.001" in sentence(holm([many])[0], "cost", plain)
    one = difference(column(1.0), column(2.0))
    assert sentence(holm([one])[0], "cost", plain) == "Cost: 1 item cannot show a difference; compare on more."
    none = difference(column(math.nan), column(2.0))
    assert "nothing to compare" in sentence(holm([none])[0], "cost", plain)
