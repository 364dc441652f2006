"""Compares many items with long prompts and long answers and tells what that left in memory; its test runs it.

``python -m tests.comparisons.memory ITEMS FOLDER`` prints one line of JSON: bytes that the process grew by at the end
of the runs (``grew``) and at most (``peak``), bytes that the answers take (``answers``), characters of all prompts as
they were sent (``prompts``) and of all answers (``texts``).
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import psutil

from tests.comparisons.desk import Desk
from tokmagic.comparisons.results import Comparison
from tokmagic.core.config import TokMagic
from tokmagic.runs.session import Session

LONG = "Read what follows with care. " * 100
ANSWER = "An answer has some length. " * 12
VARIANTS = {"plain": LONG + "{{ q }}", "guided": LONG + "Take your time. {{ q }}"}
SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType)


def size(of: Any) -> int:
    """Bytes of an object and of what it leads to, each counted once, beside what a program has anyway."""
    seen: set[int] = set()
    total, ahead = 0, [of]
    while ahead:
        it = ahead.pop()
        if id(it) in seen or isinstance(it, SHARED):
            continue
        seen.add(id(it))
        total += sys.getsizeof(it)
        ahead += gc.get_referents(it)
    return total


class Watch:
    """The most that this process grew by."""

    def __init__(self) -> None:
        gc.collect()
        self._process = psutil.Process()
        self._from = self._now()
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _now(self) -> int:
        return int(self._process.memory_info().rss)

    def grew(self) -> int:
        gc.collect()
        return self._now() - self._from

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, self._now() - self._from)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


class Counted(list[str]):
    """How many prompts were asked, without their texts."""

    def append(self, _text: str) -> None:
        super().append("")


def rows(count: int) -> list[dict[str, str]]:
    return [{"q": f"Question {number}"} for number in range(count)]


def main() -> None:
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    desk = Desk(Session(TokMagic(ledger=f"sqlite:///{folder}/ledger.sqlite")), m=lambda _, number: f"{ANSWER}{number}")
    desk.engines["m"].asked = Counted()
    compare: dict[str, Any] = {
        "variants": VARIANTS,
        "score": lambda answer: len(answer) > 10,
        "budget": "100000",
        "concurrency": 16,
    }
    repr(desk.compare(over=rows(50), **compare))  # what is imported and kept once
    items = rows(count)
    watch = Watch()
    try:
        found: Comparison = desk.compare(over=items, seed=1, **compare)
        grew = watch.grew()
    finally:
        watch.end()
    assert found.complete, found.notes()
    plan = found.plan
    told = {
        "grew": grew,
        "peak": watch.peak,
        "answers": size(found.answers),
        "texts": sum(len(it.text or "") for it in found.answers),
        "prompts": sum(
            len(plan.prompt(arm, item).messages[0].content) for arm in range(len(plan.arms)) for item in range(count)
        ),
    }
    sys.stdout.write(json.dumps(told))
    desk.session.close()


if __name__ == "__main__":
    main()
