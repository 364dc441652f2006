"""Runs, cells and notebooks as they once were, to be compared with what they are now: immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

from tokmagic.core.money import Cost, Rates, Uncertainty
from tokmagic.core.prompt import DRAWING
from tokmagic.core.record import INFO_IN_ENV, RUN_IN_ENV, EngineInfo, RunRecord, Status
from tokmagic.core.stream import Usage
from tokmagic.formatting.markdown import plain_text

Decoding = Literal["greedy", "seeded", "sampled"]
"""How an answer was drawn: the likeliest token each time, by a seed, or by chance."""


def decoding(params: Mapping[str, Any], greedy: bool | None) -> Decoding:
    """How a run with these parameters is drawn, by a model of which ``greedy`` says what it does by itself."""
    asked = any(params.get(name) is not None for name in DRAWING)
    if params.get("temperature") == 0 or (greedy and not asked):
        return "greedy"
    return "seeded" if params.get("seed") is not None else "sampled"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """One run: what it was asked, by what it was answered, and what came of it. Unknown is None.

    ``env`` holds the versions of packages, CUDA, driver and image. ``answer_sha256`` is a digest of all its answers
    (:func:`tokmagic.runs.generation.answers_sha256`), ``answer`` the text of the first, where it is at hand.
    ``source_sha256`` is a digest of its cell's text as it ran.
    """

    run_id: str
    status: Status
    info: EngineInfo
    decoding: Decoding | None = None
    params: dict[str, Any] = field(default_factory=dict)
    prompt_sha256: str | None = None
    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None
    cost: Cost = field(default_factory=Cost)
    rates: Rates | None = None
    env: dict[str, Any] = field(default_factory=dict)
    answer_sha256: str | None = None
    answer: str | None = None
    source_sha256: str | None = None

    @classmethod
    def of(cls, record: RunRecord, answer: str | None = None) -> RunSnapshot:
        """The snapshot of a ledger's row."""
        cost, own = record.reading.cost, {*INFO_IN_ENV, *RUN_IN_ENV}
        return cls(
            run_id=record.run_id,
            status=record.status,
            # How long the context is says nothing of an answer that fits it.
            info=replace(record.info, context_tokens=None),
            decoding=decoding(record.params, record.info.greedy),
            params=record.params,
            prompt_sha256=record.prompt_sha256,
            usage=record.reading.usage,
            finish_reason=record.finish_reason,
            cost=Cost(cost.usd, cost.source, cost.bound, saved_usd=cost.saved_usd),
            rates=record.rates,
            env={name: value for name, value in record.env.items() if name not in own},
            answer_sha256=record.env.get("answer_sha256"),
            answer=answer,
            source_sha256=record.env.get("source_sha256"),
        )

    @property
    def ended_well(self) -> bool:
        """Whether it has a complete answer."""
        return self.status in ("ok", "cached")

    @property
    def usd(self) -> Decimal | None:
        """What it costs where nothing is cached."""
        return self.cost.saved_usd if self.status == "cached" else self.cost.usd

    @property
    def uncertainty(self) -> Uncertainty:
        """How sure that is."""
        return Uncertainty.of_saved(self.cost) if self.status == "cached" else Uncertainty.of(self.cost)


@dataclass(frozen=True, slots=True)
class CellSnapshot:
    """The runs of a cell's last execution, in order. ``number`` is its place in the file, from 1; None: not known.

    ``source_sha256`` is a digest of the text that stands, or stood, in the cell.
    """

    id: str | None
    number: int | None
    runs: tuple[RunSnapshot, ...] = ()
    source_sha256: str | None = field(default=None, kw_only=True)

    @property
    def runs_prompts(self) -> bool:
        """Whether running the cell runs prompts."""
        return bool(self.runs)

    @property
    def outdated(self) -> bool:
        """Whether a run is of another text than the cell's."""
        texts = {run.source_sha256 for run in self.runs} - {None}
        return self.source_sha256 is not None and bool(texts - {self.source_sha256})

    @property
    def name(self) -> str:
        """``cell 3 (a1b2)``."""
        shown = plain_text(self.id or "")[:40]
        if self.number is None:
            return f"cell {shown}" if shown else "a cell"
        return f"cell {self.number}" + (f" ({shown})" if shown else "")


@dataclass(frozen=True, slots=True)
class NotebookSnapshot:
    """What a notebook ran with. ``version`` is that of the tokmagic that wrote it, ``name`` the notebook file's."""

    name: str
    version: str
    cells: tuple[CellSnapshot, ...]
