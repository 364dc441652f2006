"""What a server does not count is estimated, however it cuts its answers into chunks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engines.endpoints import ASK, Ask, Make, several
from tests.servers import Endpoint, chunk, streams, usage_chunk
from tokmagic.core.prompt import Sampling
from tokmagic.core.stream import Token
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.session import Session

ENGLISH = (
    "A token is a piece of text that a model reads or writes: a word, a part of one, or a sign. How many of them a "
    "page comes to depends on its language; what they cost depends on the model, and who counts them.\n\nThat is all.\n"
) * 4
TOKENS = re.findall(r" ?[^\W\d]+|\d| ?[^\w\s]|\s+", ENGLISH)
"""As a server sends it that streams a token at a time."""
GERMAN = re.findall(
    r" ?[^\W\d]{1,3}|.", "Die Donaudampfschifffahrtsgesellschaft veröffentlichte überraschend Zahlen. " * 9
)
"""A language that a vocabulary was not made for."""
CHINESE = list("分词器把文本切成词元，模型逐个读写它们。" * 9)
DIGITS = list("3141592653589793238462643383279502884197")


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


ARRIVES: dict[str, tuple[list[str], int]] = {
    "token by token": (TOKENS, len(TOKENS)),
    "token by token, short ones": (GERMAN, len(GERMAN)),
    "token by token, Chinese": (CHINESE, len(CHINESE)),
    "token by token, digits": (DIGITS, len(DIGITS)),
    "letter by letter": (cut(ENGLISH, 1), len(TOKENS)),
    "five letters each": (cut(ENGLISH, 5), len(TOKENS)),
    "forty letters each": (cut(ENGLISH, 40), len(TOKENS)),
    "as a whole": ([ENGLISH], len(TOKENS)),
}


@pytest.mark.parametrize("name", ARRIVES)
def test_an_estimate_is_bounded_by_the_text_however_it_is_cut(session: Session, server: Endpoint, name: str) -> None:
    pieces, tokens = ARRIVES[name]
    server.script = streams([*map(chunk, pieces), chunk(reason="stop")])
    events = list(session.models.engine("m").stream(replace(ASK, sampling=Sampling(max_tokens=2_000))))
    counts = [it.usage.output_tokens or 0 for it in events if isinstance(it, Token) and it.usage is not None]
    assert counts == sorted(counts), "it never goes back"
    end = events[-1].usage
    assert end is not None
    assert end.output_source == "estimated"
    for found in (counts[-1], end.output_tokens or 0):
        assert 0.8 * tokens <= found <= 1.25 * tokens, tokens


def test_each_of_several_answers_is_estimated_by_itself(ask: Ask) -> None:
    pieces = [chunk(letter, index=index) for letter in ENGLISH for index in (0, 1)]
    generation = ask(streams([*pieces, chunk(reason="stop"), chunk(reason="stop", index=1)]), several(2))
    assert 1.6 * len(TOKENS) <= (generation.usage.output_tokens or 0) <= 2.5 * len(TOKENS)


def test_with_the_models_tokenizer_the_count_is_right_while_it_grows(
    make_session: Make, server: Endpoint, model_home: Path
) -> None:
    session = make_session(home=str(model_home))
    session.models.add("m", ModelSpec("org/m", api_base=server.url, tokenizer="smollm2"))
    session.generate(ASK, "m")  # from now on its tokenizer is there
    for size in (1, 3, 40):
        server.script = streams([*map(chunk, cut(ENGLISH, size)), chunk(reason="stop")])
        events = list(session.models.engine("m").stream(ASK))
        last = [it.usage for it in events if isinstance(it, Token)][-1]
        end = events[-1].usage
        assert last is not None
        assert end is not None
        assert last.output_tokens == pytest.approx(end.output_tokens, rel=0.02)


def test_what_comes_after_the_servers_count_is_added_to_it(session: Session, server: Endpoint) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 40}
    server.script = streams([chunk("Hello", usage=usage), *map(chunk, cut(ENGLISH, 1))])
    tokens = [it.usage for it in session.models.engine("m").stream(ASK) if isinstance(it, Token)]
    seen = [(it.output_tokens or 0, it.output_source) for it in tokens if it is not None]
    assert seen[:2] == [(40, "reported"), (41, "estimated")]
    assert 40 + 0.8 * len(TOKENS) <= seen[-1][0] <= 40 + 1.25 * len(TOKENS)


def test_a_count_that_comes_at_the_end_replaces_the_estimate(ask: Ask) -> None:
    generation = ask(streams([*map(chunk, cut(ENGLISH, 1)), chunk(reason="stop"), usage_chunk()]))
    assert (generation.usage.output_tokens, generation.usage.output_source) == (3, "reported")
