"""A prompt taken apart: its parts add up, what is said to be saved is saved, and nothing of its text stays unseen."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers

from tests.examples import examples
from tests.small_tokenizers import SHOUTING, TEMPLATE, TRIMMING, byte_level, save
from tests.tokens.test_tokenizer import sentencepiece_like
from tokmagic.core.prompt import Message, Prompt
from tokmagic.explain import boundaries
from tokmagic.explain.anatomy import TEMPLATE as OVERHEAD
from tokmagic.explain.anatomy import Origins, origins, parts, sections
from tokmagic.explain.findings import REPEAT_TOKENS, Edit, Finding, edited, find, repeats
from tokmagic.explain.pieces import Pieces, Trace, cut_bytes
from tokmagic.explain.readers import LocalReader, Reader
from tokmagic.prompts.template import parse
from tokmagic.tokens.tokenizer import Tokenizer

FOX = "The quick brown fox jumps over the lazy dog and then goes home. "
LEARNED = [FOX * 3, "system user assistant question answer " * 20, "\n\n\n    \n" * 5]
# Characters of one to four bytes, blanks of several kinds, and what the templates make of their own.
TEXTS = st.text(st.sampled_from("ab cd\n\t éß漢👩\u200d🚀<|>{}"), max_size=40)


def local(folder: Path) -> Reader:
    return LocalReader(Tokenizer(folder))


@pytest.fixture(scope="module", params=["bytes", "learned", "trimming", "pieces"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Tokenizers of the usual kinds: bytes, byte-level with merges, with blanks taken off, with byte fallback."""
    folder = tmp_path_factory.mktemp(str(request.param))
    if request.param == "pieces":
        return local(save(folder, sentencepiece_like(), TEMPLATE, bos="<s>"))
    made = byte_level(() if request.param == "bytes" else LEARNED)
    return local(save(folder, made, TRIMMING if request.param == "trimming" else TEMPLATE))


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Each byte is a token, so that one can count along."""
    return local(save(tmp_path_factory.mktemp("bytes"), byte_level()))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return local(save(tmp_path_factory.mktemp("learned"), byte_level(LEARNED)))


def chat(*contents: str, roles: str = "sua") -> Prompt:
    names: dict[str, Any] = {"s": "system", "u": "user", "a": "assistant"}
    return Prompt(tuple(Message(names[role], content) for role, content in zip(roles, contents, strict=True)))


def plain(content: str) -> Prompt:
    return Prompt((Message("user", content),), completion=True)


def table(trace: Trace, prompt: Prompt, where: Origins | None = None) -> dict[str, int]:
    found = parts(trace, prompt, where)
    assert found is not None
    return {it.section if it.variable is None else f"{it.section} {it.variable}": it.tokens for it in found}


# Where the variables are


def where(body: str, **variables: Any) -> list[list[tuple[str, str]]] | None:
    """For each message what came from variables, as (name, text)."""
    messages = parse(body, variables)
    found = origins(body, variables, messages)
    if found is None:
        return None
    return [
        [(it.name, message.content[it.start : it.end]) for it in stretches]
        for message, stretches in zip(messages, found, strict=True)
    ]


class Record:
    name = "Ada"


class Ticket:
    """Another number each time one looks."""

    def __init__(self) -> None:
        self._drawn = 0

    def __str__(self) -> str:
        self._drawn += 1
        return str(self._drawn)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Hi {{ who }}!", [[("who", "Bob")]]),
        ("{{ who }}", [[("who", "Bob")]]),
        ("Hi {{ empty }}.", [[]]),
        ("{{ rec.name | upper }} and {{ d['k'] }}", [[("rec.name", "ADA"), ("d['k']", "v")]]),
        ("{{ who.strip() }}{{ who }}", [[("who.strip()", "Bob"), ("who", "Bob")]]),
        ("{% for x in xs %}{{ loop.index }}:{{ x }} {% endfor %}", [[("x", "p"), ("x", "q")]]),
        ("{{ 'constant' }} {{ 1 + 1 }}", [[]]),
        ("{{ 'a' ~ who }}", [[("who", "aBob")]]),
        ("{% if who %}yes {{ who }}{% endif %}", [[("who", "Bob")]]),
        ("{% set y %}<{{ who }}>{% endset %}{{ y }}", [[("y", "<"), ("who", "Bob"), ("y", ">")]]),
        ("{% filter upper %}so {{ who }}{% endfilter %}", [[("who", "BOB")]]),
        ("--- system\nBe {{ who }}\n--- user\n{{ lines }}\n", [[("who", "Bob")], [("lines", "one\ntwo\n")]]),
        ("{{ empty }}\n--- user\nHi {{ who }}", [[("who", "Bob")]]),
        ("{{ lines }}", [[("lines", "one\ntwo")]]),
        ("{{ role }}", [[("role", "--- system\nx")]]),
    ],
)
def test_what_came_from_a_variable_is_told(body: str, expected: list[list[tuple[str, str]]]) -> None:
    variables = {
        "who": "Bob", "empty": "", "rec": Record(), "d": {"k": "v"}, "xs": "pq", "lines": "one\ntwo\n",
        "role": "--- system\nx",
    }  # fmt: skip
    assert where(body, **variables) == expected


@pytest.mark.parametrize(
    "body",
    [
        "{% set y %}{{ who }}{% endset %}{{ y | length }}",
        "{% filter replace(';', ',') %}{{ who }};{% endfilter %}",
        "{{ once | join }}",
        "{{ ticket }}",
    ],
)
def test_a_template_that_gives_another_text_when_it_is_marked_is_not_guessed_at(body: str) -> None:
    assert where(body, who="Bob", once=iter("abc"), ticket=Ticket()) is None


@given(values=st.lists(TEXTS, min_size=3, max_size=3))
@examples(100, deadline=None, derandomize=True)
def test_the_text_is_that_of_the_prompt(values: list[str]) -> None:
    variables = dict(zip("abc", values, strict=True))
    body = "--- system\n{{ a }} be {{ b }}\n--- user\nx{{ c }}y{{ a }}!"
    assert where(body, **variables) == [
        [(name, variables[name]) for name in "ab" if variables[name]],
        [(name, variables[name]) for name in "ca" if variables[name]],
    ]


# The parts


def test_each_byte_is_counted_where_it_belongs(of_bytes: Reader) -> None:
    body = "--- system\nBe {{ how }}.\n--- user\nOne?\n--- assistant\n1\n--- user\nÉtude\n--- assistant\nwell\n"
    body += "--- user\n{{ q }}!"
    variables = {"how": "naïf 👩", "q": "Pourquoi"}
    messages = parse(body, variables)
    prompt = Prompt(messages)
    trace = of_bytes.trace(prompt)
    found = table(trace, prompt, origins(body, variables, messages))
    assert found == {
        "system": len("Be ."),
        "system how": len(variables["how"].encode()),
        "example 1 user": 4,
        "example 1 assistant": 1,
        "example 2 user": len("Étude".encode()),
        "example 2 assistant": 4,
        "user": 1,
        "user q": 8,
        # A special token, the role and a line end in front, a special token and a line end behind; then the answer's.
        OVERHEAD: sum(2 + len(it.role) + 2 for it in messages) + 2 + len("assistant"),
    }
    assert sum(found.values()) == trace.tokens == of_bytes.count(prompt)


@given(contents=st.lists(TEXTS, min_size=3, max_size=3), completion=st.booleans())
@examples(150, deadline=None, derandomize=True)
def test_the_parts_add_up_to_what_the_model_is_fed(reader: Reader, contents: list[str], completion: bool) -> None:
    prompt = plain(contents[0]) if completion else chat(*contents)
    trace = reader.trace(prompt)
    found = table(trace, prompt)
    assert sum(found.values()) == trace.tokens == reader.count(prompt)
    assert all(count > 0 for count in found.values())
    assert set(found) <= ({"text"} if completion else {"system", "user", "assistant"}) | {OVERHEAD}


@given(contents=st.lists(TEXTS, min_size=3, max_size=3), completion=st.booleans())
@examples(150, deadline=None, derandomize=True)
def test_pieces_cover_the_text_without_a_gap(reader: Reader, contents: list[str], completion: bool) -> None:
    trace = reader.trace(plain(contents[0]) if completion else chat(*contents))
    assert trace.pieces is not None
    own = [it for it in trace.pieces if not it.added]
    assert all(a.start <= b.start and b.start <= a.end <= b.end for a, b in pairwise(own))
    if own:
        assert (own[0].start, own[-1].end) == (0, len(trace.text))
    # Tokens that share a character say so, and those alone; what they hold are its bytes, together and in order.
    for at, it in enumerate(own):
        alone = (not at or own[at - 1].end <= it.start) and (at + 1 == len(own) or own[at + 1].start >= it.end)
        assert (it.raw is None) == alone
    whole = b"".join(trace.text[it.start : it.end].encode() if it.raw is None else it.raw for it in own)
    text = trace.text.encode()
    # Pieces with ▁ put a blank of their own in front of a text.
    adds_blanks = reader.count(plain("b")) > 1
    assert whole.split() == text.split() if adds_blanks else whole == text


@given(text=TEXTS, cuts=st.lists(st.integers(0, 200)), base=st.integers(0, 5))
@examples(200, deadline=None, derandomize=True)
def test_bytes_are_laid_over_characters(text: str, cuts: list[int], base: int) -> None:
    raw = text.encode()
    owner = [base + at for at, character in enumerate(text) for _ in character.encode()]
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    found = Pieces()
    cut_bytes(found, range(len(pieces)), pieces, base)
    assert [(it.start, it.end) for it in found] == [(owner[a], owner[b - 1] + 1) for a, b in pairwise(edges)]
    for it, piece in zip(found, pieces, strict=True):
        assert (it.raw or text[it.start - base : it.end - base].encode()) == piece


def test_a_beginning_that_the_tokenizer_adds_is_overhead(tmp_path: Path) -> None:
    reader = local(save(tmp_path, sentencepiece_like(), TEMPLATE, bos="<s>"))
    prompt = plain("ab")
    assert table(reader.trace(prompt), prompt)[OVERHEAD] == 1
    first = next(iter(reader.trace(prompt).pieces or ()))
    assert (first.id, first.special, first.added) == (1, True, True)
    assert boundaries.as_text(reader.trace(plain("bab 漢 a")), 99) == "⟦<s>⟧│·│b│ab│·│‹E6›│‹BC›│‹A2›│ a"


def test_a_system_message_of_the_templates_own_is_overhead(tmp_path: Path) -> None:
    own = "{% if messages[0]['role'] != 'system' %}<|role|>system\nBe nice.<|end|>\n{% endif %}" + TEMPLATE
    reader = local(save(tmp_path, byte_level(), own))
    prompt = chat("Hi", roles="u")
    found = table(reader.trace(prompt), prompt)
    assert found["user"] == 2
    assert found[OVERHEAD] > len("Be nice.")


@pytest.mark.parametrize("content", ["user", "", "   ", "<|role|>user\n", "\n"], ids=repr)
def test_contents_that_look_like_the_template_are_told_from_it(of_bytes: Reader, content: str) -> None:
    prompt = chat(content, "Hi", content, roles="suu")
    trace = of_bytes.trace(prompt)
    stretches = {it.message: trace.text[it.start : it.end] for it in trace.contents or ()}
    assert stretches == {0: content, 1: "Hi", 2: content}


def test_a_template_that_rewrites_the_messages_is_not_guessed_at(tmp_path: Path) -> None:
    reader = local(save(tmp_path, byte_level(), SHOUTING))
    prompt = chat("be kind", "hi", roles="su")
    trace = reader.trace(prompt)
    assert trace.contents is None
    assert parts(trace, prompt, None) is None
    assert trace.tokens == reader.count(prompt)


def test_what_messages_are_for() -> None:
    assert sections(chat(*"abcdef", roles="suauau").messages) == [
        "system", "example 1 user", "example 1 assistant", "example 2 user", "example 2 assistant", "user",
    ]  # fmt: skip
    assert sections(chat("a", "b", roles="ua").messages) == ["user", "assistant"]
    assert sections(chat("a", roles="s").messages) == ["system"]


# What could go


def found_in(reader: Reader, prompt: Prompt) -> dict[str, Finding]:
    found, _ = find(reader.trace(prompt), prompt, reader.count)
    return {it.kind: it for it in found}


def test_a_repeated_stretch_is_found_and_its_saving_is_true(learned: Reader) -> None:
    sentence = "No answer may be longer than three sentences, nor may it name a person who is alive. "
    prompt = chat(f"You help. {sentence}", f"A question?\n{sentence}Now answer!", roles="su")
    found = found_in(learned, prompt)["repeated text"]
    assert found.text == sentence
    without = chat(f"You help. {sentence}", "A question?\nNow answer!", roles="su")
    assert edited(prompt, found.edits) == without
    assert found.tokens == len(learned_ids(learned, prompt)) - len(learned_ids(learned, without)) > REPEAT_TOKENS


def learned_ids(reader: Reader, prompt: Prompt) -> tuple[int, ...]:
    assert isinstance(reader, LocalReader)
    return reader.tokenizer.encode(prompt)


def test_what_repeats_three_times_can_go_twice(of_bytes: Reader) -> None:
    prompt = plain(f"{FOX}one {FOX}two {FOX}three")
    found = found_in(of_bytes, prompt)["repeated text"]
    assert len(found.edits) == 2
    assert edited(prompt, found.edits).messages[0].content == f"{FOX}one two three"
    assert found.tokens == 2 * len(FOX)


def test_short_or_different_stretches_are_left_alone(of_bytes: Reader) -> None:
    short = "x" + "abcdefghijklmnopqrstuvwxyz"[: REPEAT_TOKENS - 2]
    assert found_in(of_bytes, plain(f"1{short}2{short}3")) == {}
    assert "repeated text" in found_in(of_bytes, plain(f"1{short}!2{short}!3"))


def test_the_templates_own_repetitions_are_not_the_prompts(of_bytes: Reader) -> None:
    prompt = chat(*"abcdef", roles="suauau")
    assert found_in(of_bytes, prompt) == {}


@pytest.mark.parametrize(
    ("text", "kind", "left"),
    [
        ("a\n\n\n\n\nb", "blank lines", "a\n\nb"),
        ("a\n \n\t\n  b", "blank lines", "a\n\n  b"),
        ("a\r\n\r\n\r\nb", "blank lines", "a\r\n\nb"),
        ("a  \nb\t\nc ", "spaces at line ends", "a\nb\nc"),
        ("a     b", "runs of spaces", "a b"),
    ],
)
def test_blanks_are_found_and_their_saving_is_true(of_bytes: Reader, text: str, kind: str, left: str) -> None:
    prompt = plain(text)
    found = found_in(of_bytes, prompt)[kind]
    assert edited(prompt, found.edits) == plain(left)
    assert found.tokens == len(text) - len(left)


@pytest.mark.parametrize("text", ["a\n\nb\n\nc", "def f():\n    return 1\n        # deep", "x = 1  # why", "a b"])
def test_paragraphs_and_indentation_are_left_alone(of_bytes: Reader, text: str) -> None:
    assert found_in(of_bytes, plain(text)) == {}


def test_blanks_that_cost_nothing_are_not_pointed_out(learned: Reader) -> None:
    """A vocabulary can have a token for a run of blanks: then one blank fewer saves no token."""
    assert learned.count(plain("x\n    \ny")) > 0
    for it in found_in(learned, plain("x\n    \ny")).values():
        assert it.tokens > 0


WORDS = st.lists(st.sampled_from([FOX, "one ", "two\n", "\n\n\n", "    ", "é漢", "x" * 25]), max_size=14)


@given(words=WORDS, more=WORDS)
@examples(150, deadline=None, derandomize=True)
def test_every_saving_is_true_and_what_is_left_still_says_it(reader: Reader, words: list[str], more: list[str]) -> None:
    prompt = chat("".join(words), "".join(more), roles="su")
    trace = reader.trace(prompt)
    found, together = find(trace, prompt, reader.count)
    assert [it.tokens for it in found] == sorted((it.tokens for it in found), reverse=True)
    for it in found:
        assert it.tokens == trace.tokens - reader.count(edited(prompt, it.edits)) > 0
        for edit in it.edits:
            assert edit.start < edit.end
        if it.text:
            kept = edited(prompt, it.edits)
            assert any(it.text in message.content for message in kept.messages), "the first time it is said stays"
            assert all(prompt.messages[e.message].content[e.start : e.end] == it.text for e in it.edits)
    assert together == trace.tokens - reader.count(edited(prompt, [edit for it in found for edit in it.edits]))


def test_of_edits_that_overlap_the_longer_one_is_done() -> None:
    edits = [Edit(0, 0, 3), Edit(0, 2, 9), Edit(0, 9, 10, "-"), Edit(0, 8, 10)]
    assert edited(plain("0123456789ab"), edits).messages[0].content == "01-ab"


def test_repetitions_are_found_in_linear_time(of_bytes: Reader) -> None:
    """Texts that defeat a naive search: the same letter, a short period, all of it twice."""
    for text in ("a" * 20_000, "ab cd " * 4_000, (FOX * 160 + "x") * 2):
        prompt = plain(text)
        found = repeats(of_bytes.trace(prompt), prompt.messages)
        assert found
        kept = edited(prompt, [edit for it in found for edit in it.edits]).messages[0].content
        assert len(kept) < len(text) / 100 + 200


# What is seen


def test_everything_of_a_text_is_seen_and_nothing_of_it_is_html(of_bytes: Reader, learned: Reader) -> None:
    trace = of_bytes.trace(chat("a<b>&$x$ \t\u202e\u200b\x1b[0m|é", roles="u"))
    html, text = boundaries.as_html(trace, 1000), boundaries.as_text(trace, 1000)
    assert "<b>" not in html
    assert "$" not in html
    assert "\x1b" not in html + text
    assert "\u202e" not in html + text
    assert "⟦<|role|>⟧│u│s│e│r│↵\n│a│<│b│>│&│$│x│$│·│⇥\t│‹E2›│‹80›│‹AE›" in text
    assert "‹C3›│‹A9›│⟦<|end|>⟧" in text
    joined = learned.trace(plain("The quick\u202efox  "))
    assert "‹E2›" in boundaries.as_text(joined, 99)


def test_an_invisible_character_in_one_token_is_spelled_out() -> None:
    text = "a\u202eb\u200c"
    pieces = Pieces()
    cut_bytes(pieces, [7], [text.encode()], 0)
    trace = Trace(text, 1, pieces, None)
    assert boundaries.as_text(trace, 9) == "a‹U+202E›b‹U+200C›"


def test_a_long_text_is_shown_in_part_and_says_so(of_bytes: Reader) -> None:
    trace = of_bytes.trace(plain("x" * 1_300))
    html, text = boundaries.as_html(trace, 100), boundaries.as_text(trace, 100)
    assert html.count("<span style") == 100
    assert text.count("x") == 100
    for shown in (html, text):
        assert "1,200 more tokens not shown" in shown
    assert "more tokens" not in boundaries.as_text(trace, 1_300)


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance (WCAG 2.2) of an sRGB colour with channels from 0 to 1."""
    linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def over(fill: str, ground: tuple[float, ...]) -> tuple[float, ...]:
    red, green, blue, alpha = (float(it) for it in re.findall(r"[\d.]+", fill))
    return tuple(c / 255 * alpha + g * (1 - alpha) for c, g in zip((red, green, blue), ground, strict=True))


