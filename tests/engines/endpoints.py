"""What the tests of the endpoint engine share."""

from __future__ import annotations

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
