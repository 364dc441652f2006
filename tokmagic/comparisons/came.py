"""What the runs of a comparison come to."""

from __future__ import annotations

from dataclasses import dataclass

from tokmagic.core.record import RunRecord
from tokmagic.errors import TokmagicError, UsageError


@dataclass(frozen=True, slots=True)
class Got:
    """A finished run, and its answer."""

    record: RunRecord
    text: str | None

    @property
    def span(self) -> tuple[float, float] | None:
        """When it was computed: without what it waited for before it was let in."""
        if self.record.finished_at is None:
            return None
        ended, latency_s = self.record.finished_at.timestamp(), self.record.reading.latency_s or 0.0
        return max(self.record.started_at.timestamp(), ended - latency_s), ended


class NotRunError(Exception):
    """There is no finished run, and a new one cannot begin: a budget is used up, or its model was given up."""


Came = Got | TokmagicError | NotRunError


def without_text() -> UsageError:
    """A finished run's answer is not kept, and has to be scored."""
    return UsageError(
        "the ledger has finished runs of this comparison, but not their answers, since texts are not kept "
        "(TOKMAGIC_STORE_TEXT); leave score out to compare costs, or give another seed to begin anew"
    )
