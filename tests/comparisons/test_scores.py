"""Scores: what passes, what is marked, and what is refused before anything runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.comparisons.desk import Desk, items
from tokmagic.comparisons import scores
from tokmagic.comparisons.judges import Judge, judge, read_reply, verdict
from tokmagic.comparisons.scores import Score, apply, apply_many, read
from tokmagic.errors import UsageError

SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("score", "item", "right", "wrong"),
    [
        ("exact(a)", {"a": "Rome"}, [" Rome\n"], ["rome", "Rome.", ""]),
        ("exact(a)", {"a": ["Rome", "Roma"]}, ["Roma"], ["Romo"]),
        ("exact(a)", {"a": 42}, ["42"], ["42.0"]),
        ("normalised(a)", {"a": "New York"}, ["new  york.", "**New-York!**", "ＮＥＷ ＹＯＲＫ"], ["newyork", "York"]),
        ("contains(a)", {"a": "Rome"}, ["It is ROME, of course"], ["Ro me"]),
        ("regex('^yes\\\\b')", {}, ["yes, it is"], ["oh yes"]),
        ("numeric(a)", {"a": "1250"}, ["It is 1,250.", "first 3, then 1.25e3"], ["1251", "none", "1250 of 2000"]),
        ("numeric(a, 0.5)", {"a": -3}, ["−3.4", "-2.5"], ["-3.6", "3"]),
        ("numeric(a)", {"a": 4}, ["(3,4)", "1,2,3,4", "1,250,4", "3,+4", "x=3,4.", "of 2,500: 4,"], ["34", "4,1"]),
        ("numeric(a)", {"a": "1,00,000"}, ["1,00,000", "100,000", "1e5"], ["100000,1", "0"]),
        ("numeric(a)", {"a": "-1,234,567.5"}, ["-1,234,567.5", "−1234567.5"], ["1,234,567.5"]),
        ("numeric(a, relative=0.1)", {"a": 200}, ["180", "181", "220"], ["179", "221", "222"]),
        ("numeric(a, relative=0.5)", {"a": -10}, ["-5", "-15"], ["-4", "-16", "-20"]),
        ("numeric(a, relative=1)", {"a": 3}, ["0", "6"], ["-1", "7", "1e9", "1e999"]),
        ("numeric(a)", {"a": 7}, ["5-7", "from 5–7", "10-3=7", "2026-11-07"], ["-7", "3 -7", "x=-7"]),
        ("numeric(a)", {"a": " 1,000 "}, ["1000", "1,000.0"], ["1", "-1000"]),
    ],
)
def test_answers_pass_or_fail(score: str, item: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    made = read(score)
    assert isinstance(made, Score)
    assert made.passes
    assert [apply(made, answer, item).value for answer in right] == [1.0] * len(right)
    assert [apply(made, answer, item).value for answer in wrong] == [0.0] * len(wrong)


def test_json_fits_its_schema_in_a_fence_or_without() -> None:
    score = scores.json_schema(SCHEMA)
    for answer in ('{"city": "Rome"}', '```json\n{"city": "Rome"}\n```\n'):
        assert apply(score, answer, {}).value == 1
    for answer in ('{"town": 1}', '{"city": 1}', "Rome", ""):
        assert apply(score, answer, {}).value == 0
    assert read('json_schema(\'{"type": "array"}\')').name == "json_schema"


def test_a_function_takes_the_answer_or_the_item_too() -> None:
    item = {"wanted": 4}
    assert apply(read(len), "four", item).value == 4
    assert apply(read(float), "0.25", item).value == 0.25
    assert apply(read(lambda answer: answer == "four"), "four", item).value == 1
    assert apply(read(lambda answer, given: len(answer) == given["wanted"]), "four", item).value == 1
    assert read(len).passes is None


def raises(_answer: str) -> float:
    raise ValueError("no\nnumber")


@pytest.mark.parametrize(
    ("score", "problem"),
    [
        (raises, "ValueError: no number"),
        (lambda _answer: math.nan, "it returned nan; return a finite number"),
        (lambda _answer: math.inf, "it returned inf; return a finite number"),
        (lambda _answer: None, "it returned None; return a number, or True or False"),
        (lambda _answer: "good", "it returned 'good'; return a number, or True or False"),
        (lambda _answer: 10**400, f"it returned {'1' + 59 * '0'}; return a number, or True or False"),
        ("numeric(a)", "ValueError: could not convert string to float: 'many'"),
        ("exact(b)", "KeyError: 'b'"),
    ],
)
def test_what_cannot_be_scored_is_marked(score: Any, problem: str) -> None:
    found = apply(read(score), "Answer", {"a": "many"})
    assert (found.value, found.problem) == (None, problem)


def test_a_long_answer_of_digits_and_commas_is_read_at_once() -> None:
    began = time.monotonic()
    for text in ("12,34," * 30_000, "1," * 90_000, "1" * 180_000, "111," * 45_000):
        apply(read("numeric(a)"), text, {"a": 4})
    assert time.monotonic() - began < 5, "it takes minutes where each comma is tried from each digit"


@pytest.mark.parametrize("wanted", ["nan", "NaN", "inf", math.inf, "1e999"])
def test_a_column_without_a_finite_number_is_an_error_and_no_failure(wanted: object) -> None:
    found = apply(read("numeric(a)"), "7", {"a": wanted})
    assert (found.value, found.problem) == (None, f"ValueError: {wanted!r} is no number that an answer can give")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("exct(a)", r"score 'exct' is unknown \(did you mean exact\?\); known: exact, "),
        ("exact", "write it as exact"),
        ("exact(", "write it as exact"),
        ("regex(yes|no, please)", 'within quotes, as "regex'),
        ("a.exact(b)", "write it as exact"),
        ("exact()", r"missing a required argument: 'column'; it is exact\(column\)"),
        ("exact(a, b)", r"too many positional arguments; it is exact\(column\)"),
        ("exact(1 + x)", "write it as exact"),
        ("regex('(')", r"regex\('\('\) is no pattern: .*; fix it"),
        ("numeric(a, -1)", "numeric's tolerance is -1; give a number of 0 or more"),
        ("json_schema('{')", "was given no JSON schema"),
        ('json_schema(\'{"type": "objct"}\')', "'objct' is not valid"),
        ("judge('')", "the judge's model is ''"),
        (7, "score is 7; give a function"),
        (lambda: 1, r"cannot be called; write it as <lambda>\(answer, item\)"),
    ],
)
def test_what_is_no_score_is_refused(given: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read(given)


def test_without_jsonschema_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonschema.validators", None)
    with pytest.raises(UsageError, match=r"pip install 'tokmagic\[compare\]'"):
        scores.json_schema(SCHEMA)


# The judge


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A", "A"),
        (" **b**.\n", "B"),
        ("Tie", "tie"),
        ("Answer: A", "A"),
        ("Both are fine, yet one is clearer.\n\nB", "B"),
        ("A is wrong, so B", None),
        ("I cannot say", None),
        ("", None),
        ("C", None),
    ],
)
def test_a_reply_is_a_word_or_nonsense(text: str, said: str | None) -> None:
    assert read_reply(text) == said


@pytest.mark.parametrize(
    ("as_first", "as_second", "value", "agreed"),
    [
        ("A", "B", 1.0, True),
        ("B", "A", 0.0, True),
        ("tie", "tie", 0.5, True),
        ("A", "A", 0.5, False),
        ("B", "B", 0.5, False),
        ("A", "tie", 0.75, False),
    ],
)
def test_a_preference_for_a_place_is_none_for_an_answer(
    as_first: str, as_second: str, value: float, agreed: bool
) -> None:
    found = verdict(as_first, as_second)
    assert (found.value, found.agreed, found.problem) == (value, agreed, None)


def test_nonsense_marks_the_pair() -> None:
    found = verdict("A", "What a question!")
    assert (found.value, found.agreed) == (None, None)
    assert found.problem == "the judge's reply cannot be read: 'What a question!'; it should be A, B or tie"


def test_the_judge_sees_task_and_answers_in_their_places() -> None:
    asked = judge("big", "Which is shorter?")
    assert read("judge(big, 'Which is shorter?')") == asked == Judge("big", "Which is shorter?")
    assert asked.name == "judge(big)"
    system, user = asked.ask("Capital?", "Rome", "Paris")
    assert (system.role, user.role) == ("system", "user")
    assert "<answer A>\nRome\n</answer A>" in user.content
    assert "<answer B>\nParis\n</answer B>" in user.content
    assert user.content.endswith("Which is shorter? Reply with A, B or tie.")


def test_answers_that_are_scored_together_are_scored_as_alone(make_desk: Callable[..., Desk]) -> None:
    sizes: list[int] = []

    def many(answers: Sequence[tuple[str, Any]]) -> list[Any]:
        sizes.append(len(answers))
        return [len(text) if text != "a3" else float("nan") for text, _item in answers]

    together = Score("length", lambda text, item: many([(text, item)])[0], passes=None, many=many)
    found = make_desk().compare(score=together, over=items(80))
    assert sizes == [64, 64, 32]
    wanted = [2] * 10 + [3] * 70
    assert found.values("score")[:, [*range(3), *range(4, 80)], 0].tolist() == [wanted[1:], wanted[1:]]
    assert np.isnan(found.values("score")[:, 3]).all()
    assert any("2 answers could not be scored" in it for it in found.notes())
    assert found.row is not None
    assert found.row.parts[0].score == pytest.approx(sum(wanted[1:]) / 79)


def test_where_all_together_fail_each_is_scored_alone() -> None:
    def many(answers: Sequence[tuple[str, Any]]) -> list[Any]:
        return [1 / len(text) for text, _item in answers]

    together = Score("inverse", lambda text, item: many([(text, item)])[0], many=many)
    found = apply_many(together, [("ab", {}), ("", {}), ("a", {})])
    assert [it.value for it in found] == [0.5, None, 1.0]
    assert str(found[1].problem).startswith("ZeroDivisionError")
    short = Score("short", lambda *_: 1.0, many=lambda _answers: [0.0])
    assert [it.value for it in apply_many(short, [("a", {}), ("b", {})])] == [1.0, 1.0], "one for each, or it is none"
