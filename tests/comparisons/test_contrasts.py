"""Answers side by side: the words in which they differ are marked, and nothing that a model wrote is more than text."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.comparisons.desk import Desk, items, right
from tokmagic.comparisons.contrasts import Contrast, Contrasts, Pieces, contrast
from tokmagic.errors import UsageError

Make = Callable[..., Desk]


def told(pieces: Pieces) -> str:
    return "".join(f"<{it.text}>" if it.differs else it.text for it in pieces)


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ("The capital is Paris.", "The capital is Rome.", ("The capital is <Paris>.", "The capital is <Rome>.")),
        ("same", "same", ("same", "same")),
        ("", "new", ("", "<new>")),
        ("a b c", "a c", ("a <b >c", "a c")),
        ("it was one big dog", "it was two small dog", ("it was <one big> dog", "it was <two small> dog")),
        ("東京は首都", "京都は首都", ("<東>京は首都", "京<都>は首都")),
    ],
)
def test_what_differs_is_marked(one: str, other: str, says: tuple[str, str]) -> None:
    assert tuple(map(told, contrast(one, other))) == says


@given(st.text(alphabet="ab .,\n東"), st.text(alphabet="ab .,\n東"))
def test_no_letter_is_lost_and_what_is_unmarked_is_in_both(one: str, other: str) -> None:
    found = contrast(one, other)
    assert ["".join(it.text for it in side) for side in found] == [one, other]
    # A space between two marked words is marked on their side alone.
    left, right_ = ("".join("".join(it.text.split()) for it in side if not it.differs) for side in found)
    assert left == right_


def test_long_answers_take_no_longer_than_a_moment() -> None:
    one, other = ("word other " * 4_000), ("other word " * 4_000)
    started = time.process_time()
    assert told(contrast(one, other)[0]) == one
    shown = Contrast.of(1, ("a", "b"), (None, None), (one, other))
    assert len("".join(it.text for it in shown.pieces[0])) <= 4_010
    assert time.process_time() - started < 5


NASTY = "<script>alert('$1')</script> | **bold** `x` [a](javascript:b) $2$\n# head\n- | \x1b[31m &amp; ~~no~~"


def made(one: str, other: str) -> Contrasts:
    return Contrasts((Contrast.of(3, ("<b>", "b|c"), (1.0, 0.25), (one, other)),), 1, "that differ in score")


def test_html_holds_text_and_marks_alone() -> None:
    shown = made(NASTY, NASTY.replace("bold", "brave"))._repr_html_()
    assert set(re.findall(r"</?([a-z]+)", shown)) == {"div", "table", "tr", "th", "td", "del", "ins", "p", "span"}
    assert "$" not in shown.replace("&#36;", "")
    assert "<del>bold</del>" in shown
    assert "<ins>brave</ins>" in shown
    assert "&lt;b&gt;: 1" in shown
    assert "\x1b" not in shown


def test_markdown_means_the_text() -> None:
    text = made(NASTY, NASTY.replace("bold", "brave")).to_markdown()
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    cells = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert len(cells) == 2
    plain = NASTY.replace("\x1b", "")
    for cell, wanted in zip(cells, (plain, plain.replace("bold", "brave")), strict=True):
        assert html.unescape(re.sub(r"</?(del|ins)>", "", cell).replace("<br>", "\n")) == wanted


def test_text_marks_as_word_diffs_do() -> None:
    assert repr(made("a big\ndog", "a small\ndog")) == (
        "item 3\n  <b>: 1\n    a [-big-]\n    dog\n  b|c: 0.25\n    a {+small+}\n    dog\n\n"
        "1 pair of answers that differ in score"
    )


def test_those_that_disagree_are_shown(make_desk: Make) -> None:
    def answers(text: str, number: int) -> str:
        wrong = "reasoned" in text and int(text[-1]) % 2
        return f"it is {'not known' if wrong else right(text, number)}"

    found = make_desk(small=answers).compare(score="contains(a)", over=items(6))
    shown = found.side_by_side(most=2)
    assert [(it.item, it.heads) for it in shown.pairs] == [
        (2, ("terse: 1", "reasoned: 0")),
        (4, ("terse: 1", "reasoned: 0")),
    ]
    assert told(shown.pairs[0].pieces[1]) == "it is <not known>"
    assert shown.note == "3 pairs of answers that differ in score; the first 2 are shown"
    assert [it.item for it in found.side_by_side(items=[1, 6]).pairs] == [1, 6]
    for wrong in ([0], [7], [True], ["1"]):
        with pytest.raises(UsageError, match="give numbers of items from 1 to 6"):
            found.side_by_side(items=wrong)  # type: ignore[arg-type]


def test_without_a_score_those_that_read_otherwise_are(make_desk: Make) -> None:
    desk = make_desk(small=lambda text, _number: "longer" if "reasoned q1" in text else "short")
    shown = desk.compare(over=items(3)).side_by_side()
    assert [(it.item, it.heads) for it in shown.pairs] == [(2, ("terse", "reasoned"))]
    assert "1 pair of answers that differ" in repr(shown)
