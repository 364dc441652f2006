"""Where a prompt's money goes, where the truth is planted: what matters is kept, what does not is seen to save."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from tests.comparisons.desk import Desk, Planted, items, right
from tests.small_tokenizers import byte_level, save
from tokmagic.comparisons.figures import ArmFigures, figures
from tokmagic.comparisons.parts import parts, without
from tokmagic.comparisons.results import Comparison
from tokmagic.comparisons.savings import caching, shared_prefixes, shorter_limit, winner
from tokmagic.core.money import Rates, Tier
from tokmagic.errors import BudgetError, UsageError
from tokmagic.tokens.tokenizer import Tokenizer

Make = Callable[..., Desk]
RATES = Rates(input=Decimal(1), output=Decimal(2), cached=Decimal("0.1"), source="%price")
NAN = float("nan")


# Parts


CHAT = """\
--- system
You know capitals. Name the city! Be brief.
--- user
Italy?
--- assistant
Rome
--- user
{{ other }}?
--- assistant
Bern
--- user
Listen. What is the capital of {{ q }}? Say it.
"""


def test_a_template_is_taken_apart() -> None:
    found = {it.label: CHAT[it.start : it.end] for it in parts(CHAT)}
    assert found == {
        "example 1": "--- user\nItaly?\n--- assistant\nRome\n",
        "example 2": "--- user\n{{ other }}?\n--- assistant\nBern\n",
        "the system message": "--- system\nYou know capitals. Name the city! Be brief.\n",
        "“You know capitals.”": "You know capitals. ",
        "“Name the city!”": "Name the city! ",
        "“Be brief.”": "Be brief.\n",
        "“Listen.”": "Listen. ",
        "“Say it.”": "Say it.\n",
    }
    sizes = [it.end - it.start for it in parts(CHAT)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("One sentence {{ q }}.", []),
        ("Alone.", []),
        ("First. {{ q }}", ["“First.”"]),
        ("Cost 3.5 or v1.2? {{ q }}", ["“Cost 3.5 or v1.2?”"]),
        ("{% if q %}Yes. No.{% endif %} {{ q }}", []),
        ("一。二。{{ q }}", ["“一。”", "“二。”"]),
        ("A {{ 'x. y' }} b. Then c.\n{{ q }}", ["“Then c.”"]),
    ],
)
def test_sentences_with_expressions_stay(text: str, labels: list[str]) -> None:
    assert sorted(it.label for it in parts(text)) == sorted(labels)


@given(st.text(alphabet="ab. \n!{}"))
def test_leaving_out_is_cutting(text: str) -> None:
    found = parts(text)
    for it in found:
        assert it.left_out_of(text) == without(text, [it])
    assert len(without(text, found)) >= len(text) - sum(it.end - it.start for it in found)


# Caching


def test_shared_beginnings_are_those_of_earlier_prompts() -> None:
    assert shared_prefixes([(1, 2, 3), (1, 2, 4), (9,), (1, 2, 4, 5), (1, 2, 3)]) == [0, 2, 0, 3, 3]
    assert shared_prefixes([]) == []


@given(st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), max_size=12))
def test_shared_beginnings_agree_with_a_look_at_all(prompts: list[tuple[int, ...]]) -> None:
    def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
        return next((at for at in range(6) if one[: at + 1] != other[: at + 1] or at >= len(one)), 0)

    wanted = [max((common(ids, it) for it in prompts[:at]), default=0) for at, ids in enumerate(prompts)]
    assert shared_prefixes(prompts) == wanted


def test_a_cache_saves_the_difference_of_the_rates() -> None:
    shared = np.array([0.0, 100, 120, 80, 100])
    found = caching(shared, RATES, 0)
    assert found.tokens == pytest.approx(80)
    assert found.usd == pytest.approx(80 * 0.9e-6)
    assert found.interval.low is not None
    assert found.interval.low < 80 * 0.9e-6 < (found.interval.high or 0)
    assert "servers forget" in found.sentence
    unknown = caching(shared, Rates(input=Decimal(1)), 0)
    assert unknown.usd is None
    assert "no rate for cached input is known (%price --cached)" in unknown.sentence.lower()


class Tokenized(Planted):
    """Has a tokenizer."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, right)
        self._tokenizer = Tokenizer(folder)

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer


