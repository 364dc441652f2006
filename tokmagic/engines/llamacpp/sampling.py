"""How the next token is chosen: as the torch engine does with the same options and the same generation config."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokmagic.core.prompt import DRAWING, PENALTIES, Sampling
from tokmagic.engines.llamacpp.library import SEEDS
from tokmagic.errors import ModelError, UsageError

_SAMPLED = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
"""What transformers takes where a model samples and its generation config is silent."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("num_beams", "num_beam_groups", "typical_p", "encoder_repetition_penalty", "length_penalty"), (1,)
    ),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), (0,)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "penalty_alpha", "diversity_penalty", "top_h"), (0,)),
    **dict.fromkeys(("guidance_scale",), (1,)),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"), ([],)),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"), ()),
}
"""What else would change the tokens that transformers draws, with the values that change nothing."""
_SPREAD = 0x9E3779B97F4A7C15
"""An odd number without a pattern (2⁶⁴ over the golden ratio): the answers of one run get seeds far apart."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """A model's own generation config: how it draws where a prompt says nothing, and the ids that end an answer."""

    do_sample: bool = False
    drawing: tuple[tuple[str, float], ...] = ()
    repetition_penalty: float = 1.0
    eos: frozenset[int] = frozenset()

    @classmethod
    def of(cls, folder: Path, eos: frozenset[int]) -> Defaults:
        """Read ``generation_config.json`` in a folder; without one it is greedy, and ``eos`` are the file's own.

        Raises ModelError for one that cannot be read, or that asks for what is not done here.
        """
        file = folder / "generation_config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("it holds no settings")
        except FileNotFoundError:
            config = {}
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read: {error}; fetch the model again") from error
        for name, neutral in _NEUTRAL.items():
            if config.get(name) is not None and config[name] not in neutral:
                raise ModelError(f"{file} sets {name}, which is not done with a GGUF file; remove it there")
        ends = config.get("eos_token_id")
        own = frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)
        drawing = tuple((name, config[name]) for name in DRAWING if config.get(name) is not None)
        return cls(bool(config.get("do_sample")), drawing, config.get("repetition_penalty") or 1.0, own or eos)


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a run's tokens are chosen. Greedy where ``temperature`` is None; ``seed`` is never None."""

    temperature: float | None
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int

    @classmethod
    def of(cls, sampling: Sampling, defaults: Defaults) -> Drawing:
        """What a prompt asks for, over the model's own. Raises UsageError."""
        given = {name: value for name in DRAWING if (value := getattr(sampling, name)) is not None}
        sampled = sampling.temperature != 0 and (defaults.do_sample or bool(given))
        if sampling.n > 1 and not sampled:
            raise UsageError(f"-n {sampling.n} needs sampling, greedy answers are all the same; add --temperature 0.7")
        set_: dict[str, Any] = _SAMPLED | dict(defaults.drawing) | given
        (penalty,) = (getattr(sampling, name) for name in PENALTIES)
        return cls(
            temperature=float(set_["temperature"]) if sampled else None,
            top_k=int(set_["top_k"]),
            top_p=float(set_["top_p"]),
            min_p=float(set_.get("min_p", 0.0)),
            repetition_penalty=defaults.repetition_penalty if penalty is None else penalty,
            seed=secrets.randbelow(SEEDS) if sampling.seed is None else sampling.seed,
        )

    def seed_of(self, choice: int) -> int:
        """The seed of one of a run's answers, in the 32 bits that llama.cpp has for it."""
        return ((self.seed + choice) * _SPREAD % 2**64 >> 16) % SEEDS
