"""What a notebook's ended runs add up to by cell, model or day, for a sidebar that asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokmagic.core.money import plain
from tokmagic.core.record import Sum
from tokmagic.errors import UsageError
from tokmagic.runs.channel import VERSION
from tokmagic.runs.live import totals_wire

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

KEYS = ("cell", "model", "day")


def answer(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request. Raises UsageError, LedgerError."""
    seq, by = request.get("seq"), request.get("by")
    if type(seq) is not int or by not in KEYS:
        raise UsageError("this 'totals' is not a message of the live protocol; reload the page")
    found: dict[str | None, Sum] = {}
    for key, total in session.ledger().summarise(session.selection, by):
        # A cell's key is its notebook, its session and the cell: here it is one notebook's, whatever kernel ran it.
        name = key[-1]
        found[name] = found.get(name, Sum()) + total
    groups = [
        {"key": key, "saved_usd": plain(total.saved_usd), **(totals_wire(total) or {})} for key, total in found.items()
    ]
    return {"v": VERSION, "type": "totals", "seq": seq, "by": by, "groups": groups}
