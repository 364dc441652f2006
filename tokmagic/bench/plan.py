"""What is to be measured, with the bounds of each number."""

from __future__ import annotations

from dataclasses import dataclass

from tokmagic.core.prompt import Sampling
from tokmagic.errors import UsageError

LEVELS = (1, 2, 4)
PROMPT_TOKENS, OUTPUT_TOKENS, WARMUP = 128, 64, 1
_LEAST_REQUESTS = 8
_ROUNDS = 4
_MOST_TOKENS = 500_000
_BOUNDS = {
    "prompt_tokens": (1, _MOST_TOKENS),
    "output_tokens": (1, _MOST_TOKENS),
    "shared_prefix": (0, _MOST_TOKENS),
    "requests": (1, 100_000),
    "warmup": (0, 1_000),
    "seed": (0, 2**63 - 1),
}
_MOST_CONCURRENCY, _MOST_LEVELS = 1_024, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: ``levels`` are the numbers of requests at once, in their order.

    Each prompt has ``prompt_tokens``, of which the first ``shared_prefix`` are the same in all; each answer has at most
    ``output_tokens``, and with ``ignore_eos`` as many as that. ``requests`` are those of a level; None: four for each
    of its requests at once, at least eight. ``warmup`` requests come first and count in no figure. Raises UsageError.
    """

    seed: int
    levels: tuple[int, ...] = LEVELS
    prompt_tokens: int = PROMPT_TOKENS
    output_tokens: int = OUTPUT_TOKENS
    requests: int | None = None
    warmup: int = WARMUP
    shared_prefix: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None:
                _check(f"--{name.replace('_', '-')}", value, least, most)
        if not self.levels or len(self.levels) > _MOST_LEVELS:
            raise UsageError(f"--concurrency has {len(self.levels)} levels; give 1 to {_MOST_LEVELS}, such as 1,2,4")
        for level in self.levels:
            _check("--concurrency", level, 1, _MOST_CONCURRENCY)
        if len(set(self.levels)) != len(self.levels):
            raise UsageError("--concurrency names a level twice; give each once")
        if self.shared_prefix >= self.prompt_tokens:
            raise UsageError(
                f"--shared-prefix is {self.shared_prefix:,} of {self.prompt_tokens:,} prompt tokens; "
                "give fewer than --prompt-tokens, since prompts must differ"
            )

    def requests_at(self, level: int) -> int:
        """How many requests are measured with so many at once."""
        return max(_LEAST_REQUESTS, _ROUNDS * level) if self.requests is None else max(self.requests, level)

    @property
    def total(self) -> int:
        """All requests, those of the warm-up too."""
        return self.warmup + sum(map(self.requests_at, self.levels))

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn: as the model does by itself."""
        return Sampling(max_tokens=self.output_tokens)

    def check_context(self, context_tokens: int | None) -> None:
        """Raise UsageError where a prompt and its answer do not fit the model's context; None is unknown."""
        wanted = self.prompt_tokens + self.output_tokens
        if context_tokens is not None and wanted > context_tokens:
            raise UsageError(
                f"{self.prompt_tokens:,} prompt and {self.output_tokens:,} output tokens are more than the model's "
                f"context of {context_tokens:,}; lower --prompt-tokens or --output-tokens"
            )


def _check(option: str, value: int, least: int, most: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        shown = f"{value:,}" if whole and abs(value) < 10**20 else f"{value!r:.40}"
        raise UsageError(f"{option} is {shown}; it must be at least {least:,} and at most {most:,}")
