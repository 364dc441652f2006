"""Runs as files and data frames: JSONL, CSV, Parquet, pandas. One run at a time, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tokmagic.core.fields import AS_JSON, FIELDS, Layout
from tokmagic.core.files import replacing
from tokmagic.core.money import Rates, rates_dict
from tokmagic.core.record import RunRecord
from tokmagic.errors import UsageError, nearest
from tokmagic.formatting.numbers import counted
from tokmagic.reports.csv_lines import csv_writer, in_csv


def _rates(rates: Rates) -> dict[str, Any]:
    """All rates, unknown ones as null."""
    names = ("input", "output", "cached", "cache_write", "device_hour", "source", "version")
    shadow = {} if rates.shadow is None else {"shadow": _rates(rates.shadow)}
    return dict.fromkeys(names) | rates_dict(rates) | shadow


_EXPORT = Layout({field.name: field for field in FIELDS if field.exported}, {**AS_JSON, "rates": _rates})


def export_row(record: RunRecord) -> dict[str, Any]:
    """One run as ``tokmagic export`` prints it: money as decimal strings, unknown as null, times UTC ISO 8601."""
    return _EXPORT.row(record)


@dataclass
class Beside:
    """Counts the rows among those that pass that no sum has: runs that go on, and second rows of one run."""

    running: int = 0
    duplicates: int = 0

    def of(self, records: Iterable[RunRecord]) -> Iterator[RunRecord]:
        """The same records."""
        for record in records:
            self.running += record.status == "running"
            self.duplicates += record.duplicate
            yield record

    @property
    def note(self) -> str:
        """One line for whoever adds a column up; empty where it has only what sums have."""
        parts = [f"{counted(self.running, 'run')} still running"] if self.running else []
        parts += [f"{counted(self.duplicates, 'duplicate')}"] if self.duplicates else []
        return f"in no sum, and left out with --once: {', '.join(parts)}" if parts else ""


FORMATS = ("jsonl", "csv", "parquet")
_PORTION = 10_000


def export_lines(records: Iterable[RunRecord], form: str) -> Iterator[str]:
    """Runs as lines of JSONL or CSV, one at a time. Raises UsageError.

    Nested values are JSON in a CSV's field; a text that a spreadsheet would take for a formula has an apostrophe before
    it.
    """
    if form == "parquet":
        raise UsageError("parquet cannot be printed; name a file, such as runs.parquet")
    _check(form)
    if form == "csv":
        return _csv(records)
    return (json.dumps(export_row(record), ensure_ascii=False) + "\n" for record in records)


def _check(form: str) -> None:
    if form not in FORMATS:
        raise UsageError(f"format {form!r} is unknown{nearest(form, FORMATS)}; use {', '.join(FORMATS)}")


def _csv(records: Iterable[RunRecord]) -> Iterator[str]:
    writer = csv_writer(_EXPORT.fields)
    yield writer.writeheader()
    for record in records:
        yield writer.writerow({key: in_csv(_flat(value)) for key, value in export_row(record).items()})


def export_file(records: Iterable[RunRecord], path: Path, form: str | None = None) -> None:
    """Write runs to a file; its ending chooses the format where none is given. Raises UsageError.

    An export that fails leaves an earlier file as it was.
    """
    if not (form := form or path.suffix.removeprefix(".")):
        raise UsageError(f"{path} tells no format; end its name in {' or '.join(f'.{it}' for it in FORMATS)}")
    _check(form)
    try:
        with replacing(path) as part:
            if form == "parquet":
                _write_parquet(records, part)
            else:
                with part.open("w", encoding="utf-8", newline="") as file:
                    file.writelines(export_lines(records, form))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def dataframe(records: Iterable[RunRecord]) -> Any:
    """Runs as a pandas DataFrame, a row each. Raises UsageError without pandas.

    Money is a float, which can be drawn and added up, and under ``…_exact`` the exact text. A Decimal would be no use:
    a chart library that writes JSON refuses every frame that has one.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("a DataFrame needs the package pandas; run: pip install 'tokmagic[report]'") from None
    rows = [export_row(record) for record in records]
    frame = pandas.DataFrame(rows, columns=list(_EXPORT.fields))
    for name, field in _EXPORT.fields.items():
        if field.kind == "time":
            frame[name] = pandas.to_datetime(frame[name], utc=True)
        elif field.kind == "float":
            frame[name] = frame[name].astype("float64")  # where none is known, too
        elif field.kind == "money":
            frame[f"{name}_exact"] = frame[name]
            frame[name] = pandas.Series(_floats(rows, name), dtype="float64")
    return frame


def _floats(rows: list[dict[str, Any]], name: str) -> list[float | None]:
    return [None if row[name] is None else float(row[name]) for row in rows]


def _write_parquet(records: Iterable[RunRecord], path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("parquet needs the package pyarrow; run: pip install 'tokmagic[parquet]'") from None
    # Money is exact text, with a float beside it for what draws, and what is nested is JSON.
    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "flag": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds.get(it.kind, pyarrow.string())) for name, it in _EXPORT.fields.items()])
    money = [name for name, it in _EXPORT.fields.items() if it.kind == "money"]
    schema = pyarrow.schema([*schema, *((f"{name}_float", pyarrow.float64()) for name in money)])
    with pyarrow.parquet.ParquetWriter(str(path), schema) as writer:
        rows = (export_row(record) for record in records)
        while portion := list(islice(rows, _PORTION)):
            columns = {name: [_flat(row[name]) for row in portion] for name in _EXPORT.fields}
            columns |= {f"{name}_float": _floats(portion, name) for name in money}
            writer.write_table(pyarrow.table(columns, schema=schema))


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
