"""A closed loop that is stopped: nothing is sent any more, wherever its threads are."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from tokmagic.bench.load import Load, Request
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.scripted import Script, ScriptedEngine, ScriptedStream

ASK = Prompt((Message("user", "Hi"),))


class Counting(ScriptedEngine):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__("m", [Script.of_text(["Hel", "lo"])])
        self.asked = 0

    def stream(self, prompt: Prompt) -> ScriptedStream:
        self.asked += 1
        return super().stream(prompt)


def test_a_thread_that_waits_for_its_next_prompt_sends_none_once_all_is_stopped() -> None:
    """The other one's request has ended and a budget is used up, which takes a while to find out."""
    engine, waits, ended = Counting(), threading.Event(), list[Request]()

    def prompts() -> Iterator[Prompt]:
        yield ASK
        waits.set()  # the other one has the first
        assert stopped.wait(60)
        yield ASK

    stopped = threading.Event()
    load = Load(engine, Rates(), lambda request: ended.append(request) is None)

    def stop() -> None:
        assert waits.wait(60)
        load.stop()
        stopped.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    load.run(prompts(), 2)
    stopper.join()
    assert engine.asked == len(ended) == 1
