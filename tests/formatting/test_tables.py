"""Numbers and tables as text: columns line up, nouns agree, what is shown in a notebook is escaped."""

from __future__ import annotations

from html.parser import HTMLParser

from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table


def test_a_count_agrees_with_its_noun() -> None:
    assert [numbers.counted(n, "run") for n in (0, 1, 2, 1234)] == ["0 runs", "1 run", "2 runs", "1,234 runs"]


def test_milliseconds_have_no_decimals_beyond_a_second() -> None:
    shown = [numbers.milliseconds(it) for it in (None, 0.00052, 0.0111, 0.99994, 0.99996, 12.345)]
    assert shown == ["—", "0.52", "11.1", "999.9", "1000", "12345"]


def test_a_table_in_a_notebook_escapes_what_it_shows() -> None:
    made = Table(("<b>", "cost"), (("<script>alert(1)</script>", "$1"), ("&amp;", "$2")), note="<i> $3")
    seen: list[str] = []
    text: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)

        def handle_data(self, data: str) -> None:
            text.append(data)

    Reader().feed(made._repr_html_())
    assert set(seen) == {"div", "table", "thead", "tbody", "tr", "th", "td", "p", "span"}
    assert "".join(text) == "<b>cost<script>alert(1)</script>$1&amp;$2<i> $3"
    assert text.count("$") == 3, "each dollar stands alone, so that two of them make no formula"


def test_words_among_figures_stand_to_the_left_and_each_line_of_a_note_by_itself() -> None:
    made = Table(("a", "b", "c"), (("1", "x", "2"), ("1", "long", "300")), note="one\ntwo <", words=("b",))
    assert repr(made).splitlines() == ["a  b       c", "1  x       2", "1  long  300", "one", "two <"]
    assert '<td style="text-align:left">x</td><td style="text-align:right">2</td>' in made._repr_html_()
    assert "<p>one<br>two &lt;</p>" in made._repr_html_()
