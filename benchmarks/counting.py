"""From a keystroke to the new count of a long prompt, beside a full count of the same text.

``python -m benchmarks.counting [EDITS]``: the default model must have been pulled; only its tokenizer is read. Each
edit types a character, or takes one away, at a random place of this project's own documentation, cut or repeated to
1,000 and to 100,000 tokens; with ``emoji`` the text holds one, so that Python keeps four bytes for each character. A
full count is made after every twentieth edit, and must say the same.

- ``live_ms``: the live counter's update; ``p95`` is what a person waits for at most, nineteen times in twenty.
- ``live_cpu_ms``: the same in processor time of the thread, which other work on the machine does not add to.
- ``full_ms``: encoding the whole text.
- ``ratio``: median of the full counts ÷ median of the updates.
- ``draft_ms``: the kernel's whole way from the sidebar's message to the answer, JSON to JSON: the change made, the
  option line parsed, ``{{ name }}`` filled in, the chat template, the update, the prices. Its counts are checked too.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import report, spread
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import ModelSpec, Tokenized
from tokmagic.engines.local.store import locate
from tokmagic.runs.session import Session
from tokmagic.tokens.counter import LiveCounter

ROOT = Path(__file__).resolve().parent.parent
FULL_EVERY = 20


def measure(edits: int, session: Session) -> dict[str, Any]:
    """Return milliseconds for each length."""
    documents = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
    engine = session.models.engine("smollm2")
    assert isinstance(engine, Tokenized)
    backend = engine.tokenizer().backend
    assert backend is not None
    ids = backend.encode(documents).ids
    results: dict[str, Any] = {"edits": edits}
    for tokens in (1_000, 100_000):
        text = backend.decode((ids * (tokens // len(ids) + 1))[:tokens])
        results[f"{tokens}"] = _edited(backend, text, edits)
        results[f"{tokens}_emoji"] = _edited(backend, text + "🚀", edits)
        for name, told in ((f"{tokens}", text), (f"{tokens}_emoji", text + "🚀")):
            results[name] |= _drafted(session, told, edits)
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


class _Page:
    """A sidebar that tells of each change and reads the answer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seq = 0
        self._answered = threading.Event()
        self._answer: dict[str, Any] = {}

    def tell(self, base: int | None, offset: int, deleted: int, text: str) -> tuple[int, float]:
        """Return the final count and the milliseconds until it was there."""
        self._seq += 1
        place = {"cell_id": "c", "seq": self._seq, "base": base, "offset": offset, "deleted": deleted}
        message = json.dumps({"v": 1, "type": "draft", "text": text, **place})
        self._answered.clear()
        began = time.perf_counter()
        self._session.draft("page", json.loads(message), self._take)
        self._answered.wait()
        return self._answer["input_tokens"], (self._at - began) * 1e3

    def _take(self, answer: dict[str, Any]) -> None:
        written = json.dumps(answer)
        self._at = time.perf_counter()
        self._answer = json.loads(written)
        if self._answer["state"] == "counted":
            self._answered.set()


def _drafted(session: Session, text: str, edits: int) -> dict[str, Any]:
    chance = random.Random(len(text))
    page, head = _Page(session), "%%generate --max-tokens 64\n{{ name }} "
    # What the documentation says of templates and roles must not be taken for any.
    text = text.replace("{%", "{ %").replace("{{", "{ {").replace("---", "- -")
    _, first_ms = page.tell(None, 0, 0, head + text)
    draft_ms = []
    engine = session.models.engine("smollm2")
    for number in range(edits):
        # Among the places before the emoji, so that they are the same in UTF-16.
        at = chance.randrange(len(text) - 1)
        typed, removed = chance.choice([("e", 0), ("x", 0), (" ", 0), (".", 0), ("\n", 0), ("", 1)])
        text = text[:at] + typed + text[at + removed :]
        count, took_ms = page.tell(number + 1, len(head) + at, removed, typed)
        draft_ms.append(took_ms)
        if number % FULL_EVERY == 0:
            assert count == engine.count(Prompt((Message("user", f"a name {text}".removesuffix("\n")),)))
    return {"draft_first_ms": first_ms, "draft_ms": _with_p95(draft_ms)}


def _with_p95(values: list[float]) -> dict[str, float]:
    return {**spread(values), "p95": sorted(values)[int(0.95 * len(values))]}


if __name__ == "__main__":
    session = Session(TokMagic(ledger="sqlite://"))
    session.variables = lambda: {"name": "a name"}
    session.prices.set("smollm2", Rates(input=Decimal("0.15"), output=Decimal("0.60"), source="%price"))
    assert locate(ModelSpec("smollm2"), session.settings) is not None, "pull the default model first: tokmagic pull"
    report("counting", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000, session))
