"""The local engine on a GPU, against the roof that is measured in the same run, and its batches.

``python -m benchmarks.gpu [TOKENS]``: the default model must have been pulled, for its tokenizer. Meanwhile some 20 GB
of disk and 60 GB of the GPU's memory are taken.

- ``one_stream``: of a model of 8 billion random weights in bf16: the least time that a token can take by what it reads
  ÷ that of the engine (asked 0.80), and that of transformers' ``generate``, without graphs, ÷ the engine's (2.5).
- ``long_context``: the least time of a token ÷ the engine's, some 6,000 tokens into a text, with graphs, whose one call
  attends to the whole room, and without; and throughput of 64 prompts of some 1,500 tokens at once ÷ one after another.
- ``nf4``: the time of a token in bf16 ÷ that with ``--quant nf4`` (1.6).
- ``metering``: the engine's time for a whole answer ÷ that of a run that is metered and recorded (0.98).
- ``batch_256``: throughput of 256 prompts at once ÷ that of some of them one after another (20), and the sum of the
  runs' device seconds ÷ the time from the first prefill to the last token (within 1 %).
- ``default``: the same of the default model, whose passes are too small for the GPU.

Energy by the counter against power by time is in ``make test-gpu``.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.local import TOPICS, Run, ask
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Prompt
from tokmagic.engines.base import Measured, ModelSpec
from tokmagic.engines.roof import Measurable
from tokmagic.runs.session import Session


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a model is."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int


# A layer of Llama 3 8B's. Its vocabulary is the default model's, so there are four layers more.
EIGHT_BILLION = Shape(4096, 14_336, 36, 32, 8)
ALONE, TOGETHER = 8, 256
LONG, LONGISH, LONG_TOGETHER = 6000, 1500, 64
# Of the weights: as models are before they are trained.
_SPREAD = 0.02


def written(folder: Path, like: Path, shape: Shape) -> Path:
    """A model of random weights with the tokenizer in ``like``."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    known = json.loads((like / "config.json").read_text(encoding="utf-8"))
    config = LlamaConfig(
        vocab_size=known["vocab_size"],
        eos_token_id=known["eos_token_id"],
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        shapes = {name: it.shape for name, it in LlamaForCausalLM(config).state_dict().items()}
    weights = {
        name: torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else (torch.randn(shape, dtype=torch.bfloat16, device="cuda") * _SPREAD).cpu()
        for name, shape in shapes.items()
    }
    made = folder / "random"
    made.mkdir()
    config.save_pretrained(made)
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    for file in like.iterdir():
        if not (made / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, made)
    return made


def token_s(engine: Any, tokens: int) -> float:
    """Seconds between two tokens of one stream, at best of three."""
    prompt = ask(f"Write a very long text about {TOPICS[0]}.", tokens)
    return min(Run(engine.stream(prompt)).gap_s for _ in range(3))


def bare_token_s(engine: Any, tokens: int) -> float:
    """The same of transformers' own loop on the same weights, call by call."""
    import torch

    prompt = ask(f"Write a very long text about {TOPICS[0]}.", tokens)
    ids = torch.tensor([engine._tokenizer.encode(prompt)], device="cuda")

    def seconds(count: int) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            engine._inference._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False
            )
        torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds(2)
    return (seconds(tokens) - seconds(1)) / (tokens - 1)


def one_stream(engine: Any, tokens: int) -> dict[str, Any]:
    assert isinstance(engine, Measurable)
    assert isinstance(engine, Measured)
    roof, work = engine.roof()
    assert work is not None
    least_s = roof.decode_s(work, tokens / 2)
    ours_s, bare_s = token_s(engine, tokens), bare_token_s(engine, tokens)
    return {
        "of_the_roof": least_s / ours_s,
        "eager_over_ours": bare_s / ours_s,
        "ms_a_token": 1000 * ours_s,
        "read_gb_per_s": roof.read_bytes_per_s / 1e9,
        "weight_gb": work.weight_bytes / 1e9,
        **dict(engine.facts()),
    }


