"""Caps while an answer streams from a server that ignores the limit it was given, whatever it says of its counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.servers import Asked, Endpoint, Wire, chunk, serve
from tokmagic.core.budget import Budget
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Event, Token
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.meter import Meter
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Hi"),), Sampling(max_tokens=20))
DOLLAR_A_TOKEN = Rates(input=Decimal(0), output=Decimal(1_000_000), source="%price")
PIECES = 2_000
WORD = " abc"  # one token, by its length
Usage = dict[str, int] | None


def usage(output: int) -> Usage:
    return {"prompt_tokens": 12, "completion_tokens": output, "total_tokens": 12 + output}


SAYS: dict[str, Callable[[int], Usage]] = {
    "nothing": lambda _number: None,
    "0 at first": lambda number: usage(0) if number == 0 else None,
    "1 at first": lambda number: usage(1) if number == 0 else None,
    "always 0": lambda _number: usage(0),
    "always 1": lambda _number: usage(1),
    "the truth": lambda number: usage(number + 1),
    "the truth now and then": lambda number: usage(number + 1) if number % 7 == 0 else None,
    "the truth until it stops telling": lambda number: usage(number + 1) if number < 15 else None,
}


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    return make_session()


@pytest.fixture
def server(session: Session) -> Iterator[Endpoint]:
    with serve(lambda _asked, _wire: None) as endpoint:
        session.models.add("m", ModelSpec("org/m", api_base=endpoint.url))
        session.prices.set("m", DOLLAR_A_TOKEN)
        yield endpoint


class Taken:
    """How many pieces, of text or of thoughts, a run has taken in: a server that waits for them is never far ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces = 0
        fold = Meter.fold

        def counting(meter: Meter, event: Event) -> None:
            fold(meter, event)
            self.pieces += isinstance(event, Token)

        monkeypatch.setattr(Meter, "fold", counting)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


def endless(
    says: Callable[[int], Usage], taken: Taken, field: str = "content", words: str = WORD
) -> Callable[[Asked, Wire], None]:
    """A server that goes on until its client is gone, a few pieces ahead of what was taken."""

    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for number in range(PIECES):
            given: dict[str, Any] = chunk(words, usage=says(number)) if says(number) else chunk(words)
            if field != "content":
                delta = given["choices"][0]["delta"]
                delta[field] = delta.pop("content")
            wire.event(given)
            if wire.gone.wait(0):
                return
            while taken.pieces < number - 2:
                if wire.gone.wait(0.001):
                    return
        wire.end()

    return script


CAPS: dict[str, tuple[Budget | None, str | None]] = {
    "a run's dollars": (None, "50"),
    "a day's dollars": (Budget("day", usd=Decimal(50)), None),
    "a day's tokens": (Budget("day", tokens=150), None),
    "a month's tokens": (Budget("month", tokens=150), None),
    "both, dollars first": (Budget("day", usd=Decimal(50), tokens=9_999), None),
    "both, tokens first": (Budget("day", usd=Decimal(9_999), tokens=150), None),
}


@pytest.mark.parametrize(
    ("says", "cap", "field"),
    [
        *((says, cap, "content") for says in SAYS for cap in ("a run's dollars", "a day's tokens")),
        *(("0 at first", cap, "reasoning_content") for cap in CAPS),
    ],
)
def test_an_endless_answer_is_stopped_at_the_cap(
    session: Session, server: Endpoint, taken: Taken, says: str, cap: str, field: str
) -> None:
    server.script = endless(SAYS[says], taken, field)
    budget, of_run = CAPS[cap]
    if budget is not None:
        session.ledger().set_budget(budget)
    generation = session.generate(ASK, "m", budget=of_run)
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    assert "a budget is used up" in str(generation.error)
    output = generation.usage.output_tokens
    assert output is not None
    most = 150 if "tokens" in cap and "dollars first" not in cap else 50
    assert 20 < output <= most + 15, "it holds 20 and may have what is left, to within a few pieces"
    assert (generation.cost.source, generation.cost.bound) != ("reported", "exact")
    (standing,) = session.standings() if budget else [None]
    assert standing is None or (standing.held_usd, standing.held_tokens) == (0, 0)


@pytest.mark.parametrize("words", [WORD * 40, "x" * 4_000])
def test_large_pieces_count_by_their_length(session: Session, server: Endpoint, taken: Taken, words: str) -> None:
    server.script = endless(SAYS["0 at first"], taken, words=words)
    generation = session.generate(ASK, "m", budget="50")
    assert (generation.status, generation.finish_reason) == ("interrupted", "budget")
    assert generation.text.count(words) <= 10, "what had arrived when it was stopped"


@pytest.mark.parametrize("says", ["nothing", "always 0", "the truth"])
def test_an_answer_within_its_limit_is_not_cut(session: Session, server: Endpoint, says: str) -> None:
    def script(_asked: Asked, wire: Wire) -> None:
        wire.open_stream()
        for number in range(20):
            given = SAYS[says](number)
            wire.event(chunk(WORD, usage=given) if given else chunk(WORD))
        wire.event(chunk(reason="stop"))
        wire.event({"choices": [], "usage": usage(20)})
        wire.end()

    server.script = script
    session.ledger().set_budget(Budget("day", usd=Decimal("20.5"), tokens=200))
    generation = session.generate(ASK, "m")
    assert (generation.status, generation.finish_reason, generation.cost.usd) == ("ok", "stop", Decimal(20))
