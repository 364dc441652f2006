"""Exports: documented fields in their order, money exact, unknown unknown, every field in every format."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import altair
import pyarrow
import pyarrow.parquet
import pytest

from tests.reports.test_tables import FULL, START, TINY, run
from tokmagic.core.money import Cost, Rates
from tokmagic.core.record import EngineInfo, Selection
from tokmagic.errors import UsageError
from tokmagic.ledgers import Ledger
from tokmagic.reports.exports import FORMATS, dataframe, export_file, export_lines, export_row
from tokmagic.reports.tables import table

FIELDS = re.findall(
    r"\w+",
    """run_id started_at finished_at status finish_reason error notebook cell_id session user model model_id revision
    engine device dtype quant params seed prompt_sha256 input_tokens cached_input_tokens cache_write_input_tokens
    output_tokens reasoning_tokens input_source output_source local_input_tokens anomaly ttft_s queue_s latency_s
    itl_mean_s itl_p50_s itl_p95_s output_tokens_per_s attempts device_seconds gpu_peak_bytes energy_j rates cost_usd
    cost_source cost_bound compute_cost_usd saved_usd replay_of tags env key team client_run_id duplicate""",
)


MONEY = ("cost_usd", "compute_cost_usd", "saved_usd")


def test_an_export_has_the_documented_fields_in_order() -> None:
    row = export_row(FULL)
    assert list(row) == FIELDS
    assert row["started_at"] == "2026-11-24T09:15:02.120000Z"
    assert row["finished_at"] == "2026-11-24T09:15:04.120000Z"
    assert (row["cost_usd"], row["compute_cost_usd"], row["saved_usd"]) == (
        "123.456789012345",
        "0.000000000001",
        "0.0001",
    )
    assert (row["cost_source"], row["cost_bound"]) == ("measured", "exact")
    unsure = replace(FULL, reading=replace(FULL.reading, cost=Cost(Decimal(1), "estimated", "at_least")))
    assert [export_row(unsure)[name] for name in ("cost_source", "cost_bound")] == ["estimated", "at_least"]
    assert (row["seed"], row["tags"], row["gpu_peak_bytes"], row["attempts"]) == (7, ["a", "b,c"], 2**40, 2)
    assert row["rates"]["input"] == "0.15"
    assert row["rates"]["cached"] is None
    bare = export_row(run("x"))
    assert list(bare) == FIELDS
    assert [bare[name] for name in ("cost_usd", "saved_usd", "finished_at", "seed", "energy_j")] == [None] * 5
    local = replace(FULL, started_at=FULL.started_at.astimezone(tz=datetime.now().astimezone().tzinfo))
    assert export_row(local)["started_at"] == row["started_at"]


def test_jsonl_is_one_object_a_run_and_unknown_is_null() -> None:
    lines = "".join(export_lines([FULL, run("x")], "jsonl")).splitlines()
    assert [json.loads(line) for line in lines] == [export_row(FULL), export_row(run("x"))]
    assert "eins, zwei" in lines[0]
    assert "é" in lines[0], "text is kept as text"
    assert "".join(export_lines([], "jsonl")) == ""


def unflat(row: dict[str, Any]) -> dict[str, Any]:
    nested = {"params", "rates", "tags", "env"}
    return {name: json.loads(value) if name in nested else value for name, value in row.items()}


def test_csv_round_trips() -> None:
    rows = list(csv.DictReader(io.StringIO("".join(export_lines([FULL, run("x")], "csv")), newline="")))
    assert len(rows) == 2
    for row, record in zip(rows, (FULL, run("x")), strict=True):
        flat = unflat(row)
        for name, value in export_row(record).items():
            kept, plain = flat[name], json.dumps(value) if isinstance(value, bool) else str(value)
            assert kept == (value if isinstance(value, dict | list) else "" if value is None else plain), name
    assert list(csv.reader(io.StringIO("".join(export_lines([], "csv"))))) == [FIELDS]


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_a_spreadsheet_takes_no_text_of_a_csv_for_a_formula(text: str) -> None:
    record = run("x", error=text, tags=(text,))
    (row,) = csv.DictReader(io.StringIO("".join(export_lines([record], "csv")), newline=""))
    assert row["error"] == f"'{text}"
    assert unflat(row)["tags"] == [text]
    assert [name for name, value in row.items() if value.startswith(("=", "+", "-", "@", "\t", "\r"))] == []


def test_parquet_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    export_file([FULL, run("x")], path)
    table = pyarrow.parquet.read_table(str(path))
    assert [unflat(row) for row in table.select(FIELDS).to_pylist()] == [export_row(FULL), export_row(run("x"))]
    floats = {
        f"{name}_float": [
            None if row[name] is None else float(row[name]) for row in (export_row(FULL), export_row(run("x")))
        ]
        for name in MONEY
    }
    assert table.drop_columns(FIELDS).to_pydict() == floats
    export_file([], path)
    assert pyarrow.parquet.read_table(str(path)).column_names == [*FIELDS, *floats]


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_ledger_gives_back_is_exported_alike(ledger: Ledger, tmp_path: Path, form: str) -> None:
    priced = replace(FULL, reading=replace(FULL.reading, cost=Cost(Decimal("0.0000521"), "measured", saved_usd=TINY)))
    ledger.settle(priced)
    path = tmp_path / f"out.{form}"
    export_file(ledger.runs(Selection()), path)
    if form == "parquet":
        (row,) = pyarrow.parquet.read_table(str(path)).to_pylist()
    elif form == "csv":
        (row,) = csv.DictReader(path.open(encoding="utf-8", newline=""))
    else:
        row = json.loads(path.read_text(encoding="utf-8"))
    assert (row["cost_usd"], row["saved_usd"]) == ("0.0000521", "0.000000000001")
    if form == "jsonl":
        assert row == export_row(priced)


def test_formats_and_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'jsonk' is unknown \(did you mean jsonl\?\); use jsonl, csv, parquet"):
        export_file([], tmp_path / "out.jsonk")
    with pytest.raises(UsageError, match=r"out tells no format; end its name in .jsonl or .csv or .parquet"):
        export_file([], tmp_path / "out")
    with pytest.raises(UsageError, match=r"parquet cannot be printed; name a file, such as runs.parquet"):
        "".join(export_lines([], "parquet"))
    for form in FORMATS:
        with pytest.raises(UsageError, match=r"cannot be written: .*No such file or directory"):
            export_file([FULL], tmp_path / "none" / "out", form)
        with pytest.raises(UsageError, match=r"cannot be written: .*directory"):
            export_file([FULL], tmp_path, form)
    export_file([FULL], tmp_path / "out.txt", "jsonl")
    assert json.loads((tmp_path / "out.txt").read_text(encoding="utf-8")) == export_row(FULL)


def test_an_export_that_fails_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    export_file([FULL], path)
    before = path.read_bytes()

    def failing() -> Any:
        yield FULL
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match="cannot be written: No space left"):
        export_file(failing(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_goes_where_a_link_leads_and_into_what_is_no_file(tmp_path: Path) -> None:
    """As anything else that is written: a pipe, or /dev/null for who may do all, became a file."""
    real, link, pipe = tmp_path / "real.jsonl", tmp_path / "link.jsonl", tmp_path / "pipe.csv"
    link.symlink_to(real)
    export_file([FULL], link)  # which leads nowhere yet
    real.chmod(0o600)
    export_file([run("x")], link)
    assert (link.is_symlink(), json.loads(real.read_bytes())["run_id"]) == (True, "x")
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    os.mkfifo(pipe)
    read = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (pipe, Path(f"/dev/fd/{os.open(pipe, os.O_WRONLY)}")):
        export_file([FULL], path, "csv")
        assert os.read(read, 1 << 16).decode() == "".join(export_lines([FULL], "csv"))
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(int(path.name))
    os.close(read)
    assert {it.name for it in tmp_path.iterdir()} == {"real.jsonl", "link.jsonl", "pipe.csv"}


def test_parquet_keeps_numbers_as_numbers(tmp_path: Path) -> None:
    export_file([FULL], tmp_path / "runs.parquet")
    schema = pyarrow.parquet.read_schema(str(tmp_path / "runs.parquet"))
    kinds = {name: str(schema.field(name).type) for name in ("input_tokens", "ttft_s", "cost_usd", "tags", "seed")}
    assert kinds == {
        "input_tokens": "int64",
        "ttft_s": "double",
        "cost_usd": "string",
        "tags": "string",
        "seed": "int64",
    }


def test_a_data_frame_has_money_as_floats_beside_the_exact_text() -> None:
    frame = dataframe([FULL, run("x")])
    assert list(frame.columns) == [*FIELDS, *(f"{name}_exact" for name in MONEY)]
    assert frame["cost_usd"][0] == pytest.approx(123.456789012345)
    assert frame["cost_usd"].sum() == pytest.approx(123.456789012345), "what is unknown is no 0 and breaks no sum"
    assert frame["cost_usd"].isna()[1]
    assert (frame["cost_usd_exact"][0], frame["cost_usd_exact"].isna()[1]) == ("123.456789012345", True)
    assert {str(frame[name].dtype) for name in MONEY} == {"float64"}
    assert frame["started_at"][0].to_pydatetime() == START
    assert frame["input_tokens"].sum() == 422
    assert len(dataframe([])) == 0


HALF = "cut \ud83d"
SPELLED = r"cut \ud83d"


@pytest.mark.parametrize("written", ["now", "by an earlier version"])
@pytest.mark.parametrize(
    ("more", "column"),
    [
        ({"tags": ("fine", HALF)}, "tags"),
        ({"params": {"stop": [HALF]}}, "params"),
        ({"params": {"json_schema": {HALF: [HALF]}}}, "params"),
        ({"env": {"image": HALF}}, "env"),
        ({"rates": Rates(Decimal(1), Decimal(1), source=HALF)}, "rates"),
        ({"notebook": HALF}, "notebook"),
        ({"cell_id": HALF}, "cell_id"),
        ({"error": HALF}, "error"),
        ({"info": EngineInfo(HALF, HALF, "endpoint", server=HALF)}, "model"),
    ],
)
def test_half_a_character_in_one_run_breaks_no_export(
    tmp_path: Path, ledger: Ledger, more: dict[str, Any], column: str, written: str
) -> None:
    ledger.settle(run("before"))
    ledger.settle(replace(run("half"), **more))
    if written != "now" and column in {"tags", "params", "env", "rates"}:
        with ledger.writing() as connection:  # a backslash alone, which JSON reads as the half character
            connection.exec_driver_sql(f"UPDATE runs SET {column} = replace({column}, '\\\\ud83d', '\\ud83d')")
    for form in FORMATS:
        export_file(ledger.stream(), tmp_path / f"runs.{form}")
    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert SPELLED in str(json.loads(lines[1])[column]).replace("\\\\", "\\")
    dataframe(ledger.stream()).drop(columns="tags").to_csv(tmp_path / "frame.csv")
    for by in ("cell", "run", "model", "notebook", "tag", "user", "status"):
        str(table(ledger, Selection(), by)).encode()
    if column == "tags" and written == "now":
        assert [it.run_id for it in ledger.runs(Selection(tags=(SPELLED,)))] == ["half"]


@pytest.mark.parametrize("records", [[FULL, run("x")], [run("x")], []], ids=["one known", "none known", "no run"])
def test_what_is_exported_can_be_drawn(tmp_path: Path, records: list[Any]) -> None:
    """altair writes JSON, which has no decimals: a single such column, drawn or not, ended every chart."""
    frame = dataframe(records)
    export_file(records, tmp_path / "runs.parquet")
    table = pyarrow.parquet.read_table(str(tmp_path / "runs.parquet"))
    drawn = (
        (frame, "cost_usd"),
        (pyarrow.Table.from_pandas(frame.drop(columns=["params", "rates", "env", "tags"])), "cost_usd"),
        (table, "cost_usd_float"),
        (table.to_pandas(), "cost_usd_float"),
    )
    for data, column in drawn:
        chart = altair.Chart(data).mark_point().encode(x="latency_s", y=column)
        spec = json.loads(chart.to_json())
        assert [spec["encoding"][axis]["type"] for axis in "xy"] == ["quantitative"] * 2