@pytest.mark.parametrize(
    ("rates", "each"),
    [
        (RATES, 0.9e-6),
        (replace(RATES, tiers=(Tier(5, Decimal(10), Decimal(20), Decimal(1)),)), 9e-6),
        (replace(RATES, tiers=(Tier(500, Decimal(10), Decimal(20), Decimal(1)),)), 0.9e-6),
    ],
    ids=["one price", "beyond a tier", "below a tier"],
)
def test_a_comparison_counts_what_its_prompts_share(make_desk: Make, tmp_path: Path, rates: Rates, each: float) -> None:
    desk = make_desk()
    folder = save(tmp_path / "tokenizer", byte_level())
    engine = desk.session.models._engines["small"] = desk.engines["small"] = Tokenized("small", folder)
    desk.session.prices.set("small", rates)
    found = desk.compare({"a": "Always the very same words: {{ q }}", "b": "{{ q }} asked"}, items(9), score="exact(a)")
    saved = found.savings(variant="a").savings[0]
    # All but the first share all up to "q" with an earlier one: a byte is a token.
    whole = engine.tokenizer().encode(found.plan.prompt(0, 0))
    prompts = [engine.tokenizer().encode(found.plan.prompt(0, item)) for item in range(9)]
    shared = next(at for at in range(len(whole)) if prompts[0][at] != prompts[1][at])
    assert saved.tokens == pytest.approx(shared * 8 / 9)
    assert saved.usd == pytest.approx(shared * 8 / 9 * each)


def test_without_a_tokenizer_that_is_said(desk: Desk) -> None:
    found = desk.compare(score="exact(a)").savings()
    assert found.savings[0].sentence.startswith(
        "A cache of the prompts' beginnings: the tokens of the prompts are not known"
    )
    assert "give a budget to leave out its parts" in repr(found)


# The output limit


def test_a_limit_is_chosen_on_one_half_and_measured_on_the_other() -> None:
    """What fails rambles: a limit that all that passed keep to saves on it alone."""
    passed = (np.arange(60) % 3 > 0).astype(float)[:, None]
    outputs = np.where(passed == 1, 10.0, 40.0)
    found = shorter_limit(outputs, passed, RATES, 0)
    assert found.what == "An output limit of 10 tokens"
    assert found.tokens is not None
    assert 5 < found.tokens < 15
    assert found.usd == pytest.approx(found.tokens * 2e-6)
    assert found.interval.low is not None
    # Of the answers that passed, not of all: they are what it can cut.
    told = re.fullmatch(
        r"Long enough for all that passed on half of the items; on the other 30 it cuts 0 of (\d+) answers that "
        r"passed, at most (\d+)% by Wilson's interval",
        found.note,
    )
    assert told is not None
    passing, most = map(int, told.groups())
    assert 15 <= passing <= 25
    assert most == round(100 * proportion_confint(0, passing, 0.05, "wilson")[1])
    rare = shorter_limit(np.full((60, 1), 10.0), (np.arange(60) == 0).astype(float)[:, None], RATES, 0)
    assert "too few" in rare.note or "it cuts 0 of 0 answers that passed" in rare.note
    assert "Wilson" not in rare.note


def test_a_limit_that_cuts_passing_answers_says_so() -> None:
    rng = np.random.default_rng(3)
    outputs = rng.lognormal(3, 0.8, (40, 2)).round()
    found = shorter_limit(outputs, np.ones((40, 2)), RATES, 1)
    assert "answers that passed" in found.note
    told = shorter_limit(outputs, None, Rates(), 1)
    assert told.usd is None
    assert told.tokens is not None
    assert told.note.startswith("Chosen on half of the items; on the other 20 it cuts ")


def test_where_nothing_passed_there_is_no_limit_to_try() -> None:
    for outputs, passed in (
        (np.full((8, 1), 5.0), np.zeros((8, 1))),
        (np.full((1, 1), 5.0), None),
        (np.full((4, 1), NAN), None),
    ):
        found = shorter_limit(outputs, passed, RATES, 0)
        assert found.usd is None
        assert "too few" in found.sentence


@pytest.mark.parametrize(("above", "each"), [(1, 20e-6), (500, 2e-6)], ids=["beyond a tier", "below a tier"])
def test_what_a_limit_saves_is_priced_as_its_runs_would_be(make_desk: Make, above: int, each: float) -> None:
    def rambling(text: str, number: int) -> str:
        return right(text, number) if int(text[-1]) % 2 else "no " * 9

    desk = make_desk(small=rambling)
    desk.session.prices.set("small", replace(RATES, tiers=(Tier(above, Decimal(10), Decimal(20)),)))
    saved = desk.compare(score="exact(a)").savings().savings[1]
    assert saved.tokens
    assert saved.usd == pytest.approx(saved.tokens * each)


# Leaving parts out

TEXT = "Be kind. Name it. {{ q }}"


def needs_a_name(text: str, number: int) -> str:
    return right(text, number) if "Name it." in text else "no idea"


@pytest.fixture
def found(make_desk: Make) -> Comparison:
    desk = make_desk(small=needs_a_name)
    return desk.compare({"long": TEXT, "short": "{{ q }}"}, items(20), score="exact(a)")