@pytest.mark.parametrize(
    ("ground", "ink"), [((1.0,) * 3, (0.13,) * 3), ((0.067,) * 3, (0.88,) * 3)], ids=["light", "dark"]
)
def test_fills_differ_in_grey_and_the_text_on_them_can_be_read(
    ground: tuple[float, ...], ink: tuple[float, ...]
) -> None:
    """On JupyterLab's light and dark backgrounds with its text's colours; 4.5 is WCAG's bound for text."""
    fills = [over(fill, ground) for fill in (*boundaries.FILLS, boundaries.SPECIAL_FILL)]
    assert all(contrast(fill, ink) >= 4.5 for fill in fills)
    assert contrast(fills[0], fills[1]) >= 1.2


def test_neighbours_have_different_fills_and_an_edge(of_bytes: Reader) -> None:
    html = boundaries.as_html(of_bytes.trace(plain("abcdef")), 99)
    styles = re.findall(r'<span style="([^"]*)"', html)
    assert len(styles) == 6
    assert all(a != b for a, b in pairwise(styles))
    assert all("border-left" in style for style in styles)


def test_special_tokens_in_a_messages_text_are_counted_apart(of_bytes: Reader) -> None:
    assert boundaries.from_the_text(of_bytes.trace(chat("Hi", "there", roles="su"))) == 0
    assert boundaries.from_the_text(of_bytes.trace(chat("Hi <|end|>", "<|role|><|end|>", roles="su"))) == 3


def lacking(folder: Path, kind: str) -> Reader:
    """A vocabulary of few words, to which each other one is ``<unk>``."""
    if kind == "tokenizer.json":
        made = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.add_special_tokens([AddedToken("<unk>", special=True)])
        made.save(str(folder / kind))
    else:
        trained = pytest.importorskip("sentencepiece").SentencePieceTrainer
        with (folder / kind).open("wb") as writer:
            trained.train(sentence_iterator=iter(["one two"] * 9), model_writer=writer, vocab_size=10, minloglevel=2)
    return local(folder)


@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer.model"])
def test_what_a_vocabulary_lacks_is_no_special_token_that_was_spelled(tmp_path: Path, kind: str) -> None:
    texts = {"☃": 0, "one ☃ ☃☃ two": 0, "one <unk> ☃": 1, "<unk> <unk>": 2}
    reader = lacking(tmp_path, kind)
    assert {it: boundaries.from_the_text(reader.trace(plain(it))) for it in texts} == texts
    assert "⟦" not in boundaries.as_text(reader.trace(plain("one ☃")), 9)