def metering(session: Session, engine: Any, tokens: int) -> float:
    """Bare streams ÷ recorded runs, in turn."""
    ratios = []
    for topic in TOPICS[:6]:
        prompt = ask(f"Write a very long text about {topic}.", tokens)
        began = time.perf_counter()
        Run(engine.stream(prompt))
        between = time.perf_counter()
        session.generate(prompt, cache=False).raise_for_status()
        ratios.append((between - began) / (time.perf_counter() - between))
    return statistics.median(ratios)


def long_context(engine: Any, tokens: int, words: int, longish: int, together: int) -> dict[str, float]:
    roof, work = engine.roof()
    prompt = ask("word " * words, tokens)
    found = {}
    decoder = engine._inference._decoder
    graphs = decoder._graphs
    for name, used in (("with_graphs", graphs), ("without_graphs", None)):
        decoder._graphs = used
        runs = [Run(engine.stream(prompt)) for _ in range(2)]
        input_tokens = runs[0].usage.input_tokens
        assert input_tokens is not None
        found[name] = roof.decode_s(work, input_tokens + tokens / 2) / min(it.gap_s for it in runs)
    decoder._graphs = graphs
    # What they begin with differs: nothing is shared.
    of_each = [ask(f"{count} " + "word " * longish, tokens) for count in range(together)]
    return {**found, "batch_throughput": batch(engine, of_each)["throughput"]}


def short_prompts(tokens: int, together: int) -> list[Prompt]:
    return [ask(f"Write text {count} about {TOPICS[count % len(TOPICS)]}.", tokens) for count in range(together)]


def batch(engine: Any, prompts: Sequence[Prompt]) -> dict[str, float]:
    together = len(prompts)
    began = time.perf_counter()
    for prompt in prompts[:ALONE]:
        Run(engine.stream(prompt))
    one_s = (time.perf_counter() - began) / ALONE
    began = time.perf_counter()
    runs = [Run(stream) for stream in [engine.stream(prompt) for prompt in prompts]]
    all_s = time.perf_counter() - began
    busy_s = (max(it.end_ns for it in runs) - min(it.begun_ns for it in runs)) / 1e9
    return {
        "throughput": one_s * together / all_s,
        "tokens_per_s": sum(len(it.ids) for it in runs) / all_s,
        "device_seconds": sum(it.device_s for it in runs) / busy_s,
    }


def measured(
    home: Path,
    tokens: int,
    shape: Shape,
    *,
    together: int = TOGETHER,
    long: tuple[int, int, int] = (LONG, LONGISH, LONG_TOGETHER),
    quant: bool = True,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        session = Session(TokMagic(home=str(home), ledger=f"sqlite:///{Path(name) / 'ledger.sqlite'}"))
        engine = session.load("smollm2")
        list(engine.stream(ask("Hi", 4)))
        found["default"] = one_stream(engine, tokens) | batch(engine, short_prompts(tokens, together))
        (like,) = (home / "models").glob("*SmolLM2*Instruct")
        session.models.unload("smollm2")
        folder = written(Path(name), like, shape)
        session.models.add("large", ModelSpec(str(folder)))
        engine = session.load("large")
        list(engine.stream(ask("Hi", 4)))
        found["one_stream"] = one_stream(engine, tokens)
        found["metering"] = metering(session, engine, tokens)
        found["batch_256"] = batch(engine, short_prompts(tokens, together))
        found["long_context"] = long_context(engine, tokens, *long)
        if quant:
            plain_s = token_s(engine, tokens)
            session.models.add("nf4", ModelSpec(str(folder), quant="nf4"))
            engine = session.load("nf4")
            list(engine.stream(ask("Hi", 4)))
            found["nf4"] = plain_s / token_s(engine, tokens)
        session.close()
    return found


def main() -> None:
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    report("gpu", {"tokens": tokens, **measured(Path(TokMagic().home), tokens, EIGHT_BILLION)})


if __name__ == "__main__":
    main()
