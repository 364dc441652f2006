"""``python -m tokmagic.engines.local.perplexity FOLDER``: how likely torch finds a text, given by its ids on stdin.

The mean of minus the logarithm of each id's probability, but the first's, by a model's own weights, computed in
float32: what another form of the model is compared with. A process of its own, whose memory is free afterwards.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM


def mean_nll(folder: str, ids: Sequence[int]) -> float:
    """Read the weights in ``folder`` and score ``ids`` with them."""
    # On a processor without instructions for bfloat16 a prompt is read five times as fast in float32.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    inputs = torch.tensor([list(ids)])
    with torch.inference_mode():
        logits = model.eval()(inputs).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, inputs[0, 1:]))


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        scored = mean_nll(sys.argv[1], json.load(sys.stdin))
    sys.stdout.write(f"{scored}\n")
