"""Keys by which programs ask a shared engine, each with its own budget."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tokmagic.core.budget import Budget, Scope

Period = Literal["total", "month", "day"]
"""Over what a key's budget is counted: all that was ever run with it, or a local month or day."""
Part = Literal["usd", "tokens", "user", "team"]
"""What a key may be without: a cap in USD, one in tokens, a user, a team."""
SCOPE_OF: dict[Period, Scope] = {"total": "key", "month": "month", "day": "day"}
OF_KEYS = ("key", "team")
"""What only runs with a key have. Grouped by it all of these are added up, with a team or not, and duplicates too."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: everything but its secret, of which there is only a digest.

    ``key_id`` names it in rows and messages. ``budget`` None: it has no cap. ``revoked_at`` None: it may be used.
    Times are UTC.
    """

    key_id: str
    name: str
    user: str | None
    team: str | None
    budget: Budget | None
    created_at: datetime
    revoked_at: datetime | None = None
