"""What holding an answer to a JSON schema costs: milliseconds a token with it and without, alternating.

``python -m benchmarks.schema``: the default model writes the same number of tokens each time.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks import report, spread
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.prompts.template import json_schema
from tokmagic.runs.session import Session

ROUNDS = 6
TOKENS = 48
SCHEMA = json_schema({"type": "array", "items": {"type": "string"}, "minItems": 60})


def measure(folder: Path) -> dict[str, object]:
    """Generate in turn with a schema that lets an answer go on for long, and without."""
    session = Session(TokMagic(ledger=f"sqlite:///{folder}/ledger.sqlite"))
    messages = (Message("user", "List animals."),)
    plain = Prompt(messages, Sampling(max_tokens=TOKENS, temperature=0.0))
    held = Prompt(messages, Sampling(max_tokens=TOKENS, temperature=0.0, json_schema=SCHEMA))
    session.generate(plain, cache=False)
    first = session.generate(held, cache=False).reading.ttft_s
    times: dict[str, list[float]] = {"plain": [], "held": []}
    firsts: dict[str, list[float]] = {"plain": [], "held": []}
    for turn in range(2 * ROUNDS):
        name, prompt = (("plain", plain), ("held", held))[turn % 2]
        reading = session.generate(prompt, cache=False).reading
        assert reading.itl_mean_s is not None
        assert reading.ttft_s is not None
        times[name].append(reading.itl_mean_s * 1e3)
        firsts[name].append(reading.ttft_s * 1e3)
    session.close()
    ratio = statistics.median(times["held"]) / statistics.median(times["plain"])
    return {
        "first_ttft_s": first,
        **{f"{name}_ms_per_token": spread(values) for name, values in times.items()},
        **{f"{name}_ttft_ms": spread(values) for name, values in firsts.items()},
        "ratio": ratio,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report("schema", measure(Path(scratch)))
