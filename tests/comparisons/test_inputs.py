"""Items are the same, however they are read."""

from __future__ import annotations

from pathlib import Path

import pandas

from tokmagic.comparisons.inputs import read


def test_lists_are_lists_however_they_are_read(tmp_path: Path) -> None:
    """pandas reads a column of lists from Parquet as arrays, which no text is equal to."""
    rows = [{"q": "q0", "a": ["Rome", "Roma"]}, {"q": "q1", "a": ["Oslo"]}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "items.parquet")
    frame = pandas.read_parquet(tmp_path / "items.parquet")
    assert type(frame["a"][0]).__module__ == "numpy"
    found = read(frame)
    assert found.rows == tuple(rows) == read(tmp_path / "items.parquet").rows
    assert found.sha256 == read(rows).sha256


def test_a_document_may_stand_in_one_field(tmp_path: Path) -> None:
    long = "word " * 40_000
    (tmp_path / "items.csv").write_text(f'q,a\n"{long}",yes\n', encoding="utf-8")
    assert read(tmp_path / "items.csv").rows == ({"q": long, "a": "yes"},)
