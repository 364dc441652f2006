"""A session whose model takes the time that it is told to, and a server that keeps a pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from tests.servers import ROLE, Asked, Script, Wire, chunk, usage_chunk
from tokmagic.bench.plan import Plan
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Event, Finished, Started, Token, Usage
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.roof import MatrixSpeed, Roof, Work
from tokmagic.engines.scripted import Script as Scripted
from tokmagic.engines.scripted import ScriptedEngine, ScriptedStream
from tokmagic.runs.session import Session

DOLLARS = Rates(input=Decimal(1), output=Decimal(2), source="%price")
HOURLY = Rates(device_hour=Decimal("3.6"), source="%price")

Answer = Callable[[int], Scripted]
"""What the model answers to a request, told how many there were before; it may raise instead."""


class Paced(ScriptedEngine):
    """Answers as ``answer`` says, and notes how many requests were under way at once."""

    def __init__(self, name: str, answer: Answer) -> None:
        super().__init__(name, [Scripted.of_text(["unused"])])
        self._answer = answer
        self._turn = threading.Lock()
        self.asked: list[Prompt] = []
        self.under_way = 0
        self.most_at_once = 0

    def stream(self, prompt: Prompt) -> ScriptedStream:
        with self._turn:
            number = len(self.asked)
            self.asked.append(prompt)
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
        return Counted(self._answer(number), prompt.sampling.max_tokens, self._left)

    def _left(self) -> None:
        with self._turn:
            self.under_way -= 1


class Counted(ScriptedStream):
    """Says when it is over."""

    def __init__(self, script: Scripted, max_tokens: int, over: Callable[[], None]) -> None:
        super().__init__(script, max_tokens)
        self._over: Callable[[], None] | None = over

    def __next__(self) -> Event:
        try:
            event = super().__next__()
        except BaseException:
            self._end()
            raise
        if isinstance(event, Finished):
            self._end()
        return event

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()


class Limited(Paced):
    """The same on a device that reads 1 GB/s and computes 1 GFLOP/s, with a model of 10 MB."""

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("m", "org/m", "local", device="cpu", dtype="float32", context_tokens=2048)

    def roof(self) -> tuple[Roof, Work | None]:
        speeds = (MatrixSpeed("float32", 1, 5e8), MatrixSpeed("float32", 64, 1e9), MatrixSpeed("bfloat16", 64, 2e8))
        work = Work(weight_bytes=10_000_000, kv_bytes=1_000, token_flops=1_000_000, head_flops=0, pair_flops=0)
        return Roof("cpu", 1e9, speeds, 2), work


def words(count: int = 4, *, itl_s: float = 0.02, ttft_s: float = 0.1, pace: float = 0.0, inputs: int = 12) -> Scripted:
    return Scripted.of_text(["word "] * count, input_tokens=inputs, ttft_s=ttft_s, itl_s=itl_s, pace=pace)


def chunked(*sizes: int) -> Scripted:
    """An answer in network chunks of so many tokens, a tenth of a second apart."""
    asked = Usage(input_tokens=12, input_source="reported")
    counts = Usage(input_tokens=12, output_tokens=sum(sizes), input_source="reported", output_source="reported")
    pieces = [Token((number + 1) * 10**8, "word " * size) for number, size in enumerate(sizes)]
    return Scripted((Started(0, asked), *pieces, Finished(len(sizes) * 10**8, ("stop",), counts)))


def with_model(session: Session, engine: Paced, rates: Rates = DOLLARS) -> Paced:
    session.models.add("m", ModelSpec("scripted"))
    session.models._engines["m"] = engine
    session.prices.set("m", rates)
    session.models.use("m")
    return engine


def plan(**changed: Any) -> Plan:
    given = {"seed": 1, "levels": (1,), "prompt_tokens": 12, "output_tokens": 4, "requests": 2, "warmup": 0}
    return Plan(**{**given, **changed})


def paced(ttft_s: float, itl_s: float, tokens_a_chunk: int = 1) -> Script:
    """A server that answers as many words as it may, each chunk on time, and counts a token for each word."""

    def script(asked: Asked, wire: Wire) -> None:
        body = asked.body
        most = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        wire.open_stream()
        wire.event(ROLE)
        for number, due_s in enumerate(_due(time.perf_counter(), ttft_s, itl_s, -(-most // tokens_a_chunk))):
            time.sleep(max(0.0, due_s - time.perf_counter()))
            wire.event(chunk(" word" * min(tokens_a_chunk, most - number * tokens_a_chunk)))
        wire.event(chunk(reason="length"))
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        wire.event(usage_chunk({"prompt_tokens": prompt, "completion_tokens": most, "total_tokens": prompt + most}))
        wire.end()

    return script


def _due(began_s: float, ttft_s: float, itl_s: float, chunks: int) -> Iterator[float]:
    return (began_s + ttft_s + number * itl_s for number in range(chunks))
