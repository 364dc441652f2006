"""Whether ``tokmagic bench`` and aiperf measure alike: the default model behind ``transformers serve``, both in turn.

``python -m benchmarks.aiperf [ROUNDS [REQUESTS]]`` after ``make peers``. Printed are the ratios of our median TTFT,
mean TPOT, median ITL and throughput to aiperf's, over the rounds. What else the machine does meets both, but not at the
same moment: single ratios vary, their median less.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report, spread

WORDS, OUTPUT = 32, 24
FIGURES = {
    "ttft": ("time_to_first_token", "p50"),
    "tpot": ("inter_token_latency", "avg"),
    "itl": ("inter_chunk_latency", "p50"),
    "throughput": ("output_token_throughput", "avg"),
}


def measure(rounds: int, requests: int) -> dict[str, Any]:
    """Start the server and let both measure it."""
    from tests.peers import aiperf, servers
    from tokmagic.bench.files import as_dict
    from tokmagic.bench.plan import Plan
    from tokmagic.bench.running import bench
    from tokmagic.core.config import TokMagic
    from tokmagic.engines.base import ModelSpec
    from tokmagic.engines.local.store import locate
    from tokmagic.runs.session import Session

    located = locate(ModelSpec("smollm2"), TokMagic())
    if located is None:
        raise SystemExit("the default model is not here; run: tokmagic pull")
    ratios: dict[str, list[float]] = {name: [] for name in FIGURES}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "server").mkdir()
        with servers.transformers_serve(folder / "server", located.folder) as peer:
            session = Session(TokMagic(home=str(folder), ledger=f"sqlite:///{folder}/ledger.sqlite"))
            spec = ModelSpec(peer.model, api_base=peer.base_url, tokenizer=str(located.folder), server="transformers")
            session.models.add("m", spec)
            for number in range(rounds):
                at = folder / str(number), peer.base_url, peer.model, located.folder
                theirs = aiperf.profile(*at, requests=requests, words=WORDS, output_tokens=OUTPUT, seed=number)
                # As long as aiperf's, with the template that the server adds.
                tokens = round(theirs["usage_prompt_tokens"]["avg"])
                lengths = {"prompt_tokens": tokens, "output_tokens": OUTPUT}
                plan = Plan(seed=number, levels=(1,), requests=requests, **lengths)
                (ours,) = as_dict(bench(session, "m", plan))["levels"]
                for name, (metric, which) in FIGURES.items():
                    ratios[name].append(ours[metric][which] / theirs[metric][which])
            session.close()
    return {"rounds": rounds, "requests": requests, **{name: spread(values) for name, values in ratios.items()}}


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    report("aiperf", measure(words[0] if words else 5, words[1] if len(words) > 1 else 8))
