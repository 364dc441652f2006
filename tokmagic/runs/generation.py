"""What a run gives back: text, usage, reading and cost in one object."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any

from tokmagic.core.money import Cost, plain
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import Reading, RunRecord, Status
from tokmagic.core.stream import Logprob, Usage
from tokmagic.errors import TokmagicError
from tokmagic.formatting import numbers


@dataclass(frozen=True, slots=True)
class Choice:
    """One sampled answer."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str | None
    logprobs: tuple[Logprob, ...] = ()
    """Each token's, where they were asked for; a server may leave out that of the end of sequence."""
    reasoning: str = ""
    """What was generated beside the answer, where the engine shows it."""


def answers_sha256(texts: Iterable[str]) -> str:
    """The hex digest of a run's answers: of the text of one, of several joined by NUL."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _sayable(piece: Logprob) -> dict[str, Any]:
    """JSON has no infinity, and no word for what is no number, as scores under an extreme penalty are."""
    return piece._asdict() | {"logprob": piece.logprob if isfinite(piece.logprob) else None}


@dataclass(slots=True)
class Generation:
    """A finished run: ``text`` is the first choice's, every number is the ledger row's."""

    prompt: Prompt
    record: RunRecord
    choices: tuple[Choice, ...] = ()
    format: str = "markdown"
    error: TokmagicError | KeyboardInterrupt | None = field(default=None, repr=False)
    # The execution in which it was streamed: as that cell's value it must not show a second time.
    shown_at: int | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        """The first choice's text, without the stop string."""
        return self.choices[0].text if self.choices else ""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids of the first choice, end of sequence included; empty where ids are unknown."""
        return self.choices[0].tokens if self.choices else ()

    @property
    def usage(self) -> Usage:
        """Token counts, with where each came from."""
        return self.record.reading.usage

    @property
    def reading(self) -> Reading:
        """TTFT, ITL, speed and the rest; seconds."""
        return self.record.reading

    @property
    def cost(self) -> Cost:
        """What it costs, in Decimal USD."""
        return self.record.reading.cost

    @property
    def model(self) -> str:
        """The model's name in this session."""
        return self.record.info.name

    @property
    def run_id(self) -> str:
        """The key of its row in the ledger."""
        return self.record.run_id

    @property
    def status(self) -> Status:
        """ok, cached, interrupted, failed or refused."""
        return self.record.status

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: stop, length, content_filter (the provider refused), interrupted, error …

        None where nobody said it.
        """
        return self.record.finish_reason

    @property
    def footer(self) -> str:
        """The one line of numbers under the answer."""
        line = numbers.footer(self.reading, self.model, self.status, self.record.rates)
        if self.finish_reason == "content_filter":
            line += " · refused by the provider"
        if reported := self.record.env.get("reported_cost_usd"):
            line += f" · {told}" if (told := numbers.other_cost(self.cost.usd, Decimal(reported))) else ""
        ignored = self.record.env.get("ignored_options")
        return f"{line} · the server ignored {', '.join(ignored)}" if ignored else line

    def raise_for_status(self) -> Generation:
        """Return self, or raise what ended the run early."""
        if self.error is not None:
            raise self.error
        return self

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Generation {self.footer}>"

    def as_dict(self) -> dict[str, Any]:
        """Text and numbers, JSON-ready, for ``tokmagic run --json``."""
        usage, reading = self.usage, self.reading
        logprobs = [[_sayable(piece) for piece in choice.logprobs] for choice in self.choices]
        return {
            "run_id": self.run_id,
            "status": self.status,
            "finish_reason": self.finish_reason,
            "model": self.model,
            "text": self.text,
            "choices": [choice.text for choice in self.choices],
            **({"logprobs": logprobs} if any(logprobs) else {}),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost_usd": plain(self.cost.usd),
            "cost_source": self.cost.source,
            "cost_bound": self.cost.bound,
            "rates_source": self.record.rates.source,
            "saved_usd": plain(self.cost.saved_usd),
            "shadow_model": self.record.rates.shadow_model,
            "shadow_usd": plain(self.cost.shadow_usd),
            "ttft_s": reading.ttft_s,
            "itl_mean_s": reading.itl_mean_s,
            "latency_s": reading.latency_s,
            "energy_j": self.record.energy_j,
            "energy_source": self.record.energy_source,
            "energy_bound": self.record.energy_bound,
        }
