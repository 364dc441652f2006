"""What a model wrote, rendered as nbconvert does it: nothing active, nothing fetched, the text still readable."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tokmagic.formatting.markdown import code_block, is_long, plain_text, safe_markdown

INLINE = {"a", "b", "code", "del", "s", "em", "i", "input", "span", "strong"}
BLOCKS = {"blockquote", "br", "dd", "div", "dl", "dt", "hr", "li", "ol", "p", "pre", "ul"}
TABLE = {"table", "tbody", "td", "th", "thead", "tr"}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
INERT = INLINE | BLOCKS | TABLE | HEADINGS
ATTRIBUTES = {"href", "id", "class", "title", "type", "disabled", "checked", "style", "start"}
LINK = re.compile(r"(https?://|mailto:|#)", re.IGNORECASE)
MATH = re.compile(r"\$|\\\(.*\\\)|\\\[.*\\\]|\\begin\{.*\\end\{", re.DOTALL)


class Page(HTMLParser):
    """Rendered Markdown: what the reader sees, and everything that could do something."""

    def __init__(self, source: str) -> None:
        from nbconvert.filters.markdown import markdown2html  # takes seconds to import

        super().__init__(convert_charrefs=False)
        self.source = source
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.dangers: list[str] = []
        self._open: list[str] = []
        self._run = ""
        self.feed(str(markdown2html(safe_markdown(source))))
        self.close()
        self._end_run()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_run()
        self.text += "\n" if tag in HEADINGS | {"p"} else ""
        self.tags.append(tag)
        self._open.append(tag)
        if tag not in INERT:
            self.dangers.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES or (name == "style" and not re.fullmatch(r"text-align: ?\w+;?", value or "")):
                self.dangers.append(f"<{tag} {name}={value}>")
            elif name == "href":
                self.links.append(value or "")
                if not LINK.match(value or ""):
                    self.dangers.append(f"a link to {value}")
        if tag in {"br", "hr", "input"}:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        self._end_run()
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self._run += data

    def handle_entityref(self, name: str) -> None:
        self._run += {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}[name]

    def handle_charref(self, name: str) -> None:
        self._run += chr(int(name[1:], 16) if name.startswith("x") else int(name))

    def handle_comment(self, data: str) -> None:
        self.dangers.append(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        self.dangers.append(f"a declaration: {decl}")

    def handle_pi(self, data: str) -> None:
        self.dangers.append(f"an instruction: {data}")

    def _end_run(self) -> None:
        """A run of text ends at a tag. MathJax looks for formulas inside such runs, though not in code."""
        run, self._run = self._run, ""
        if not {"code", "pre"} & set(self._open) and MATH.search(run) and run.strip() != "$":
            self.dangers.append(f"math: {run}")
        if "¶" not in run:  # nbconvert's own mark at headings
            self.text += run


def flat(text: str) -> str:
    return " ".join(text.split())


SAME = None
HOSTILE = [
    ("<script>alert(1)</script>", SAME),
    ("Hi <img src=x onerror=alert(1)> there", SAME),
    ("<svg/onload=alert(1)>", SAME),
    ('<iframe src="https://evil.example"></iframe>', SAME),
    ("<style>body{display:none}</style>", SAME),
    ("<div\nonclick=alert(1)>\n\ntext\n\n</div>", SAME),
    ("<!-- hidden --> shown", SAME),
    ("<![CDATA[ x ]]> <?php 1 ?> <!DOCTYPE html>", SAME),
    ('<a href="javascript:alert(1)">x</a>', SAME),
    ("<b>bold?</b>", SAME),
    ("[x](javascript:alert(1))", SAME),
    ("[x]( JaVaScRiPt:alert(1))", SAME),
    ("[x](\njavascript:alert(1))", SAME),
    ("[x](<javascript:alert(1)>)", SAME),
    ("[x](java\tscript:alert(1))", SAME),
    ("[x](&#106;avascript:alert(1))", SAME),
    ("[x](javascript&colon;alert(1))", SAME),
    ("[x](data:text/html,<script>alert(1)</script>)", SAME),
    ("[x](vbscript:x) [y](file:///etc/passwd)", SAME),
    ("<javascript:alert(1)>", SAME),
    ("![i](https://evil.example/x.png)", "!i"),
    ("![\ni](https://evil.example/x.png)", "! i"),
    ("![i](data:image/svg+xml;base64,AAAA)", SAME),
    ("![i][r]\n\n[r]: https://evil.example/x.png", SAME),
    ("[r]\n\n[r]: javascript:alert(1)", SAME),
    ("[r]\n\n> [r]: javascript:alert(1)", "[r] [r]: javascript:alert(1)"),
    ("[r]\n\n- [r]: javascript:alert(1)", "[r] [r]: javascript:alert(1)"),
    ("[r]\n\n1. [r]: javascript:alert(1)", "[r] [r]: javascript:alert(1)"),
    ("[r]\n\n> - [r]: javascript:alert(1)", "[r] [r]: javascript:alert(1)"),
    ("[two\nlines]: javascript:alert(1)\n\n[two lines]", SAME),
    ("[a\\]b]: javascript:alert(1)\n\n[a\\]b]", "[a]b]: javascript:alert(1) [a]b]"),
    ("term\n: [r]: javascript:alert(1)\n\n[r]", "term : [r]: javascript:alert(1) [r]"),
    ("It costs $5 today, $10 tomorrow, $$15$$ later.", SAME),
    (r"It costs \$5 or \$10.", "It costs $5 or $10."),
    (r"\begin{equation}x^2\end{equation}", SAME),
    (r"\\(x\\) and \\[y\\]", r"\(x\) and \[y\]"),
    ("&lt;script&gt; &copy; &amp; AT&T &#60;", SAME),
    ("a < b && c > d", SAME),
    ("# Title <img src=x onerror=alert(1)>", "Title <img src=x onerror=alert(1)>"),
    ("Title <script>\n===", "Title <script>"),
    ("| a | b |\n|---|---|\n| <script> | `<b>` $3 |", "a b <script> <b> $3"),
    ("`<script>` and ``a ` <b>``", "<script> and a ` <b>"),
    ("\\`<img src=x onerror=alert(1)>\\`", "`<img src=x onerror=alert(1)>`"),
    ("`a\n<b>` tail", "a <b> tail"),
    ("[x `](javascript:a)`](javascript:b)", "[x ](javascript:a)](javascript:b)"),
    ("```html\n<script>alert('&amp; $x $y')</script>\n```", "<script>alert('&amp; $x $y')</script>"),
    ("```\n</code></pre><script>alert(1)</script>\n\n<b>\n```", "</code></pre><script>alert(1)</script> <b>"),
    ("````\n```\n<b>\n```\n````", "``` <b> ```"),
    ("~~~\n<i>\n```\n~~~", "<i> ```"),
    ("before\n```python\nif a < b: # still streaming", "before if a < b: # still streaming"),
    ("Run:\n\n    if a < b && $HOME\n", "Run: if a < b && $HOME"),
    ("- item\n\n      cat <file> | echo $HOME\n", "item cat <file> | echo $HOME"),
    ("> ```\n> a < b && $c\n> ```", "a < b && $c"),
    ("- ```sh\n  a < b && $c\n  ```\n\nafter <b>", "a < b && $c after <b>"),
    ("\x1b[31mred\x07 \x00nul\x9b", "[31mred nul"),
    ("pay \u202e52$ \u202c\u2067now\u2069", "pay ⟨202E⟩52$ ⟨202C⟩⟨2067⟩now⟨2069⟩"),
]


@pytest.mark.parametrize(("source", "seen"), HOSTILE, ids=[source[:48] for source, _ in HOSTILE])
def test_hostile_text_is_shown_and_does_nothing(source: str, seen: str | None) -> None:
    page = Page(source)
    assert page.dangers == []
    assert flat(page.text) == flat(source if seen is None else seen)


BENIGN = [
    ("Some *soft*, **loud** and ~~old~~ words.", {"em": 1, "strong": 1, "s": 1}, "Some soft, loud and old words."),
    ("- one\n- two\n  - three\n", {"ul": 2, "li": 3}, "one two three"),
    ("1. one\n2. two\n", {"ol": 1, "li": 2}, "one two"),
    ("- [ ] open\n- [x] done\n", {"ul": 1, "li": 2}, "[ ] open [x] done"),
    ("# A\n\ntext\n\n## B\n", {"h1": 1, "h2": 1, "p": 1}, "A text B"),
    ("> quoted\n> twice", {"blockquote": 1}, "quoted twice"),
    ("| a | b |\n|:--|--:|\n| 1 | 2 |\n| 3 | 4 |", {"table": 1, "tr": 3, "td": 4, "th": 2}, "a b 1 2 3 4"),
    ("Use `len(x)` here.", {"code": 1}, "Use len(x) here."),
    ("```python\ndef f():\n    return 1\n```", {"pre": 1, "code": 1}, "def f(): return 1"),
    ("a\n\n---\n\nb", {"hr": 1, "p": 2}, "a b"),
    ("one  \ntwo", {"br": 1}, "one two"),
]


@pytest.mark.parametrize(("source", "tags", "seen"), BENIGN, ids=[seen for _, _, seen in BENIGN])
def test_benign_markdown_keeps_its_form(source: str, tags: dict[str, int], seen: str) -> None:
    page = Page(source)
    assert page.dangers == []
    assert {tag: page.tags.count(tag) for tag in tags} == tags
    assert flat(page.text) == seen


LINKS = [
    ("[docs](https://a.example/x?y=1&z=2)", "https://a.example/x?y=1&z=2", "docs"),
    ('[docs](http://a.example "A title")', "http://a.example", "docs"),
    ("[write](mailto:ada@a.example)", "mailto:ada@a.example", "write"),
    ("[below](#part)", "#part", "below"),
    ("See https://a.example/x?y=1&z=2 there.", "https://a.example/x?y=1&z=2", "See https://a.example/x?y=1&z=2 there."),
    ("[pay](https://a.example/?usd=$5)", "https://a.example/?usd=$5", "pay"),
    ("<https://a.example/x>", "https://a.example/x", None),
    *(
        (f"{before}{it}{after}", it, f"{before}{it}{after}")
        for it in ("http://a.example", "HTTPS://a.example/b_c_d*e", "mailto:ada@a.example", "https://a.example/w_(x)")
        for before, after in (("", ""), ("(", ")."), ("见", "。"), ("at: ", ", or"), ("«", "»"), ('"', '"'))
    ),
    ("**https://a.example/x**", "https://a.example/x", "https://a.example/x"),
    ("| a |\n|---|\n| https://a.example |", "https://a.example", "a https://a.example"),
    ("# https://a.example/#x", "https://a.example/#x", "https://a.example/#x"),
]


@pytest.mark.parametrize(("source", "target", "seen"), LINKS, ids=[source for source, _, _ in LINKS])
def test_harmless_links_keep_their_target(source: str, target: str, seen: str | None) -> None:
    page = Page(source)
    assert page.dangers == []
    assert [link.replace("&amp;", "&").replace("%24", "$") for link in page.links] == [target]
    assert flat(page.text) in ({seen} if seen else {target, f"<{target}>"})


@pytest.mark.parametrize(
    "source",
    [
        "xhttp://a",
        "http:// a",
        "http://",
        "http://_",
        "https:",
        "ftp://a.example",
        "`http://a.b`",
        "a.http://b",
        "mailto:",
    ],
)
def test_what_only_looks_like_an_address_is_no_link(source: str) -> None:
    page = Page(source)
    assert page.links == []
    assert flat(page.text) == source.replace("`", "")


DENSE = [
    *("http://a.", "http://[", "http://(", "a://", "http://a-", "https://a.b/(", "https://a)", "mailto:a@b.", "www.a."),
    *("[", "![", "[a](", "[a](b", "[]", "[[]](", "*a ", "a*", "***a ", "_a", "~~a ", "`", "<http://a", "\\", "&", ":"),
    *("> a\n", "- a\n", "1)\n", "|1\n", "|a|b|\n|-|-|\n", "# a\n", "a\n=\n", "```\n", "word word. ", "é ", "(", "$"),
    *(">", " ", "\t", "\n", "-", "#"),
]


@pytest.mark.parametrize("size", [36_000, *(pytest.param(it, marks=pytest.mark.slow) for it in (100_000, 1_000_000))])
@pytest.mark.parametrize("piece", DENSE)
def test_no_answer_takes_long_to_show(piece: str, size: int) -> None:
    """A quadratic parser takes ten seconds for some of these, and minutes for others; CPU time, for a busy machine."""
    began = time.process_time()
    safe_markdown((piece * size)[:size])
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("text", "long"),
    [("a " * 50_000, False), ("a " * 50_001, True), ("[" * 10_000, False), ("[" * 10_001, True), ("\n" * 10_001, True)],
    ids=range(5),
)
def test_a_very_long_answer_is_shown_as_text(text: str, long: bool) -> None:
    assert is_long(text) == is_long(text[:9], text[9:]) == long
    assert (safe_markdown(text) == code_block(text)) == long
    assert not Page(text[:100]).dangers


def test_code_keeps_every_space() -> None:
    page = Page("```\nif x:\n\n    y = 1  # <b>\n\tz\n```")
    assert page.text.strip("\n") == "if x:\n\n    y = 1  # <b>\n\tz"


FRAGMENTS = [
    *("\n", "\n\n", " ", "    ", "\t", "text", "- ", "1. ", "> ", "# ", ": ", "|", "---", "*", "**", "~~"),
    *("[", "]", "](", "]: ", "]:", "[r]", "(", ")", "![", "!", "\\", "`", "``", "```", "~~~", "<", ">", "&", "$", "$$"),
    *("javascript:alert(1)", "https://e.example/x", "data:text/html,x", "mailto:a@b", "<img src=x onerror=alert(1)>"),
    *("<script>", "</pre>", "</code>", "<!--", "-->", "&lt;", "&#106;", "\\(", "\\\\(", "\\\\[", "\\begin{a}", "\x1b"),
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
@examples(1500, deadline=None, derandomize=True)
def test_no_mixture_of_markup_becomes_active(source: str) -> None:
    assert Page(source).dangers == []


@given(st.text())
@examples(150, deadline=None, derandomize=True)
def test_any_text_as_code_is_one_inert_block(text: str) -> None:
    html = code_block(text)
    inside = html.strip("\n").removeprefix("<pre><code>").removesuffix("</code></pre>")
    assert html.count("<") == 4
    assert not re.search(r"[<>\"$]", inside)


def test_terminal_text_cannot_drive_the_terminal() -> None:
    assert plain_text("a\x1b[2Jb\x07c\r\nd\re\x9b31m\tf\u0085g\x7f") == "a[2Jbc\nde31m\tfg"
    assert plain_text("Grüße 你好 👩\u200d👩\u200d👧\n") == "Grüße 你好 👩\u200d👩\u200d👧\n"


def test_half_of_a_character_can_be_shown() -> None:
    """A model may stop in the middle of one, and no output of a notebook can hold the half."""
    for shown in (safe_markdown("a\ud83d"), code_block("a\ud83d"), plain_text("a\ud83d")):
        assert "a\N{REPLACEMENT CHARACTER}" in shown
        assert shown.encode()
    assert plain_text("a\N{GRINNING FACE}") == "a\N{GRINNING FACE}"
