"""The local engine on a CPU against transformers' ``generate``, and its batches against one run after another.

``python -m benchmarks.local [ROUNDS [TOKENS]]``: the model must have been pulled. Both sides of a ratio run in turn in
one process on the same weights, greedily; above 1 is faster.

- ``as_transformers``: ``generate`` ÷ a run of the engine with ``--dtype bf16``, whose ids have to be the same; both are
  asked for as many tokens. ``default``: the same without the option, with the share of prompts whose ids are the same.
- ``ttft_400``: time to the first token of a prompt of some 400 tokens, the engine's ÷ that of ``generate``.
- ``batch_16``: throughput of 16 prompts at once ÷ one after another, with the share of texts that are the same: as
  loaded, and in 32 bits.
- ``shared_prefix``: prompt tokens that were computed ÷ submitted, of 16 prompts that share 1,000 tokens.
- ``device_seconds``: the sum of the runs' ÷ the time from the first prefill to the last token.
- ``int8``: speed with ``--quant int8`` ÷ without it, and the bytes of the weights.
- ``memory``: this process' memory after ``RUNS`` runs ÷ after 50.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report, spread
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Finished, Started, Token
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.session import Session

TOPICS = (
    *("a lighthouse keeper", "how a bill becomes law", "ten fruits", "the history of Paris", "how rain forms"),
    *("the rules of chess", "why cats purr", "baking bread", "the moon", "volcanoes", "trains", "bees and honey"),
    *("the violin", "old maps", "rivers of Africa", "sleep"),
)
RUNS = 400


def ask(text: str, tokens: int) -> Prompt:
    return Prompt((Message("user", text),), Sampling(max_tokens=tokens, temperature=0), ignore_eos=True)


class Run:
    """What came of one stream, read to its end."""

    def __init__(self, stream: Any) -> None:
        events = list(stream)
        tokens = [it for it in events if isinstance(it, Token)]
        begun, end = events[0], events[-1]
        assert isinstance(begun, Started)
        assert isinstance(end, Finished)
        self.ids = [it.id for it in tokens]
        self.ttft_s = (tokens[0].at_ns - begun.submitted_ns) / 1e9
        self.gap_s = (tokens[-1].at_ns - tokens[0].at_ns) / 1e9 / max(1, len(tokens) - 1)
        self.begun_ns, self.end_ns = begun.prefill_ns or begun.submitted_ns, end.at_ns
        self.device_s, self.usage = end.device_s or 0.0, end.usage


def bare(engine: Any, prompt: Prompt) -> tuple[float, list[int]]:
    """Seconds and ids of transformers' own loop on the engine's weights."""
    import torch

    ids = torch.tensor([engine._tokenizer.encode(prompt)])
    most = prompt.sampling.max_tokens
    began = time.perf_counter()
    with torch.inference_mode():
        out = engine._inference._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, min_new_tokens=most, do_sample=False
        )
    return time.perf_counter() - began, out[0, ids.shape[1] :].tolist()


def one_stream(engine: Any, rounds: int, tokens: int) -> dict[str, Any]:
    ratios, same = [], []
    for number in range(rounds):
        prompt = ask(f"Write a very long text about {TOPICS[number % len(TOPICS)]}.", tokens)
        bare_s, expected = bare(engine, prompt)
        began = time.perf_counter()
        run = Run(engine.stream(prompt))
        ratios.append(bare_s / (time.perf_counter() - began))
        same.append(run.ids == expected)
    return {**spread(ratios), "same_ids": statistics.mean(same)}


def ttft(engine: Any, rounds: int) -> dict[str, Any]:
    ratios = []
    for number in range(rounds):
        prompt = ask(f"{number} " + "The house by the sea has many rooms. " * 44, 1)
        bare_s, _ = bare(engine, prompt)
        ratios.append(Run(engine.stream(prompt)).ttft_s / bare_s)
    return spread(ratios)


def batch(engine: Any, rounds: int, tokens: int) -> dict[str, Any]:
    prompts = [ask(f"Write a long text about {topic}.", tokens) for topic in TOPICS]
    ratios: list[float] = []
    same: list[float] = []
    device: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        alone = [Run(engine.stream(prompt)) for prompt in prompts]
        between = time.perf_counter()
        together = [Run(stream) for stream in [engine.stream(prompt) for prompt in prompts]]
        ratios.append((between - began) / (time.perf_counter() - between))
        same += [float(one.ids == other.ids) for one, other in zip(alone, together, strict=True)]
        busy_s = (max(it.end_ns for it in together) - min(it.begun_ns for it in together)) / 1e9
        device.append(sum(it.device_s for it in together) / busy_s)
    return {**spread(ratios), "same_texts": statistics.mean(same), "device_seconds": spread(device)}


def beside(engine: Any, other: Any, rounds: int, tokens: int) -> dict[str, Any]:
    """Another form of the model: its speed ÷ the engine's, and its weights' bytes ÷ the engine's."""
    ratios = []
    for number in range(rounds):
        prompt = ask(f"Write a very long text about {TOPICS[number % len(TOPICS)]}.", tokens)
        began = time.perf_counter()
        Run(engine.stream(prompt))
        between = time.perf_counter()
        Run(other.stream(prompt))
        ratios.append((between - began) / (time.perf_counter() - between))
    return {**spread(ratios), "weights": other.held().weights_bytes / engine.held().weights_bytes}


def shared_prefix(engine: Any) -> float:
    beginning = "The rules of the house are long. " * 125
    runs = [Run(it) for it in [engine.stream(ask(f"{beginning}Question {n}?", 2)) for n in range(16)]]
    submitted = sum(it.usage.input_tokens or 0 for it in runs)
    return (submitted - sum(it.usage.cached_input_tokens or 0 for it in runs)) / submitted


def memory(engine: Any) -> float:
    import psutil

    process = psutil.Process()
    prompt = ask("Hi", 2)
    for number in range(RUNS):
        Run(engine.stream(prompt))
        if number == 50:
            before = process.memory_info().rss
    return float(process.memory_info().rss / before)


def main() -> None:
    given = [int(text) for text in sys.argv[1:]]
    rounds, tokens = given + [4, 128][len(given) :]
    with tempfile.TemporaryDirectory() as folder:
        session = Session(TokMagic(ledger=f"sqlite:///{Path(folder) / 'ledger.sqlite'}"))
        for dtype in ("bf16", "fp32"):
            session.models.add(dtype, ModelSpec("smollm2", dtype=dtype))
        engine = session.load("bf16")
        list(engine.stream(ask("Hi", 4)))
        found: dict[str, Any] = {"as_transformers": one_stream(engine, rounds, tokens)}
        engine = session.load("smollm2")
        list(engine.stream(ask("Hi", 4)))
        found |= {
            "arithmetic": engine.info.arithmetic,
            "default": one_stream(engine, rounds, tokens),
            "ttft_400": ttft(engine, rounds),
            "batch_16": batch(engine, max(1, rounds // 3), tokens // 2),
            "shared_prefix": shared_prefix(engine),
            "memory": memory(engine),
        }
        session.models.add("int8", ModelSpec("smollm2", quant="int8"))
        rounded = session.load("int8", keep_others=True)
        list(rounded.stream(ask("Hi", 4)))
        found["int8"] = beside(engine, rounded, rounds, tokens)
        engine = session.load("fp32")
        list(engine.stream(ask("Hi", 4)))
        found["batch_16_fp32"] = batch(engine, max(1, rounds // 3), tokens // 2)
        session.close()
    report("local", {"rounds": rounds, "tokens": tokens, **found})


if __name__ == "__main__":
    main()
