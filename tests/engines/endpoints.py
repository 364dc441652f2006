"""What the tests of the endpoint engine share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from tests.servers import Asked, Script, Wire, chunk
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session

ASK = Prompt((Message("system", "Be brief."), Message("user", "Hi é")))
RATES = Rates(input=Decimal(1), output=Decimal(10), source="%price")
REPORTED = (12, "reported", 3, "reported")
Make = Callable[..., Session]
Ask = Callable[..., Generation]
Chunks = list[dict[str, Any] | str]
GREEDY = replace(ASK, sampling=Sampling(temperature=0.0))
ENDS = [chunk(reason="stop"), chunk(reason="stop", index=1)]
"""The ends of two answers."""


def counts(generation: Generation) -> tuple[int | None, str, int | None, str]:
    usage = generation.usage
    return usage.input_tokens, usage.input_source, usage.output_tokens, usage.output_source


def until_stamped(session: Session) -> None:
    """Wait until a run's first token is stamped: what a server sends sooner may be read together with it."""
    until(lambda: any(row.reading.ttft_s for row in session.changes().rows))


class Follower:
    """Watches a run, so that the server does not run ahead of a busy client."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pieces = 0

    def token(self, _text: str) -> None:
        self._pieces += 1

    def wait(self, pieces: int) -> None:
        """Wait until so many pieces were shown, or no run goes on."""
        until(lambda: self._pieces >= pieces or not self._session._under_way.ids())


def until(look: Callable[[], bool]) -> None:
    """Wait for something that comes in any case, a minute at most."""
    end = time.monotonic() + 60
    while not look():
        assert time.monotonic() < end
        time.sleep(0.005)


def in_turn(*scripts: Script) -> Script:
    left = iter(scripts)

    def script(asked: Asked, wire: Wire) -> None:
        next(left)(asked, wire)

    return script


def status(code: int, text: str = "no", **headers: str) -> Script:
    return lambda _asked, wire: wire.answer(code, {"error": {"message": text}}, **headers)


def in_choice(base: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The same chunk with more in its only choice."""
    return base | {"choices": [base["choices"][0] | fields]}


def several(n: int, **more: Any) -> Prompt:
    """The question, for so many answers."""
    return replace(ASK, sampling=Sampling(n=n, temperature=0.7), **more)
