"""The model in the sidebar's head: its state, its GPU or shared engine, and what a person should know of its counts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tokmagic.core.record import EnergySum, EngineInfo, RunRecord, Selection
from tokmagic.engines.registry import Models
from tokmagic.errors import LedgerError
from tokmagic.runs.gpu_readings import GpuReadings
from tokmagic.runs.live import ModelView
from tokmagic.runs.readying import Readying
from tokmagic.runs.shared_readings import SharedReadings
from tokmagic.tokens.reconciliation import disagreement

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


class Head:
    """What a session shows of a model."""

    def __init__(self, models: Models, readying: Readying, changed: Callable[[], None]) -> None:
        """``changed`` is called when something of it is new that no run told of."""
        self._models = models
        self._readying = readying
        self._gpus = GpuReadings(models)
        self._shared = SharedReadings(models, changed)
        self._energy = EnergySum()
        self._notices: dict[str, str | None] = {}

    def view(self, name: str, info: EngineInfo) -> ModelView:
        """As it is now."""
        notice = self._notices.get(info.model_id)
        if loading := self._readying.stage:
            return ModelView(info, "loading", *loading, notice)
        state = self._models.engine(name).state if name in self._models.opened() else "unloaded"
        gpu = self._gpus.of(name)
        energy = self._energy if gpu is not None else None
        return ModelView(info, state, notice=notice, gpu=gpu, energy=energy, shared=self._shared.of(name))

    def read_energy(self, ledger: Ledger, where: Selection) -> None:
        """Add up what the ended runs took. Raises LedgerError."""
        self._energy = sum((part for _, part in ledger.energies(where, "model")), EnergySum())

    def ended(self, ledger: Callable[[], Ledger], record: RunRecord) -> None:
        """A run is over: what its server says is read anew, and where the two count otherwise that is said."""
        self._shared.ended(record.info.name)
        if record.local_input_tokens is not None and record.reading.usage.input_source == "reported":
            with suppress(LedgerError):
                self._notices[record.info.model_id] = disagreement(ledger().compared(record.info.model_id))
