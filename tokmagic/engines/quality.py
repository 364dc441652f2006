"""What a form of a model gives up and gains on this machine: milliseconds a token, and perplexity on a fixed text."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Token
from tokmagic.engines.base import Engine, Progress
from tokmagic.engines.local.declared import configured_dtype
from tokmagic.errors import ModelError
from tokmagic.formatting.numbers import UNKNOWN
from tokmagic.tokens.tokenizer import Tokenizer

_TEXT = Path(__file__).with_name("perplexity.txt")
_TOKENS = 48
_BEGINNING = 400


def fixed_text() -> str:
    """Plain English, the same for every model; written for this, so that no model was trained on it."""
    return _TEXT.read_text(encoding="utf-8")


def ms_per_token(engine: Engine) -> float | None:
    """The median time between two tokens of one greedy answer, past its end too. Raises ModelError."""
    sampling = Sampling(max_tokens=_TOKENS, temperature=0.0)
    prompt = Prompt((Message("user", fixed_text()[:_BEGINNING]),), sampling, completion=True, ignore_eos=True)
    instants = [event.at_ns for event in engine.stream(prompt) if isinstance(event, Token)]
    gaps = [later - earlier for earlier, later in pairwise(instants)]
    return statistics.median(gaps) / 1e6 if gaps else None


def measured(
    engine: Engine,
    tokenizer: Tokenizer,
    score: Callable[[Sequence[int]], float],
    progress: Progress,
    *,
    is_quantised: bool,
) -> tuple[tuple[str, str], ...]:
    """Return the figures of a loaded engine, as :class:`tokmagic.engines.base.Measured` tells of.

    ``score`` returns how likely the engine finds ids: minus the logarithm of one's probability, on average. Where it
    is quantised and the weights before that are at hand, theirs is computed, too. Raises ModelError.
    """
    progress("measuring its speed", None)
    speed = ms_per_token(engine)
    progress("measuring its perplexity", None)
    ids = tokenizer.text_ids(fixed_text())[: engine.info.context_tokens]
    own = math.exp(score(ids))
    told = f"{own:.2f} on {len(ids)} tokens of English"
    if is_quantised and any(tokenizer.folder.glob("*.safetensors")):
        progress("measuring that of the weights before quantisation", None)
        theirs = math.exp(_unquantised_nll(tokenizer.folder, ids))
        dtype = configured_dtype(tokenizer.folder) or "full"
        told += f"; {dtype} weights: {theirs:.2f} ({(own / theirs - 1) * 100:+.1f} %)"
    return (("ms a token", UNKNOWN if speed is None else f"{speed:.1f}"), ("perplexity", told))


def _unquantised_nll(folder: Path, ids: Sequence[int]) -> float:
    """How likely the weights in a folder find a text: minus the logarithm of a token's probability, on average.

    Takes some ten seconds and the model's memory in float32. Raises ModelError.
    """
    command = [sys.executable, "-P", "-m", "tokmagic.engines.local.perplexity", str(folder)]
    done = subprocess.run(command, input=json.dumps(list(ids)), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelError(f"the model's own weights cannot be compared with: {reason}; see `tokmagic doctor`")
    return float(done.stdout)
