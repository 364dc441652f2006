"""How long one client's tokens wait while another one sends bodies that take long to read.

``python -m benchmarks.bodies [ROUNDS]``: no model is needed. ``tokmagic serve`` answers with a scripted model that
has a token every 20 ms; the longest gap between two of them is taken while a body is sent, and while none is.

- ``late_ms``: for each kind of body, the longest gap less 20 ms, in milliseconds; ``nothing`` is with no body at all.
- ``late_over_nothing``: the worst body's median ÷ that of ``nothing``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import report, spread
from tokmagic.core.files import sqlite_url
from tokmagic.ledgers import Ledger

_ITL_S, _TOKENS = 0.02, 50
_MESSAGE = {"role": "user", "content": "Hi"}
_CHAT = {"messages": [_MESSAGE]}
_PARTS = [{"type": "text", "text": "a"}] * 100_000
BODIES: dict[str, Any] = {
    "nothing": None,
    "messages": {"messages": [_MESSAGE] * 100_000},
    "wrong messages": {"messages": [1] * 1_300_000},
    "parts": {"messages": [{"role": "user", "content": _PARTS}]},
    "stop texts": _CHAT | {"stop": ["a"] * 800_000},
    "fields": _CHAT | {f"x{number}": 0 for number in range(250_000)},
    "as many messages as are read": {"messages": [_MESSAGE] * 6_000},
    "a long text": {"messages": [{"role": "user", "content": 'a, "b" ' * 450_000}]},
}
"""What is sent, by what there is much of."""


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, str]]:
    """The URL of a server of its own process, and a key."""
    ledger_url = sqlite_url(folder / "ledger.sqlite")
    ledger = Ledger(ledger_url)
    _, secret = ledger.keys.add("benchmark")
    ledger.close()
    script = folder / "script.json"
    script.write_text(json.dumps({"pieces": [" w"] * _TOKENS, "ttft_s": _ITL_S, "itl_s": _ITL_S, "pace": 1.0}))
    env = os.environ | {"TOKMAGIC_HOME": str(folder), "TOKMAGIC_LEDGER": ledger_url}
    command = [sys.executable, "-m", "tokmagic.cli", "serve", f"scripted:{script}", "--port", "0"]
    server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().rsplit(" at ", 1)[-1].strip(), secret
    finally:
        server.terminate()
        server.wait(60)


def _longest_gap_ms(client: httpx2.Client, body: bytes | None) -> float:
    """The longest time between two pieces of an answer while a body is sent."""
    asked = json.dumps(_CHAT | {"stream": True, "max_tokens": _TOKENS})
    begun, gap_ms, last = threading.Event(), 0.0, None
    with ThreadPoolExecutor(1) as pool:
        if body is not None:
            pool.submit(lambda: (begun.wait(), client.post("/chat/completions", content=body)))
        with client.stream("POST", "/chat/completions", content=asked) as answer:
            for line in answer.iter_lines():
                if '"content":" w"' not in line:
                    continue
                now = time.perf_counter()
                if last is not None:
                    gap_ms = max(gap_ms, (now - last) * 1e3)
                    begun.set()
                last = now
    return gap_ms - _ITL_S * 1e3


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Measure all bodies in turn, ``rounds`` times."""
    sent = {name: None if body is None else json.dumps(body).encode() for name, body in BODIES.items()}
    late: dict[str, list[float]] = {name: [] for name in sent}
    with _serving(folder) as (url, secret):
        auth = {"authorization": f"Bearer {secret}"}
        with httpx2.Client(base_url=url, headers=auth, timeout=300, trust_env=False) as client:
            for _ in range(rounds):
                for name, body in sent.items():
                    late[name].append(_longest_gap_ms(client, body))
    found = {name: spread(values) for name, values in late.items()}
    worst = max(it["median"] for it in found.values())
    return {"rounds": rounds, "late_ms": found, "late_over_nothing": worst / found["nothing"]["median"]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report("bodies", measure(int(sys.argv[1]) if sys.argv[1:] else 5, Path(scratch)))
