"""A session with models whose answers, costs and failures are planted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from tokmagic.comparisons import preparing
from tokmagic.comparisons.results import Comparison
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.core.record import RunRecord
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream
from tokmagic.runs.session import Session

DOLLARS = Rates(input=Decimal(1), output=Decimal(2), source="%price")
VARIANTS = {"terse": "terse {{ q }}", "reasoned": "reasoned {{ q }}"}
Answers = Callable[[str, int], str]
"""What a model answers to a text, told how many runs there were before; it may raise instead."""


def items(count: int) -> list[dict[str, str]]:
    return [{"q": f"q{number}", "a": f"a{number}"} for number in range(count)]


def right(text: str, _number: int) -> str:
    """The answer that stands in the column ``a`` of these items."""
    return "a" + text.rpartition("q")[2]


class Planted(ScriptedEngine):
    """Answers a prompt's last message as ``answers`` says: a token a word, as many tokens in as it has words."""

    def __init__(self, name: str, answers: Answers) -> None:
        super().__init__(name, [Script.of_text(["unused"])])
        self.answers = answers
        self.asked: list[str] = []
        self.ttft_s: Callable[[int], float] = lambda _number: 0.1
        self._asking = threading.Lock()

    def count(self, prompt: Prompt) -> int:
        return sum(len(message.content.split()) for message in prompt.messages)

    def stream(self, prompt: Prompt) -> ScriptedStream:
        text = prompt.messages[-1].content
        with self._asking:
            number = len(self.asked)
            self.asked.append(text)
        pieces = [f"{word} " for word in self.answers(text, number).split(" ")]
        pieces[-1] = pieces[-1].removesuffix(" ")
        script = Script.of_text(pieces, input_tokens=self.count(prompt), ttft_s=self.ttft_s(number), itl_s=0.01)
        return ScriptedStream(script, prompt.sampling.max_tokens)


class Desk:
    """Compares in a session of its own; ``models`` answer as told."""

    def __init__(self, session: Session, **models: Answers) -> None:
        self.session = session
        self.engines = {name: Planted(name, answers) for name, answers in models.items()}
        for name, engine in self.engines.items():
            session.models.add(name, ModelSpec("scripted"))
            session.models._engines[name] = engine
            session.prices.set(name, DOLLARS)
        session.models.use(next(iter(models)))

    def compare(self, variants: object = VARIANTS, over: object = None, **options: Any) -> Comparison:
        """As ``tokmagic.compare``, with ten items where none are given, one run after another unless said."""
        plan = {name: options.pop(name, default) for name, default in (("repeat", 1), ("seed", 0), ("baseline", None))}
        given: dict[str, Any] = {
            **dict.fromkeys(("score", "budget", "pilot", "progress")),
            "models": [None],
            "tags": (),
            "at_once": options.pop("concurrency", 1),
            **options,
        }
        given["options"] = {**plan, "sampling": given.pop("sampling", Sampling(max_tokens=20))}
        return preparing.compared(self.session, variants, items(10) if over is None else over, **given)

    @property
    def rows(self) -> list[RunRecord]:
        return self.session.ledger().runs()

    @property
    def asked(self) -> int:
        """How many runs the engines were asked for."""
        return sum(len(engine.asked) for engine in self.engines.values())


def write_csv(path: Path, count: int) -> Path:
    path.write_text("q,a\n" + "".join(f"{it['q']},{it['a']}\n" for it in items(count)), encoding="utf-8")
    return path
