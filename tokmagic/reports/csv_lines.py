"""Sums as CSV, for whoever writes bills: money exact, and nothing in it that a spreadsheet would compute."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from tokmagic.formatting.tables import Table

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_lines(table: Table) -> Iterator[str]:
    """A table of sums as lines of CSV: unrounded, money as decimal strings, unknown as an empty field.

    Its total, the last line, is left out, so that a column can be added up. A text that a spreadsheet would take for a
    formula has an apostrophe before it.
    """
    *rows, total = table.exact
    writer = csv_writer(total)
    yield writer.writeheader()
    for row in rows:
        yield writer.writerow({name: in_csv(value) for name, value in row.items()})


def csv_writer(names: Iterable[str]) -> Any:
    """A writer of dicts whose methods return the line, which ends in a newline."""
    # It returns what its file's write() returns, and quotes a carriage return only where its lines end in one.
    lines: Any = SimpleNamespace(write=lambda line: line.removesuffix("\r\n") + "\n")
    return csv.DictWriter(lines, list(names), lineterminator="\r\n")


def in_csv(value: Any) -> Any:
    """A value as a field of CSV: booleans as in JSON, what a spreadsheet would take for a formula as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA) else value
