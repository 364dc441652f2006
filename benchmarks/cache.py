"""How long a cached answer takes: a complete run of a session, from the prompt to its Generation, its row written.

``python -m benchmarks.cache [ROUNDS]``: the default model must have been pulled. It generates one answer of 500 tokens
(greedily), which is then replayed; the ledger holds 10,000 other runs of the same notebook and day.

- ``hit_ms``: a replay in the session that generated the answer, or in any other once the tokenizer has been read.
- ``first_hit_ms``: the first replay of a new session, in which the tokenizer is read but no weights are.
- ``generated_s``: what the answer took when it was generated.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import report, spread
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.runs.session import Session

TOKENS = 500
HISTORY = 10_000
FIRST_ROUNDS = 10
PROMPT = Prompt(
    (Message("user", "Write a very long story about a lighthouse keeper and the sea."),),
    Sampling(max_tokens=TOKENS, temperature=0.0),
)


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Generate once, fill the ledger, replay."""

    def session() -> Session:
        made = Session(TokMagic(ledger=f"sqlite:///{folder}/ledger.sqlite"))
        made.notebook = "/n.ipynb"
        return made

    generating = session()
    began = time.perf_counter()
    original = generating.generate(PROMPT, "smollm2").raise_for_status()
    generated_s = time.perf_counter() - began
    assert original.usage.output_tokens == TOKENS
    for number in range(HISTORY):
        generating.ledger().settle(replace(original.record, run_id=f"h{number}"))

    def hit(replaying: Session) -> float:
        began = time.perf_counter()
        replay = replaying.generate(PROMPT, "smollm2")
        took_ms = (time.perf_counter() - began) * 1e3
        assert (replay.status, replay.text) == ("cached", original.text)
        return took_ms

    hits = [hit(generating) for _ in range(rounds)]
    firsts = []
    for _ in range(FIRST_ROUNDS):
        fresh = session()
        firsts.append(hit(fresh))
        assert fresh.models.loaded() == []
        fresh.close()
    generating.close()
    return {
        "rounds": rounds,
        "tokens": TOKENS,
        "runs": HISTORY,
        "hit_ms": spread(hits),
        "first_hit_ms": spread(firsts),
        "generated_s": generated_s,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report("cache", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 500, Path(scratch)))
