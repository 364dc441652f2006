"""What the variants are compared over: a list of dicts, a DataFrame, a CSV, JSONL or Parquet file, a saved data set."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokmagic.core.files import expanded
from tokmagic.errors import UsageError

Item = Mapping[str, Any]
_KNOWN = "a list of dicts, a DataFrame, a .csv, .jsonl or .parquet file, or the folder of a Hugging Face data set"
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_STATE, _SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True, slots=True)
class Items:
    """The inputs in their order. ``source`` is the file or folder that they came from; empty: they were in memory."""

    rows: tuple[Item, ...]
    source: str = ""

    @property
    def columns(self) -> list[str]:
        """Every column that a row has, in the order in which they come."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def sha256(self) -> str:
        """The hex digest of all that stands in them."""
        rows = [_lasting(row) for row in self.rows]
        text = json.dumps(rows, ensure_ascii=False, sort_keys=True, default=_told)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def sample(self, count: int, seed: int) -> Items:
        """So many of them, drawn by a seed; all where there are no more. Raises UsageError."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"items is {count!r}; give a whole number of items, at least 1")
        if count >= len(self.rows):
            return self
        return Items(tuple(random.Random(seed).sample(self.rows, count)))

    def check(self, column: str, what: str) -> None:
        """Raise UsageError if ``what`` needs a column that is not there, or that has gaps."""
        if not self.columns and len(self.rows) == 1:
            raise UsageError(f"{what} needs the column {column!r}, and there are no items; name them with over")
        if column not in self.columns:
            has = ", ".join(self.columns) or "none at all"
            raise UsageError(f"{what} needs the column {column!r}, which the items do not have; they have {has}")
        gaps = [number for number, row in enumerate(self.rows, 1) if _empty(row.get(column))]
        if gaps:
            some = ", ".join(map(str, gaps[:5])) + (", …" if len(gaps) > 5 else "")
            raise UsageError(
                f"the column {column!r}, which {what} needs, has gaps in {len(gaps)} of {len(self.rows):,} items "
                f"(numbers {some}); fill them in, or leave these items out"
            )


def read(over: object) -> Items:
    """The items that ``over`` means; None: a single one without columns. Raises UsageError."""
    if isinstance(over, Items):
        return over
    if over is None:
        return Items(({},))
    if isinstance(over, str | Path):
        path = expanded(str(over))
        rows, source = _read_file(path), str(path.resolve())
    elif hasattr(over, "to_dict") and hasattr(over, "columns"):
        rows, source = over.to_dict("records"), ""
    elif isinstance(over, Iterable) and not isinstance(over, Mapping | bytes):
        rows, source = list(over), ""
    else:
        raise UsageError(f"over is {type(over).__name__}; give {_KNOWN}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or any(not isinstance(name, str) for name in row):
            raise UsageError(f"item {number} is {row!r:.60}; each item is a dict from column names to values")
    if not rows:
        raise UsageError(f"there is nothing to compare over: {source or 'over'} has no items; give at least one")
    return Items(tuple({name: _plain(value) for name, value in row.items()} for row in rows), source)


def _plain(value: Any) -> Any:
    """An array, as pandas reads a column of lists from Parquet, is the list that other readers give."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(it) for it in value] if isinstance(value, list) else value


def _lasting(value: Any) -> Any:
    """A value as JSON takes it, the same in every process: a set has no order of its own, nor have keys of any kind."""
    if isinstance(value, Mapping):
        if all(isinstance(name, str) for name in value):
            return {name: _lasting(it) for name, it in value.items()}
        return sorted(_written([name, it]) for name, it in value.items())
    if isinstance(value, set | frozenset):
        return sorted(map(_written, value))
    return [_lasting(it) for it in value] if isinstance(value, list | tuple) else value


def _written(value: Any) -> str:
    return json.dumps(_lasting(value), ensure_ascii=False, sort_keys=True, default=_told)


def _told(value: Any) -> str:
    """What is no JSON, such as a function, without the address at which this process has it."""
    return _ADDRESS.sub("", str(value))


def _empty(value: object) -> bool:
    # pandas' own gaps are known by their types' names, since pandas need not be there.
    gap = type(value).__name__ in ("NAType", "NaTType")
    return value is None or gap or (isinstance(value, float) and math.isnan(value))


def is_dataset(path: Path) -> bool:
    """Whether a folder holds what a data set's ``save_to_disk`` wrote."""
    try:
        return (path / _STATE).is_file() or (path / _SPLITS).is_file()
    except OSError:  # too long for a path, for one
        return False


def _read_file(path: Path) -> list[Any]:
    if path.is_dir():
        return _dataset(path)
    readers = {".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} is none of the files that can be read; give {_KNOWN}")
    try:
        return reader(path, path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text; convert it first") from None


def _csv(path: Path, data: bytes) -> list[Any]:
    """Rows as texts; an empty cell is a gap."""
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    longest = csv.field_size_limit(max(csv.field_size_limit(), len(data)))  # a document may stand in one field
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UsageError(f"{path} near line {reader.line_num + 1}: {error}; fix the file") from None
    finally:
        csv.field_size_limit(longest)
    for number, row in enumerate(rows, 1):
        if None in row or len(set(reader.fieldnames or ())) != len(reader.fieldnames or ()):
            raise UsageError(f"{path}: row {number} does not have the header's columns, each once; fix the file")
    return [{name: value or None for name, value in row.items()} for row in rows]


def _jsonl(path: Path, data: bytes) -> list[Any]:
    rows = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UsageError(f"{path} line {number} is not JSON: {error}; write one object a line") from None
    return rows


def _dataset(folder: Path) -> list[Any]:
    """The rows that ``datasets.Dataset.save_to_disk`` wrote: Arrow streams, and a list of them.

    Values are as they are stored: a class is its number, a picture its bytes.
    """
    if not is_dataset(folder):
        raise UsageError(f"{folder} is a folder, and no saved Hugging Face data set; give {_KNOWN}")
    if (folder / _SPLITS).is_file():
        splits = _listed(folder / _SPLITS, "splits")
        named = ", ".join(str(folder / str(it)) for it in splits)
        raise UsageError(f"{folder} holds several splits; give one of them: {named}")
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise _without_pyarrow("a saved data set") from None
    rows: list[Any] = []
    for it in _listed(folder / _STATE, "_data_files"):
        path = folder / Path(str(it["filename"] if isinstance(it, Mapping) and "filename" in it else it)).name
        try:
            with path.open("rb") as file:
                rows += pyarrow.ipc.open_stream(file).read_all().to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            says = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            raise UsageError(f"{path} cannot be read: {says:.200}; save the data set again") from None
    return rows


def _listed(path: Path, name: str) -> list[Any]:
    """A list in a JSON file of a saved data set. Raises UsageError."""
    try:
        found = json.loads(path.read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not what a data set's save_to_disk writes: {error}; save it again") from None
    if not isinstance(found, list):
        raise UsageError(f"{path} is not what a data set's save_to_disk writes: {name} is no list; save it again")
    return found


def _without_pyarrow(what: str) -> UsageError:
    return UsageError(f"{what} needs the package pyarrow; run: pip install 'tokmagic[parquet]'")


def _parquet(path: Path, data: bytes) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise _without_pyarrow("parquet") from None
    try:
        rows: list[Any] = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path} is not a Parquet file: {error}") from None
    return rows
