"""From a keystroke to the new count of a long prompt, beside a full count of the same text.

``python -m benchmarks.counting [EDITS]``: the default model must have been pulled; only its tokenizer is read. Each
edit types a character, or takes one away, at a random place of this project's own documentation, cut or repeated to
1,000 and to 100,000 tokens; with ``emoji`` the text holds one, so that Python keeps four bytes for each character. A
full count is made after every twentieth edit, and must say the same.

- ``live_ms``: the live counter's update; ``p95`` is what a person waits for at most, nineteen times in twenty.
- ``live_cpu_ms``: the same in processor time of the thread, which other work on the machine does not add to.
- ``full_ms``: encoding the whole text.
- ``ratio``: median of the full counts ÷ median of the updates.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import report, spread
from tokmagic.config import TokMagic
from tokmagic.counter import LiveCounter
from tokmagic.engines import ModelSpec
from tokmagic.engines.local_store import locate
from tokmagic.tokens import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
FULL_EVERY = 20


def measure(edits: int, backend: Any) -> dict[str, Any]:
    """Return milliseconds for each length."""
    documents = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
    ids = backend.encode(documents).ids
    results: dict[str, Any] = {"edits": edits}
    for tokens in (1_000, 100_000):
        text = backend.decode((ids * (tokens // len(ids) + 1))[:tokens])
        results[f"{tokens}"] = _edited(backend, text, edits)
        results[f"{tokens}_emoji"] = _edited(backend, text + "🚀", edits)
    return results


def _edited(backend: Any, text: str, edits: int) -> dict[str, Any]:
    chance = random.Random(len(text))
    began = time.perf_counter()
    counter = LiveCounter(backend)
    counter.update(text)
    first_ms = (time.perf_counter() - began) * 1e3
    live_ms, live_cpu_ms, full_ms = [], [], []
    for number in range(edits):
        at = chance.randrange(len(text))
        typed, removed = chance.choice([("e", 0), ("x", 0), (" ", 0), (".", 0), ("\n", 0), ("", 1)])
        text = text[:at] + typed + text[at + removed :]
        began, cpu_began = time.perf_counter(), time.thread_time()
        count = counter.update(text)
        live_cpu_ms.append((time.thread_time() - cpu_began) * 1e3)
        live_ms.append((time.perf_counter() - began) * 1e3)
        if number % FULL_EVERY == 0:
            began = time.perf_counter()
            encoding = backend.encode(text, add_special_tokens=False)
            full_ms.append((time.perf_counter() - began) * 1e3)
            assert count == len(encoding.ids)
    live, full = _with_p95(live_ms), _with_p95(full_ms)
    return {
        "first_ms": first_ms,
        "live_ms": live,
        "live_cpu_ms": _with_p95(live_cpu_ms),
        "full_ms": full,
        "ratio": full["median"] / live["median"],
    }


def _with_p95(values: list[float]) -> dict[str, float]:
    return {**spread(values), "p95": sorted(values)[int(0.95 * len(values))]}


if __name__ == "__main__":
    found = locate(ModelSpec("smollm2"), TokMagic())
    assert found is not None, "pull the default model first: tokmagic pull"
    report("counting", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000, Tokenizer(found.folder).backend))
