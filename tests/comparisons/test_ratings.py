"""Scores that a person gives: blind, shuffled, kept as they come, and asked once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.comparisons.desk import Desk, items, right
from tokmagic.comparisons.ratings import Book, Rating
from tokmagic.comparisons.results import Comparison
from tokmagic.errors import LedgerError, UsageError
from tokmagic.magics import compare as magic
from tokmagic.magics.display import View
from tokmagic.magics.magics import TokMagics
from tokmagic.magics.rating import RatingWidget

Make = Callable[..., Desk]


def answers(text: str, number: int) -> str:
    """The reasoned variant says more, but for the last item, where both say the same."""
    said = right(text, number)
    return said if said == "a5" or "terse" in text else f"well, {said} <b>$</b>"


def compared(desk: Desk, **options: Any) -> Comparison:
    return desk.compare(**{"score": "human('Is it right?')", "over": items(6), **options})


def rate(rating: Rating, most: int = 100) -> list[str]:
    """Say yes to what begins with the answer; return what was asked."""
    asked = []
    while rating.now is not None and len(asked) < most:
        asked.append(rating.now.text)
        rating.give(rating.now.text.startswith("a"))
    return asked


def test_a_person_sees_answers_and_no_variants(make_desk: Make) -> None:
    found = compared(make_desk(small=answers))
    assert found.notes() == [
        "12 answers wait for a person's rating: run %%compare in a notebook, or see result.rating()"
    ]
    rating = found.rating()
    assert (rating.left, rating.done) == (11, 0), "the same answer to the same item is asked once"
    first = rating.now
    assert first is not None
    assert (first.item.keys(), first.question) == ({"q", "a"}, "Is it right?")
    asked = rate(rating)
    assert sorted(asked) == sorted({f"a{it}" for it in range(6)} | {f"well, a{it} <b>$</b>" for it in range(5)})
    assert asked != sorted(asked), "shuffled over items and variants"
    assert rating.now is None
    assert found.values("score")[:, :, 0].tolist() == [[1] * 6, [0] * 5 + [1]]
    assert found.levels.rows[1][1].startswith("16.7%")
    assert found.notes() == []
    with pytest.raises(UsageError, match="every answer is rated"):
        rating.give(True)


def test_the_order_is_the_seeds(make_desk: Make) -> None:
    orders = [rate(compared(make_desk(small=answers), seed=seed).rating()) for seed in (1, 2)]
    again = rate(compared(make_desk(small=answers), seed=1, score="human('And is it kind?')").rating())
    assert orders[0] == again != orders[1]


def test_figures_follow_each_rating(make_desk: Make) -> None:
    found = compared(make_desk(small=answers))
    assert math.isnan(found.values("score")[0, 0, 0])
    before = found.levels
    rating = found.rating()
    rate(rating, 3)
    assert found.levels != before
    rating.undo()
    rating.undo()
    assert (rating.left, rating.done) == (10, 1)
    once = rating.now
    rating.skip()
    assert rating.now != once
    assert rate(rating)[-1] == (once.text if once else "")


def test_another_kernel_goes_on(make_desk: Make) -> None:
    rate(compared(make_desk(small=answers)).rating(), 4)
    later = make_desk(small=answers)
    found = compared(later)
    assert later.asked == 0
    rating = found.rating()
    assert (rating.left, rating.done) == (7, 4)
    rate(rating)
    assert found.values("score")[:, :, 0].tolist() == [[1] * 6, [0] * 5 + [1]]
    other = compared(later, score="human('Is it kind?')").rating()
    assert other.done == 0, "another question is another score"


def test_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    book = Book(tmp_path / "ratings" / "c.jsonl", "Is it?")
    assert book.read() == {}
    book.write(["one", "two"], True)
    with book.path.open("a") as file:
        file.write('{"run_id": "thr')
    book.write(["one"], False)
    book.write(["two"], None)
    assert book.read() == {"one": 0.0}
    assert all(line == "" or line[0] == "{" for line in book.path.read_text().splitlines())
    assert Book(book.path, "Else?").read() == {}
    book.path.unlink()
    book.path.mkdir()
    with pytest.raises(LedgerError, match="cannot be kept"):
        book.write(["one"], True)
    with pytest.raises(LedgerError, match="cannot be read"):
        book.read()


def test_only_a_persons_score_is_rated(desk: Desk) -> None:
    with pytest.raises(UsageError, match="the score is no person's"):
        desk.compare(score="exact(a)", over=items(2)).rating()
    with pytest.raises(UsageError, match="human's question is ''"):
        desk.compare(score="human('')", over=items(2))


# The widget


def test_the_widget_shows_text_and_takes_clicks(make_desk: Make) -> None:
    found = compared(make_desk(small=answers))
    widget = RatingWidget(found.rating())
    seen = []
    for _ in range(11):
        assert "reasoned" not in widget.html
        assert "terse" not in widget.html
        assert "<b>$" not in widget.html
        seen.append(widget.html)
        widget.press("No" if "well" in widget.html else "Yes")
    assert "All are rated" in widget.html
    assert found.values("score")[:, :, 0].tolist() == [[1] * 6, [0] * 5 + [1]]
    widget.press("Undo")
    assert widget.html.partition("answers rated")[2] == seen[-1].partition("answers rated")[2]
    widget.press("Later")
    assert "Is it right?" in widget.html


def test_a_rating_that_cannot_be_kept_is_told(make_desk: Make, tmp_path: Path) -> None:
    found = compared(make_desk(small=answers))
    widget = RatingWidget(found.rating())
    assert found.book is not None
    found.book.path.mkdir(parents=True)
    widget.press("Yes")
    assert "LedgerError: the rating cannot be kept in" in widget.html
    assert "0 of 11 answers rated" in widget.html


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    made = InteractiveShell()
    made.user_ns["questions"] = items(6)
    yield made
    made.history_manager.end_session()


def test_the_sidebar_is_told_each_rating(make_desk: Make) -> None:
    desk = make_desk(small=answers)
    desk.session.cell_id = lambda: "c1"

    def scores() -> list[float | None] | None:
        told = desk.session.changes().comparisons
        return [it.score for it in told[0].parts] if told else None

    found = compared(desk)
    assert scores() == [None, None]
    rating = found.rating()
    scores()
    assert rating.now is not None
    rating.give(True)
    (given,) = (it for it in scores() or [] if it is not None)
    assert given == 1
    rating.undo()
    assert scores() == [None, None]
    rate(rating)
    assert scores() == [1, pytest.approx(1 / 6)]
    assert scores() is None, "told once"
    # What was rated before is known to a later kernel at once.
    later = make_desk(small=answers)
    later.session.cell_id = lambda: "c1"
    again = compared(later)
    (row,) = later.session.changes().comparisons
    assert [it.score for it in row.parts] == [1, pytest.approx(1 / 6)]
    kept = again._repr_mimebundle_()[1]["tokmagic_comparison"]["row"]["comparison"]
    assert [it["score"] for it in kept["parts"]] == [1, pytest.approx(1 / 6)]
    # Another comparison took this one's place in the cell: its row is not touched.
    compared(later, over=items(2))
    later.session.changes()
    again.rating().undo()
    assert later.session.changes().comparisons == ()


def test_a_cell_shows_the_widget_until_all_is_rated(
    make_desk: Make, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(magic, "publish", shown.append)
    monkeypatch.setattr(magic, "view", lambda _at: View())
    desk = make_desk(small=answers)
    magics = TokMagics(shell, desk.session)
    magics.at.terminal = False
    line = """--over questions --score "human('Is it right?')" --max-tokens 20 --quiet --into result"""
    cell = "--- variant terse\nterse {{ q }}\n--- variant reasoned\nreasoned {{ q }}"
    magics.compare(line, cell)
    assert shown == []
    found = magics.compare(line.replace("--quiet ", ""), cell)
    assert [type(it).__name__ for it in shown] == ["VBox"]
    rate(found.rating())
    again = magics.compare(line.replace("--quiet ", ""), cell)
    assert len(shown) == 1
    assert (json.loads(json.dumps(again.to_json()))["score"], again.passes) == ("human('Is it right?')", True)
