"""What a comparison says: tables, a verdict in plain words, disagreements, files and a chart."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from tests.comparisons.desk import DOLLARS, VARIANTS, Desk, items, right
from tests.comparisons.planted import plant
from tokmagic.comparisons import inputs, plan, scores
from tokmagic.comparisons.figures import ArmFigures, Level, figures, frontier
from tokmagic.comparisons.intervals import Interval
from tokmagic.comparisons.outcome import Answer, Outcome
from tokmagic.comparisons.results import Comparison
from tokmagic.comparisons.verdicts import verdict
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Sampling
from tokmagic.errors import ModelError, UsageError
from tokmagic.runs.session import Session

Make = Callable[..., Desk]
NAN = float("nan")


def arms(score: Any, usd: Any, *, passes: bool = True) -> list[ArmFigures]:
    """Figures of arms × items, one run each."""
    made = {"score": np.array(score)[:, :, None], "usd": np.array(usd)[:, :, None]}
    made |= {name: np.full_like(made["usd"], NAN) for name in ("tokens", "latency_s")}
    return figures([f"v{number}" for number in range(len(score))], made, passes=passes, seed=0)


def said(score: Any, usd: Any, *, passes: bool = True) -> str:
    return verdict(arms(score, usd, passes=passes), passes=passes)


RNG = np.random.default_rng(2)
BAD, GOOD = (RNG.random(60) < 0.3) * 1.0, (RNG.random(60) < 0.9) * 1.0
CHEAP, DEAR = RNG.lognormal(0, 0.2, 60) * 1e-3, RNG.lognormal(0, 0.2, 60) * 2e-3


@pytest.mark.parametrize(
    ("score", "usd", "says"),
    [
        ((BAD, GOOD), (CHEAP, DEAR), "v1 is better and costs more: each extra pass costs $0.00"),
        ((BAD, GOOD), (DEAR, CHEAP), "v1 is better, and costs less."),
        ((BAD, GOOD), (CHEAP, CHEAP), "v1 is better, and no higher cost was seen."),
        ((GOOD, BAD), (DEAR, CHEAP), "v1 is worse and costs less: each pass given up saves $0.00"),
        ((GOOD, BAD), (CHEAP, DEAR), "v1 is worse, and costs more: keep v0."),
        ((GOOD, BAD), (CHEAP, CHEAP), "v1 is worse, and no lower cost was seen: keep v0."),
        ((GOOD, GOOD), (DEAR, CHEAP), "v1 costs less and no loss was seen, which does not prove that there is none."),
        ((GOOD, GOOD), (CHEAP, DEAR), "v1 costs more and no gain was seen: keep v0 unless more items show one."),
        ((GOOD, GOOD), (CHEAP, CHEAP), "These items give no reason to prefer either."),
    ],
)
def test_the_verdict_follows_from_score_and_cost(score: Any, usd: Any, says: str) -> None:
    told = said(score, usd)
    assert told.startswith("Compared with v0. ")
    assert says in told
    assert "\n" not in told


def test_a_score_that_is_no_pass_gets_no_price() -> None:
    told = said((BAD, GOOD), (CHEAP, DEAR), passes=False)
    assert "v1 is better and costs more: whether that is worth it depends on what the score is worth to you." in told


def test_without_a_score_only_cost_is_told() -> None:
    told = said((BAD * NAN, BAD * NAN), (CHEAP, DEAR))
    assert told.startswith("Compared with v0. Cost is $0.00")
    assert "pass" not in told
    assert verdict([ArmFigures("v0", {}, {}), ArmFigures("v1", {}, {})], passes=True) == (
        "Nothing ran, so there is nothing to compare."
    )


def test_where_the_cost_is_unknown_nothing_is_said_of_it() -> None:
    unknown = (CHEAP * NAN, CHEAP * NAN)
    assert said((BAD, GOOD), unknown).endswith("v1 is better; what it costs is not known.")
    assert said((GOOD, BAD), unknown).endswith("v1 is worse; what it costs is not known.")
    assert said((GOOD, GOOD), unknown).endswith("over 60 items: it may be anything from −6.0 points to +6.0 points.")
    assert said((BAD * NAN, GOOD), (CHEAP, CHEAP)).startswith("Compared with v0. The pass rate: nothing to compare")


def test_each_of_several_variants_is_named() -> None:
    told = said((BAD, GOOD, BAD), (CHEAP, DEAR, CHEAP))
    assert " v1: The pass rate is " in told
    assert " v2: No difference in the pass rate was seen over 60 items: it may be anything from −6.0 points to" in told


def test_pairs_without_a_score_do_not_price_a_pass() -> None:
    """Cost and passes must be of the same runs."""
    score, usd = np.array([BAD, GOOD]), np.array([CHEAP, DEAR])
    score[1, :20] = NAN
    usd[1, :20] = 1e6
    price = arms(score, usd)[1].pass_price
    assert price is not None
    assert price.usd == pytest.approx((DEAR - CHEAP)[20:].mean() / (GOOD - BAD)[20:].mean())


def test_the_frontier_is_what_no_other_beats() -> None:
    def arm(usd: float | None, score: float | None) -> ArmFigures:
        none = Interval(None, None, "none")
        return ArmFigures("", {"usd": Level(1, 1, usd, none), "score": Level(1, 1, score, none)}, {})

    assert frontier([arm(3, 0.9), arm(1, 0.5), arm(2, 0.5), arm(2, 0.7), arm(4, 0.9), arm(None, 1)]) == [1, 3, 0]
    assert frontier([arm(1, 0.5), arm(1, 0.5), arm(1, 0.4), arm(2, 0.5)]) == [0, 1], "two that are the same"


def test_means_are_of_the_items_that_every_variant_has(make_desk: Make) -> None:
    """A model that fails on the long items is not cheaper and no worse for that."""

    def fails(text: str, number: int) -> str:
        if int(text.rpartition("q")[2]) % 2:
            raise ModelError("too long")
        return right(text, number)

    def long(text: str, number: int) -> str:
        return right(text, number) + (" and so on" * 50 if int(text.rpartition("q")[2]) % 2 else "")

    def unlike(text: str, number: int) -> str:
        return "no" if int(text.rpartition("q")[2]) % 2 else long(text, number)

    desk = make_desk(small=unlike, big=fails)
    desk.session.cell_id = lambda: "c1"
    found = desk.compare({"v": "{{ q }}"}, models=["small", "big"], score="contains(a)", over=items(8))
    one, other = found.figures
    for metric in ("usd", "tokens", "score"):
        assert (one.levels[metric].items, other.levels[metric].items) == (4, 4)
        assert one.levels[metric].mean == other.levels[metric].mean
        assert other.differences[metric].mean == 0
    (row,) = desk.session.changes().comparisons
    kept = found._repr_mimebundle_()[1]["tokmagic_comparison"]["row"]["comparison"]["parts"]
    for metric in ("score", "latency_s"):
        told = [it.levels[metric].mean for it in found.figures]
        assert [getattr(it, metric) for it in row.parts] == told, "the sidebar has the table's means"
        assert [it[metric] for it in kept] == told
    assert [it.done for it in row.parts] == [8, 4]
    assert not found.complete
    assert found.forecast.left == 4, "what failed is tried again by the next call"
    assert found.notes()[-1].startswith("4 items left: about $")


def test_a_variant_without_any_run_takes_nothing_from_the_others(make_desk: Make) -> None:
    def gone(_text: str, _number: int) -> str:
        raise ModelError("gone")

    desk = make_desk(small=right, dead=gone)
    found = desk.compare({"v": "{{ q }}"}, models=["small", "dead"], score="contains(a)", over=items(8))
    one, other = found.figures
    assert (one.levels["score"].items, one.levels["score"].mean) == (8, 1)
    assert other.levels["score"].mean is None


def test_an_unknown_metric_is_one_line(result: Comparison) -> None:
    with pytest.raises(UsageError, match="the metric 'cost' is unknown"):
        result.values("cost")


# The whole


def uneven(text: str, number: int) -> str:
    """The reasoned variant is right on odd items and talks much; the terse one is right on every third."""
    which = int(text.rpartition("q")[2])
    wrong = which % 2 == 0 if "reasoned" in text else which % 3 != 0
    return ("because | $ " * (which % 4 + 1) if "reasoned" in text else "") + ("no" if wrong else right(text, number))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    home = tmp_path_factory.mktemp("result")
    session = Session(TokMagic(home=str(home), ledger=f"sqlite:///{home}/ledger.sqlite"))
    found = Desk(session, small=uneven).compare(score="contains(a)", over=items(12))
    session.close()
    return found


def test_tables_hold_the_figures(result: Comparison) -> None:
    assert [row[0] for row in result.levels.rows] == ["terse", "reasoned"]
    assert result.levels.columns == ("variant", "pass rate", "cost", "tokens", "latency")
    assert result.levels.rows[0][1].startswith("33.3% (")
    assert [row[1] for row in result.differences.rows] == ["pass rate", "cost", "tokens", "latency", "an extra pass"]
    assert result.differences.rows[0][2] == "+16.7 points"
    assert result.differences.rows[-1][2] == "—", "no difference in passes is seen, so there is no price"
    for part in (result.verdict, repr(result.levels), repr(result.differences)):
        assert part in repr(result)


def test_files_hold_them_too(result: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [(row["variant"], row["metric"]) for row in rows[:5:4]] == [("terse", "score"), ("reasoned", "score")]
    assert float(rows[4]["d_difference"]) == pytest.approx(1 / 6)
    assert rows[0]["d_difference"] == ""
    frame = result.to_pandas()
    assert frame.groupby("variant").score.mean().to_dict() == pytest.approx({"reasoned": 0.5, "terse": 1 / 3})
    assert list(frame.order) == list(range(1, 25))
    assert frame.version.nunique() == 2
    told = result.to_markdown()
    assert told.count("\n| --- | --- |") == 2
    assert "\\$" in told
    assert "$" not in told.replace("\\$", "")


def test_html_escapes_what_people_and_models_wrote(make_desk: Make) -> None:
    variants = {"<b>": "{{ q }}", "reasoned": "reasoned {{ q }}"}
    found = make_desk(small=uneven).compare(variants, score="contains(a)", over=items(4))
    told = found._repr_html_()
    assert "<b>" not in told
    assert "&lt;b&gt;" in told
    assert "$" not in told.replace("&#36;", "")
    assert found.notes() == []


def test_disagreements_come_item_by_item(result: Comparison) -> None:
    table = result.disagreements(most=3)
    assert table.columns[:4] == ("item", "variant", "score terse", "score")
    assert len(table.rows) == 3
    assert table.note == "6 disagreements with terse in score; the first 3 are shown"
    number, variant, baseline, other, first, second = table.rows[0]
    assert (number, variant, baseline, other, first) == ("1", "reasoned", "1", "0", "a0")
    assert second == "because | $ no"
    assert all(len(cell) <= 80 for row in result.disagreements().rows for cell in row)


@pytest.mark.slow
def test_the_chart_brings_its_picture(result: Comparison) -> None:
    chart = result.plot()
    assert chart.png.startswith(b"\x89PNG")
    assert repr(chart) == "cost against quality: terse, reasoned beaten by no other in both"


def test_a_chart_without_scores_says_so(desk: Desk) -> None:
    found = desk.compare(over=items(2))
    assert not found.passes
    with pytest.raises(UsageError, match="there is no cost or no score to draw"):
        found.plot()


def test_nothing_that_ran_is_shown_as_such(make_desk: Make) -> None:
    def answers(_text: str, _number: int) -> str:
        raise ModelError("no such device")

    found = make_desk(small=answers).compare(score="exact(a)", over=items(2))
    assert found.verdict == "Nothing ran, so there is nothing to compare."
    assert "4 of 4 runs are missing" in repr(found)
    assert "no such device" in found.to_html()
    assert found.to_csv() == "\n"
    assert found.disagreements().rows == ()


def test_runs_without_a_price_are_compared_by_the_rest(make_desk: Make) -> None:
    desk = make_desk(small=uneven)
    desk.session.prices.set("small", type(DOLLARS)())
    found = desk.compare(score="contains(a)", over=items(6))
    assert "cost" not in found.levels.columns
    assert "12 runs had no price; set one with %price" in found.notes()
    assert "p" in found.differences.columns
    assert found.spent_usd is found.to_json()["spent_usd"] is None, "not known, which is not 0"


def test_what_is_free_costs_nothing_and_that_is_known(make_desk: Make) -> None:
    desk = make_desk(small=uneven)
    desk.session.prices.set("small", Rates(Decimal(0), Decimal(0), source="%price"))
    found = desk.compare(score="contains(a)", over=items(6))
    assert (found.spent_usd, found.to_json()["spent_usd"]) == (0, "0")


def many(count: int) -> Comparison:
    """A comparison of so many items, as if it had run."""
    it = plant(3, 1, count)
    made = plan.make(VARIANTS, inputs.read(items(count)), ["m"], repeat=1, seed=0, sampling=Sampling(), baseline=None)
    answers = [
        Answer(
            *(arm, item, 0, 2 * item + arm + 1, f"{arm}-{item}", "answer " * 20),
            usd=Decimal(repr(1e-2 + arm * float(it.usd[0, item, 0]))),
            input_tokens=100,
            output_tokens=100 + arm * (item % 7),
            latency_s=1 + arm * 0.1 * float(it.latency_s[0, item, 0]),
            score=float(it.variant_passed[0, item, 0] if arm else item % 2),
        )
        for item in range(count)
        for arm in (0, 1)
    ]
    return Comparison(made, scores.exact("a"), Outcome(answers, blocks=count))


@pytest.mark.slow
def test_ten_thousand_items_are_drawn_in_two_seconds() -> None:
    many(100).to_html()  # what is imported at the first time is no drawing
    found, started = many(10_000), time.process_time()
    html = found.to_html() + repr(found.disagreements())
    assert time.process_time() - started <= 2
    data, metadata = found._repr_mimebundle_()
    assert len(json.dumps([data, metadata])) <= 1_000_000, "what the notebook grows by"
    assert "answer answer" not in json.dumps(metadata)
    assert len(html) <= 1_000_000
