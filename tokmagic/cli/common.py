"""What several verbs have in common: how they read, which runs they look at, and how they print."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

from tokmagic.core.days import start_of_day
from tokmagic.core.record import Selection
from tokmagic.errors import UsageError
from tokmagic.formatting.tables import Table
from tokmagic.prompts.options import add_tag_filter
from tokmagic.runs import api
from tokmagic.runs.whereabouts import is_same_file


def add_file(verb: argparse.ArgumentParser, what: str) -> None:
    """The file that :func:`read_text` reads."""
    verb.add_argument("file", nargs="?", default="-", help=f"file with the {what}; - or none: standard input")


def add_json(verb: argparse.ArgumentParser) -> None:
    """Whether to print JSON."""
    verb.add_argument("--json", action="store_true", help="print JSON")


def add_selection(verb: argparse.ArgumentParser) -> None:
    """The options that :func:`selection` reads."""
    verb.add_argument("--notebook", metavar="PATH", help="only this notebook's runs")
    verb.add_argument("--since", type=_date, metavar="DATE", help="only runs from this day on (YYYY-MM-DD)")
    verb.add_argument("--until", type=_date, metavar="DATE", help="only runs before this day")
    verb.add_argument("--month", type=_month, metavar="MONTH", help="only runs of this month (YYYY-MM)")
    verb.add_argument("--user", metavar="NAME", help="only this user's runs")
    verb.add_argument("--model", metavar="NAME", help="only runs of the model of this name")
    add_tag_filter(verb)


def selection(given: argparse.Namespace) -> Selection:
    """Which runs the options mean. Raises UsageError, LedgerError."""
    if given.month and (given.since or given.until):
        raise UsageError("give either --month, or --since and --until")
    since, until = given.month or (given.since, given.until)
    return Selection(
        notebook=_kept_as(given.notebook) if given.notebook else None,
        since=since,
        until=until,
        user=given.user,
        model=given.model,
        tags=tuple(given.tag),
    )


def _kept_as(notebook: str) -> str:
    """The path under which a notebook's runs are kept: that of its file, or one by which a front end came to it.

    Raises LedgerError.
    """
    path = Path(notebook).resolve()
    known = api.ledger().notebooks.called(Path(notebook).name) if path.is_file() else []
    same = [it for it in known if is_same_file(it, str(path))]
    return str(path) if str(path) in same or not same else same[0]


def _date(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
        # Of a date alone the day's beginning is meant, which is not everywhere and always at midnight.
        return (given if given.tzinfo or given.time() != time() else start_of_day(given.date())).astimezone(UTC)
    except (ValueError, OverflowError):  # at the ends of the calendar a local time has no UTC
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; give one such as 2026-11-24") from None


def _month(text: str) -> tuple[datetime, datetime]:
    try:
        first = datetime.strptime(text, "%Y-%m").date()
        after = (first + timedelta(days=32)).replace(day=1)
        return start_of_day(first).astimezone(UTC), start_of_day(after).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a month; give one such as 2026-11") from None


def print_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON; a lone surrogate, which UTF-8 cannot write, becomes JSON's own escape."""
    print(json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode())


def tell(*lines: object) -> None:
    """Print lines to a reader that may be gone (`| head`): what was found is told by the exit status all the same."""
    with suppress(BrokenPipeError):
        print(*lines, sep="\n", flush=True)


def print_table(table: Table, given: argparse.Namespace) -> int:
    """Print a table, or its rows unrounded."""
    if given.json:
        print_json(table.as_dicts())
    else:
        print(table)
    return 0


def read_text(file: str) -> str:
    """Return the text of a file, or of standard input. Raises UsageError."""
    if file == "-" and sys.stdin is None:
        raise UsageError("standard input is closed; name a file, or give the text on standard input")
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        says = f"{file} cannot be read: {error.strerror or error}"
        raise UsageError(f"{says}; name a file, or give the text itself on standard input") from error
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text; convert it first") from None
