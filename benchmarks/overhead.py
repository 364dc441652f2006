"""What metering costs: ``%%generate`` against bare ``model.generate``, alternating in one kernel process.

``python -m benchmarks.overhead [ROUNDS [TOKENS]]``: the model must have been pulled. All sides run the same
prompt greedily on the same loaded model for the same number of tokens.

- ``bare_over_magic``: wall time of ``model.generate`` ÷ wall time of ``%%generate`` with its streamed output,
  ledger row and sidebar messages; 1 is no overhead.
- ``sidebar_share``: what streaming to the sidebar adds to a run without cell output.
- ``tap_us`` and ``meter_us``: microseconds a token of the whole stopping criterion (reading the id, stamp, decoding,
  handing on), which is on the generating thread, and of the meter's fold, which is not.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import report, spread

PROMPT = "Write a very long story about a lighthouse keeper and the sea."


def measure(rounds: int, tokens: int) -> dict[str, Any]:
    """Run all sides in turn, inside a kernel where the extension is loaded; the order turns with each round."""
    sides = _sides(tokens)
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            sides[name]()
            times[name].append(time.perf_counter() - began)
    magic = [bare / other for bare, other in zip(times["bare"], times["magic"], strict=True)]
    live = [on / off - 1 for on, off in zip(times["sidebar"], times["no_sidebar"], strict=True)]
    return {
        "tokens": tokens,
        "rounds": rounds,
        "bare_over_magic": spread(magic),
        "sidebar_share": spread(live),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        **_per_token(),
    }


def _sides(tokens: int) -> dict[str, Callable[[], None]]:
    import torch
    from IPython.core.getipython import get_ipython
    from transformers import AutoTokenizer

    from tokmagic.core.prompt import Message, Prompt, Sampling
    from tokmagic.runs.api import session

    shell: Any = get_ipython()
    current = session()
    engine: Any = current.load("smollm2")
    model = engine._inference._model
    tokenizer = AutoTokenizer.from_pretrained(engine._located.folder)
    encoded = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    prompt = Prompt((Message("user", PROMPT),), Sampling(max_tokens=tokens, temperature=0.0))

    def bare() -> None:
        with torch.inference_mode():
            out = model.generate(**encoded, max_new_tokens=tokens, do_sample=False)
        assert out.shape[1] - encoded["input_ids"].shape[1] == tokens

    def magic() -> None:
        shell.run_cell_magic("generate", f"--no-cache --max-tokens {tokens} --temperature 0", PROMPT)

    def sidebar() -> None:
        assert current.generate(prompt, cache=False).usage.output_tokens == tokens

    def no_sidebar() -> None:
        current.channel.close()
        try:
            sidebar()
        finally:
            current.channel.open()

    return {"bare": bare, "magic": magic, "sidebar": sidebar, "no_sidebar": no_sidebar}


def _per_token(count: int = 2000) -> dict[str, float]:
    import torch

    from tokmagic.core.money import Rates
    from tokmagic.core.stream import Finished, Token, Usage
    from tokmagic.engines.local.answer import Answer
    from tokmagic.engines.local.stream import LocalStream
    from tokmagic.engines.local.taps import TokenTap
    from tokmagic.runs.api import session
    from tokmagic.runs.meter import Meter
    from tokmagic.tokens.tokenizer import Decoder

    engine: Any = session().models.engine("smollm2")
    stream = LocalStream()
    tap = TokenTap(stream, [Answer(stream, 0, Decoder(engine._tokenizer), frozenset(), ())])
    ids = torch.randint(1000, 20_000, (1, count))
    began = time.perf_counter()
    for end in range(1, count + 1):
        tap(ids[:, :end])
    tap_s = time.perf_counter() - began
    stream.put(Finished(time.perf_counter_ns(), ("length",), Usage()))
    events = [event for event in stream if isinstance(event, Token)]
    meter = Meter(Rates())
    began = time.perf_counter()
    for event in events:
        meter.fold(event)
    return {"tap_us": tap_s / count * 1e6, "meter_us": (time.perf_counter() - began) / count * 1e6}


def main() -> None:
    """Start a kernel, read its messages as a front end does, and measure inside it."""
    from tests.kernels import running_kernel

    given = [int(text) for text in sys.argv[1:]]
    rounds, tokens = given + [8, 128][len(given) :]
    code = f"from benchmarks.overhead import measure\nimport json\nprint(json.dumps(measure({rounds}, {tokens})))"
    with running_kernel() as kernel:
        for source in ("%load_ext tokmagic", code):
            ran = kernel.run(source, timeout_s=3600)
            assert ran.ok, ran.error
    report("overhead", json.loads(ran.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
