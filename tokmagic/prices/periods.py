"""The person's own days: local midnights as instants, whatever the clock's changes in between."""

from __future__ import annotations

from datetime import datetime


def start_of_day(now: datetime | None = None) -> datetime:
    """The local midnight before ``now`` (the present by default), with the offset that held then."""
    local = (now or datetime.now()).astimezone()
    return datetime(local.year, local.month, local.day).astimezone()


def start_of_month(now: datetime | None = None) -> datetime:
    """The local midnight that began the month of ``now`` (the present by default)."""
    local = (now or datetime.now()).astimezone()
    return datetime(local.year, local.month, 1).astimezone()
