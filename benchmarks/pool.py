"""How evenly tokens arrive through a pool, beside one process: a scripted model makes one every 20 ms.

``python -m benchmarks.pool [CLIENTS]`` (default 1), with the extra ``pool``. A client notes when each token is there.
``late_ms``: how much later than the one that came quickest, counted from its moment in the script; a stream that is
buffered anywhere has tokens that are late by the length of a buffer. ``start_s``: until the first request is answered.
The client collects its own garbage before it listens and not meanwhile: that alone took up to 70 ms of it.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import report, spread

TOKENS, ITL_S = 300, 0.02


def late_ms(arrived: list[float]) -> list[float]:
    """How much later each token came than the quickest, for its moment in the script."""
    after = [at - number * ITL_S for number, at in enumerate(arrived)]
    return [(it - min(after)) * 1e3 for it in after]


def through(folder: Path, clients: int, *words: str) -> dict[str, Any]:
    """Start a server, and listen to it with so many clients at once."""
    from tests.pool.pools import Pool, python, said, script

    pieces = [f" w{number}" for number in range(TOKENS)]
    model = script(folder, "paced", pieces=pieces, ttft_s=0.1, itl_s=ITL_S, pace=1.0)
    began = time.monotonic()
    server = Pool(python(), folder, model, *words, "--input", "1", "--output", "2")

    def listen() -> list[float]:
        arrived: list[float] = []
        server.stream(lambda event: arrived.append(time.perf_counter()) if said(event) else None, max_tokens=TOKENS)
        assert len(arrived) == TOKENS
        return late_ms(arrived)

    try:
        server.wait()
        server.ask(max_tokens=1)
        start_s = time.monotonic() - began
        gc.collect()
        gc.disable()
        with ThreadPoolExecutor(clients) as at_once:
            late = [it for work in [at_once.submit(listen) for _ in range(clients)] for it in work.result()]
    finally:
        gc.enable()
        server.end()
    within = sum(it <= 15 for it in late) / len(late)
    return {"start_s": start_s, "late_ms": spread(late), "within_15_ms": within}


def measure(clients: int) -> dict[str, Any]:
    """One process and a pool of one replica, one after the other."""
    found: dict[str, Any] = {"clients": clients, "tokens": TOKENS}
    for name, words in {"one_process": (), "pool": ("--pool",)}.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = through(Path(folder), clients, *words)
    return found


if __name__ == "__main__":
    report("pool", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
