"""Local days: when one begins, also where its midnight is skipped or comes twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta


def start_of_day(day: date) -> datetime:
    """The first instant of a local day, with the offset that holds then; of a day that is skipped that of the next one.

    Raises OverflowError and ValueError at the ends of the calendar.
    """
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    # No offset is longer than 24 hours. Clocks are changed at whole seconds.
    before, after = -26 * 3600, 26 * 3600
    while after - before > 1:
        middle = (before + after) // 2
        if (midnight + timedelta(seconds=middle)).astimezone().date() < day:
            before = middle
        else:
            after = middle
    return (midnight + timedelta(seconds=after)).astimezone()
