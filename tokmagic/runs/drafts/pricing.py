"""The rates of a prompt that was not run, what it can cost at least and at most, and what its cell did before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from tokmagic.core.money import Cost, Rates
from tokmagic.core.record import EngineInfo, Histories, PastRun, Selection, is_place
from tokmagic.core.stream import Source
from tokmagic.errors import LedgerError
from tokmagic.prices import bound_usd, span
from tokmagic.runs.drafts.likely import Span
from tokmagic.runs.environment import expected_device

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

MOST_RUNS = 20
"""How many of a cell's runs a forecast looks at, the latest."""
_FRESH_S = 5.0


class Pricing:
    """What a session's models cost, and what its cells cost before. For any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._times: dict[EngineInfo, tuple[float, float | None]] = {}
        self._pasts: dict[str, tuple[float, Sequence[PastRun]]] = {}

    def rates(self, name: str) -> tuple[EngineInfo, Rates]:
        """A registered model as it would run here, and the rates in force for it. Raises PriceError, UsageError."""
        spec = self._session.models.peek(name)
        info = expected_device(self._session.models.info(name), spec.device if spec is not None else None)
        return info, self._session.prices.rates(info)

    def span(
        self, info: EngineInfo, rates: Rates, input_tokens: int, source: Source, max_output_tokens: int | None
    ) -> tuple[Cost, Cost]:
        """What the input alone costs, and the most that the run can cost: unknown where no most is set.

        By the hour the first is unknown, and the second an estimate: the longest answer, if its tokens take as long as
        those of the model's latest runs.
        """
        if by_the_hour(rates):
            most, _ = bound_usd(rates, 0, max_output_tokens or 0, self._token_time_s(info))
            return Cost(), Cost() if most is None or max_output_tokens is None else Cost(most, "estimated")
        low, high = span(input_tokens, source, max_output_tokens or 0, rates)
        return low, high if max_output_tokens is not None else Cost()

    def past(self, cell_id: str, model_id: str) -> list[PastRun]:
        """The latest complete runs of a cell by one model, looked up at most every few seconds: each keystroke asks."""
        now = time.monotonic()
        asked_at, known = self._pasts.get(cell_id, (-_FRESH_S, ()))
        if now - asked_at >= _FRESH_S:
            known = self.histories(cell_id).get(cell_id, ())
            # Only the cells that are written just now are asked about again and again.
            self._pasts = {cell_id: (now, known)}
        return [run for run in known if run.model_id == model_id and not run.replayed]

    def histories(self, cell_id: str | None = None) -> Histories:
        """The latest complete runs and replays of a cell, or of each one; none where the ledger cannot be read."""
        where = self._session.selection
        if cell_id is not None:
            # An id that is only a place meant another cell to another kernel.
            where = Selection(session=self._session.session_id) if is_place(cell_id) else where
            where = replace(where, cell_id=cell_id)
        with suppress(LedgerError):
            return self._session.ledger().histories(where, MOST_RUNS)
        return {}

    def _token_time_s(self, info: EngineInfo) -> float | None:
        """Seconds a token takes, looked up anew at most every few seconds."""
        now = time.monotonic()
        asked_at, known = self._times.get(info, (-_FRESH_S, None))
        if now - asked_at >= _FRESH_S:
            with suppress(LedgerError):
                known = self._session.ledger().token_time_s(info)
            self._times[info] = now, known
        return known


def by_the_hour(rates: Rates) -> bool:
    """Whether the device's time is what a run costs."""
    return rates.input is None and rates.device_hour is not None


def bounds(low: Cost, high: Cost) -> Span:
    """The least and the most, where a device's time costs at least nothing."""
    return Span(low.usd if low.usd is not None else Decimal(0), high.usd)
