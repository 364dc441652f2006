"""A live count is the full count of the text at every moment, and reads no more than the edit's neighbourhood."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.backends import INCREMENTAL, TEXT, WHOLE
from tests.examples import examples, first, some
from tokmagic.errors import PromptError
from tokmagic.tokens.counter import LiveCounter
from tokmagic.tokens.counter.patterns import UnreadPattern, read

# What splits, joins, composes, is swallowed, or is one half of these.
FRAGMENTS = [
    *["a", "b", "aB", " b", "A.", ".b", ".B", "x", "_", "\x00", "'s", "'S", "'LL", "don't", "ſ", "K", "ß", "İ", "ǅ"],
    *[" ", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "\v", "\x1c", "\x85", "\xa0", "\u180e", "\u2003", "\u2028"],
    *[".", "...", "./", "/\n", " .", "<", "=\u0338", ">", "{", "}", '"', ":", ";", "\u037e", "`", "\u1fef", "\\", "-"],
    *["¨", "7", "12345", "٣", "½", "é", "e\u0301", "\u0301", " \u0301", "\u0338", "\u0345", "\ufeff", "\ufffd", "ﬁ"],
    *["が", "か\u3099", "\u3099", "、", "。", "世界", "你", "＜", "ｱ", "\u3000", "각", "ᄀ", "\u1161"],
    *["\u11a8", "\u200b", "ا", "न", "\u093e", "👩\u200d🚀", "<|im_start|>", "<|im_end|>", "<|im_", "start|>", "end|>"],
    *["|>a", "<|im_end", "|>", "<s>", "[MASK]", "[UNK]", "[U", "<|end|>", "<mask>", "the", ".the", "a.the", "é b"],
    *["[a.b]", "[a", ".b]", ". ", "Straße.a", "Straße a"],
]  # fmt: skip
TYPED = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), max_size=8).map("".join)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9) | st.just(10**6), TYPED), min_size=1, max_size=10)


@cache
def backend(name: str) -> Tokenizer:
    return {**INCREMENTAL, **WHOLE}[name]()


@pytest.fixture(scope="module")
def smollm_backend(model_home: Path) -> Tokenizer:
    (found,) = (model_home / "models").glob("*/tokenizer.json")
    return Tokenizer.from_file(str(found))


def full(made: Tokenizer, text: str, add_special_tokens: bool = False) -> int:
    return len(made.encode(text, add_special_tokens=add_special_tokens).ids)


def edited(text: str, place: float, removed: int, typed: str) -> str:
    at = round(place * len(text))
    return text[:at] + typed + text[at + removed :]


def follow(made: Tokenizer, text: str, edits: list[tuple[float, int, str]], piece_chars: int = 256) -> None:
    """Make the edits one after another, and count after each."""
    counters = [LiveCounter(made, add_special_tokens=special, piece_chars=piece_chars) for special in (False, True)]
    for edit in [(0.0, 0, ""), *edits]:
        text = edited(text, *edit)
        for special, counter in enumerate(counters):
            assert counter.update(text) == full(made, text, bool(special))


@pytest.mark.parametrize("name", [*INCREMENTAL, *WHOLE])
@given(text=TYPED, edits=EDITS, piece_chars=st.sampled_from([1, 1, 4]))
@examples(30, deadline=None, derandomize=True)
def test_after_every_edit_the_count_is_a_full_count(
    name: str, text: str, edits: list[tuple[float, int, str]], piece_chars: int
) -> None:
    """Pieces as short as can be, so that every place where text may be cut is one where it is cut."""
    follow(backend(name), text, edits, piece_chars)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bert-nfkc", "ab=\u0338cd"),
        ("either-case-pieces", "A.b a.B"),
        ("gpt4o-pieces", "he'S we'LL"),
        ("gpt2-pieces", "a  b   \n c"),
        ("llama3-pieces", "a.\n\nb"),
        ("looks-ahead-pieces", "abc."),
        ("gpt2-prefix-pieces", "a.\nb"),
        ("swallowing-pieces", "<|end|> \n a \n <mask>b"),
        ("nfc-inside", "e\u0301 b[a.b]"),
        ("spaces-pieces", "a" + " " * 11 + "b"),
        ("one-word", "a.the"),
    ],
    ids=ascii,
)
def test_what_is_easily_cut_wrongly(name: str, text: str) -> None:
    assert LiveCounter(backend(name), piece_chars=1).update(text) == full(backend(name), text)


@pytest.mark.model
@given(text=TYPED, edits=EDITS, piece_chars=st.sampled_from([1, 4]))
@examples(100, deadline=None, derandomize=True)
def test_so_it_is_with_the_default_models_tokenizer(
    text: str, edits: list[tuple[float, int, str]], piece_chars: int, smollm_backend: Tokenizer
) -> None:
    follow(smollm_backend, text, edits, piece_chars)


@pytest.mark.slow
@pytest.mark.model
def test_a_long_prompt_is_counted_through_a_session_of_typing(smollm_backend: Tokenizer) -> None:
    chance = random.Random(1)
    text = f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n"
    edits = [(chance.random(), chance.choice([0, 0, 0, 1, 30]), chance.choice(FRAGMENTS)) for _ in range(150)]
    follow(smollm_backend, text, edits)


@pytest.mark.model
def test_a_special_token_is_completed_and_broken(smollm_backend: Tokenizer) -> None:
    counter = LiveCounter(smollm_backend)
    counts = [counter.update(f"{TEXT}{end}\n{TEXT}") for end in ("<|im_end", "<|im_end|>", "<|im_end|")]
    assert counts == [full(smollm_backend, f"{TEXT}{end}\n{TEXT}") for end in ("<|im_end", "<|im_end|>", "<|im_end|")]
    assert counts[1] < counts[0]


def test_tokenizers_that_are_counted_incrementally() -> None:
    assert {name for name in {**INCREMENTAL, **WHOLE} if LiveCounter(backend(name)).incremental} == set(INCREMENTAL)


class Reads:
    """A backend, and how many characters it was given to read."""

    def __init__(self, made: Tokenizer) -> None:
        self._made = made
        self.chars = 0

    def encode(self, text: str, **options: Any) -> Any:
        self.chars += len(text)
        return self._made.encode(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)


PROSE = " ".join([TEXT] * 20)
JSON = ",".join(f'{{"id":{number},"name":"n{number}","on":true}}' for number in range(5_000))
CHINESE = "".join(f"第{number}章，天下大勢。分久必合、合久必分。" for number in range(5_000))


@pytest.mark.property
@pytest.mark.parametrize("name", first(2, ["gpt2", "qwen2", "llama3", "gpt4o", "deepseek"]))
@pytest.mark.parametrize(
    "text", [PROSE, JSON, CHINESE, PROSE + "👩\u200d🚀"], ids=["prose", "json", "chinese", "emoji"]
)
def test_an_edit_reads_its_neighbourhood_alone(name: str, text: str) -> None:
    reads = Reads(backend(name))
    counter = LiveCounter(reads)  # type: ignore[arg-type]
    counter.update(text)
    assert len(text) == reads.chars > 100_000
    chance = random.Random(2)
    for _ in range(some(100)):
        edit = (chance.random(), chance.choice([0, 1, 40]), chance.choice(["", "x", " ", "。"]))
        text = edited(text, *edit)
        reads.chars = 0
        count = counter.update(text)
        assert reads.chars < 2_000
    assert count == full(backend(name), text)
    reads.chars = 0
    assert counter.update(text) == count
    assert reads.chars == 0


@pytest.mark.parametrize("name", first(2, ["gpt2", "bert", "llama3", "metaspace"]))
@pytest.mark.parametrize("word", ["x", " ", "\n", "世", "\u0301"], ids=ascii)
def test_text_without_a_place_to_be_cut_is_counted_too(name: str, word: str) -> None:
    follow(backend(name), word * 20_000, [(0.5, 0, "y"), (0.5, 1, ""), (0.3, 0, " z"), (0.9, 9, ".")])


@pytest.mark.parametrize("name", first(2, ["gpt2", "bert", "qwen2", "metaspace"]))
def test_everything_is_deleted_and_a_book_pasted(name: str) -> None:
    everything = 10**9
    follow(
        backend(name),
        "",
        [(0, 0, "a"), (0, everything, ""), (0, 0, TEXT * 5), (0.5, 0, TEXT * 5), (0, everything, "b")],
    )


def test_what_cuts_or_fills_an_encoding_is_followed() -> None:
    made = INCREMENTAL["gpt2"]()
    counter = LiveCounter(made, add_special_tokens=True)
    assert counter.update(TEXT) > 10
    made.enable_truncation(10)
    assert not counter.incremental
    assert counter.update(TEXT + " a") == 10
    made.no_truncation()
    made.enable_padding(length=100_000)
    assert counter.update(TEXT + " a b") == 100_000
    made.no_padding()
    assert counter.incremental
    assert counter.update(TEXT + " a b c") == full(made, TEXT + " a b c")


@pytest.mark.parametrize("name", ["gpt2", "metaspace"])
def test_half_a_character_is_refused_and_forgotten(name: str) -> None:
    counter = LiveCounter(backend(name))
    counter.update(TEXT)
    with pytest.raises(PromptError, match="an incomplete character"):
        counter.update(TEXT[:900] + "\ud83d" + TEXT[900:])
    mended = TEXT[:900] + "🚀" + TEXT[900:]
    assert counter.update(mended) == full(backend(name), mended)


@pytest.mark.parametrize(
    "pattern",
    [
        *["", "a*", "a|", "(a", "a)", "[a", "[]", "*a", "a{2}{3}", "a{1,3}+", "a{x}", "a\\", "^a", "a$", r"\ba"],
        *[r"a\K", "(?=a)b", "(?!a)b", r"(?!\S)b", r"a(?:(?!\S)b|c)", r"a(?!\S)?", "(?<=a)b", "(?<!a)b", "(?>a)"],
        *["(?i)a", "(?i:é)", r"(?i:\p{Lu})", r"\p{Han}", r"\pL", r"\p{^L}", r"(a)\1", r"\x41", r"\R", r"\X", "(?#a)a"],
        *["[[:alpha:]]", "[a[b]]", r"[\w&&\d]", r"[a-\d]", "(?<name>a)"],
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_be_argued_about_is_refused(pattern: str) -> None:
    with pytest.raises(UnreadPattern):
        read(pattern)


def test_importing_it_is_light() -> None:
    report = "import sys, tokmagic.tokens.counter; print(*{'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
