"""What a GGUF file gives up and gains on this machine: milliseconds a token, and perplexity on a fixed text."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Token
from tokmagic.engines.base import Engine
from tokmagic.errors import ModelError

_TEXT = Path(__file__).with_name("perplexity.txt")
_TOKENS = 48
_BEGINNING = 400


def fixed_text() -> str:
    """Plain English, the same for every model; written for this, so that no model was trained on it."""
    return _TEXT.read_text(encoding="utf-8")


def ms_per_token(engine: Engine) -> float:
    """The median time between two tokens of one greedy answer. Raises ModelError."""
    sampling = Sampling(max_tokens=_TOKENS, temperature=0.0)
    prompt = Prompt((Message("user", fixed_text()[:_BEGINNING]),), sampling, completion=True)
    instants = [event.at_ns for event in engine.stream(prompt) if isinstance(event, Token)]
    gaps = [later - earlier for earlier, later in pairwise(instants)]
    return statistics.median(gaps) / 1e6 if gaps else math.nan


def unquantised_nll(folder: Path, ids: Sequence[int]) -> float:
    """How likely the weights in a folder find a text: minus the logarithm of a token's probability, on average.

    Takes some ten seconds and the model's memory in float32. Raises ModelError.
    """
    command = [sys.executable, "-P", "-m", "tokmagic.engines.local.perplexity", str(folder)]
    done = subprocess.run(command, input=json.dumps(list(ids)), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelError(f"the model's own weights cannot be compared with: {reason}; see `tokmagic doctor`")
    return float(done.stdout)