def test_what_matters_is_told_from_what_does_not(found: Comparison) -> None:
    told = found.savings(budget="1")
    assert told.variant == "long"
    says = {it.part.label: it.says for it in told.ablations}
    assert says == {"“Name it.”": "keep it: worse without", "“Be kind.”": "no loss seen"}
    (kind,) = (it for it in told.ablations if it.part.label == "“Be kind.”")
    assert kind.figures.differences["usd"].mean == pytest.approx(-2e-6)
    assert kind.figures.differences["score"].mean == 0
    assert told.without(list(says).index("“Be kind.”") + 1) == "Name it. {{ q }}"
    assert told.without(1, 2) == "{{ q }}"
    for wrong in (0, 3):
        with pytest.raises(IndexError):
            told.without(wrong)
    text = repr(told)
    assert "keep it: worse without" in text
    assert "Parts that can go alone need not go together" in text
    assert "−100.0 points" in told.to_markdown()
    assert "$" not in told._repr_html_().replace("&#36;", "")
    assert "$" not in told.to_markdown().replace("\\$", "")


def test_it_is_paid_for_once_and_within_its_budget(make_desk: Make, found: Comparison) -> None:
    told = found.savings(budget="1", items=6)
    assert told.ablations[0].score is not None
    assert told.ablations[0].score.items == 6
    assert told.spent_usd > 0
    assert not any("missing" in it for it in told.remarks)
    with pytest.raises(UsageError, match="items is 0; give a whole number of items"):
        found.savings(budget="1", items=0)
    again = found.savings(budget="1", items=6)
    assert again.spent_usd == told.spent_usd, "read from the ledger"
    few = found.savings(budget=str(told.spent_usd + Decimal("0.00006")))
    assert any("it ended early" in it for it in few.remarks)
    assert few.ablations[0].score is not None
    assert 6 <= few.ablations[0].score.items < 20
    with pytest.raises(BudgetError):
        found.savings(budget="0.000001", variant="long", most=1)


def test_the_longest_parts_are_tried_and_the_others_named(found: Comparison) -> None:
    told = found.savings(budget="1", most=1, items=2)
    assert [it.part.label for it in told.ablations] == ["“Be kind.”"]
    assert "Of 2 parts the 1 longest were tried; most= takes more" in " ".join(told.remarks)


def test_what_has_no_parts_says_so(found: Comparison) -> None:
    assert "it has no part that could go" in repr(found.savings(budget="1", variant="short"))
    with pytest.raises(UsageError, match="variant is 'none'; give one of long, short"):
        found.savings(variant="none")


def test_parts_without_which_there_is_no_prompt_are_not_tried(make_desk: Make) -> None:
    looped = "{% for it in [1, 2] %}Say it. Again.\n{% endfor %}{{ q }}"
    made = make_desk().compare({"a": looped, "b": "--- system\nBe.\n--- user\n{{ q }}"}, items(4), score="exact(a)")
    assert [it.part.label for it in made.savings(budget="1", variant="b").ablations] == ["the system message"]
    assert [it.part.label for it in made.savings(budget="1", variant="a").ablations] == ["“Again.”"]


def test_an_item_of_which_there_is_no_prompt_is_no_obstacle(make_desk: Make) -> None:
    variants = {"a": "--- system\nBe.\n--- user\n{{ q }}", "b": "{{ q }}"}
    over = [{"q": " ", "a": "none"}, *items(3)]
    made = make_desk().compare(variants, over, score="exact(a)")
    assert [it.part.label for it in made.savings(budget="1", variant="a").ablations] == ["the system message"]
    none = make_desk().compare(variants, over[:1], score="exact(a)")
    assert "it has no part that could go" in repr(none.savings(budget="1", variant="a"))


@pytest.mark.parametrize("most", [0, -1, True, 1.5])
def test_how_many_parts_are_tried_is_a_whole_number(found: Comparison, most: Any) -> None:
    with pytest.raises(UsageError, match=f"most is {most!r}; give a whole number of parts, at least 1"):
        found.savings(budget="1", most=most)


# Which variant


def arms(score: Any, usd: Any) -> list[ArmFigures]:
    made = {"score": np.array(score)[:, :, None], "usd": np.array(usd)[:, :, None]}
    made |= {name: np.full_like(made["usd"], NAN) for name in ("tokens", "latency_s")}
    return figures([f"v{number}" for number in range(len(score))], made, passes=True, seed=0)


def test_the_one_to_keep_follows_from_what_was_seen() -> None:
    rng = np.random.default_rng(2)
    bad, good = (rng.random(60) < 0.3) * 1.0, (rng.random(60) < 0.95) * 1.0
    cheap, dear = rng.lognormal(0, 0.2, 60) * 1e-3, rng.lognormal(0, 0.2, 60) * 2e-3
    assert winner(arms((bad, good), (cheap, dear))) == 1
    assert winner(arms((good, bad), (dear, cheap))) == 0
    assert winner(arms((good, good), (dear, cheap))) == 1
    assert winner(arms((good, good), (cheap, dear))) == 0
    assert winner(arms((bad, bad, good), (dear, cheap, dear))) == 2
