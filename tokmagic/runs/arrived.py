"""What arrived of an answer, choice by choice: texts, thoughts, ids and log probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokmagic.core.stream import Finished, FinishReason, Logprob, Token
from tokmagic.runs.generation import Choice


@dataclass(slots=True)
class _Parts:
    """What arrived of one choice."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)


class Arrived:
    """The parts of so many choices."""

    def __init__(self, choices: int) -> None:
        self._parts = [_Parts() for _ in range(choices)]

    def add(self, token: Token) -> None:
        """A piece of one choice came."""
        parts = self._parts[token.choice]
        parts.texts.append(token.text)
        if token.reasoning:
            parts.thoughts.append(token.reasoning)
        if token.id is not None:
            parts.ids.append(token.id)
        parts.logprobs += token.logprobs

    def end(self, finished: Finished) -> None:
        """The answer is over, and what was held back of its texts comes with that."""
        for parts, tail in zip(self._parts, finished.tails, strict=False):
            parts.texts.append(tail)

    def choices(self, finished: Finished | None, unfinished: FinishReason | None) -> tuple[Choice, ...]:
        """The choices: all that were asked for, or as many as the end tells of.

        ``unfinished`` is why they ended where no end came.
        """
        reasons = finished.reasons if finished is not None else (unfinished,) * len(self._parts)
        return tuple(
            Choice("".join(parts.texts), tuple(parts.ids), reason, tuple(parts.logprobs), "".join(parts.thoughts))
            for parts, reason in zip(self._parts, reasons, strict=False)
        )
