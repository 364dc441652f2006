"""What may be asked of a bench, and the prompts that it makes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.rig import Paced, plan, words
from tests.small_tokenizers import byte_level, save
from tokmagic.bench.prompts import Prompts
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.local.engine import LocalEngine
from tokmagic.errors import UsageError
from tokmagic.tokens.tokenizer import Tokenizer


def test_a_level_has_four_requests_for_each_at_once_and_at_least_eight() -> None:
    made = plan(levels=(1, 2, 4, 16), requests=None, warmup=3)
    assert [made.requests_at(level) for level in made.levels] == [8, 8, 16, 64]
    assert made.total == 3 + 8 + 8 + 16 + 64
    assert plan(levels=(1, 8), requests=3).total == 3 + 8, "else nobody would be at once"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"levels": (0,)}, r"--concurrency is 0; it must be at least 1 and at most 1,024"),
        ({"levels": (-2,)}, r"--concurrency is -2"),
        ({"levels": (10**30,)}, r"--concurrency is 10000"),
        ({"levels": ()}, r"--concurrency has 0 levels"),
        ({"levels": (2, 1, 2)}, r"--concurrency names a level twice"),
        ({"prompt_tokens": 1_000_000}, r"--prompt-tokens is 1,000,000; it must be at least 1 and at most 500,000"),
        ({"output_tokens": 0}, r"--output-tokens is 0"),
        ({"requests": 0}, r"--requests is 0"),
        ({"warmup": -1}, r"--warmup is -1"),
        ({"shared_prefix": 12}, r"--shared-prefix is 12 of 12 prompt tokens"),
        ({"seed": -1}, r"--seed is -1"),
        ({"requests": True}, r"--requests is True"),
    ],
)
def test_absurd_numbers_are_refused_in_one_line(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        plan(**changed)
    assert "\n" not in str(raised.value)


def test_more_than_the_context_is_refused() -> None:
    made = plan(prompt_tokens=2000, output_tokens=49)
    with pytest.raises(
        UsageError, match=r"2,000 prompt and 49 output tokens are more than the model's context of 2,048"
    ):
        made.check_context(2048)
    made.check_context(2049)
    made.check_context(None)


# Prompts


class Known(Paced):
    """A model whose tokenizer is at hand."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__("m", lambda _number: words())
        self._tokenizer = tokenizer

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer


TEXT = ["the water house light stone river table paper green music window garden summer winter forest bread"] * 8


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer with some whole words in its vocabulary."""
    return Tokenizer(save(tmp_path_factory.mktemp("learned"), byte_level(TEXT, size=600)))


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer to which each byte is a token, and which has no chat template."""
    return Tokenizer(save(tmp_path_factory.mktemp("bytes"), byte_level(), template=None))


@given(st.integers(60, 300), st.integers(0, 30), st.integers(0, 2**31))
def test_prompts_have_exactly_so_many_tokens_and_differ(
    learned: Tokenizer, tokens: int, shared: int, seed: int
) -> None:
    asked = plan(prompt_tokens=tokens, shared_prefix=shared, seed=seed)
    made = list(islice(Prompts(Known(learned), asked), 5))
    assert {learned.count(it) for it in made} == {tokens}
    assert len({it.messages for it in made}) == 5
    assert made == list(islice(Prompts(Known(learned), asked), 5)), "the same seed makes the same prompts"
    begins = {" ".join(it.messages[0].content.split()[:shared]) for it in made}
    assert len(begins) == 1


def test_a_bytewise_vocabulary_has_exact_prompts_too_without_a_chat_template(bytewise: Tokenizer) -> None:
    prompts = Prompts(Known(bytewise), plan(prompt_tokens=100))
    made = list(islice(prompts, 5))
    assert prompts.exact
    assert {bytewise.count(it) for it in made} == {100}
    assert all(it.completion for it in made)


def test_fewer_tokens_than_the_chat_template_has_are_refused(learned: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"--prompt-tokens is 5, and the shortest prompt of this model has \d+ with"):
        Prompts(Known(learned), plan(prompt_tokens=5))


def test_too_few_different_prompts_are_refused(learned: Tokenizer) -> None:
    short = learned.count(next(iter(Prompts(Known(learned), plan(prompt_tokens=40))))) - 40
    assert short == 0
    least = next(n for n in range(5, 60) if _fits(learned, n))
    with pytest.raises(UsageError, match=r"too few different prompts of \d+ tokens; raise --prompt-tokens"):
        list(islice(Prompts(Known(learned), plan(prompt_tokens=least)), 1000))


def _fits(tokenizer: Tokenizer, tokens: int) -> bool:
    try:
        next(iter(Prompts(Known(tokenizer), plan(prompt_tokens=tokens))))
    except UsageError:
        return False
    return True


def test_without_a_tokenizer_prompts_are_of_about_the_length() -> None:
    prompts = Prompts(Paced("m", lambda _number: words()), plan(prompt_tokens=50))
    (made,) = islice(prompts, 1)
    assert not prompts.exact
    assert len(made.messages[0].content.split()) == 50


@pytest.mark.model
def test_the_default_models_prompts_are_exact(tiny_home: Path) -> None:
    engine = LocalEngine("smollm2", ModelSpec("smollm2"), TokMagic(home=str(tiny_home)))
    for tokens in (35, 128, 500):
        prompts = Prompts(engine, plan(prompt_tokens=tokens, ignore_eos=True))
        made = list(islice(prompts, 3))
        assert {engine.count(it) for it in made} == {tokens}
        assert all(it.ignore_eos and not it.completion for it in made)
    assert engine.state == "unloaded", "no weights are read for it"
