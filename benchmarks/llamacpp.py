"""What ``--quant int4`` gains: the default model's GGUF file by ``%%generate``, by llama.cpp alone, and torch's bf16.

``python -m benchmarks.llamacpp [ROUNDS [TOKENS]]``: needs xllamacpp; fetches the file if it is not here. All sides
answer the same prompt greedily in one process, in turn; llama.cpp alone is its own server's code, called without HTTP,
with as many threads.

- ``ours_over_bare``: time a token of ``%%generate``, with ledger row and output ÷ that of llama.cpp by its own clock.
- ``generate_over_ours``: wall time of ``model.generate`` in bf16 ÷ that of ``%%generate``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import report, spread
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.llamacpp.processors import usual_threads
from tokmagic.engines.local.store import DEFAULT_MODEL_ID, pull, pull_carried

PROMPT = "Write a very long story about a lighthouse keeper and the sea."


def measure(rounds: int, tokens: int, folder: Path) -> dict[str, Any]:
    """Run all sides in turn, the first time unmeasured; the order turns with each round."""
    sides = _sides(tokens, folder)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            per_token_s = sides[name]()
            if turn:
                times[name].append((time.perf_counter() - began, per_token_s))
    bare, ours = ([per_token_s for _, per_token_s in times[name]] for name in ("bare", "ours"))
    walls = [(one[0], other[0]) for one, other in zip(times["generate"], times["ours"], strict=True)]
    return {
        "tokens": tokens,
        "rounds": rounds,
        "threads": threads(),
        "ours_over_bare": spread([one / other for one, other in zip(ours, bare, strict=True)]),
        "generate_over_ours": spread([one / other for one, other in walls]),
        "ms_per_token": {name: spread([it[1] * 1e3 for it in values]) for name, values in times.items()},
    }


def _sides(tokens: int, folder: Path) -> dict[str, Callable[[], float]]:
    """Each returns seconds a token after the first."""
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    from transformers import AutoModelForCausalLM

    from tokmagic.runs.api import session

    shell: Any = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "tokmagic")
    current = session()
    current.settings.ledger = f"sqlite:///{folder}/ledger.sqlite"
    shell.run_line_magic("model", "add fast smollm2 --quant int4")
    engine: Any = current.load("fast")
    ids = list(engine.tokenizer().encode(Prompt((Message("user", PROMPT),), Sampling())))
    settings = current.settings
    located = pull(current.models.spec("smollm2"), settings, lambda *_: None)
    model = AutoModelForCausalLM.from_pretrained(str(located.folder), dtype=torch.bfloat16).eval()
    server = _server(pull_carried(settings, lambda *_: None).path)
    cell = f"-m fast --max-tokens {tokens} --temperature 0 --no-cache"

    def ours() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            generation = shell.run_cell_magic("generate", cell, PROMPT)
        assert generation.usage.output_tokens == tokens
        return float(generation.reading.itl_mean_s)

    def bare() -> float:
        asked = {"prompt": ids, "n_predict": tokens, "temperature": 0.0, "cache_prompt": False}
        timings = server.handle_completions(asked)["timings"]
        assert timings["predicted_n"] == tokens
        return float(timings["predicted_ms"]) / 1e3 / (tokens - 1)

    def generate() -> float:
        inputs = torch.tensor([ids])
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
            )
        return (time.perf_counter() - began) / tokens

    return {"bare": bare, "ours": ours, "generate": generate}


def threads() -> int:
    """As many as the engine takes."""
    return TokMagic().llamacpp_threads or usual_threads()


def _server(file: Path) -> Any:
    module: Any = importlib.import_module("xllamacpp")
    params = module.CommonParams()
    params.model.path, params.model_alias = str(file), {DEFAULT_MODEL_ID}
    params.n_ctx, params.n_parallel, params.verbosity = 4096, 1, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
    return module.Server(params)


if __name__ == "__main__":
    asked = [int(text) for text in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as scratch:
        rounds, tokens = (*asked, *(6, 128)[len(asked) :])
        results = measure(rounds, tokens, Path(scratch))
    report("llamacpp", results)
