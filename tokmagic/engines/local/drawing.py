"""Which token comes next: greedy, or drawn as transformers draws it, with the same numbers from the same seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tokmagic.engines.local.schema import SchemaConstraint

# What transformers takes where neither the prompt nor the model says it.
_TOP_K = 50
# What is heeded here, and what has no bearing on which token comes next.
_HEEDED = {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens"}
_WITHOUT_BEARING = {
    "bos_token_id",
    "cache_implementation",
    "disable_compile",
    "eos_token_id",
    "max_length",
    "max_new_tokens",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefill_chunk_size",
    "transformers_version",
    "use_cache",
}
# Methods that a configuration may name only to say that they are off.
_OFF = {
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "typical_p": 1.0,
}


def is_followed(config: GenerationConfig) -> bool:
    """Whether a :class:`Drawing` does all that ``config`` asks for; a model's own may ask for much else."""
    changed = {
        name
        for name, value in config.to_diff_dict().items()
        if not name.startswith("_") and value is not None and value != _OFF.get(name)
    }
    return changed <= _HEEDED | _WITHOUT_BEARING


class Drawing:
    """The choices of one run, which draw from one stream of random numbers."""

    def __init__(
        self,
        config: GenerationConfig,
        ids: list[int],
        *,
        seed: int | None,
        constraint: SchemaConstraint | None,
        logprobs: bool,
        device: torch.device,
    ) -> None:
        """``ids`` are the prompt's; without a seed the process' own random state is drawn from. ``device`` is where
        the logits will be."""
        self._draws = bool(config.do_sample)
        self._logprobs = logprobs
        self._before, self._limits = _processors(config)
        eos = config.eos_token_id if config.min_new_tokens else None
        self._eos = None if eos is None else torch.tensor([eos] if isinstance(eos, int) else eos, device=device)
        self._least: int = config.min_new_tokens or 0
        self._made = 0
        self._constraint = constraint
        self._generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        self._choices: int = config.num_return_sequences or 1
        self._pad: int = config.pad_token_id or 0
        # Only these look at what came before.
        looks_back = self._before or constraint
        self._ids = torch.tensor([ids], device=device).expand(self._choices, -1) if looks_back else None
        self._scores: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the next id is that of the greatest logit, and nobody asks for more."""
        limits = self._draws or self._logprobs or self._ids is not None
        return not limits and (self._eos is None or self._made >= self._least)

    def next(self, logits: Tensor, choices: list[int]) -> tuple[list[int], list[float] | None]:
        """Return the next id of each of ``choices``, whose ``logits`` [choices, vocabulary] are given in that order,
        and the natural logarithms of their probabilities if they were asked for."""
        ids: Any = self._ids if self._ids is None else self._ids[choices]
        scores = self._before(ids, logits.to(torch.float32, copy=True))
        if self._eos is not None and self._made < self._least:
            # transformers' own processor for it looks for these ids in the whole vocabulary, token by token.
            scores = scores.index_fill_(1, self._eos, float("-inf"))
        self._made += 1
        known = torch.log_softmax(scores, dim=-1) if self._logprobs else None
        if self._constraint is not None:
            scores = self._constraint.restrict(choices, ids, scores)
        drawn = self._drawn(self._limits(ids, scores), choices) if self._draws else _greatest(scores)
        if self._ids is not None:
            # An answer that is over is filled up, as long as others go on.
            newest = torch.full((self._choices, 1), self._pad, device=scores.device)
            newest[choices, 0] = drawn
            self._ids = torch.cat((self._ids, newest), dim=1)
        logprobs = None if known is None else known.gather(1, drawn.unsqueeze(1)).squeeze(1).tolist()
        return drawn.tolist(), logprobs

    def _drawn(self, scores: Tensor, choices: list[int]) -> Tensor:
        if len(choices) < self._choices:
            # Random numbers are drawn for all, so that an answer does not depend on when another one ended.
            assert self._scores is not None
            scores = self._scores.index_copy_(0, torch.tensor(choices, device=scores.device), scores)
        self._scores = scores
        drawn = torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=self._generator).squeeze(1)
        return drawn[choices]


def _greatest(scores: Tensor) -> Tensor:
    """The first of the greatest of each row: numpy finds it in a sixth of the time that torch takes on a CPU."""
    if not scores.is_cpu:
        return scores.argmax(dim=-1)
    return torch.from_numpy(scores.numpy().argmax(axis=-1))


def _processors(config: GenerationConfig) -> tuple[LogitsProcessorList, LogitsProcessorList]:
    """What changes the scores, and what then limits the draw, in the order of transformers' ``generate``."""
    before, limits = LogitsProcessorList(), LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        before.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.temperature not in (None, 1.0):
        limits.append(TemperatureLogitsWarper(config.temperature))
    if (top_k := _TOP_K if config.top_k is None else config.top_k) != 0:
        limits.append(TopKLogitsWarper(top_k=top_k))
    if config.top_p is not None and config.top_p < 1.0:
        limits.append(TopPLogitsWarper(top_p=config.top_p))
    if config.min_p is not None:
        limits.append(MinPLogitsWarper(min_p=config.min_p))
    return before, limits
