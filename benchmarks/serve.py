"""What the shared engine costs over the same model in one's own process, and what eight clients get together.

``python -m benchmarks.serve [ROUNDS [TOKENS]]``: the default model must have been pulled. ``tokmagic serve`` runs in a
process of its own; a session in another one has the same model. They are asked in turn, greedily, for the same number
of tokens.

- ``added_ms_per_token``: a streamed answer's seconds a token, less those of the same answer in the session.
- ``throughput_8_over_1``: tokens a second of eight clients at once ÷ those of one.
- ``memory_8_over_own``: the server's peak memory after eight clients ÷ that of a process with its own model after one
  of these answers. What a notebook's kernel takes for itself is in neither.
- ``memory_late_over_early``: the server's memory after two minutes of clients, of which a third leave in mid-stream ÷
  after 30 s of them (``SERVE_LOAD_S`` sets the two minutes).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import report, spread
from tokmagic.core.config import TokMagic
from tokmagic.core.files import sqlite_url
from tokmagic.ledgers import Ledger

_QUESTION = "Write a very long story about a lighthouse keeper and the sea."
_CLIENTS, _LOADING = 8, 32


class Server:
    """``tokmagic serve`` with a ledger of its own."""

    def __init__(self, folder: Path) -> None:
        url = sqlite_url(folder / "served.sqlite")
        ledger = Ledger(url)
        _, self.secret = ledger.keys.add("benchmark")
        ledger.close()
        env = os.environ | {"TOKMAGIC_LEDGER": url}
        command = [sys.executable, "-m", "tokmagic.cli", "serve", "smollm2", "--port", "0", "--concurrency", "32"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().rsplit(" at ", 1)[-1].strip()
        # Made before anything is measured: each reads the certificates of this machine, for 20 to 60 ms.
        self._clients = [httpx2.Client(timeout=300, trust_env=False) for _ in range(_LOADING)]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.process.terminate()
        self.process.wait(60)

    def answer(self, tokens: int, number: int = 0, leave_after: int | None = None) -> float:
        """Stream an answer to one of the clients and return its seconds; ``leave_after`` so many lines it goes."""
        body = {
            "messages": [{"role": "user", "content": f"{_QUESTION} {number or ''}".strip()}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {self.secret}"}
        began = time.perf_counter()
        client = self._clients[number % _LOADING]
        with client.stream("POST", f"{self.url}/chat/completions", content=json.dumps(body), headers=headers) as got:
            got.raise_for_status()
            for seen, _ in enumerate(got.iter_lines()):
                if seen == leave_after:
                    break
        return time.perf_counter() - began

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """What it has in memory now, or had at most (VmHWM)."""
        return _memory_bytes(self.process.pid, field)


@contextmanager
def _serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()


def measure(rounds: int, tokens: int, folder: Path) -> dict[str, Any]:
    """Measure all of it."""
    from tokmagic.core.prompt import Message, Prompt, Sampling
    from tokmagic.runs.session import Session

    session = Session(TokMagic(ledger=sqlite_url(folder / "own.sqlite"), cache=False))
    asked = Prompt((Message("user", _QUESTION),), Sampling(max_tokens=tokens, temperature=0.0), ignore_eos=True)

    def own() -> float:
        began = time.perf_counter()
        session.generate(asked, "smollm2").raise_for_status()
        return time.perf_counter() - began

    own()
    own_bytes = _memory_bytes(os.getpid(), "VmHWM")
    with _serving(folder) as server:
        server.answer(tokens)
        added, together = [], []
        for turn in range(rounds):
            sides: list[Callable[[], float]] = [own, lambda: server.answer(tokens)]
            times = [side() for side in (sides if turn % 2 else sides[::-1])]
            one, other = times if turn % 2 else times[::-1]
            added.append(1e3 * (other - one) / tokens)
        for turn in range(rounds):
            alone = server.answer(tokens, 100 + turn)
            began = time.perf_counter()
            with ThreadPoolExecutor(_CLIENTS) as pool:
                list(pool.map(lambda number: server.answer(tokens, number), range(1, _CLIENTS + 1)))
            together.append(_CLIENTS * alone / (time.perf_counter() - began))
        peak_bytes = server.memory_bytes("VmHWM")
        early, late = _under_load(server, float(os.environ.get("SERVE_LOAD_S", "120")))
    session.close()
    return {
        "rounds": rounds,
        "tokens": tokens,
        "added_ms_per_token": spread(added),
        "throughput_8_over_1": spread(together),
        "memory_8_over_own": peak_bytes / own_bytes,
        "memory_late_over_early": late / early,
    }


def _under_load(server: Server, seconds: float) -> tuple[int, int]:
    """The server's memory after a quarter of the time, and at its end."""
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < end:
            leaves = draw.randint(0, 20) if draw.random() < 1 / 3 else None
            server.answer(draw.randint(4, 24), number, leaves)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(_LOADING)]
    for it in clients:
        it.start()
    time.sleep(seconds / 4)
    early = server.memory_bytes()
    for it in clients:
        it.join()
    return early, server.memory_bytes()


def _memory_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


if __name__ == "__main__":
    rounds, tokens = ([int(word) for word in sys.argv[1:]] + [5, 64][len(sys.argv) - 1 :])[:2]
    with tempfile.TemporaryDirectory() as scratch:
        report("serve", measure(rounds, tokens, Path(scratch)))
