"""A level's times beside the least times that its device allows."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from tokmagic.bench.figures import Level
from tokmagic.engines.roof import Roof, Work


@dataclass(frozen=True, slots=True)
class Beside:
    """A time that was measured and the least that is possible, both in seconds."""

    measured_s: float
    least_s: float

    @property
    def share(self) -> float:
        """How much of the roof is reached: 1 is all of it."""
        return self.least_s / self.measured_s


def decode(level: Level, roof: Roof, work: Work) -> Beside | None:
    """The mean gap between tokens beside reading the weights and one request's cache once."""
    usage, done = level.usage, len(level.done)
    if level.itl_s is None or not level.by_token or usage.input_tokens is None or usage.output_tokens is None:
        return None
    # From the second token to the last the context grows from the prompt's length by one each.
    context = usage.input_tokens / done + usage.output_tokens / done / 2
    return Beside(level.itl_s.mean, roof.decode_s(work, context))


def prefill(level: Level, roof: Roof, work: Work) -> Beside | None:
    """The median time from the start of a prompt to its first token beside the median of the least that each takes."""
    usages = [it.reading.usage for it in level.done]
    if level.prefill_s is None or level.usage.input_tokens is None:
        return None
    # What a prefix cache had is not computed: with it the least would be more than was measured.
    least = [roof.prefill_s(work, it.input_tokens or 0, it.cached_input_tokens or 0) for it in usages]
    return Beside(level.prefill_s.at(0.5), median(least))
